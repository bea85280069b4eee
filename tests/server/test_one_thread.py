"""A `def` generator runs in one thread and one context, from its first to its last item."""

import asyncio
import contextlib
import contextvars
import decimal
import gc
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from rap.client import Client
from rap.errors import HandlerError, ResourceExhausted
from rap.server import Server, threads
from rap.server.threads import Threads
from tests.loopback import calling, eventually, serving, within

ON_BOTH_LOOPS = True

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")


class Log:
    """What the generators of a test did."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.ended: list[str] = []
        self.go_on = threading.Event()
        self.began = threading.Event()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
async def server(log: Log) -> AsyncIterator[Server]:
    def note() -> str:
        log.threads.append(threading.current_thread().name)
        return f"{var.get()} {decimal.Decimal(1) / 3}"

    def numbers(n: int) -> Iterator[str]:
        token = var.set("kept")
        lock = threading.RLock()
        try:
            with decimal.localcontext() as arithmetic, lock:
                arithmetic.prec = 3
                for i in range(n):
                    yield f"{note()} {'x' * 40_000}"[:10] if i % 7 else note()
        finally:
            note()
            var.reset(token)
            lock.acquire()
            log.ended.append("numbers")

    def handed(n: int) -> Iterator[str]:
        return numbers(n)

    def rows() -> Iterator[int]:
        connection = sqlite3.connect(":memory:")  # only its own thread may use it

        def each() -> Iterator[int]:
            with contextlib.closing(connection):
                for row in connection.execute("values (1), (2), (3)"):
                    yield row[0]

        return each()

    async def awaited(n: int) -> Iterator[str]:
        return iter(numbers(n))

    def another() -> Any:
        async def items() -> AsyncIterator[str]:
            yield "a"
            yield var.get()

        return items()

    another.__annotations__["return"] = Iterator[str]

    def stuck() -> Iterator[str]:
        try:
            for _ in range(64):  # so many are passed on together
                yield note()
            log.began.set()
            log.go_on.wait(10)
            yield note()
        finally:
            note()
            log.ended.append("stuck")

    def failing() -> Iterator[str]:
        yield note()
        raise ValueError(note())

    functions = (numbers, handed, rows, awaited, another, stuck, failing)
    async with serving(*functions, threads=2) as server:
        server.register(numbers, name="inline", inline=True)

        def count() -> int:
            return threading.active_count()

        server.register(count)
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with calling(server) as client:
        yield client


@pytest.mark.parametrize("name", ["numbers", "handed", "awaited", "inline"])
@pytest.mark.parametrize("n", [0, 1, 3, 500])
async def test_its_context_is_kept(client: Client, log: Log, name: str, n: int) -> None:
    items = [item async for item in client.iterator_call(name, n)]
    assert [item[:10] for item in items] == ["kept 0.333"] * n
    await eventually(lambda: log.ended == ["numbers"])
    assert len({*log.threads}) == 1


async def test_steps_that_are_far_apart_have_one_thread(client: Client, log: Log) -> None:
    """Other functions run in between, in all threads of the pool."""
    streams = [client.iterator_call("numbers", 10**9) for _ in range(5)]
    for _ in range(3):
        for stream in streams:
            for _ in range(100):
                assert (await within(anext(stream)))[:10] == "kept 0.333"
        await within(client.raw_call("count"))
    assert len({*log.threads}) == 5
    for stream in streams:
        await stream.aclose()
    await eventually(lambda: log.ended == ["numbers"] * 5)
    assert len({*log.threads}) == 5


async def test_what_belongs_to_one_thread_may_be_made_before_the_generator(client: Client) -> None:
    assert [item async for item in client.iterator_call("rows")] == [1, 2, 3]


async def test_a_def_that_returns_an_asynchronous_generator_works(client: Client) -> None:
    assert [item async for item in client.iterator_call("another")] == ["a", "unset"]


async def test_it_is_closed_there_when_the_client_leaves_while_it_is_busy(
    client: Client, log: Log
) -> None:
    stream = client.iterator_call("stuck")
    await within(anext(stream))
    await asyncio.to_thread(log.began.wait, 10)
    await stream.aclose()
    log.go_on.set()
    await eventually(lambda: log.ended == ["stuck"])
    assert len({*log.threads}) == 1


async def test_an_error_arrives_after_the_items_before_it(client: Client, log: Log) -> None:
    stream = client.iterator_call("failing")
    assert await anext(stream)
    with pytest.raises(HandlerError, match="unset 0"):
        await anext(stream)
    assert len({*log.threads}) == 1


async def test_generators_that_are_open_take_no_place_in_the_pool(client: Client) -> None:
    streams = [client.iterator_call("numbers", 10**9) for _ in range(10)]
    for stream in streams:
        await within(anext(stream))
    assert await within(client.raw_call("count"))
    for stream in streams:
        await stream.aclose()


async def test_their_threads_end_or_go_back_to_the_pool(client: Client, log: Log) -> None:
    before = threading.active_count()
    streams = [client.iterator_call("numbers", 10**9) for _ in range(10)]
    for stream in streams:
        await within(anext(stream))
    for stream in streams:
        await stream.aclose()
    await eventually(lambda: len(log.ended) == 10)
    await eventually(lambda: threading.active_count() <= before + 2)
    assert await within(client.raw_call("count"))


async def test_too_many_open_generators_are_refused_with_the_reason(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_MAX_KEPT", 2)
    streams = [client.iterator_call("numbers", 10**9) for _ in range(2)]
    for stream in streams:
        await within(anext(stream))
    with pytest.raises(ResourceExhausted, match="`def` generators are open"):
        await anext(client.iterator_call("numbers", 3))
    for stream in streams:
        await stream.aclose()


async def test_a_pool_that_is_closed_lets_the_last_function_of_a_generator_run() -> None:
    pool = Threads(1)
    one = pool.one(pool)
    first = await within(one.run(threading.current_thread))
    pool.close()
    assert await within(one.run(threading.current_thread)) is first
    one.release()
    await eventually(lambda: not first.is_alive())
    with pytest.raises(asyncio.CancelledError):
        await within(pool.run(int))


async def test_a_pool_that_is_dropped_ends_the_threads_that_it_has_left() -> None:
    pool = Threads(1)
    one = pool.one(pool)
    kept = await within(one.run(threading.current_thread))
    other = await within(pool.run(threading.current_thread))
    assert other is not kept
    one.release()
    del pool
    gc.collect()
    await eventually(lambda: not (kept.is_alive() or other.is_alive()))
