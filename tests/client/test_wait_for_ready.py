"""How long a call waits for a server: the choice of the caller, by ``wait_for_ready``."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

import pytest

from rap.channel import Channel
from rap.client import Client, SyncClient
from rap.client.waiting import Outlook, Patience
from rap.clock import NEVER
from rap.errors import CallError, Unavailable
from rap.registry.memory import MemoryRegistry
from tests.client import threaded
from tests.client.fed import Resolver, listed, numbered
from tests.loopback import calling, eventually, serving, within
from tests.ports import free_address

HOPELESS = Outlook(failed_at=-inf, tried_at=-inf)
LONG = 9000.0  # seconds: a call that fails at all does not fail by its deadline


@contextmanager
def silent() -> Iterator[str]:
    """Listen at an address where connections are accepted, but no Hello is sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


async def failure(call: Any) -> str:
    """Return the error of a call that finds no server."""
    with pytest.raises(Unavailable) as caught:
        await within(call)
    assert caught.value.unserved
    return str(caught.value)


# How long, by the option and by what is to be expected.


@pytest.mark.parametrize(
    ("chosen", "outlook", "until"),
    [
        (True, HOPELESS, 109.0),
        (True, Outlook(), 109.0),
        (False, HOPELESS, 100.0),
        (False, Outlook(), 109.0),
        (False, Outlook(failed_at=103.0, tried_at=103.0), 103.0),
        (False, Outlook(full=True), 109.0),
        (2, HOPELESS, 102.0),
        (2.5, Outlook(), 102.5),
        (0, Outlook(), 100.0),
        (200, HOPELESS, 109.0),
        (2, Outlook(full=True), 109.0),
        (None, HOPELESS, 101.0),
        (None, Outlook(), 109.0),
        (None, Outlook(failed_at=inf, tried_at=-inf), 101.0),
        (None, HOPELESS._replace(ready_until=99.0), 104.0),
        (None, HOPELESS._replace(ready_until=95.5), 101.0),
        (None, HOPELESS._replace(ready_until=108.0), 109.0),
        (None, Outlook(failed_at=103.0, tried_at=103.0), 103.0),
        (None, Outlook(full=True), 109.0),
        (None, Outlook(full=True, latency=0.5), 108.0),
        (True, Outlook(full=True, latency=0.5), 108.0),
        (None, Outlook(full=True, latency=30.0), 104.5),
    ],
)
def test_the_option_and_the_outlook_say_until_when_a_call_waits(
    chosen: Any, outlook: Outlook, until: float
) -> None:
    assert Patience(100.0, 109.0, chosen).until(outlook) == until


@pytest.mark.parametrize(
    ("chosen", "now", "text"),
    [
        (None, 101.0, "waited 1 s; use wait_for_ready=True to wait until the deadline"),
        (False, 100.0041, "waited 0.004 s (wait_for_ready=False)"),
        (2, 102.0, "waited 2 s (wait_for_ready=2)"),
        (True, 109.2, "waited 9 s (the timeout of the call)"),
        (None, 109.0, "waited 9 s (the timeout of the call)"),
    ],
)
def test_the_error_says_how_long_the_call_has_waited_and_why_no_longer(
    chosen: Any, now: float, text: str
) -> None:
    assert Patience(100.0, 109.0, chosen).describe(now, Outlook()) == text


def test_the_wait_for_a_place_ends_when_no_answer_could_come_in_time() -> None:
    patience, outlook = Patience(100.0, 109.0, None), Outlook(full=True, latency=1.0)
    text = "waited 7 s, and an answer takes longer than the rest of its time"
    assert patience.describe(107.0, outlook) == text
    connecting = Patience(100.0, 109.0, None, is_call=False)
    assert connecting.until(outlook) == 109.0
    assert Patience(100.0, NEVER, None).until(outlook) == NEVER


