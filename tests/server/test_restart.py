"""A server can be started again after it was closed, in another event loop too."""

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import Any

import pytest

from rap.client import Client
from rap.processor.base import BaseProcessor
from rap.registry.memory import MemoryRegistry
from rap.server import Server
from rap.server.middleware import BaseConnMiddleware
from tests.loopback import LOOPBACK, within


class Noting(BaseProcessor):
    """Registers a function at each start, and notes what runs."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def start_event_handle(self) -> None:
        self.log.append("processor starts")
        self.register(self.noted, group="notes")

    def stop_event_handle(self) -> None:
        self.log.append("processor stops")

    def noted(self) -> list[str]:
        return self.log


class Counting(BaseConnMiddleware):
    """Registers a function at each start."""

    def start_event_handle(self) -> None:
        self.register(self.one, group="counts")

    def one(self) -> int:
        return 1

    async def dispatch(self, conn: Any) -> None:
        await self.call_next(conn)


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(main)


def add(a: int, b: int) -> int:
    return a + b


async def call(server: Server) -> Any:
    async with server, Client(str(server.addresses[0])) as client:
        assert await client.raw_call("one", group="counts") == 1
        return await within(client.raw_call("add", 1, 2))


def test_a_server_serves_in_each_of_two_event_loops() -> None:
    log: list[str] = []
    server = Server(
        LOOPBACK,
        start_event_list=[lambda: log.append("start")],
        stop_event_list=[lambda: log.append("stop")],
        processor_list=[Noting(log)],
        middleware_list=[Counting()],
    )
    server.register(add)
    seen = set()
    for _ in range(3):
        assert asyncio.run(call(server)) == 3
        seen.add(server.incarnation)
    assert log == ["start", "processor starts", "processor stops", "stop"] * 3
    assert len(seen) == 3


async def test_a_server_starts_again_in_the_same_loop_on_its_address() -> None:
    server = Server(LOOPBACK, close_timeout=0.1)
    server.register(add)
    async with server:
        assert server.is_serving
    assert not server.is_serving
    async with server:
        assert server.is_serving
        with pytest.raises(RuntimeError, match="started already"):
            await server.create_server()
        async with Client(str(server.addresses[0])) as client:
            assert await client.raw_call("add", 1, 2) == 3
    assert "stopped" in repr(server)
    server.load_start_event([lambda: None])


async def test_a_server_registers_again() -> None:
    registry = MemoryRegistry()
    server = Server(LOOPBACK, service="s", registry=registry, drain_delay=0)
    server.register(add)
    for _ in range(2):
        async with server, Client(service="s", registry=registry) as client:
            assert await client.raw_call("add", 1, 2) == 3


def test_a_registry_of_a_url_is_opened_again() -> None:
    server = Server(LOOPBACK, service="s", registry="memory://restarts", drain_delay=0)
    server.register(add)

    async def use() -> None:
        async with server, Client(service="s", registry="memory://restarts") as client:
            assert await within(client.raw_call("add", 1, 2)) == 3

    for _ in range(2):
        asyncio.run(use())


async def test_a_start_that_failed_may_be_repeated() -> None:
    fails = [True]

    def start() -> None:
        if fails.pop():
            fails.append(False)
            raise OSError("not yet")

    server = Server(LOOPBACK, start_event_list=[start])
    server.register(add)
    with pytest.raises(OSError, match="not yet"):
        await server.create_server()
    async with server, Client(str(server.addresses[0])) as client:
        assert await client.raw_call("add", 1, 2) == 3


async def test_a_coroutine_object_as_event_runs_once() -> None:
    async def event() -> None:
        pass

    server = Server(LOOPBACK, start_event_list=[event()])
    async with server:
        pass
    with pytest.raises(RuntimeError, match=r"cannot start again: event .* runs once"):
        await server.create_server()


async def test_a_server_that_stops_cannot_be_started_yet() -> None:
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    server = Server(LOOPBACK)
    server.register(wait)
    await server.create_server()
    async with Client(str(server.addresses[0])) as client:
        open_call = asyncio.create_task(client.raw_call("wait"))
        while not server.connection_manager.open_calls:  # noqa: ASYNC110
            await asyncio.sleep(0)
        closing = asyncio.create_task(server.close())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="stopping"):
            await server.create_server()
        gate.set()
        await within(asyncio.gather(open_call, closing))
    async with server:
        assert server.is_serving


def test_serve_forever_may_run_twice() -> None:
    server = Server(LOOPBACK)
    server.register(add)
    served: list[Any] = []

    async def main() -> None:
        started = asyncio.Event()
        serving = asyncio.create_task(server.serve_forever(started.set))
        await started.wait()
        async with Client(str(server.addresses[0])) as client:
            served.append(await client.raw_call("add", 1, 2))
        os.kill(os.getpid(), signal.SIGTERM)
        await within(serving)

    for _ in range(2):
        asyncio.run(main())
    assert served == [3, 3]
