"""Large requests and answers of the same moment: all of them arrive, on one connection."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest

from rap.client import Client
from rap.server import Server
from tests.loopback import calling, serving

MB = 1_000_000
KIB = 1024


async def answer(size: int) -> bytes:
    return b"a" * size


async def exchange(data: bytes, size: int) -> bytes:
    assert data.strip(b"d") == b""
    return b"a" * size


async def items(size: int, count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield number.to_bytes(1, "big") * size


# Without `shed`: on a busy machine the server would refuse some, as if it were overloaded.
serving_large = partial(serving, answer, exchange, items, run_timeout=60, shed=False)
one_connection = partial(calling, max_connections=1, timeout=60)


@pytest.mark.parametrize(("count", "size"), [(9, 16 * MB), (20, 8 * MB), (200, MB)])
async def test_large_answers_of_one_moment_all_arrive(count: int, size: int) -> None:
    async with serving_large() as server, one_connection(server) as client:
        calls = [client.raw_call("answer", size + n) for n in range(count)]
        sizes = [len(each) for each in await asyncio.gather(*calls)]
    assert sizes == [size + n for n in range(count)]


@pytest.mark.parametrize(("count", "size"), [(9, 16 * MB), (20, 8 * MB), (200, MB)])
async def test_large_requests_of_one_moment_all_arrive(count: int, size: int) -> None:
    async with serving_large() as server, one_connection(server) as client:
        data = b"d" * size
        calls = [client.raw_call("exchange", data, n) for n in range(count)]
        sizes = [len(each) for each in await asyncio.gather(*calls)]
    assert sizes == list(range(count))


async def test_a_thousand_medium_exchanges_of_one_moment_all_arrive() -> None:
    async with serving_large() as server, one_connection(server) as client:
        data = b"d" * 272_000
        calls = [client.raw_call("exchange", data, 314_000 + n) for n in range(1000)]
        sizes = [len(each) for each in await asyncio.gather(*calls)]
    assert sizes == [314_000 + n for n in range(1000)]


async def test_medium_requests_of_calls_that_take_long_all_arrive() -> None:
    """As many as if there were a thousand of them at the default of `max_message`."""
    every = asyncio.Event()
    begun = 0

    async def slow(data: bytes) -> int:
        nonlocal begun
        begun += 1
        if begun == 100:
            every.set()
        await every.wait()
        return len(data)

    limits = {"max_message": 2 * MB, "run_timeout": 60}
    async with serving(slow, **limits) as server, one_connection(server) as client:
        calls = [client.raw_call("slow", b"d" * 340_000) for n in range(100)]
        assert await asyncio.gather(*calls) == [340_000] * 100


async def total(client: Client, size: int, count: int, pause: asyncio.Event) -> int:
    found = 0
    async for item in client.iterator_call("items", size, count):
        assert item == found.to_bytes(1, "big") * size
        found += 1
        await pause.wait()
    return found


@pytest.mark.parametrize("size", [100 * KIB, 300 * KIB])
async def test_generators_whose_readers_pause_take_nothing_from_other_calls(size: int) -> None:
    """Each has more to send than the client holds in parts of all of them together."""
    limits = {"max_message": 512 * KIB, "stream_window": 128 * KIB}
    async with serving_large() as server, one_connection(server, **limits) as client:
        pause = asyncio.Event()
        readers = [asyncio.create_task(total(client, size, 4, pause)) for _ in range(20)]
        for _ in range(3):
            assert len(await client.raw_call("answer", 400 * KIB)) == 400 * KIB
        pause.set()
        assert await asyncio.gather(*readers) == [4] * 20


async def test_a_server_says_what_it_holds_in_parts() -> None:
    server: Server
    async with serving_large(max_message=MB, max_unfinished=3 * MB) as server:
        async with one_connection(server) as client:
            calls = [client.raw_call("exchange", b"d" * 900_000, n) for n in range(12)]
            assert [len(each) for each in await asyncio.gather(*calls)] == list(range(12))