@pytest.mark.parametrize("bad", ["yes", -1, float("nan"), inf, [1]])
async def test_a_bad_value_is_refused_by_its_name(bad: Any) -> None:
    with pytest.raises(ValueError, match="wait_for_ready must be True, False, a number of seconds"):
        Client(wait_for_ready=bad)
    async with numbered(1) as server, calling(server) as client:
        with pytest.raises(ValueError, match="wait_for_ready must be True"):
            await client.raw_call("which", wait_for_ready=bad)


# To fail fast.


async def test_a_call_that_does_not_wait_fails_when_the_first_dial_has_failed() -> None:
    address = free_address()
    async with asyncio.TaskGroup():
        client = Client(address, wait_for_ready=False)
        told = await failure(client.raw_call("which", timeout=LONG))
        assert told.startswith(f"/default/which: no usable server: {address} (connecting: cannot")
        assert told.count(address) == 1
        assert "(connecting: cannot reach it: connection refused; does the server run" in told
        assert told.endswith("(wait_for_ready=False)")
        assert not client.cluster.waiters
        await failure(client.raw_call("which", timeout=None))
        await client.close()


async def test_a_call_that_does_not_wait_still_waits_for_a_dial_under_way() -> None:
    with silent() as address:
        client = Client([address, free_address()], wait_for_ready=False)
        told = await failure(client.raw_call("which", timeout=0.2))
        assert told.endswith("waited 0.2 s (the timeout of the call)")
        await client.close()


async def test_a_call_that_does_not_wait_finds_the_one_server_of_two_that_is_there() -> None:
    async with numbered(1) as server:
        client = Client([free_address(), *server.addresses], wait_for_ready=False)
        assert await within(client.raw_call("which")) == 1
        await client.close()


async def test_a_call_that_does_not_wait_fails_when_the_registry_lists_no_server() -> None:
    resolver = Resolver()
    client = Client(service="calc", registry=resolver, wait_for_ready=False)
    call = asyncio.create_task(client.raw_call("which", timeout=LONG))
    await eventually(lambda: client.connected is not None and client.cluster.waiters)
    resolver.given.put_nowait({})
    told = await failure(call)
    assert "no server of service 'calc': the registry lists none; start a server" in told
    await client.close()


async def test_the_answer_of_a_registry_is_awaited_for_connect_timeout() -> None:
    for chosen in (False, None):
        client = Client(service="calc", registry=Resolver(), connect_timeout=1.1)
        began = client.monotonic()
        call = client.raw_call("which", timeout=LONG, wait_for_ready=chosen)
        assert "the registry has not answered; waited 1.1" in await failure(call)
        assert round(client.monotonic() - began, 2) >= 1.1
        told = await failure(client.raw_call("which", timeout=LONG, wait_for_ready=False))
        assert "the registry has not answered; waited 0" in told
        await client.close()


async def test_a_call_that_does_not_wait_fails_when_all_servers_were_lost() -> None:
    async with numbered(1) as server:
        client = Client(server.addresses, wait_for_ready=False)
        assert await client.raw_call("which") == 1
    told = await failure(client.raw_call("which", timeout=LONG))
    assert told.endswith("(wait_for_ready=False)")
    await client.close()


async def test_calls_that_fail_fast_hurry_the_next_dial() -> None:
    address = free_address()
    client = Client(address, wait_for_ready=False)
    await failure(client.raw_call("which"))
    (node,) = client.cluster.nodes.values()
    async with numbered(1, host=address), asyncio.timeout(1.5):
        while node not in client.cluster.ready:
            with contextlib.suppress(Unavailable):
                await client.raw_call("which")
            await asyncio.sleep(0.01)
        assert await client.raw_call("which") == 1
        await client.close()


async def test_a_call_for_which_there_is_no_place_waits_until_its_deadline() -> None:
    gate = asyncio.Event()

    async def enter() -> int:
        await gate.wait()
        return 1

    async with (
        serving(enter) as server,
        calling(server, max_in_flight=1, wait_for_ready=False) as client,
    ):
        calls = [asyncio.create_task(client.raw_call("enter")) for _ in range(3)]
        calls.append(asyncio.create_task(client.raw_call("enter", wait_for_ready=0)))
        await eventually(lambda: len(client.cluster.waiters) == 3)
        gate.set()
        assert await within(asyncio.gather(*calls)) == [1] * 4


