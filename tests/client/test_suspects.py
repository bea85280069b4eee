"""Servers that the registry suspects or has lost: which ones stay, and which ones are dialled."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest

from rap.address import Address
from rap.client import Client
from rap.client.node import Node
from rap.errors import ConnectionClosed, Unavailable
from rap.registry import Endpoint, Snapshot, State
from rap.registry.memory import MemoryRegistry
from rap.server import Server
from tests.client.fed import Resolver, listed, numbered
from tests.fake_clock import FakeClock
from tests.loopback import eventually, serving, within
from tests.ports import free_address

SERVICE: dict[str, Any] = {"registry": MemoryRegistry(), "service": "calc"}


@asynccontextmanager
async def servers(count: int) -> AsyncIterator[list[Server]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(numbered(it, **SERVICE)) for it in range(count)]


class Named:
    """A picker that is told whom to pick."""

    def pick(self, candidates: Sequence[Any], affinity: str | None = None) -> Any:
        return next((it for it in candidates if it.key == affinity), candidates[0])


def of(client: Client, server: Server) -> Node:
    return client.cluster.nodes[str(server.addresses[0])]


def counted(server: Server) -> int:
    """How many connections there have been to a server."""
    return server.connection_manager.opened


def named(address: str) -> dict[str, Endpoint]:
    return {address: Endpoint(address, Address.parse(address))}


def is_ready(client: Client, count: int) -> bool:
    return len(client.cluster.ready) == count


def has_failed(node: Node, before: int) -> bool:
    return node.pool.failures > before


async def applied(client: Client, resolver: Resolver, snapshot: Snapshot) -> None:
    """Feed a snapshot, and return when it has been acted upon."""
    resolver.given.put_nowait(snapshot)
    await eventually(lambda: client.cluster._listed == snapshot)


@pytest.mark.parametrize(("ups", "dialled"), [(1, False), (0, True)])
async def test_suspects_are_dialled_only_if_fewer_than_half_are_up(ups: int, dialled: bool) -> None:
    resolver = Resolver()
    async with servers(2) as (one, two):
        first = {"state": State.UP if ups else State.SUSPECT}
        resolver.given.put_nowait(listed(one, **first) | listed(two, state=State.SUSPECT))
        async with Client(service="calc", registry=resolver) as client:
            await eventually(lambda: of(client, one).alive)
            assert of(client, two).pool.wanted == dialled
            if dialled:
                await eventually(lambda: of(client, two).alive)
            else:
                assert of(client, two).state == "suspect"
                assert not of(client, two).pool.dialling
                await applied(client, resolver, listed(one, two))
                await eventually(lambda: of(client, two).alive)


async def test_a_suspect_keeps_its_calls_and_goes_when_its_connection_ends() -> None:
    resolver, clock = Resolver(), FakeClock()
    async with servers(3) as (one, two, three):
        resolver.given.put_nowait(listed(one, two, three))
        async with Client(service="calc", registry=resolver, clock=clock) as client:
            await eventually(lambda: len(client.cluster.ready) == 3)
            doubt = listed(one, two) | listed(three, state=State.SUSPECT)
            await applied(client, resolver, doubt)
            node = of(client, three)
            assert node in client.cluster.ready
            assert node.state == "suspect"
            (conn,) = node.pool.connections
            conn.abort(ConnectionClosed("cut"))
            await eventually(lambda: node not in client.cluster.ready)
            clock.advance(60.0)
            assert not node.pool.dialling
            assert counted(three) == 1


async def test_when_most_leases_ran_out_lost_connections_are_dialled_again() -> None:
    resolver, clock = Resolver(), FakeClock()
    async with servers(2) as (one, two):
        resolver.given.put_nowait(listed(one, two))
        async with Client(service="calc", registry=resolver, clock=clock) as client:
            await eventually(lambda: len(client.cluster.ready) == 2)
            await applied(client, resolver, listed(one, two, state=State.SUSPECT))
            for node in client.cluster.ready:
                for conn in list(node.pool.connections):
                    conn.abort(ConnectionClosed("cut"))
            await eventually(lambda: counted(one) == counted(two) == 2)
            await eventually(lambda: len(client.cluster.ready) == 2)


async def test_a_lost_server_with_a_working_connection_dials_nothing_new() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    resolver = Resolver()
    async with servers(2) as (one, two), serving(hang, max_streams=1, **SERVICE) as lost:
        resolver.given.put_nowait(listed(one, two, lost))
        async with Client(service="calc", registry=resolver, picker=Named()) as client:
            await eventually(lambda: len(client.cluster.ready) == 3)
            node = of(client, lost)
            await applied(client, resolver, listed(one, two))
            assert node.state == "suspect"
            assert node in client.cluster.ready
            (conn,) = node.pool.connections
            call = asyncio.create_task(client.raw_call("hang", affinity=node.key))
            await eventually(lambda: conn.streams)  # it takes one
            node.pool.refresh()
            assert node.pool.full
            assert not node.pool.dialling
            conn.abort(ConnectionClosed("cut"))
            await eventually(lambda: node.key not in client.cluster.nodes)
            await asyncio.gather(call, return_exceptions=True)
            assert counted(lost) == 1


@pytest.mark.parametrize("count", [1, 2])
async def test_a_lost_server_without_connection_goes_at_once(count: int) -> None:
    resolver = Resolver()
    absent = named(free_address())
    async with servers(count) as present:
        resolver.given.put_nowait(listed(*present) | absent)
        async with Client(service="calc", registry=resolver) as client:
            await eventually(lambda: len(client.cluster.nodes) == count + 1)
            await applied(client, resolver, listed(*present))  # half is not more than half
            assert client.cluster.nodes.keys() == listed(*present).keys()


@pytest.mark.parametrize("said", ["draining", "goaway"])
async def test_one_that_said_it_leaves_goes_at_once_however_many_are_lost(said: str) -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    resolver, clock = Resolver(), FakeClock()
    async with servers(2) as (one, two), serving(hang, drain_delay=0, **SERVICE) as leaving:
        resolver.given.put_nowait(listed(one, two, leaving))
        async with Client(service="calc", registry=resolver, picker=Named(), clock=clock) as client:
            await eventually(lambda: len(client.cluster.ready) == 3)
            node = of(client, leaving)
            call = asyncio.create_task(client.raw_call("hang", affinity=node.key, timeout=None))
            await eventually(lambda: node.stats.in_flight)
            if said == "draining":
                drained = listed(one, two) | listed(leaving, state=State.DRAINING)
                await applied(client, resolver, drained)
            else:
                await leaving.set_serving(False)
                await eventually(lambda: node.state == "draining")
            await applied(client, resolver, {})
            assert node.key not in client.cluster.nodes
            assert len(client.cluster.ready) == 2
            assert not call.done()
        await asyncio.gather(call, return_exceptions=True)


async def test_where_all_drain_a_new_process_at_the_address_of_one_gets_calls() -> None:
    resolver = Resolver()
    former = {"state": State.DRAINING, "incarnation": "former"}
    async with servers(2) as (one, two):
        resolver.given.put_nowait(listed(one, two, **former))
        async with Client(service="calc", registry=resolver) as client:
            await eventually(lambda: len(client.cluster.ready) == 2)
            assert await client.raw_call("which") in (0, 1)
            node, weight = of(client, one), {"weight": 3}
            assert node.state == "up"
            await applied(client, resolver, listed(one, two, **former, **weight))  # still old news
            own = {"incarnation": node.incarnation}
            await applied(client, resolver, listed(one, **own) | listed(two, **former))
            assert node.alive
            assert counted(one) == 1
            await applied(client, resolver, listed(one, **own, state=State.DRAINING))
            await eventually(lambda: node not in client.cluster.ready)
            assert node.state == "draining"


async def test_a_draining_server_is_not_dialled_where_another_is_up_or_suspect() -> None:
    resolver = Resolver()
    former = {"state": State.DRAINING, "incarnation": "former"}
    async with servers(2) as (one, two):
        for state in (State.UP, State.SUSPECT):
            resolver.given.put_nowait(listed(one, state=state) | listed(two, **former))
            async with Client(service="calc", registry=resolver) as client:
                await eventually(partial(is_ready, client, 1))
                assert not of(client, two).pool.wanted
        assert counted(two) == 0


async def test_a_waiting_call_hurries_the_dial_of_a_server_that_is_back() -> None:
    clock, address = FakeClock(), free_address()
    async with AsyncExitStack() as stack:
        async with numbered(3, host=address):
            client = Client(address, clock=clock, rng=random.Random(1))
            await stack.enter_async_context(client)
        (node,) = client.cluster.nodes.values()
        for _ in range(8):  # the pause grows to 15 s
            failures = node.pool.failures
            clock.advance(20.0)
            await eventually(partial(has_failed, node, failures))
            await eventually(lambda: clock.sleeping)
        async with numbered(7, host=address):
            clock.advance(0.3)
            call = asyncio.create_task(client.raw_call("which", timeout=9, wait_for_ready=True))
            await eventually(lambda: client.cluster.waiters)
            clock.advance(0.3)
            assert await within(call) == 7


async def test_the_last_choice_is_dialled_for_thirty_seconds_and_then_goes() -> None:
    resolver, clock = Resolver(), FakeClock()
    late, never = free_address(), free_address()
    async with servers(1) as (one,):
        resolver.given.put_nowait(listed(one) | named(late) | named(never))
        async with Client(service="calc", registry=resolver, clock=clock) as client:
            await eventually(lambda: len(client.cluster.nodes) == 3)
            nodes = client.cluster.nodes
            # A dial that fails after the clock has advanced would begin its pause only then.
            await eventually(lambda: nodes[late].pool.failed and nodes[never].pool.failed)
            await applied(client, resolver, listed(one))
            assert len(client.cluster.nodes) == 3
            async with numbered(7, host=late, **SERVICE):
                clock.advance(20.0)  # any pause between two dials is over
                await eventually(lambda: len(client.cluster.ready) == 2)
                clock.advance(10.1)
                client.cluster._refresh()
                assert client.cluster.nodes.keys() == {*listed(one), late}


async def test_the_only_server_is_a_last_choice_too() -> None:
    resolver, clock, late = Resolver(), FakeClock(), free_address()
    resolver.given.put_nowait(named(late))
    client = Client(service="calc", registry=resolver, clock=clock, connect_timeout=60)
    connecting = asyncio.create_task(client.connect())
    await eventually(lambda: client._cluster is not None and client.cluster.nodes)
    await applied(client, resolver, {})
    (node,) = client.cluster.nodes.values()
    await eventually(lambda: node.pool.failed and clock.sleeping)
    async with numbered(7, host=late, **SERVICE):
        clock.advance(20.0)
        await connecting
        assert await client.raw_call("which") == 7
        await client.await_close()


async def test_the_error_of_a_call_says_what_the_registry_lists_of_servers_that_are_gone() -> None:
    resolver, gone = Resolver(), [free_address() for _ in range(3)]

    def registered(*states: State) -> dict[str, Endpoint]:
        pairs = zip(gone, states, strict=False)
        return {each: Endpoint(each, Address.parse(each), state=state) for each, state in pairs}

    async def failure(client: Client) -> str:
        with pytest.raises(Unavailable) as caught:
            await client.raw_call("work", wait_for_ready=False)
        return str(caught.value)

    refused = "(connecting: cannot reach it: connection refused; does the server run,"
    client = Client(service="calc", registry=resolver)
    resolver.given.put_nowait(registered(State.SUSPECT))
    text = await failure(client)
    start = (
        "/default/work: no usable server of service 'calc', the registry lists only suspect ones: "
    )
    assert text.startswith(f"{start}{gone[0]} {refused}")
    assert len(text) < 250
    assert text.count(gone[0]) == 1
    await applied(client, resolver, registered(State.UP, State.UP))
    text = await failure(client)
    assert text.startswith("/default/work: no usable server of service 'calc': ")
    await applied(client, resolver, {})
    text = await failure(client)
    start = "/default/work: no usable server of service 'calc', the registry lists none now: "
    assert text.startswith(f"{start}{gone[0]}, {gone[1]} {refused}")
    await client.await_close()
