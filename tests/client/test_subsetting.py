"""A client of very many servers connects to a subset of them."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from rap.client import Client, SyncClient
from rap.client.cluster import Cluster
from rap.client.pool import ServerDraining
from rap.errors import ConnectionClosed, Unauthenticated, Unavailable
from rap.registry import Endpoint
from rap.registry.memory import MemoryRegistry
from rap.server import Server
from tests.fake_clock import FakeClock
from tests.loopback import PATIENCE, calling, eventually, passing, serving, within

ON_BOTH_LOOPS = True


async def work() -> str:
    return "done"


async def start(stack: AsyncExitStack, registry: MemoryRegistry, count: int) -> list[Server]:
    options: dict[str, Any] = {"service": "shop", "registry": registry, "drain_delay": 0}
    return [await stack.enter_async_context(serving(work, **options)) for _ in range(count)]


async def connect(stack: AsyncExitStack, registry: MemoryRegistry, **options: Any) -> Client:
    client = Client(service="shop", registry=registry, rng=random.Random(1), **options)
    return await stack.enter_async_context(client)


async def add(stack: AsyncExitStack, registry: MemoryRegistry, cluster: Cluster) -> None:
    """Start a server, and return when the client knows it.

    To start one need not let any other task run, on uvloop.
    """
    (server,) = await start(stack, registry, 1)
    await eventually(lambda: str(server.addresses[0]) in cluster._listed)


def ready(cluster: Cluster) -> set[str]:
    return {node.key for node in cluster.ready}


async def test_a_client_keeps_the_size_of_its_subset_when_servers_leave_and_come() -> None:
    registry = MemoryRegistry()
    async with AsyncExitStack() as stack:
        servers = await start(stack, registry, 6)
        client = await connect(stack, registry, subset=2)
        cluster = client.cluster
        await eventually(lambda: len(cluster.ready) == 2)
        first = ready(cluster)
        assert cluster.nodes.keys() == first
        leaving = next(it for it in servers if str(it.addresses[0]) in first)
        gone = str(leaving.addresses[0])
        await leaving.await_closed()
        await eventually(lambda: len(ready(cluster) - {gone}) == 2)
        assert first - {gone} < ready(cluster)
        for _ in range(5):
            assert await client.raw_call("work") == "done"


async def test_a_new_server_may_take_a_place_and_calls_on_the_old_one_finish() -> None:
    registry = MemoryRegistry()
    go_on = asyncio.Event()

    async def slow() -> str:
        await go_on.wait()
        return "finished"

    async with AsyncExitStack() as stack:
        for server in await start(stack, registry, 2):
            server.register(slow)
        client = await connect(stack, registry, subset=2)
        cluster = client.cluster
        await eventually(lambda: len(cluster.ready) == 2)
        first = ready(cluster)
        calls = [asyncio.create_task(client.raw_call("slow")) for _ in range(8)]
        await eventually(lambda: all(node.stats.in_flight for node in cluster.ready))
        async with asyncio.timeout(PATIENCE):
            while first <= ready(cluster):
                await add(stack, registry, cluster)
                await eventually(lambda: len(cluster.ready) == 2)
        assert cluster.nodes.keys() == ready(cluster)
        go_on.set()
        assert await asyncio.gather(*calls) == ["finished"] * 8
        await client.await_close()  # before servers leave for which it would dial others


async def test_a_server_that_drains_is_replaced_but_stays_until_it_is_gone() -> None:
    registry = MemoryRegistry()
    async with AsyncExitStack() as stack:
        servers = await start(stack, registry, 4)
        client = await connect(stack, registry, subset=2)
        cluster = client.cluster
        await eventually(lambda: len(cluster.ready) == 2)
        first = ready(cluster)
        leaving = next(it for it in servers if str(it.addresses[0]) in first)
        await leaving.set_serving(False)
        await eventually(lambda: len(ready(cluster) - first) == 1)
        assert len(cluster.ready) == 2
        assert cluster.nodes[str(leaving.addresses[0])].state == "draining"


class Always(random.Random):
    """Draws so that whoever has too many clients is passed over."""

    def random(self) -> float:
        return 0.0


async def test_a_server_that_has_many_more_clients_than_others_is_left() -> None:
    registry, clock = MemoryRegistry(), FakeClock()
    async with AsyncExitStack() as stack:
        servers = await start(stack, registry, 5)
        client = Client(service="shop", registry=registry, subset=3, clock=clock, rng=Always(1))
        cluster = (await stack.enter_async_context(client)).cluster
        await eventually(lambda: len(cluster.ready) == 3)
        first = ready(cluster)
        crowded = next(it for it in servers if str(it.addresses[0]) in first)
        for _ in range(8):
            await stack.enter_async_context(calling(crowded))
        for _ in range(2):  # the others are settled, the servers have told
            await eventually(lambda: clock.sleeping)
            clock.advance(1.0)
            await eventually(lambda: all(node.report is not None for node in cluster.ready))
        await eventually(lambda: str(crowded.addresses[0]) not in ready(cluster))
        await eventually(lambda: len(cluster.ready) == 3)
        assert first - ready(cluster) == {str(crowded.addresses[0])}
        assert await client.raw_call("work") == "done"


async def test_servers_that_were_known_before_there_was_a_subset_are_asked_too() -> None:
    registry, clock = MemoryRegistry(), FakeClock()
    async with AsyncExitStack() as stack:
        await start(stack, registry, 3)
        client = Client(service="shop", registry=registry, subset=3, clock=clock, rng=Always(1))
        cluster = (await stack.enter_async_context(client)).cluster
        await eventually(lambda: len(cluster.ready) == 3)
        first = ready(cluster)
        assert cluster._comparing is None  # all of them are known
        async with asyncio.timeout(PATIENCE):
            while first == ready(cluster):
                await add(stack, registry, cluster)
                await eventually(lambda: len(cluster.ready) == 3)
        # A server that came after a round is asked in the next one.
        await passing(clock, 1.0, lambda: all(node.report is not None for node in cluster.ready))
        await client.await_close()  # before servers leave for which it would dial others


async def test_servers_with_about_as_many_clients_are_kept_and_an_error_is_only_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry, clock = MemoryRegistry(), FakeClock()
    async with AsyncExitStack() as stack:
        await start(stack, registry, 5)
        client = Client(service="shop", registry=registry, subset=3, clock=clock, rng=Always(1))
        cluster = (await stack.enter_async_context(client)).cluster
        await eventually(lambda: len(cluster.ready) == 3)
        first, task = ready(cluster), cluster._comparing
        assert task is not None
        for _ in range(2):
            await eventually(lambda: clock.sleeping)
            clock.advance(1.0)
            await eventually(lambda: all(node.report is not None for node in cluster.ready))
        await within(task)
        assert ready(cluster) == first
        cluster._subsetting.judge = None  # type: ignore[method-assign,assignment]
        cluster._not_compared = True
        task = asyncio.create_task(cluster._compare_clients())
        for _ in range(2):
            await eventually(lambda: clock.sleeping)
            clock.advance(1.0)
        await within(task)
        assert "a subset of servers could not be chosen" in caplog.text


@pytest.mark.parametrize("options", [{"subset": None}, {"subset": 2, "picker": "rendezvous"}])
async def test_all_are_known_where_that_is_wanted_or_needed(options: dict[str, Any]) -> None:
    registry = MemoryRegistry()
    async with AsyncExitStack() as stack:
        await start(stack, registry, 4)
        client = await connect(stack, registry, **options)
        await eventually(lambda: len(client.cluster.ready) == 4)


@pytest.mark.parametrize("kind", [Client, SyncClient])
@pytest.mark.parametrize("value", [1, 0, -3, True, 2.5, "many"])
def test_a_subset_is_a_number_of_servers_or_none(kind: Any, value: Any) -> None:
    with pytest.raises(ValueError, match="subset must be an integer of at least 2, or None, got"):
        kind(subset=value)
    assert kind(subset=None).config.subset is None


class Door:
    """Dials for a client whose way to some servers is cut."""

    def __init__(self, client: Client) -> None:
        self.cut: set[str] = set()
        self.error: type[ConnectionClosed | Unavailable] = Unavailable
        self._dial = client.dialer.dial
        client.dialer.dial = self.dial  # type: ignore[method-assign,assignment]

    async def dial(self, endpoint: Endpoint, *callbacks: Any) -> Any:
        if endpoint.id in self.cut:
            raise self.error(f"no route to {endpoint.id}")
        return await self._dial(endpoint, *callbacks)

    def close(self, cluster: Cluster) -> set[str]:
        """Cut the way to all servers that the client has."""
        lost = ready(cluster)
        self.cut |= lost
        for node in list(cluster.ready):
            for conn in list(node.pool.connections):
                conn.abort(ConnectionClosed("the way is cut"))
        return lost


@asynccontextmanager
async def behind_a_door(
    count: int, size: int
) -> AsyncIterator[tuple[Client, Door, FakeClock, list[Server]]]:
    registry, clock = MemoryRegistry(), FakeClock()
    async with AsyncExitStack() as stack:
        servers = await start(stack, registry, count)
        client = Client(
            service="shop", registry=registry, subset=size, clock=clock, rng=random.Random(1)
        )
        door = Door(client)
        cluster = (await stack.enter_async_context(client)).cluster
        await eventually(lambda: len(cluster.ready) == size)
        yield client, door, clock, servers


@pytest.mark.parametrize("error", [Unavailable, ServerDraining])
async def test_others_take_the_place_of_servers_that_cannot_be_reached_or_drain(error: Any) -> None:
    async with behind_a_door(12, 4) as (client, door, clock, _):
        cluster, door.error = client.cluster, error
        for _ in range(2):
            door.close(cluster)
            await passing(clock, 0.5, lambda: len(ready(cluster) - door.cut) >= 2)
            assert len(cluster.nodes) == 4
            assert await client.raw_call("work") == "done"


async def test_servers_that_can_be_reached_again_are_found_again() -> None:
    async with behind_a_door(3, 2) as (client, door, clock, servers):
        cluster = client.cluster
        everybody = {str(server.addresses[0]) for server in servers}
        door.cut = set(everybody)
        door.close(cluster)
        first = set(cluster.nodes)
        await passing(clock, 0.5, lambda: everybody - first <= cluster.nodes.keys())
        await passing(clock, 0.5, lambda: first <= cluster.nodes.keys())
        assert len(cluster.nodes) == 2
        door.cut.clear()
        await passing(clock, 0.5, lambda: len(cluster.ready) == 2)
        assert await client.raw_call("work") == "done"


async def test_a_connection_that_comes_while_the_client_closes_starts_no_task() -> None:
    async with behind_a_door(3, 2) as (client, *_):
        cluster = client.cluster
        await client.await_close()
        before = asyncio.all_tasks()
        cluster._compare_clients_soon()  # as for a Hello that is read during the close
        assert asyncio.all_tasks() == before


async def test_a_lost_server_keeps_its_place_while_half_are_left() -> None:
    async with behind_a_door(6, 2) as (client, door, clock, _):
        cluster = client.cluster
        lost, _ = cluster.ready
        door.cut = {lost.key}
        for conn in list(lost.pool.connections):
            conn.abort(ConnectionClosed("the way is cut"))
        await passing(clock, 0.5, lambda: lost.pool.failures > 3)
        assert cluster.nodes[lost.key] is lost


async def test_servers_that_reject_a_client_are_not_lost() -> None:
    registry, clock = MemoryRegistry(), FakeClock()
    async with AsyncExitStack() as stack:
        await start(stack, registry, 3)
        client = Client(service="shop", registry=registry, subset=2, clock=clock)

        async def dial(endpoint: Endpoint, *_: Any) -> Any:
            raise Unauthenticated(f"{endpoint.id} does not know you", remote=True, unserved=True)

        client.dialer.dial = dial  # type: ignore[method-assign,assignment]
        with pytest.raises(Unauthenticated):
            await client.connect()
        cluster = client.cluster
        stack.push_async_callback(client.await_close)
        first = set(cluster.nodes)
        await passing(
            clock, 0.5, lambda: all(it.pool.failures > 3 for it in cluster.nodes.values())
        )
        assert set(cluster.nodes) == first
