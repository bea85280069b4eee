"""The first calls of a client are spread over the servers, not all on the first to connect.

Streams stay where they begin, so what goes wrong here stays wrong for hours.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import pytest

from rap.address import Address
from rap.client import Client
from rap.client.cluster import Cluster
from rap.registry import Endpoint
from rap.testing import FakeClock
from tests.client.fed import Resolver, numbered
from tests.fault_proxy import FaultProxy
from tests.loopback import eventually, serving, within
from tests.ports import free_address

STREAMS = 9


class Late(NamedTuple):
    """A client of one server that answers at once, and of two that answer when they are let."""

    client: Client
    clock: FakeClock
    proxies: list[FaultProxy]
    hosts: list[str]

    @property
    def ready(self) -> int:
        return len(self.client.cluster.ready)

    @property
    def connected(self) -> int:
        return connected(self.client.cluster)

    def release(self) -> None:
        for proxy in self.proxies:
            proxy.release()


def connected(cluster: Cluster) -> int:
    return sum(node.pool.conn is not None for node in cluster.nodes.values())


@asynccontextmanager
async def late(**options: Any) -> AsyncIterator[Late]:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        first, *others = [await enter(watched(number)) for number in range(3)]
        proxies = [await enter(FaultProxy(other.addresses[0].port)) for other in others]
        for proxy in proxies:
            proxy.freeze()
        hosts = [str(first.addresses[0]), *(f"127.0.0.1:{proxy.port}" for proxy in proxies)]
        clock = FakeClock()
        client = Client(None if "service" in options else hosts, clock=clock, **options)
        try:
            yield Late(client, clock, proxies, hosts)
        finally:
            await client.await_close()


@asynccontextmanager
async def watched(number: int) -> AsyncIterator[Any]:
    async def which() -> int:
        return number

    async def watch() -> AsyncIterator[int]:
        yield number
        await asyncio.Event().wait()

    async with serving(which, watch, service="watches") as server:
        yield server


async def open_streams(client: Client) -> Counter[int]:
    """Open streams all at once, as `lifespan` of a web application may; count them by server."""
    streams = [client.iterator_call("watch") for _ in range(STREAMS)]
    try:
        return Counter(await within(asyncio.gather(*(anext(stream) for stream in streams))))
    finally:
        for stream in streams:
            await stream.aclose()


@pytest.mark.parametrize("picker", ["p2c", "round_robin", "smooth_weighted", "prequal"])
async def test_streams_opened_right_after_the_start_are_spread(picker: str) -> None:
    async with late(picker=picker) as it:
        connecting = asyncio.create_task(it.client.connect())
        await eventually(lambda: it.connected == 1)
        assert not connecting.done()
        it.release()
        await within(connecting)
        assert it.ready == 3
        spread = await open_streams(it.client)
        assert sorted(spread) == [0, 1, 2]
        assert max(spread.values()) <= 4


async def test_streams_that_are_the_first_use_of_a_client_are_spread() -> None:
    async with late() as it:
        opening = asyncio.create_task(open_streams(it.client))
        await eventually(lambda: it.client.connected and it.connected == 1)
        it.release()
        spread = await within(opening)
        assert sorted(spread) == [0, 1, 2]
        assert max(spread.values()) <= 4


async def test_servers_that_a_registry_lists_after_none_share_the_calls_that_wait() -> None:
    resolver: Any = Resolver()
    resolver.given.put_nowait({})
    async with late(service="watches", registry=resolver) as it:
        opening = asyncio.create_task(open_streams(it.client))
        resolver.given.put_nowait({host: Endpoint(host, Address.parse(host)) for host in it.hosts})
        await eventually(lambda: it.client.connected and it.connected == 1)
        it.release()
        assert sorted(await within(opening)) == [0, 1, 2]


async def test_a_server_that_does_not_answer_delays_the_start_by_a_fifth_of_a_second() -> None:
    async with late() as it:
        connecting = asyncio.create_task(it.client.connect())
        await eventually(lambda: it.connected == 1)
        await it.clock.advance(0.19)
        assert it.ready == 0
        await it.clock.advance(0.02)
        await within(connecting)
        assert it.ready == 1
        it.release()
        await eventually(lambda: it.ready == 3)


async def test_a_server_that_cannot_be_reached_does_not_delay_the_start() -> None:
    clock = FakeClock()
    async with numbered(1) as server:
        client = Client([*server.addresses, free_address()], clock=clock)
        await within(client.connect())
        assert len(client.cluster.ready) == 1
        await client.await_close()


async def test_a_call_with_little_time_does_not_wait_for_all_servers() -> None:
    async with late() as it:
        call = asyncio.create_task(it.client.raw_call("which", timeout=0.2))
        await eventually(lambda: it.client.connected and it.connected == 1)
        await it.clock.advance(0.11)
        assert await within(call) == 0


async def test_calls_that_are_too_many_to_wait_do_not_wait_for_all_servers() -> None:
    async with late(max_waiting=2) as it:
        calls = [asyncio.create_task(it.client.raw_call("which")) for _ in range(2)]
        await eventually(lambda: it.client.connected and it.connected == 1)
        assert it.ready == 0
        calls.append(asyncio.create_task(it.client.raw_call("which")))
        assert await within(asyncio.gather(*calls)) == [0, 0, 0]


async def test_once_a_server_is_ready_calls_do_not_wait_for_those_that_are_added() -> None:
    async with late() as it:
        connecting = asyncio.create_task(it.client.connect())
        await eventually(lambda: it.connected == 1)
        await it.clock.advance(0.25)
        await within(connecting)
        assert await within(it.client.raw_call("which")) == 0
