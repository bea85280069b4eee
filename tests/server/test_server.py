"""The life of a server: events, start and stop."""

import asyncio
import functools
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rap.client import Client
from rap.errors import CallError
from rap.registry.memory import MemoryRegistry
from rap.server import Server
from rap.server.middleware import BaseMsgMiddleware
from rap.server.processor import BaseProcessor
from tests.loopback import LOOPBACK, calling, eventually, serving, within


async def fine() -> int:
    return 1


# Events.


async def test_events_run_in_order_before_listening_and_after_closing() -> None:
    log: list[str] = []

    async def start_coroutine() -> None:
        log.append(f"coroutine {len(server.addresses)}")

    async def start_function() -> None:
        log.append("function")

    async def stop_coroutine() -> None:
        log.append("stop coroutine")

    server = Server(
        LOOPBACK,
        start_event_list=[start_coroutine(), start_function],
        stop_event_list=[stop_coroutine(), lambda: log.append("stop plain")],
    )
    server.load_start_event([lambda: log.append("plain")])
    server.load_stop_event([lambda: log.append("stop later")])
    async with server:
        assert log == ["coroutine 0", "function", "plain"]
        log.clear()
    assert log == ["stop later", "stop plain", "stop coroutine"]
    await server.await_closed()
    assert len(log) == 3


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("load_start_event", print),
        ("load_processor", BaseProcessor()),
        ("load_middleware", BaseMsgMiddleware()),
    ],
)
async def test_loading_plug_ins_after_the_start_is_refused(method: str, value: Any) -> None:
    async with serving(fine) as server:
        with pytest.raises(
            RuntimeError, match=f"^{method}: .* was started; call it before the server starts"
        ):
            getattr(server, method)([value])


async def test_a_failing_start_event_aborts_the_start() -> None:
    log: list[str] = []

    async def never() -> None:
        log.append("never")

    def fail() -> None:
        raise ValueError("not today")

    server = Server(LOOPBACK, start_event_list=[fail, never()], stop_event_list=[never(), never])
    with pytest.raises(ValueError, match="not today"):
        await server.create_server()
    assert server.addresses == []
    assert not server.is_serving
    await server.await_closed()
    assert log == []
    with pytest.raises(RuntimeError, match=r"cannot start again: .* runs once"):
        await server.create_server()


async def test_a_cancelled_start_leaves_nothing_open() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    server = Server(LOOPBACK, start_event_list=[hang])
    task = asyncio.create_task(server.create_server())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await server.await_closed()


async def test_a_failing_stop_event_is_logged_and_the_others_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log: list[str] = []

    async def fail() -> None:
        raise ValueError("not today")

    server = Server(LOOPBACK, stop_event_list=[lambda: log.append("first"), fail])
    async with server:
        pass
    assert log == ["first"]
    assert "not today" in caplog.text


@pytest.mark.parametrize("event", [3, "f", None])
def test_an_invalid_event_is_refused(event: Any) -> None:
    with pytest.raises(TypeError, match="start_event_list takes coroutines"):
        Server(start_event_list=[event])
    with pytest.raises(TypeError, match="stop_event_list takes coroutines"):
        Server(stop_event_list=[event])
    with pytest.raises(TypeError, match="load_start_event takes"):
        Server().load_start_event([event])
    with pytest.raises(TypeError, match="load_stop_event takes"):
        Server().load_stop_event([event])


async def test_coroutines_of_a_server_that_never_starts_are_closed() -> None:
    async def event() -> None:
        raise AssertionError("it never runs")

    unused = Server(start_event_list=[event()], stop_event_list=[event()])
    await unused.await_closed()
    dropped = Server(start_event_list=[event()])
    del dropped


# Start and stop.


def test_a_server_can_be_constructed_without_a_loop() -> None:
    server = Server(LOOPBACK)

    async def run() -> int:
        async with server, calling(server) as client:
            return int(await client.raw_call("fine"))

    server.register(fine)
    assert asyncio.run(run()) == 1


async def test_create_server_returns_the_server_and_a_second_is_refused() -> None:
    server = Server(LOOPBACK)
    assert await server.create_server() is server
    assert server.is_serving
    with pytest.raises(RuntimeError, match="started already"):
        await server.create_server()
    await server.await_closed()
    assert not server.is_serving


async def test_await_closed_may_be_called_again_and_concurrently() -> None:
    async with serving(fine) as server, calling(server):
        await within(asyncio.gather(*(server.await_closed() for _ in range(3))))
        await server.await_closed()


async def test_cancelling_await_closed_does_not_stop_the_drain() -> None:
    stopped = asyncio.Event()
    server = Server(LOOPBACK, close_timeout=0.1, stop_event_list=[stopped.set])
    await server.create_server()
    closing = asyncio.create_task(server.await_closed())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await within(stopped.wait())
    await server.await_closed()


