"""The order of start and stop, as registry, clients and events see it."""

import asyncio
import random
from typing import Any

import pytest

from rap.client import Client
from rap.registry.base import Endpoint
from rap.registry.memory import MemoryRegistry
from rap.server import Server
from tests.fake_clock import FakeClock
from tests.loopback import LOOPBACK, calling, eventually, serving, within


class Noting(MemoryRegistry):
    """Notes what it is told, and whether the server could be reached then."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self._log = log

    async def register(self, service: str, endpoint: Endpoint, *, ttl: float) -> None:
        address = endpoint.address
        try:
            _, writer = await asyncio.open_connection(address.host, address.port)
        except OSError:
            reached = "closed"
        else:
            reached = "open"
            writer.close()
        self._log.append(f"{endpoint.state} {reached}")
        await super().register(service, endpoint, ttl=ttl)

    async def deregister(self, service: str, endpoint: Endpoint) -> None:
        self._log.append("deregistered")
        await super().deregister(service, endpoint)


async def test_a_server_registers_once_it_listens_and_drains_before_it_deregisters() -> None:
    log: list[str] = []
    clock, registry = FakeClock(), Noting(log)
    entered = asyncio.Event()

    async def hang() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            log.append("handler cancelled")

    async def started() -> None:
        await asyncio.sleep(0)
        log.append("started")

    server = Server(
        LOOPBACK,
        service="calc",
        registry=registry,
        clock=clock,
        close_timeout=0.05,
        start_event_list=[started],
        stop_event_list=[lambda: log.append("stopped")],
    )
    server.register(hang)
    await server.create_server()
    assert log == ["started", "up open"]
    address = server.addresses[0]
    client = Client(service="calc", registry=registry)
    await client.connect()
    call = asyncio.create_task(client.raw_call("hang", timeout=None))
    await within(entered.wait())
    conn = client.cluster.nodes[str(address)].pool.connections.copy().pop()
    conn.ended.add_done_callback(lambda _: log.append("connection ended"))
    closing = asyncio.create_task(server.await_closed())
    await eventually(lambda: log[-1] == "draining open")
    assert not conn.draining  # only the registry knows as yet
    _, writer = await asyncio.open_connection(address.host, address.port)  # it goes on accepting
    writer.close()
    clock.advance(0.99)
    await asyncio.sleep(0)
    assert not conn.draining
    clock.advance(0.02)
    await eventually(lambda: conn.draining)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(address.host, address.port)
    await within(closing)
    await asyncio.gather(call, return_exceptions=True)
    assert log[2:] == [
        "draining open",
        "handler cancelled",
        "connection ended",
        "deregistered",
        "stopped",
    ]
    await client.await_close()


async def test_without_a_registry_a_drain_begins_at_once() -> None:
    clock = FakeClock()
    async with serving(clock=clock) as server, calling(server) as client:
        await within(server.await_closed())  # nobody advances the clock
        await eventually(lambda: not client.cluster.ready)


async def test_maximum_ages_of_connections_are_spread_around_half_an_hour() -> None:
    async with serving(rng=random.Random(1)) as server:
        assert server.config.max_connection_age == 1800
        clients = [Client(server.addresses) for _ in range(40)]
        await asyncio.gather(*(client.connect() for client in clients))
        ages: list[Any] = [conn.watchdog.max_age for conn in server.connection_manager.connections]
        await asyncio.gather(*(client.await_close() for client in clients))
    assert len(ages) == 40
    assert 1620 <= min(ages) < 1650
    assert 1950 < max(ages) <= 1980