async def test_a_call_that_waits_for_a_place_fails_when_the_server_is_lost() -> None:
    async def enter() -> int:
        await asyncio.Event().wait()
        return 1

    async with serving(enter) as server, calling(server, max_in_flight=1) as client:
        first = asyncio.create_task(client.raw_call("enter", timeout=LONG, wait_for_ready=False))
        options: dict[str, Any] = {"timeout": LONG, "wait_for_ready": False}
        second = asyncio.create_task(client.raw_call("enter", **options))
        third = asyncio.create_task(client.raw_call("enter", timeout=LONG, wait_for_ready=True))
        await eventually(lambda: len(client.cluster.waiters) == 2)
        await server.await_closed()
        assert "(wait_for_ready=False)" in await failure(second)
        with pytest.raises(CallError):
            await within(first)
        assert not third.done()
        third.cancel()


# To wait.


async def test_by_default_a_call_waits_a_second_where_nothing_listens() -> None:
    client = Client(free_address())
    began = client.monotonic()
    told = await failure(client.raw_call("which", timeout=LONG))
    assert round(client.monotonic() - began, 2) >= 1.0  # timers of uvloop count milliseconds
    assert told.endswith("; use wait_for_ready=True to wait until the deadline")
    await client.close()


async def test_a_call_waits_as_many_seconds_as_it_says() -> None:
    client = Client(free_address(), wait_for_ready=0.05)
    told = await failure(client.raw_call("which", timeout=LONG))
    assert told.endswith("waited 0.05 s (wait_for_ready=0.05)")
    told = await failure(client.raw_call("which", timeout=LONG, wait_for_ready=0.1))
    assert told.endswith("waited 0.1 s (wait_for_ready=0.1)")
    await client.close()


async def test_a_call_that_waits_gets_the_server_that_comes_however_long_that_takes() -> None:
    address = free_address()
    client = Client(address, wait_for_ready=True, connect_timeout=0.01)
    calls = [
        asyncio.create_task(client.raw_call("which", timeout=timeout)) for timeout in (LONG, None)
    ]
    generator = asyncio.ensure_future(anext(client.iterator_call("items", timeout=None)))
    with pytest.raises(Unavailable, match=r"waited 0\.01 s \(option connect_timeout\)"):
        await client.connect()
    await failure(client.raw_call("which", wait_for_ready=False))

    async def which() -> int:
        return 1

    async def items() -> AsyncIterator[int]:
        yield 2

    async with serving(which, items, host=address):
        assert await within(asyncio.gather(*calls, generator)) == [1, 1, 2]
        await client.close()


async def test_by_default_a_call_waits_while_a_server_restarts() -> None:
    address = free_address()
    async with numbered(1, host=address) as server:
        client = Client(address)
        assert await client.raw_call("which") == 1
        await server.await_closed()
        await eventually(lambda: not client.cluster.ready)
        call = asyncio.create_task(client.raw_call("which", timeout=LONG))
        (node,) = client.cluster.nodes.values()
        await eventually(lambda: node.pool.failed and client.cluster.waiters)
        (wait,) = client.cluster.waiters.values()
        assert wait.until() == pytest.approx(client.monotonic() + 5.0, abs=1.0)
        async with numbered(2, host=address):
            assert await within(call) == 2
            await client.close()