async def test_cancelling_async_with_during_the_drain_stops_at_once() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        entered.set()
        await asyncio.Event().wait()

    async def run() -> None:
        async with server:
            await leave.wait()

    server = Server(LOOPBACK, close_timeout=60)
    server.register(hang)
    task = asyncio.create_task(run())
    await eventually(lambda: server.addresses)
    async with calling(server) as client:
        call = asyncio.create_task(client.raw_call("hang"))
        await within(entered.wait())
        leave.set()
        await eventually(lambda: not server.is_serving)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await within(task)
        with pytest.raises(CallError):
            await within(call)


async def test_closing_disconnects_clients() -> None:
    async with serving(fine) as server, calling(server) as client:
        conn = client.cluster.ready[0].pool.conn
        assert conn is not None
        await within(server.await_closed())
        assert conn.closed
        assert client.cluster.ready == ()


async def test_serve_forever_returns_when_the_server_is_closed() -> None:
    server = Server(LOOPBACK)
    serving_task = asyncio.create_task(server.serve_forever())
    await eventually(lambda: server.addresses)
    await server.await_closed()
    await within(serving_task)


async def test_cancelling_serve_forever_closes_the_server() -> None:
    stopped = asyncio.Event()
    server = Server(LOOPBACK, stop_event_list=[stopped.set])
    task = asyncio.create_task(server.serve_forever())
    await eventually(lambda: server.addresses)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(task)
    assert stopped.is_set()


async def test_a_handler_that_ignores_cancellation_does_not_block_the_stop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rap.server.dispatch._CANCEL_GRACE", 0.05)
    began, release = asyncio.Event(), asyncio.Event()

    async def deaf() -> None:
        began.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                pass

    async with serving(deaf, close_timeout=0.05) as server, calling(server) as client:
        call = asyncio.create_task(client.raw_call("deaf"))
        await within(began.wait())
        with caplog.at_level(logging.ERROR):
            await within(server.await_closed())
        assert "after it was cancelled" in caplog.text
        with pytest.raises(CallError):
            await call
    release.set()


# Idle and old connections.


async def connected(client: Client) -> Any:
    await eventually(lambda: client.cluster.ready)
    return client.cluster.ready[0].pool.conn


async def test_an_idle_connection_is_asked_to_leave() -> None:
    async with (
        serving(fine, keep_alive=0.05, handshake_timeout=0.1) as server,
        calling(server) as client,
    ):
        conn = await connected(client)
        await within(conn.ended)
        await eventually(lambda: client.cluster.ready)
        assert await client.raw_call("fine") == 1


async def test_an_old_connection_is_drained_and_its_calls_finish() -> None:
    gate = asyncio.Event()

    async def items() -> AsyncIterator[int]:
        yield 1
        await gate.wait()
        yield 2

    options = {"max_connection_age": 0.05, "handshake_timeout": 0.1}
    async with serving(fine, items, **options) as server, calling(server) as client:
        iterator = client.iterator_call("items")
        assert await anext(iterator) == 1
        old = iterator._stream.conn  # type: ignore[union-attr]  # it has begun
        await eventually(lambda: old.draining)
        assert await client.raw_call("fine") == 1
        assert not old.closed
        gate.set()
        assert [item async for item in iterator] == [2]
        await within(old.ended)


async def test_connections_may_have_no_limit_of_age_and_idleness() -> None:
    async with serving(fine, keep_alive=None, max_connection_age=None, run_timeout=None) as server:
        async with calling(server) as client:
            assert await client.raw_call("fine") == 1


async def test_more_calls_than_max_streams_wait_for_a_place() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    async with serving(hang, fine, max_streams=2) as server:
        async with calling(server, max_connections=1) as client:
            hanging = [client.iterator_call("hang") for _ in range(2)]
            tasks = [asyncio.ensure_future(anext(each)) for each in hanging]
            await eventually(
                lambda: len(client.cluster.ready[0].pool.connections.copy().pop().streams) == 2
            )
            with pytest.raises(CallError) as caught:
                await within(client.raw_call("fine", timeout=0.05))
            assert caught.value.unserved
            waiting = asyncio.ensure_future(client.raw_call("fine"))
            await eventually(lambda: len(client.cluster.waiters) == 1)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert await within(waiting) == 1


async def test_a_program_can_be_cancelled_at_every_step() -> None:
    """Cancel after the first turn of the loop, after the second, and so on to the end."""
    registry = MemoryRegistry()
    finished = False
    steps = 0
    while not finished:
        log: list[str] = []
        server = Server(
            LOOPBACK,
            service="calc",
            registry=registry,
            drain_delay=0,
            start_event_list=[functools.partial(log.append, "start")],
            stop_event_list=[functools.partial(log.append, "stop")],
        )
        server.register(fine)

        async def program(server: Server = server) -> None:
            async with server, calling(server) as client:
                await client.raw_call("fine")

        task = asyncio.create_task(program())
        for _ in range(steps):
            await asyncio.sleep(0)
        finished = task.done()
        task.cancel()
        await within(asyncio.wait([task]))
        assert finished or task.cancelled()
        await within(server.await_closed())
        assert not server.is_serving
        assert not server.connection_manager.connections
        watching = registry.watch("calc")
        assert await anext(watching) == {}
        await watching.aclose()
        assert log in ([], ["start"], ["start", "stop"])
        steps += 1
    assert steps > 10
