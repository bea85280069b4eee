"""Cancellation from either side, at every place where a call may wait."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from rap.call import Request, Response
from rap.client import Channel, Client
from rap.errors import CallError, Code, Unavailable
from rap.processor.base import BaseProcessor
from rap.server import Channel as ServerChannel
from rap.server import Server
from tests.loopback import PATIENCE, calling, eventually, serving, within

ON_BOTH_LOOPS = True


class Handler:
    """Hangs until it is cancelled, and counts."""

    def __init__(self) -> None:
        self.began = 0
        self.cancelled = 0

    async def hang(self) -> None:
        self.began += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def fine(self) -> int:
        return 1


class Slow(BaseProcessor):
    """A processor that holds messages up, on one way or the other."""

    def __init__(self, way: str) -> None:
        self._way = way
        self.inside = asyncio.Event()
        self.scopes = 0

    def scope(self, call: Any) -> Any:
        outer = self

        class Scope:
            def __enter__(self) -> None:
                outer.scopes += 1

            def __exit__(self, *exc: object) -> None:
                outer.scopes -= 1

        return Scope()

    async def process_request(self, request: Request) -> Request:
        if self._way == "request":
            self.inside.set()
            await asyncio.Event().wait()
        return request

    async def process_response(self, response: Response) -> Response:
        if self._way == "response":
            self.inside.set()
            await asyncio.Event().wait()
        return response


@pytest.fixture
def handler() -> Handler:
    return Handler()


@pytest.fixture
async def server(handler: Handler) -> AsyncIterator[Server]:
    async with serving(handler.hang, handler.fine) as server:
        yield server


def idle(client: Client) -> bool:
    nodes = client.cluster.nodes.values()
    stats = [node.stats for node in nodes]
    streams = [conn.streams for node in nodes for conn in node.pool.connections]
    return not any([s.in_flight or s.open_streams for s in stats] + [len(s) for s in streams])


async def cancel(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(asyncio.CancelledError):
            await task


Make = Callable[[Client], Awaitable[Any]]


async def stub_call(client: Client) -> None:
    async def hang() -> None: ...

    await client.register()(hang)()


CALLS: dict[str, Make] = {
    "raw_call": lambda client: client.raw_call("hang"),
    "stub": stub_call,
    "iterator": lambda client: anext(client.iterator_call("hang")),
}


@pytest.mark.parametrize("call", CALLS)
async def test_cancelling_a_call_cancels_its_handler(
    server: Server, handler: Handler, call: str
) -> None:
    async with calling(server) as client:
        task = asyncio.ensure_future(CALLS[call](client))
        await eventually(lambda: handler.began)
        await cancel(task)
        await eventually(lambda: handler.cancelled == 1)
        assert idle(client)
        assert await client.raw_call("fine") == 1


@pytest.mark.parametrize("call", CALLS)
async def test_cancelling_before_anything_was_written_sends_nothing(
    server: Server, handler: Handler, call: str
) -> None:
    async with calling(server) as client:
        task = asyncio.ensure_future(CALLS[call](client))
        await asyncio.sleep(0)  # it has run up to its first wait; the frame is not written yet
        await cancel(task)
        assert idle(client)
        assert await client.raw_call("fine") == 1
        await eventually(lambda: handler.cancelled == handler.began)


@pytest.mark.parametrize("call", CALLS)
async def test_cancelling_a_call_that_waits_for_a_server(call: str) -> None:
    async with serving() as server:
        address = server.addresses[0]
    client = Client(address, connect_timeout=0.01)
    with pytest.raises(Unavailable):
        await client.connect()
    task = asyncio.ensure_future(CALLS[call](client))
    await eventually(lambda: client.cluster.waiters)
    await cancel(task)
    assert not client.cluster.waiters
    await client.await_close()


@pytest.mark.parametrize("way", ["request", "response"])
async def test_cancelling_a_call_inside_a_processor(server: Server, way: str) -> None:
    slow = Slow(way)
    async with calling(server, processor_list=[slow]) as client:
        task = asyncio.create_task(client.raw_call("fine"))
        await within(slow.inside.wait())
        assert slow.scopes == 1
        await cancel(task)
        assert slow.scopes == 0
        assert idle(client)


async def test_cancelling_a_session_that_waits_for_a_server() -> None:
    async with serving() as server:
        address = server.addresses[0]
    client = Client(address, connect_timeout=0.01)
    with pytest.raises(Unavailable):
        await client.connect()
    task = asyncio.create_task(client.session.__aenter__())
    await eventually(lambda: client.cluster.waiters)
    await cancel(task)
    await client.await_close()


async def test_cancelling_connect_leaves_a_client_that_can_be_closed() -> None:
    async with serving() as server:
        address = server.addresses[0]
    client = Client(address)
    task = asyncio.create_task(client.connect())
    await asyncio.sleep(0)
    await cancel(task)
    await client.await_close()


async def test_cancelling_async_with_closes_the_client() -> None:
    async with serving() as server:
        address = server.addresses[0]
    client = Client(address)
    task = asyncio.create_task(client.__aenter__())
    await asyncio.sleep(0)
    await cancel(task)
    with pytest.raises(RuntimeError, match="was closed"):
        await client.raw_call("fine")


async def test_a_cancelled_close_can_be_repeated(server: Server, handler: Handler) -> None:
    client = Client(server.addresses)
    await client.connect()
    call = asyncio.create_task(client.raw_call("hang"))
    await eventually(lambda: handler.began)
    closing = asyncio.create_task(client.await_close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    await within(client.await_close())
    with pytest.raises(CallError) as caught:
        await within(call)
    assert caught.value.code is Code.UNAVAILABLE


async def test_closing_the_client_fails_what_is_open(server: Server, handler: Handler) -> None:
    async with calling(server) as client:
        tasks = [asyncio.ensure_future(make(client)) for make in CALLS.values()]
        await eventually(lambda: handler.began == len(tasks))
        await client.await_close()
        for task in tasks:
            with pytest.raises(CallError, match="closed"):
                await within(task)
    await eventually(lambda: handler.cancelled == len(tasks))


async def test_a_thousand_cancelled_calls_leave_nothing(handler: Handler) -> None:
    # Without `shed`: on a busy machine the server would refuse some, as if it were overloaded.
    async with serving(handler.hang, shed=False) as server, calling(server) as client:
        tasks = [asyncio.create_task(client.raw_call("hang")) for _ in range(1000)]
        await eventually(lambda: handler.began == 1000)
        for task in tasks:
            task.cancel()
        await within(asyncio.wait(tasks))
        assert idle(client)
        await eventually(lambda: handler.cancelled == 1000)


async def test_a_call_of_a_lost_client_is_cancelled(server: Server, handler: Handler) -> None:
    async with calling(server) as client:
        task = asyncio.create_task(client.raw_call("hang"))
        await eventually(lambda: handler.began)
        for node in client.cluster.nodes.values():
            node.pool.abort()
        await asyncio.wait([task])
        assert isinstance(task.exception(), Unavailable)
        await eventually(lambda: handler.cancelled == 1)


@pytest.mark.filterwarnings("ignore:.*was not closed before its event loop:ResourceWarning")
async def test_a_loop_that_ends_without_closing_the_client_leaves_no_socket(
    server: Server,
) -> None:
    """As `asyncio.run` does it at the end of a program: all tasks are cancelled."""
    client = Client(server.addresses)
    before = asyncio.all_tasks()
    await client.connect()
    connections = [c for node in client.cluster.nodes.values() for c in node.pool.connections]
    for task in asyncio.all_tasks() - before:
        if task.get_name().startswith("rap watch"):
            task.cancel()
    await eventually(lambda: all(conn.closed for conn in connections))
    assert client.connected is None
    await client.await_close()


async def whole_life(client: Client) -> None:
    """Connect, and make a call of every shape, inside a session and outside."""

    async def echo(channel: Channel) -> Any:
        await channel.write(1)
        return await channel.read_body()

    talk: Any = client.register()(echo)
    async with client:
        await client.raw_call("fine")
        async with client.session:
            async for _ in client.iterator_call("count", 3):
                await client.raw_call("fine")
        await talk()


async def test_a_program_may_be_cancelled_at_any_of_its_steps(server: Server) -> None:
    """Cancel after the first turn of the loop, after the second, and so on to the end."""

    async def count(n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    async def echo(channel: ServerChannel) -> None:
        async for body in channel:
            await channel.write(body)

    server.register(count)
    server.register(echo)
    finished = False
    steps = 0
    while not finished:
        client = Client(server.addresses)
        task = asyncio.create_task(whole_life(client))
        for _ in range(steps):
            await asyncio.sleep(0)
        finished = task.done()
        task.cancel()
        await within(asyncio.wait([task]))
        assert finished or task.cancelled()
        assert not finished or task.exception() is None
        assert client.connected is None
        assert not server.connection_manager.connections or await gone(server)
        steps += 1
    assert steps > 10


async def gone(server: Server) -> bool:
    await eventually(lambda: not server.connection_manager.connections)
    return True
