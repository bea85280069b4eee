"""An address that another process took over: its Hello tells which process it is."""

import asyncio
import signal
from typing import Any

import pytest

from rap.client import Client
from rap.client.node import Node
from rap.registry.memory import MemoryRegistry
from rap.server import Server
from tests.client.fed import Resolver, listed, numbered
from tests.fake_clock import FakeClock
from tests.loopback import PATIENCE, eventually, passing, within
from tests.ports import free_address
from tests.server.test_signals import program

CALC: dict[str, Any] = {"registry": MemoryRegistry(), "service": "calc"}
OTHER: dict[str, Any] = {"registry": MemoryRegistry(), "service": "other"}


def of(client: Client, server: Server) -> Node:
    return client.cluster.nodes[str(server.addresses[0])]


async def test_another_service_at_the_address_of_a_known_server_gets_no_call() -> None:
    resolver, clock, address = Resolver(), FakeClock(), free_address()
    async with numbered(1, **CALC) as stays:
        async with numbered(2, host=address, **CALC) as leaves:
            resolver.given.put_nowait(listed(stays, leaves))
            client = Client(service="calc", registry=resolver, clock=clock)
            await client.connect()
            await eventually(lambda: len(client.cluster.ready) == 2)
            node = of(client, leaves)
        await eventually(lambda: len(client.cluster.ready) == 1)
        async with numbered(3, host=address, **OTHER) as other:
            await passing(clock, 1.0, lambda: "serves 'other', not 'calc'" in node.pool.error)
            await eventually(lambda: not other.connection_manager.connections)
            assert client.cluster.ready == (of(client, stays),)
            results = await asyncio.gather(*(client.raw_call("which") for _ in range(50)))
            assert set(results) == {1}
            assert other.connection_manager.opened > 0
            assert other.connection_manager.calls_opened == 0
            await client.await_close()


async def test_a_new_process_that_only_its_hello_reveals_starts_from_scratch() -> None:
    resolver, clock, address = Resolver(), FakeClock(), free_address()
    async with numbered(1, **CALC) as stays:
        async with numbered(2, host=address, **CALC) as before:
            known = listed(stays) | listed(before, incarnation=before.incarnation)
            resolver.given.put_nowait(known)
            client = Client(service="calc", registry=resolver, clock=clock, slow_start=30.0)
            await client.connect()
            await eventually(lambda: len(client.cluster.ready) == 2)
            node = of(client, before)
            for _ in range(20):
                await asyncio.gather(*(client.raw_call("which") for _ in range(8)))
            assert node.stats.measured
            clock.advance(60.0)
        await eventually(lambda: len(client.cluster.ready) == 1)
        async with numbered(3, host=address, **CALC) as after:
            await passing(clock, 1.0, lambda: len(client.cluster.ready) == 2)
            assert client.cluster._listed == known  # the registry has not heard of it
            assert of(client, after) is node
            assert node.incarnation == after.incarnation
            assert not node.stats.measured
            assert node.weight == pytest.approx(0.1)
            assert of(client, stays).weight == 1.0
            await client.await_close()


async def test_news_of_another_process_cuts_the_pause_between_dials_short() -> None:
    resolver, clock, address = Resolver(), FakeClock(), free_address()
    async with numbered(1, **CALC) as stays:
        async with numbered(2, host=address, **CALC) as before:
            resolver.given.put_nowait(listed(stays) | listed(before, incarnation="old"))
            client = Client(service="calc", registry=resolver, clock=clock)
            await client.connect()
            await eventually(lambda: len(client.cluster.ready) == 2)
            node = of(client, before)
        await passing(clock, 20.0, lambda: client.cluster.counters.failed >= 5)
        async with numbered(3, host=address, **CALC) as after:
            resolver.given.put_nowait(listed(stays) | listed(after, incarnation=after.incarnation))
            await eventually(lambda: node in client.cluster.ready)  # and no time has passed
            await client.await_close()


async def test_a_server_that_hangs_is_dear_at_once_and_cut_when_it_answers_no_ping() -> None:
    clock = FakeClock()
    with program() as (hangs, one), program() as (_, two):
        async with Client([one, two], clock=clock) as client:
            await eventually(lambda: len(client.cluster.ready) == 2)
            node, other = (client.cluster.nodes[each] for each in (one, two))

            @client.register(idempotent=True, timeout=60)
            async def echo(text: str) -> str:
                raise NotImplementedError

            for _ in range(20):
                await asyncio.gather(*(client.raw_call("echo", "x") for _ in range(8)))
            hangs.send_signal(signal.SIGSTOP)
            try:
                calls = [asyncio.create_task(echo("y")) for _ in range(8)]
                await eventually(lambda: other.stats.in_flight == 0 and node.stats.in_flight)
                stuck = node.stats.in_flight
                clock.advance(0.5)
                assert node.load() > 0.5 > other.load()
                async with asyncio.timeout(PATIENCE):  # all go to the other one
                    for _ in range(20):
                        assert await client.raw_call("echo", "z") == "z"
                assert node.stats.in_flight == stuck
                (conn,) = node.pool.connections

                def is_cut() -> bool:
                    conn.watchdog.tick()
                    return conn.error is not None

                await passing(clock, 0.5, is_cut)
                assert "answered no ping" in str(conn.error)
                await eventually(lambda: node not in client.cluster.ready)
                # The pauses before another try pass.
                await passing(clock, 0.1, lambda: all(call.done() for call in calls))
                assert await within(asyncio.gather(*calls)) == ["y"] * 8
            finally:
                hangs.send_signal(signal.SIGCONT)