async def test_the_pace_of_turns_says_nothing_about_a_server_that_is_lost() -> None:
    address, turns = free_address(), asyncio.Semaphore(0)

    async def which() -> int:
        await turns.acquire()
        return 1

    async with serving(which, host=address) as server:
        client = Client(address, max_in_flight=1)
        options: dict[str, Any] = {"timeout": LONG, "wait_for_ready": True}
        began = client.monotonic()
        calls = [asyncio.create_task(client.raw_call("which", **options)) for _ in range(2000)]
        await eventually(lambda: len(client.cluster.waiters) == 1999)
        turns.release()
        await eventually(lambda: len(client.cluster.waiters) == 1998)
        await eventually(lambda: client.monotonic() - began > 0.2)
        await server.await_closed()
        await eventually(lambda: not client.cluster.ready)
    late = asyncio.create_task(client.raw_call("which", timeout=20.0, wait_for_ready=True))
    await eventually(lambda: late.done() or len(client.cluster.waiters) == 1999)
    assert not late.done()
    async with numbered(2, host=address):
        await within(asyncio.gather(*calls, return_exceptions=True))
        assert await within(late) == 2
        await client.close()


async def test_what_a_new_snapshot_lists_is_awaited_like_the_first_servers() -> None:
    resolver = Resolver()
    resolver.given.put_nowait({})
    client = Client(service="calc", registry=resolver, wait_for_ready=False)
    await failure(client.raw_call("which", timeout=LONG))
    async with numbered(1, service="calc", registry=MemoryRegistry()) as server:
        resolver.given.put_nowait(listed(server))
        await eventually(lambda: client.cluster.nodes)
        assert await within(client.raw_call("which", timeout=LONG)) == 1
        await client.close()


# Every kind of call has the option.


async def unary(n: int) -> int:
    return n


async def items(n: int) -> AsyncIterator[int]:
    yield n


async def upload(rows: AsyncIterable[int]) -> int:
    return 0


async def both(rows: AsyncIterable[int]) -> AsyncIterator[int]:
    yield 0


async def talk(channel: Channel) -> None:
    """Say nothing."""


async def test_every_kind_of_call_takes_the_option() -> None:
    client = Client(free_address(), wait_for_ready=True)
    now: dict[str, Any] = {"wait_for_ready": False}
    stubs: dict[str, Any] = {"unary": client.register(unary), "items": client.register(items)}
    stubs |= {"upload": client.register(upload), "both": client.register(both)}
    stubs |= {"talk": client.register(talk)}
    opened = client.channel("talk", **now)
    calls = [
        client.raw_call("unary", 1, **now),
        client.call(unary, 1, **now),
        client.call(upload, [1], **now),
        stubs["unary"](1, **now),
        stubs["unary"].start(1, **now),
        stubs["upload"]([1], **now),
        stubs["upload"].start([1], **now),
        anext(stubs["items"](1, **now)),
        anext(stubs["both"]([1], **now)),
        anext(client.iterator_call("items", 1, **now)),
        stubs["talk"](**now),
        opened.__aenter__(),
    ]
    for call in calls:
        assert (await failure(call)).endswith("(wait_for_ready=False)")
    await client.close()


async def test_a_session_is_entered_as_the_client_says() -> None:
    client = Client(free_address(), wait_for_ready=False)
    with pytest.raises(Unavailable, match=r"wait_for_ready=False"):
        await within(client.session.__aenter__())
    await client.close()


async def test_a_function_may_have_a_parameter_of_that_name() -> None:
    async def ask(wait_for_ready: str) -> str:
        return wait_for_ready

    async with serving(ask) as server, calling(server) as client:
        assert await client.register(ask)(wait_for_ready="yes") == "yes"


def test_a_blocking_client_takes_the_option() -> None:
    client = SyncClient(free_address(), wait_for_ready=True)
    stub: Any = client.register(unary)
    now: dict[str, Any] = {"wait_for_ready": False}
    for call in (
        lambda: client.raw_call("unary", 1, **now),
        lambda: client.call(unary, 1, **now),
        lambda: stub(1, **now),
        lambda: stub.start(1, **now).result(),
        lambda: next(client.iterator_call("items", 1, **now)),
        lambda: client.channel("talk", **now).__enter__(),
    ):
        with pytest.raises(Unavailable, match=r"\(wait_for_ready=False\)$"):
            call()
    client.close()
    with threaded.serving(unary) as server, threaded.calling(server) as other:
        assert other.raw_call("unary", 1, **now) == 1
