"""Streams are load of their servers, and do not keep calls away for as long as they are open."""

import asyncio
import functools
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from rap.channel import Channel
from rap.client import Client
from rap.client.node import Node
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


@pytest.mark.parametrize("kind", ["silent stream", "stream", "channel"])
@pytest.mark.parametrize("picker", ["p2c", "prequal"])
async def test_streams_are_spread_evenly_whatever_calls_go_on(kind: str, picker: str) -> None:
    opened: list[int] = []
    async with AsyncExitStack() as stack:
        hosts = [await stack.enter_async_context(replica(number, opened)) for number in range(3)]
        client = await stack.enter_async_context(Client(hosts, picker=picker))
        await eventually(lambda: len(client.cluster.ready) == 3)
        for count in range(9):
            await open_one(stack, client, kind)
            await eventually(functools.partial(has_opened, opened, count + 1))
            for _ in range(count % 3):
                await within(client.raw_call("which"))
        spread = Counter(opened)
        assert len(spread) == 3
        assert max(spread.values()) <= 5  # noise may make one look slow for a while


def has_opened(opened: list[int], count: int) -> bool:
    return len(opened) == count


def nodes_of(client: Client, *streams: int, took: tuple[float, ...] = ()) -> list[Node]:
    """Return the nodes of a client, with so many streams, and as fast as is said."""
    nodes = sorted(client.cluster.ready, key=lambda node: node.key)
    for node, count, seconds in zip(nodes, streams, took or [1e-3] * len(nodes), strict=True):
        node.stats.open_streams += count
        now = client.cluster.loop.time() - 60 * (seconds + 0.01)
        for factor in (1.0, 0.9, 1.1) * 20:
            now += seconds + 0.01
            node.stats.started(now - seconds)
            node.stats.finished(now, seconds * factor, True)
    return nodes


@pytest.mark.parametrize(
    ("streams", "took", "weights", "placed"),
    [
        ((2, 1, 2), (0.001, 0.001, 0.001), (1, 1, 1), 1),
        ((2, 1, 2), (0.001, 0.1, 0.001), (1, 1, 1), 0),  # it is slow
        ((2, 1, 2), (0.001, 0.001, 0.001), (1, 1, 4), 2),  # for its weight
        ((1, 1, 1), (0.001, 0.001, 0.001), (1, 1, 1), 0),
    ],
    ids=["fewest", "slow", "weights", "equal"],
)
async def test_a_stream_goes_where_there_are_few_of_those_as_good_as_the_picked(
    streams: tuple[int, ...], took: tuple[float, ...], weights: tuple[float, ...], placed: int
) -> None:
    async with AsyncExitStack() as stack:
        hosts = [await stack.enter_async_context(replica(number, [])) for number in range(3)]
        client = await stack.enter_async_context(Client(hosts))
        await eventually(lambda: len(client.cluster.ready) == 3)
        nodes = nodes_of(client, *streams, took=took)
        for node, weight in zip(nodes, weights, strict=True):
            node.set_weight(weight)
        try:
            assert client.cluster.place_stream(nodes[0], frozenset()) is nodes[placed]
            left_out = frozenset(node.key for node in nodes[1:])
            assert client.cluster.place_stream(nodes[0], left_out) is nodes[0]
        finally:
            for node, count in zip(nodes, streams, strict=True):
                node.stats.open_streams -= count


@pytest.mark.parametrize("affinity", ["key", None])
async def test_who_chooses_by_a_key_or_with_a_picker_is_obeyed(affinity: str | None) -> None:
    opened: list[int] = []
    async with AsyncExitStack() as stack:
        hosts = [await stack.enter_async_context(replica(number, opened)) for number in range(3)]
        picker: Any = "rendezvous" if affinity else First()
        client = await stack.enter_async_context(Client(hosts, picker=picker))
        await eventually(lambda: len(client.cluster.ready) == 3)
        for _ in range(4):
            stream = client.iterator_call("watch", False, affinity=affinity)
            await anext(stream)
            stack.push_async_callback(stream.aclose)
    assert opened == [opened[0]] * 4


class First:
    """Picks the node with the first key."""

    def pick(self, candidates: Sequence[Any], affinity: str | None = None) -> Any:
        return min(candidates, key=lambda each: each.key)
