"""Arguments of types that Python code makes are decoded in a thread, if there are many."""

import asyncio
import contextvars
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rap.channel import Channel
from rap.client import Client
from rap.errors import InvalidArgument, ResourceExhausted
from rap.server import Server
from rap.server.middleware import AccessMsgMiddleware
from rap.server.threads import Threads
from rap.testing import TestClient
from tests.loopback import PATIENCE, calling, eventually, inside, serving, within

FEW, MANY = ["a"] * 10, ["a"] * 4096


async def unary(paths: list[Path]) -> int:
    return len(paths)


def plain(paths: list[Path]) -> int:
    return len(paths)


async def items(paths: list[Path]) -> AsyncIterator[int]:
    yield len(paths)


def plain_items(paths: list[Path]) -> Iterator[int]:
    yield len(paths)


async def summed(paths: list[Path], numbers: AsyncIterator[int]) -> int:
    return len(paths) + sum([n async for n in numbers])


async def channel(channel: Channel, paths: list[Path]) -> None:
    await channel.write(len(paths))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """Collect the threads in which arguments were decoded."""
    threads: list[threading.Thread] = []
    original = Threads.decode

    async def decode(self: Threads, owner: Any, decode: Callable[[Any], Any], body: Any) -> Any:
        def told(body: Any) -> Any:
            threads.append(threading.current_thread())
            return decode(body)

        return await original(self, owner, told, body)

    monkeypatch.setattr(Threads, "decode", decode)
    return threads


async def answer(client: Client, name: str, paths: list[str]) -> int:
    """Call a function of any type, and return its only answer."""
    if name == "summed":

        @client.register(name="summed")
        async def declared(paths: list[str], numbers: AsyncIterator[int]) -> int:
            raise NotImplementedError

        return await declared(paths, numbers())
    if name == "channel":
        async with client.channel(name, paths) as opened:
            return int(await opened.read_body())
    if "items" in name:
        (count,) = [n async for n in client.iterator_call(name, paths)]
        return int(count)
    return int(await client.raw_call(name, paths))


async def numbers() -> AsyncIterator[int]:
    yield 0


@pytest.mark.parametrize("has_middleware", [False, True])
@pytest.mark.parametrize("function", [unary, plain, items, plain_items, summed, channel])
async def test_many_slow_values_are_decoded_in_a_thread(
    function: Callable[..., Any], has_middleware: bool, decoded: list[threading.Thread]
) -> None:
    middleware = [AccessMsgMiddleware()] if has_middleware else []
    async with inside(function, middleware_list=middleware) as client:
        assert await answer(client, function.__name__, FEW) == len(FEW)
        assert decoded == []
        assert await answer(client, function.__name__, MANY) == len(MANY)
        assert len(decoded) == 1
        assert decoded[0] is not threading.current_thread()


async def test_an_inline_function_is_called_on_the_event_loop_nevertheless(
    decoded: list[threading.Thread],
) -> None:
    threads = []

    def count(paths: list[Path]) -> int:
        threads.append(threading.current_thread())
        return len(paths)

    server = Server()
    server.register(count, inline=True)
    async with TestClient(server) as client:
        assert await client.raw_call("count", MANY) == len(MANY)
    assert threads == [threading.current_thread()]
    assert len(decoded) == 1


async def test_a_wrong_value_is_told_as_elsewhere(decoded: list[threading.Thread]) -> None:
    async with inside(unary) as client:
        with pytest.raises(InvalidArgument, match="argument 'paths'"):
            await client.raw_call("unary", [*MANY, 1])
    assert len(decoded) == 1


async def test_one_body_is_decoded_at_a_time() -> None:
    threads, lock, most, now = Threads(None), threading.Lock(), 0, 0

    def decode(body: int) -> int:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        with lock:
            now -= 1
        return body

    answers = await asyncio.gather(*(threads.decode(n % 3, decode, n) for n in range(50)))
    assert answers == list(range(50))
    assert most == 1
    threads.close()


async def read_channel(channel: Channel[list[Path], int]) -> None:
    async for paths in channel:
        await channel.write(len(paths))
        await channel.write(len(await channel.read_body()))


async def read_items(batches: AsyncIterator[list[Path]]) -> list[int]:
    return [len(paths) async for paths in batches]


async def test_large_messages_of_a_channel_are_decoded_in_a_thread(
    decoded: list[threading.Thread],
) -> None:
    async with inside(read_channel) as client, client.channel("read_channel") as channel:
        for paths in (FEW, MANY, MANY, FEW):
            await channel.write(paths)
        answers = [await channel.read_body() for _ in range(4)]
    assert answers == [len(FEW), len(MANY), len(MANY), len(FEW)]
    assert len(decoded) == 2


async def test_large_items_of_a_request_stream_are_decoded_in_a_thread(
    decoded: list[threading.Thread],
) -> None:
    async def batches() -> AsyncIterator[list[str]]:
        for paths in (FEW, MANY, MANY, FEW):
            yield paths

    async with inside(read_items) as client:
        answers = await client.call(read_items, batches())
    assert answers == [len(FEW), len(MANY), len(MANY), len(FEW)]
    assert decoded


