"""Streams are load of their servers, and do not keep calls away for as long as they are open."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from rap.channel import Channel
from rap.client import Client
from tests.loopback import eventually, serving, within

CALLS = 200


@asynccontextmanager
async def replica(number: int, opened: list[int]) -> AsyncGenerator[str]:
    async def which() -> int:
        return number

    async def watch(silent: bool) -> AsyncIterator[int]:
        opened.append(number)
        if not silent:
            yield number
        await asyncio.Event().wait()
        yield number

    async def talk(channel: Channel[int, int]) -> None:
        opened.append(number)
        async for _ in channel:
            pass

    async with serving(which, watch, talk) as server:
        yield str(server.addresses[0])


async def open_one(stack: AsyncExitStack, client: Client, kind: str) -> None:
    if kind == "channel":

        async def hold() -> None:  # a task of its own: calls made inside stay on the connection
            async with client.channel("talk"):
                await asyncio.Event().wait()

        holding = asyncio.create_task(hold())
        stack.push_async_callback(asyncio.wait, [holding])
        stack.callback(holding.cancel)
        return
    stream = client.iterator_call("watch", kind == "silent stream")
    first = asyncio.create_task(anext(stream))
    stack.push_async_callback(stream.aclose)
    stack.callback(first.cancel)
    if kind == "stream":
        await first


@pytest.mark.parametrize("kind", ["silent stream", "stream", "channel"])
@pytest.mark.parametrize("weight", [1.0, 2.0])
async def test_a_server_with_a_stream_gets_calls_that_come_one_at_a_time(
    kind: str, weight: float
) -> None:
    opened: list[int] = []
    async with AsyncExitStack() as stack:
        hosts = [await stack.enter_async_context(replica(number, opened)) for number in range(2)]
        client = await stack.enter_async_context(Client(hosts))
        await eventually(lambda: len(client.cluster.ready) == 2)
        client.cluster.nodes[hosts[0]].set_weight(weight)
        await open_one(stack, client, kind)
        await eventually(lambda: len(opened) == 1)
        got = Counter([await within(client.raw_call("which")) for _ in range(CALLS)])
        assert got[opened[0]] > 0
        assert got[1 - opened[0]] > 0
