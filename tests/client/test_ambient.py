"""What a task inherits from the call or session in which it was started ends with that."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rap.call import UNTRACED, current, running_call
from rap.client import Channel as ClientChannel
from rap.client import Client, SyncClient
from rap.client.retry import serves_retry
from rap.errors import CallError, DeadlineExceeded
from rap.processor.tracing.sampling import HeadSamplingProcessor
from rap.server import Channel, Server, context
from tests.fake_clock import FakeClock
from tests.loopback import calling, eventually, expired, serving, within

ON_BOTH_LOOPS = True
SHAPES = ["unary", "def", "inline", "generator", "def_generator", "channel", "client_stream"]


class Later:
    """Background tasks of handlers, which call `store` when the test allows it."""

    def __init__(self) -> None:
        self.inner: Any = None
        self.go_on = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self.tasks: list[asyncio.Task[Any]] = []

    def begin(self) -> None:
        """Start a task that outlives the handler; for handlers in the loop and in threads."""
        if threading.current_thread() is threading.main_thread():
            self.tasks.append(asyncio.create_task(self._work()))
        else:
            asyncio.run_coroutine_threadsafe(self._in_loop(), self.loop).result()

    async def _in_loop(self) -> None:
        self.tasks.append(asyncio.create_task(self._work()))

    async def _work(self) -> Any:
        await self.go_on.wait()
        stub = self.inner.register("store")(declared)
        return [
            await stub(1),
            await self.inner.raw_call("store", 2, timeout=5),
            [each async for each in self.inner.iterator_call("stored", timeout=5)],
        ]


async def declared(x: int) -> int:
    raise AssertionError("it runs on the server")


@pytest.fixture
async def later() -> Later:
    return Later()


@asynccontextmanager
async def serving_with(later: Later, **options: Any) -> AsyncIterator[Server]:
    async def store(x: int) -> int:
        return x

    async def stored() -> AsyncIterator[int]:
        yield 3

    async def unary() -> int:
        later.begin()
        return 0

    def inline() -> int:
        later.begin()
        return 0

    def plain() -> int:
        later.begin()
        return 0

    async def generator() -> AsyncIterator[int]:
        later.begin()
        yield 0

    def def_generator() -> Iterator[int]:
        later.begin()
        yield 0

    async def channel(channel: Channel) -> None:
        later.begin()
        await channel.write(0)

    async def client_stream(items: AsyncIterator[int]) -> int:
        later.begin()
        return sum([item async for item in items])

    functions = (store, stored, unary, generator, def_generator, channel, client_stream)
    async with serving(*functions, **options) as server:
        server.register(inline, inline=True)
        server.register(plain, name="def")
        yield server


@pytest.fixture
async def server(later: Later) -> AsyncIterator[Server]:
    async with serving_with(later) as server:
        yield server


async def run(client: Client, shape: str, timeout: float) -> None:
    if shape in ("generator", "def_generator"):
        assert [each async for each in client.iterator_call(shape, timeout=timeout)] == [0]
    elif shape == "channel":
        async with client.channel("channel", timeout=timeout) as channel:
            assert await channel.read_body() == 0
    elif shape == "client_stream":

        async def items(requests: AsyncIterator[int]) -> int:
            raise AssertionError

        stub: Any = client.register("client_stream")(items)
        assert await stub([0], timeout=timeout) == 0
    else:
        assert await client.raw_call(shape, timeout=timeout) == 0


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_task_that_outlives_its_handler_has_no_deadline_of_it(
    later: Later, clock: FakeClock, shape: str
) -> None:
    async with (
        serving_with(later, clock=clock) as server,
        calling(server, clock=clock) as client,
        calling(server, clock=clock) as later.inner,
    ):
        await run(client, shape, 5.0)
        clock.advance(5.1)  # the deadline has passed
        later.go_on.set()
        assert await within(asyncio.gather(*later.tasks)) == [[1, 2, [3]]]


async def test_a_task_of_a_cancelled_handler_has_no_deadline_of_it_either(
    server: Server, later: Later, clock: FakeClock
) -> None:
    async def slow() -> None:
        later.begin()
        await asyncio.Event().wait()

    server.register(slow)
    async with calling(server, clock=clock) as client, calling(server) as later.inner:
        call = client.raw_call("slow", timeout=5.0)
        await expired(call, clock, 5.0, once=lambda: later.tasks)
        await eventually(lambda: server.connection_manager.open_calls == 0)
        later.go_on.set()
        assert await within(asyncio.gather(*later.tasks)) == [[1, 2, [3]]]


async def test_a_cancelled_handler_that_still_runs_keeps_its_deadline(server: Server) -> None:
    """Also in a thread, which cannot be cancelled: what it asks for is wanted no more."""
    told: list[str] = []
    go_on = threading.Event()
    ended = threading.Event()
    inner = SyncClient(str(server.addresses[0]))

    def slow() -> None:
        go_on.wait(10)
        left = context.call.deadline - time.monotonic()  # it began here a little later
        threading.Event().wait(max(left, 0.0))
        try:
            inner.raw_call("store", 1)
        except DeadlineExceeded as exc:
            told.append(exc.message)
        ended.set()

    server.register(slow)
    await asyncio.to_thread(inner.connect)
    async with calling(server) as client:
        with pytest.raises(DeadlineExceeded):
            await client.raw_call("slow", timeout=0.5)
        go_on.set()
        await asyncio.to_thread(ended.wait, 10)
    await asyncio.to_thread(inner.close)
    assert told == ["/default/store: the deadline passed before it was sent"]


async def test_a_task_that_outlives_a_retry_is_retried_itself(server: Server) -> None:
    """What serves a retry makes none; a task that it has left behind does."""
    seen: list[bool] = []
    go_on = asyncio.Event()

    async def first() -> None:
        async def work() -> None:
            await go_on.wait()
            assert current.get() is not None
            seen.append(serves_retry(running_call()))

        seen.append(serves_retry(running_call()))
        tasks.append(asyncio.create_task(work()))

    tasks: list[asyncio.Task[None]] = []
    server.register(first)
    async with calling(server) as client:
        method = client.methods.for_name("first", None)
        call, _ = client.invoker.start_call(method, method.stream_type, None, None, 5.0)
        call.header[":attempt"] = 2
        await client.invoker.call_with_retries(method, call, None, method.encode((), {}))
        go_on.set()
        await asyncio.gather(*tasks)
    assert seen == [True, False]


async def test_a_task_that_outlives_an_untraced_call_may_start_a_trace() -> None:
    go_on = asyncio.Event()
    sampled: list[bool] = []
    processor = HeadSamplingProcessor(lambda: None, 1.0)

    async def handler() -> None:
        async def work() -> None:
            await go_on.wait()
            sampled.append(bool(processor.wants_next()))

        sampled.append(bool(processor.wants_next()))
        tasks.append(asyncio.create_task(work()))

    tasks: list[asyncio.Task[None]] = []
    async with serving(handler) as server, calling(server) as client:
        method = client.methods.for_name("handler", None)
        call, _ = client.invoker.start_call(method, method.stream_type, None, None, 5.0)
        call.header[UNTRACED] = True
        await client.invoker.call_with_retries(method, call, None, method.encode((), {}))
        go_on.set()
        await asyncio.gather(*tasks)
    assert sampled == [False, True]


async def test_a_task_that_outlives_a_session_is_in_it_no_more(server: Server) -> None:
    async with calling(server) as client:
        stub: Any = client.register("store")(declared)
        go_on = asyncio.Event()

        async def work() -> list[Any]:
            await go_on.wait()
            return [
                await stub(1),
                await client.raw_call("store", 2),
                [each async for each in client.iterator_call("stored")],
            ]

        async with client.session as outer, client.session as session:
            task = asyncio.create_task(work())
        go_on.set()
        assert await within(task) == [1, 2, [3]]
        for left in (outer, session):
            with pytest.raises(CallError, match="left already"):
                await client.raw_call("store", 2, session=left)


async def test_a_task_of_an_inner_session_is_in_the_outer_one_when_that_is_left(
    server: Server,
) -> None:
    async with calling(server) as client:

        async def which() -> str:
            found = context.session
            return "" if found is None else found.id

        server.register(which)
        go_on = asyncio.Event()

        async def work() -> Any:
            await go_on.wait()
            return await client.raw_call("which")

        async with client.session as outer:
            async with client.session as inner:
                task = asyncio.create_task(work())
                assert await client.raw_call("which") == inner.id
            go_on.set()
            assert await within(task) == outer.id


async def test_a_task_that_outlives_a_channel_function_is_not_bound_to_its_connection(
    server: Server, later: Later
) -> None:
    async with calling(server) as client:
        later.inner = client
        go_on = asyncio.Event()
        tasks: list[asyncio.Task[Any]] = []

        async def work() -> Any:
            await go_on.wait()
            return await client.raw_call("store", 2)

        @client.register()
        async def channel(channel: ClientChannel) -> Any:
            tasks.append(asyncio.create_task(work()))
            return await channel.read_body()

        assert await channel() == 0
        go_on.set()
        later.go_on.set()
        assert await within(asyncio.gather(*tasks)) == [2]
        await within(asyncio.gather(*later.tasks))