async def test_a_wrong_item_among_large_ones_is_told(decoded: list[threading.Thread]) -> None:
    async with inside(read_channel) as client:
        with pytest.raises(InvalidArgument, match="message: expected `str`, got `int`"):
            async with client.channel("read_channel") as channel:
                await channel.write([*MANY, 1])
    assert len(decoded) == 1


async def test_a_read_that_is_cancelled_while_a_thread_decodes_loses_nothing() -> None:
    lengths: list[int] = []

    async def impatient(channel: Channel[list[Path], int]) -> None:
        for _ in range(3):
            reading = asyncio.create_task(channel.read_body())
            for _ in range(3):
                await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])
            if not reading.cancelled():
                lengths.append(len(reading.result()))
        lengths.extend([len(paths) async for paths in channel])

    async with inside(impatient) as client, client.channel("impatient") as channel:
        for size in (4097, 4098, 4099):
            await channel.write(["a"] * size)
    assert lengths == [4097, 4098, 4099]


async def test_connections_take_turns_at_the_thread_that_decodes() -> None:
    threads, order = Threads(None), list[str]()
    go_on, begun = threading.Event(), threading.Event()

    def decode(name: str) -> None:
        begun.set()
        assert go_on.wait(PATIENCE)
        order.append(name)

    names = ["greedy 1", "greedy 2", "greedy 3", "greedy 4", "modest 1", "other 1"]
    calls = [asyncio.create_task(threads.decode(name.split()[0], decode, name)) for name in names]
    await eventually(begun.is_set)
    calls[2].cancel()  # while it waits
    calls[0].cancel()  # while it is decoded
    await asyncio.wait([calls[0], calls[2]])
    go_on.set()
    await asyncio.wait(calls)
    assert order == ["greedy 1", "modest 1", "other 1", "greedy 2", "greedy 4"]
    threads.close()


async def test_cancelled_calls_do_not_let_more_than_one_body_be_decoded_at_a_time() -> None:
    threads, lock, most, now = Threads(None), threading.Lock(), 0, 0
    go_on, begun = threading.Event(), threading.Event()

    def decode(body: int) -> int:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        begun.set()
        assert go_on.wait(PATIENCE)
        with lock:
            now -= 1
        return body

    first = asyncio.create_task(threads.decode("a", decode, 0))
    await eventually(begun.is_set)
    first.cancel()
    await asyncio.wait([first])
    others = [asyncio.create_task(threads.decode("a", decode, n)) for n in range(1, 6)]
    for _ in range(5):
        await asyncio.sleep(0)
    go_on.set()
    assert await asyncio.gather(*others) == [1, 2, 3, 4, 5]
    assert most == 1
    threads.close()


async def test_bodies_are_decoded_again_after_a_time_without_a_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads, decoded = Threads(None), list[int]()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        calls = [threads.decode(n, decoded.append, n) for n in range(3)]
        answers = await within(asyncio.gather(*calls, return_exceptions=True))
    assert [str(each) for each in answers] == ["can't start new thread"] * 3
    await within(threads.decode(0, decoded.append, 3))
    assert decoded == [3]
    threads.close()


async def test_a_body_that_comes_after_the_pool_was_closed_fails() -> None:
    threads, go_on, begun = Threads(None), threading.Event(), threading.Event()

    def block(body: int) -> int:
        begun.set()
        assert go_on.wait(PATIENCE)
        return body

    running = asyncio.create_task(threads.decode("a", block, 1))
    await eventually(begun.is_set)
    waiting = [asyncio.create_task(threads.decode("b", block, n)) for n in (2, 3)]
    await asyncio.sleep(0)
    threads.close()
    go_on.set()
    assert await within(running) == 1
    for each in waiting:
        with pytest.raises(RuntimeError, match="the server has stopped"):
            await within(each)


async def test_a_body_is_decoded_in_the_context_of_its_call() -> None:
    threads = Threads(None)
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="unset")
    tenant.set("blue")
    assert await threads.decode("a", lambda _: tenant.get(), 0) == "blue"
    threads.close()


async def test_one_connection_leaves_threads_for_the_generators_of_others() -> None:
    def numbers() -> Iterator[int]:
        yield from itertools.count()

    async with serving(numbers) as server, calling(server, max_connections=1) as greedy:
        opened = [greedy.iterator_call("numbers") for _ in range(600)]
        async with asyncio.timeout(PATIENCE):
            answers = await asyncio.gather(*map(anext, opened), return_exceptions=True)
        refused = [each for each in answers if isinstance(each, ResourceExhausted)]
        assert 0 < len(refused) < 200
        assert "of this client, and each keeps a thread" in str(refused[0])
        async with calling(server) as modest:
            assert await anext(modest.iterator_call("numbers")) == 0
        for each in opened:
            await each.aclose()
