"""What errors say: which call was late, on which server, and what may have happened."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from rap.channel import Channel
from rap.client import Client
from rap.clock import NEVER, inherited_deadline
from rap.errors import CallError, Code, DeadlineExceeded, Unavailable
from rap.server import Server
from rap.transport import Connection
from tests.loopback import LOOPBACK, calling, eventually, serving, within


async def slow() -> int:
    await asyncio.Event().wait()
    return 1


async def fast() -> int:
    return 1


async def slow_items() -> AsyncIterator[int]:
    yield 1
    await asyncio.Event().wait()


async def no_items() -> AsyncIterator[int]:
    await asyncio.Event().wait()
    yield 1


async def talk(channel: Channel) -> None:
    await channel.write(1)
    await asyncio.Event().wait()


async def late(call: Any) -> str:
    with pytest.raises(DeadlineExceeded) as caught:
        await within(call)
    assert caught.value.args == (str(caught.value),)
    return str(caught.value)


async def all_of(items: Any) -> list[Any]:
    return [item async for item in items]


async def test_a_deadline_names_function_server_and_seconds() -> None:
    async with serving(slow, slow_items, no_items, talk) as server, calling(server) as client:
        address = re.escape(str(server.addresses[0]))
        answer = f"no answer from {address} within [0-9]|0[.][0-9]+ s passed .* on {address}"
        stub = client.register(timeout=0.05)(slow)
        hedged = client.register(timeout=0.05, idempotent=True, hedge=0.01)(slow)

        def items_of(name: str) -> Any:
            return all_of(client.iterator_call(name, timeout=0.05))

        async def through_channel() -> None:
            async with client.channel("talk", timeout=0.05) as channel:
                await all_of(channel)

        unfinished = f"{address} did not finish within [0-9]|{answer}"
        calls: list[tuple[Callable[[], Any], str, str]] = [
            (stub, "slow", answer),
            (hedged, "slow", answer),
            (lambda: client.raw_call("slow", timeout=0.05), "slow", answer),
            (lambda: items_of("slow_items"), "slow_items", unfinished),
            (lambda: items_of("no_items"), "no_items", unfinished),
            (through_channel, "talk", unfinished),
        ]
        for call, method, what in calls:
            text = await late(call())
            assert re.search(rf"^/default/{method}: .*({what})", text), text


async def test_a_deadline_names_the_service() -> None:
    async with serving(slow, service="shop", registry="memory://reasons") as server:
        async with Client(service="shop", registry="memory://reasons") as client:
            text = await late(client.raw_call("slow", timeout=0.05))
    assert f" {server.addresses[0]} of service 'shop'" in text


async def test_a_request_that_could_not_be_sent_is_told_from_one_that_was_not_answered() -> None:
    async with serving(slow) as server, calling(server, max_connections=1) as client:
        (node,) = client.invoker.cluster.nodes.values()
        conn = node.pool.conn
        assert conn is not None
        conn.pause_writing()
        text = await late(client.raw_call("slow", bytes(1_000_000), timeout=0.05))
        conn.resume_writing()
    assert re.search(r"^/default/slow: .* reads too slowly, the request was not sent within", text)


async def test_a_timeout_below_the_grain_of_timers_is_named_and_ejects_no_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(slow) as server, calling(server) as client:
        for _ in range(10):
            with pytest.raises(DeadlineExceeded) as caught:
                await within(client.raw_call("slow", timeout=0.0005))
            text = str(caught.value)
            own = r"no answer from \S+ within 0.0005 s, noticed after 0\.\d+ s"
            remote = r"the caller's deadline of 0.001 s passed while the handler was running on \S+"
            late = r"0.001 s had passed when its handler could begin on \S+"
            end = "call it with a longer timeout="
            unsent = "the deadline passed before it was sent"
            known = f"/default/slow: (({own}|{remote}|{late}); {end}|{unsent})"
            assert re.fullmatch(known, text), text
    assert "ejected" not in caplog.text


async def test_a_nested_call_that_is_late_is_named_by_the_error_of_the_outer_call() -> None:
    async with AsyncExitStack() as stack:
        third = await stack.enter_async_context(serving(slow))
        to_third = await stack.enter_async_context(calling(third, timeout=None))

        async def middle(how: str) -> Any:
            stub = to_third.register(slow)
            return await (stub() if how == "stub" else to_third.raw_call("slow"))

        second = await stack.enter_async_context(serving(middle))
        to_second = await stack.enter_async_context(calling(second, timeout=None))

        async def outer(how: str) -> Any:
            return await to_second.raw_call("middle", how)

        first = await stack.enter_async_context(serving(outer))
        client = await stack.enter_async_context(calling(first))
        for how in ("stub", "raw"):
            for _ in range(5):  # if a busy machine holds this loop, the client gives up first
                with pytest.raises(DeadlineExceeded) as caught:
                    await within(client.raw_call("outer", how, timeout=1.0))
                if caught.value.remote:
                    break
            assert caught.value.remote
            text = str(caught.value)
            there = re.escape(str(third.addresses[0]))
            # Its client and its server watch the same deadline; either may be the first to see it.
            seconds = r"[\d.]+ s"
            own = f"no answer from {there} within {seconds}(, noticed after {seconds})?"
            remote = f"the caller's deadline of {seconds} passed while the handler was running on"
            end = "the deadline of /default/middle left no more: call that with a longer timeout="
            assert re.fullmatch(f"/default/slow: ({own}|{remote} {there}); {end}", text), text


async def test_a_nested_call_that_finds_no_server_says_so_before_the_outer_deadline() -> None:
    async with serving(slow) as far, calling(far) as inner:

        async def outer() -> Any:
            return await inner.raw_call("slow")

        async with serving(outer) as server, calling(server) as client:
            await far.close()
            await eventually(lambda: not inner.invoker.cluster.ready)
            with pytest.raises(Unavailable) as caught:
                await within(client.raw_call("outer", timeout=1.0))
    text = str(caught.value)
    assert text.startswith("/default/slow: no usable server")
    assert re.search(r"; waited 0\.\d+ s \(the deadline of /default/outer left no more: call", text)


async def test_a_nested_call_with_an_own_shorter_timeout_does_not_blame_the_outer_one() -> None:
    async with serving(slow) as far, calling(far) as inner:

        async def outer() -> str:
            stub = inner.register(timeout=0.05)(slow)
            return await late(stub()) + await late(inner.raw_call("slow", timeout=0.05))

        async with serving(outer) as server, calling(server) as client:
            assert "/default/outer" not in await within(client.raw_call("outer", timeout=5.0))


def test_an_inherited_deadline_is_a_little_earlier() -> None:
    assert inherited_deadline(NEVER, 3.0) == NEVER
    assert inherited_deadline(10.0, 0.0) == pytest.approx(9.95)
    assert inherited_deadline(1.0, 0.9) == pytest.approx(0.995)
    assert inherited_deadline(1.0, 2.0) == 1.0


async def test_the_error_of_the_server_names_the_limit_and_what_the_handler_did() -> None:
    def block() -> None:
        asyncio.run(asyncio.sleep(0.2))

    async with serving() as server, calling(server) as client:
        server.register(slow, run_timeout=0.05)
        server.register(block, run_timeout=0.05)
        for name, end in [("slow", "running"), ("block", "running")]:
            with pytest.raises(DeadlineExceeded) as caught:
                await within(client.raw_call(name))
            what = "its run_timeout of 0.05 s passed while the handler was"
            where = server.addresses[0]
            remedy = "register the function with a longer run_timeout="
            assert str(caught.value) == f"/default/{name}: {what} {end} on {where}; {remedy}"


def abort(server: Server) -> None:
    for conn in list(server.connection_manager.connections):
        assert isinstance(conn, Connection)
        conn.transport.abort()


async def test_a_lost_connection_says_that_the_call_may_have_run_and_how_it_is_retried() -> None:
    async with serving(slow, no_items) as server, calling(server, max_attempts=1) as client:
        stub = client.register(slow)
        idempotent = client.register(idempotent=True)(slow)
        hint = "; rap only retries such a call if it is declared with idempotent=True"
        for call, end in [
            (stub(), hint),
            (client.raw_call("slow"), hint),
            (all_of(client.iterator_call("no_items")), hint),
            (idempotent(), ""),
        ]:
            task = asyncio.create_task(call)
            await eventually(lambda: any(c.streams for c in server.connection_manager.connections))
            abort(server)
            with pytest.raises(Unavailable) as caught:
                await within(task)
            lost = r"^/default/\w+: connection to 127\.0\.0\.1:\d+ lost.*"
            text = rf"{lost}; the call may have run{end}$"
            assert re.search(text, str(caught.value)), str(caught.value)


async def test_a_call_in_a_session_is_not_told_of_a_retry_that_it_would_not_get() -> None:
    async with serving(slow) as server, calling(server) as client:
        async with client.session:
            task = asyncio.create_task(client.raw_call("slow"))
            await eventually(lambda: any(c.streams for c in server.connection_manager.connections))
            abort(server)
            with pytest.raises(Unavailable, match=r"; the call may have run$"):
                await within(task)


async def test_a_dial_that_is_under_way_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never says Hello
        client = Client(f"127.0.0.1:{silent.getsockname()[1]}", connect_timeout=5.0)
        connecting = asyncio.create_task(client.connect())
        await eventually(lambda: client.connected is not None and client.cluster.nodes)
        await eventually(lambda: "being dialled for" in client.cluster.describe())
        connecting.cancel()
        await asyncio.wait([connecting])
        await client.close()


SINCE = r"\d[^ ]* s after the first was sent"


async def test_the_error_of_a_further_attempt_says_how_the_first_failed_and_how_long_ago() -> None:
    attempts = 0

    async def ask() -> None:
        nonlocal attempts
        attempts += 1
        raise Unavailable(f"no driver in round {attempts}")

    async with serving(ask) as one, calling(one, max_attempts=3) as client:
        stub = client.register(idempotent=True)(ask)
        with pytest.raises(Unavailable) as caught:
            await within(stub())
    text = f"no driver in round 3; this was attempt 3, {SINCE}, which failed: no driver in round 1"
    assert re.fullmatch(text, str(caught.value))
    assert caught.value.args == (caught.value.message,)


async def test_further_attempts_are_a_note_of_what_a_handler_says_to_its_callers() -> None:
    async def ask() -> None:
        raise CallError("taken", code=Code.ABORTED)

    async with serving(ask) as one, calling(one, max_attempts=2) as client:
        stub = client.register(idempotent=True, retry_codes=[Code.ABORTED])(ask)
        with pytest.raises(CallError) as caught:
            await within(stub())
    assert str(caught.value) == "taken"
    (note,) = caught.value.__notes__
    assert re.fullmatch(f"this was attempt 2, {SINCE}", note)  # it says the same as the first


async def test_a_further_attempt_that_finds_no_server_tells_of_the_first() -> None:
    async def ask() -> None:
        closing.append(asyncio.create_task(one.close()))
        raise Unavailable("no driver")

    closing: list[asyncio.Task[None]] = []
    async with (
        serving(ask, close_timeout=0.1) as one,
        calling(one, max_attempts=2, wait_for_ready=0.5, retry_pause=0.5) as client,
    ):
        stub = client.register(idempotent=True)(ask)
        with pytest.raises(Unavailable) as caught:
            await within(stub())
        await asyncio.gather(*closing)
    text = f"no usable server.*; this was attempt 2, {SINCE}, which failed: no driver"
    assert re.search(text, str(caught.value))


async def silent_upload(items: AsyncIterator[int]) -> int:
    async for _ in items:
        await asyncio.Event().wait()
    return 1


@pytest.mark.parametrize("sends", [True, False])
async def test_a_run_timeout_of_a_stream_is_told_once_with_server_and_remedy(sends: bool) -> None:
    async def numbers() -> AsyncIterator[int]:
        if sends:
            yield 1
        await asyncio.Event().wait()

    async with Server(LOOPBACK) as server:
        for function in (no_items, silent_upload):
            server.register(run_timeout=0.1)(function)
        async with calling(server) as client:
            upload = client.register(silent_upload)
            for call in (all_of(client.iterator_call("no_items")), upload(numbers())):
                text = await late(call)
                where = re.escape(str(server.addresses[0]))
                told = f"its run_timeout of 0.1 s passed .* on {where}; register the function with"
                assert re.search(f"{told} a longer run_timeout=$", text)
                assert text.count(str(server.addresses[0])) == 1
