"""Everything at once: calls of all shapes, cancelled, broken off, while servers come and go."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rap.client import Channel, Client
from rap.errors import CallError, ChannelClosed
from rap.server import Channel as ServerChannel
from rap.server import Server
from tests.loopback import LOOPBACK, PATIENCE, eventually

ON_BOTH_LOOPS = True
WORKERS, CALLS = 20, 25


async def add(a: int, b: int) -> int:
    return a + b


def threaded(n: int) -> int:
    return n


async def nap(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def fail() -> int:
    raise ValueError("bad")


async def count(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


async def blob(n: int) -> bytes:
    return bytes(n)


async def echo(channel: ServerChannel) -> None:
    async for body in channel:
        await channel.write(body)


async def start(address: str, max_streams: int) -> Server:
    server = Server(address, close_timeout=0.05, max_streams=max_streams)
    functions: list[Any] = [add, threaded, nap, fail, count, blob, echo]
    for function in functions:
        server.register(function)
    return await server.create_server()


async def one_of_many(client: Client, rng: random.Random) -> None:
    """Make one call, and check what it gives."""
    match rng.randrange(8):
        case 0:
            assert await client.raw_call("add", 1, 2) == 3
        case 1:
            assert await client.raw_call("threaded", 5) == 5
        case 2:
            await client.raw_call("nap", rng.random() * 0.02, timeout=0.01)
        case 3:
            await client.raw_call("fail")
        case 4:
            expected, most = 0, rng.randrange(200)
            async for item in client.iterator_call("count", 100):
                assert item == expected
                expected += 1
                if expected == most:
                    break
        case 5:
            size = rng.randrange(200_000)
            assert len(await client.raw_call("blob", size)) == size
        case 6:
            async with client.session:
                for _ in range(3):
                    assert await client.raw_call("add", 1, 1) == 2
        case _:
            talking: Any = client.register("echo")(talk)
            await talking()


async def talk(channel: Channel) -> None:
    for i in range(3):
        await channel.write(i)
        assert await channel.read_body() == i


@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_is_left_of_calls_that_ended_in_any_way(seed: int) -> None:
    rng = random.Random(seed)
    servers = [await start(LOOPBACK, 64) for _ in range(2)]
    addresses = [str(server.addresses[0]) for server in servers]
    outcomes: Counter[str] = Counter()

    async def work(client: Client) -> None:
        for _ in range(CALLS):
            task = asyncio.create_task(one_of_many(client, rng))
            if rng.random() < 0.2:
                for _ in range(rng.randrange(20)):
                    await asyncio.sleep(0)
                task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            expected = CallError | ChannelClosed | asyncio.CancelledError | None
            assert isinstance(outcome, expected), repr(outcome)
            outcomes[type(outcome).__name__] += 1

    async def restart(client: Client) -> None:
        for turn in range(6):
            before = outcomes.total()
            await eventually(
                lambda before=before: outcomes.total() > min(before + 40, WORKERS * CALLS - 100)  # type: ignore[misc]
            )
            at = turn % 2
            if rng.random() < 0.5:
                servers[at].connection_manager.abort()
            else:
                await servers[at].await_closed()
                servers[at] = await start(addresses[at], 64)
            for node in client.cluster.nodes.values():
                node.pool.reset_backoff()

    async with asyncio.timeout(6 * PATIENCE), Client(addresses, max_in_flight=10) as client:
        await asyncio.gather(restart(client), *(work(client) for _ in range(WORKERS)))
        assert outcomes.total() == WORKERS * CALLS
        assert outcomes["NoneType"] > WORKERS * CALLS / 3
        nodes = client.cluster.nodes.values()

        def left() -> list[int]:
            connections = [conn for node in nodes for conn in node.pool.connections]
            counts = [node.stats.in_flight + node.stats.open_streams for node in nodes]
            return [*counts, *(len(conn.streams) + conn.pins for conn in connections)]

        await eventually(lambda: not any(left()))
        assert not client.cluster.waiters
    for server in servers:
        await server.await_closed()
