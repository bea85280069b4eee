"""Remote generators: items one by one, flow control, and every way in which they end."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from rap.client import Client
from rap.errors import CallError, DeadlineExceeded, HandlerError, InvalidArgument
from rap.processor.compress import CompressProcessor
from rap.server import Server
from tests.fake_clock import FakeClock
from tests.loopback import calling, eventually, serving, within

ON_BOTH_LOOPS = True


class Log:
    """Records what the handlers of a test did."""

    def __init__(self) -> None:
        self.yielded = 0
        self.ended = asyncio.Event()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
async def server(log: Log) -> AsyncIterator[Server]:
    async def count(n: int) -> AsyncIterator[int]:
        try:
            for i in range(n):
                log.yielded = i + 1
                yield i
        finally:
            log.ended.set()

    async def silent() -> AsyncIterator[int]:
        try:
            yield 0
            await asyncio.Event().wait()
        finally:
            log.ended.set()

    async def blobs(n: int, size: int) -> AsyncIterator[bytes]:
        try:
            for i in range(n):
                log.yielded = i + 1
                yield bytes(size)
        finally:
            log.ended.set()

    async def failing(n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i
        raise ValueError("enough")

    def plain(n: int) -> Iterator[str]:
        try:
            for i in range(n):
                log.yielded = i + 1
                yield threading.current_thread().name
        finally:
            log.ended.set()

    def plain_failing() -> Iterator[int]:
        yield 1
        raise KeyError("gone")

    async def bare(n: int) -> AsyncIterator:  # type: ignore[type-arg]  # as users may write it
        for i in range(n):
            yield i

    async def wrong() -> AsyncIterator[int]:
        yield 1
        yield "two"  # type: ignore[misc]  # the mistake

    async def unary() -> int:
        return 1

    functions: list[Any] = [count, silent, blobs, failing, plain, plain_failing, bare, wrong, unary]
    async with serving(*functions) as server:
        server.register(plain, name="inline", inline=True)
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with calling(server) as client:
        yield client


def stats(client: Client) -> tuple[int, int]:
    loads = [node.stats for node in client.cluster.nodes.values()]
    return sum(s.in_flight for s in loads), sum(s.open_streams for s in loads)


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 5000])
async def test_all_items_arrive_in_order(client: Client, n: int) -> None:
    assert [i async for i in client.iterator_call("count", n)] == [*range(n)]
    assert stats(client) == (0, 0)


async def test_a_stub_of_a_generator_is_iterated(client: Client) -> None:
    @client.register()
    async def count(n: int) -> AsyncIterator[int]:
        yield 0

    assert [i async for i in count(3)] == [0, 1, 2]
    assert [i async for i in client.iterator_call(count, 3)] == [0, 1, 2]
    assert [i async for i in client.iterator_call(count, arg_param=[3])] == [0, 1, 2]
    with pytest.raises(InvalidArgument, match="argument 'n'"):
        count("3")  # type: ignore[arg-type]  # the mistake


async def test_a_bare_iterator_hint_is_enough(client: Client) -> None:
    @client.register()
    async def bare(n: int) -> AsyncIterator:  # type: ignore[type-arg]  # as users may write it
        yield

    assert [i async for i in bare(2)] == [0, 1]


async def test_nothing_is_sent_before_the_first_item_is_asked_for(client: Client, log: Log) -> None:
    iterator = client.iterator_call("count", 3)
    await client.raw_call("unary")
    assert log.yielded == 0
    assert await anext(iterator) == 0
    await iterator.aclose()


async def test_break_ends_the_remote_generator(client: Client, log: Log) -> None:
    async for _ in client.iterator_call("silent"):
        break
    await within(log.ended.wait())
    assert stats(client) == (0, 0)


async def test_aclose_ends_the_remote_generator(client: Client, log: Log) -> None:
    iterator = client.iterator_call("silent")
    assert await anext(iterator) == 0
    await iterator.aclose()
    await iterator.aclose()
    await within(log.ended.wait())
    with pytest.raises(StopAsyncIteration):
        await anext(iterator)


async def test_aclose_wakes_the_task_that_waits_for_an_item(client: Client, log: Log) -> None:
    iterator = client.iterator_call("silent")
    assert await anext(iterator) == 0
    waiting = asyncio.create_task(collect(iterator))
    await asyncio.sleep(0)
    await iterator.aclose()
    assert await within(waiting) == []


async def collect(iterator: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in iterator]


async def test_aclose_before_the_first_item_sends_nothing(client: Client, log: Log) -> None:
    iterator = client.iterator_call("count", 3)
    await iterator.aclose()
    assert await collect(iterator) == []
    await client.raw_call("unary")
    assert log.yielded == 0


async def test_an_error_of_the_consumer_ends_the_remote_generator(client: Client, log: Log) -> None:
    async def consume() -> None:
        async for item in client.iterator_call("silent"):
            1 // item

    with pytest.raises(ZeroDivisionError):
        await consume()
    await within(log.ended.wait())


async def test_items_before_an_error_arrive(client: Client) -> None:
    items: list[int] = []

    async def consume() -> None:
        async for item in client.iterator_call("failing", 100):
            items.append(item)  # noqa: PERF401  # what came before the error counts

    with pytest.raises(ValueError, match="enough") as caught:
        await consume()
    assert items == [*range(100)]
    assert isinstance(caught.value, HandlerError)
    assert stats(client) == (0, 0)


async def test_an_item_of_a_wrong_type_is_an_error(client: Client) -> None:
    iterator = client.iterator_call("wrong")
    assert await anext(iterator) == 1
    with pytest.raises(CallError, match=r"wrong\(\): item: expected `int`"):
        await anext(iterator)
    assert await client.raw_call("unary") == 1


async def test_a_slow_consumer_pauses_the_generator(client: Client, log: Log) -> None:
    iterator = client.iterator_call("blobs", 1000, 10_000)
    assert len(await anext(iterator)) == 10_000
    before = -1
    while before != log.yielded:  # it stands still when the window is full
        before = log.yielded
        for _ in range(20):
            await client.raw_call("unary")
    assert log.yielded < 250
    assert len(await collect(iterator)) == 999
    assert log.yielded == 1000


async def test_many_generators_share_a_connection(client: Client) -> None:
    results = await asyncio.gather(*(collect(client.iterator_call("count", n)) for n in range(200)))
    assert [len(each) for each in results] == [*range(200)]


async def test_plain_generators_run_in_threads(client: Client) -> None:
    names = await collect(client.iterator_call("plain", 200))
    assert len(names) == 200
    assert {name.rpartition("_")[0] for name in names} == {"rap-handler"}


async def test_an_inline_generator_runs_on_the_loop(client: Client) -> None:
    names = await collect(client.iterator_call("inline", 2))
    assert names == [threading.current_thread().name] * 2


async def test_break_closes_a_plain_generator(client: Client, log: Log) -> None:
    async for _ in client.iterator_call("plain", 10_000_000):
        break
    async with asyncio.timeout(10):
        await log.ended.wait()


async def test_a_plain_generator_is_closed_in_a_thread_too() -> None:
    closed_in: list[str] = []

    def plain() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(1 << 20)
        finally:
            closed_in.append(threading.current_thread().name)

    async with serving(plain) as server, calling(server) as client:
        iterator = client.iterator_call("plain")
        await anext(iterator)
        (conn,) = server.connection_manager.connections
        await eventually(lambda: all(stream.outbox for stream in conn.streams.values()))
        await iterator.aclose()
        await eventually(lambda: closed_in)
    assert closed_in[0].startswith("rap-handler")


async def test_errors_of_plain_generators_arrive_after_their_items(client: Client) -> None:
    iterator = client.iterator_call("plain_failing")
    assert await anext(iterator) == 1
    with pytest.raises(KeyError):
        await anext(iterator)


async def test_wait_for_around_an_item_works(client: Client, log: Log) -> None:
    iterator = client.iterator_call("silent")
    assert await asyncio.wait_for(anext(iterator), 5) == 0
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(iterator), 0.01)
    await within(log.ended.wait())
    assert await collect(iterator) == []
    assert stats(client) == (0, 0)


async def test_a_cancelled_consumer_ends_the_remote_generator(client: Client, log: Log) -> None:
    begun = asyncio.Event()

    async def consume() -> None:
        iterator = client.iterator_call("silent")
        async for _ in iterator:
            begun.set()

    task = asyncio.create_task(consume())
    await within(begun.wait())
    assert stats(client) == (0, 1)
    task.cancel()
    await within(log.ended.wait())
    assert stats(client) == (0, 0)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_two_tasks_cannot_wait_for_the_same_item(client: Client) -> None:
    iterator = client.iterator_call("silent")
    assert await anext(iterator) == 0
    first = asyncio.create_task(collect(iterator))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="another task is waiting for its next item"):
        await anext(iterator)
    await iterator.aclose()
    await first


async def test_a_unary_function_cannot_be_iterated(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="is not a generator"):
        await anext(client.iterator_call("unary"))
    assert stats(client) == (0, 0)


async def test_generators_have_no_deadline_unless_one_is_given(
    server: Server, log: Log, clock: FakeClock
) -> None:
    async with calling(server, clock=clock) as client:
        iterator = client.iterator_call("silent", timeout=5.0)
        assert await anext(iterator) == 0
        clock.advance(5.0)
        with pytest.raises(DeadlineExceeded):
            await within(anext(iterator))
        await within(log.ended.wait())
        assert stats(client) == (0, 0)


async def test_a_lost_connection_ends_the_iteration_with_an_error(
    client: Client, server: Server
) -> None:
    iterator = client.iterator_call("silent")
    assert await anext(iterator) == 0
    await server.await_closed()
    with pytest.raises(CallError) as caught:
        await within(anext(iterator))
    assert caught.value.code.name == "UNAVAILABLE"
    assert stats(client) == (0, 0)


async def test_closing_the_client_ends_the_iteration(client: Client, log: Log) -> None:
    iterator = client.iterator_call("silent")
    assert await anext(iterator) == 0
    await client.await_close()
    with pytest.raises(CallError, match="closed"):
        await within(anext(iterator))
    await within(log.ended.wait())


async def test_an_iterator_asked_after_the_client_was_closed_fails(client: Client) -> None:
    iterator = client.iterator_call("silent")
    await client.await_close()
    with pytest.raises(CallError, match="the client was closed"):
        await within(anext(iterator))


async def test_an_iterator_dropped_in_another_thread_ends_its_call(
    client: Client, log: Log
) -> None:
    held = [client.iterator_call("silent")]
    assert await anext(held[0]) == 0
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    await within(log.ended.wait())


async def test_small_messages_keep_batches_small(server: Server) -> None:
    async with calling(server, max_message=1024) as client:
        assert await collect(client.iterator_call("blobs", 300, 500)) == [bytes(500)] * 300


async def test_an_item_that_the_client_does_not_take_is_an_error(server: Server) -> None:
    async with calling(server, max_message=2048) as client:
        iterator = client.iterator_call("blobs", 3, 5000)
        with pytest.raises(CallError, match="max_message") as caught:
            await anext(iterator)
        assert caught.value.code.name == "RESOURCE_EXHAUSTED"
        assert await client.raw_call("unary") == 1


@pytest.mark.parametrize("processed", [False, True])
@pytest.mark.parametrize("how", ["left", "deadline", "lost"])
async def test_a_generator_that_swallows_its_cancellation_ends_at_its_next_item(
    processed: bool, how: str
) -> None:
    made, live = 0, 0

    async def ticks() -> AsyncIterator[int]:
        nonlocal made, live
        live += 1
        try:
            while True:
                with contextlib.suppress(asyncio.CancelledError):  # a careless handler
                    await asyncio.sleep(0.001)
                made += 1
                yield made
        finally:
            live -= 1

    processors = [CompressProcessor()] if processed else []
    async with serving(ticks, processor_list=processors) as server:
        client = Client(str(server.addresses[0]), processor_list=[CompressProcessor()] * processed)
        await client.connect()
        stream = client.iterator_call("ticks", timeout=0.5 if how == "deadline" else None)
        assert await within(anext(stream)) == 1
        if how == "deadline":
            with pytest.raises(DeadlineExceeded):
                await within(drain(stream))
        elif how == "left":
            await stream.aclose()
        await client.close()
        await eventually(lambda: not live)
        ended = made
    assert made == ended


async def test_a_request_stream_that_swallows_its_cancellation_ends_at_its_next_item() -> None:
    live = 0

    async def first(items: AsyncIterator[int]) -> int:
        return await anext(items)

    async def ticks() -> AsyncIterator[int]:
        nonlocal live
        live += 1
        try:
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.001)
                yield 7
        finally:
            live -= 1

    async with serving(first) as server, calling(server) as client:
        stub: Any = client.register("first")(first)
        assert await within(stub(ticks())) == 7
        assert not live


async def drain(stream: Any) -> None:
    async for _ in stream:
        pass
