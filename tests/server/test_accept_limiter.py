"""Limits on new connections: their rate, and how many have not said Hello."""

import asyncio
from typing import cast

import pytest

from faults.raw import speaking
from rap.address import Peer
from rap.errors import RapError
from rap.server.admission import AcceptLimiter
from rap.transport import Connection
from rap.transport.listen import Handshake
from tests.fake_clock import FakeClock
from tests.loopback import calling, eventually, serving, within


class Arriving:
    """A connection, as far as `AcceptLimiter` needs it."""

    def __init__(self, host: str, *, is_local: bool = False) -> None:
        self.peer = Peer(host, 1, is_local)
        self.error: RapError | None = None

    def abort(self, error: RapError) -> None:
        self.error = error


class Door:
    """A limiter with a fake clock, and connections to it."""

    def __init__(self, max_handshakes: int = 100, max_connects: int = 1) -> None:
        self.clock = FakeClock()
        self.limiter = AcceptLimiter(max_handshakes, max_connects, self.clock)

    def come(self, host: str, *, is_local: bool = False) -> Arriving:
        conn = Arriving(host, is_local=is_local)
        assert self.limiter.accept(cast(Connection, conn)) is (conn.error is None)
        return conn

    def admitted(self, host: str, count: int, *, is_local: bool = False) -> int:
        return sum(self.come(host, is_local=is_local).error is None for _ in range(count))


def test_connects_are_limited_per_second_with_a_burst_of_ten_times() -> None:
    door = Door(max_connects=2)
    assert door.admitted("192.0.2.1", 30) == 20
    assert "too many connections from 192.0.2.1" in str(door.come("192.0.2.1").error)
    door.clock.advance(2.0)
    assert door.admitted("192.0.2.1", 30) == 4
    assert door.admitted("192.0.2.2", 1) == 1


def test_an_ipv6_network_counts_as_one_address() -> None:
    door = Door()
    assert sum(door.admitted(f"2001:db8::{n}", 1) for n in range(1, 12)) == 10
    assert door.admitted("2001:db8:0:1::1", 1) == 1


def test_local_peers_have_no_rate_limit() -> None:
    door = Door()
    assert door.admitted("127.0.0.1", 1000, is_local=True) == 1000


def test_the_number_of_remembered_addresses_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rap.server.admission._MAX_NETWORKS", 2)
    door = Door()
    assert door.admitted("192.0.2.1", 10) == 10
    for host in ("192.0.2.2", "192.0.2.1", "192.0.2.3"):
        door.come(host)
    assert door.admitted("192.0.2.1", 1) == 0
    assert door.admitted("192.0.2.2", 10) == 10


def test_the_oldest_connection_without_a_hello_is_closed_for_a_new_one() -> None:
    door = Door(max_handshakes=2)
    first, second, third = (door.come("127.0.0.1", is_local=True) for _ in range(3))
    assert "sent no Hello while many others came" in str(first.error)
    assert (second.error, third.error) == (None, None)
    door.limiter.release(cast(Connection, second))
    fourth = door.come("127.0.0.1", is_local=True)
    assert (second.error, third.error, fourth.error) == (None, None, None)


class Shaking(Arriving):
    """A TLS handshake."""

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.conn = Arriving(host)


def test_a_tls_connection_counts_once_and_before_its_handshake() -> None:
    door = Door()
    shaking = [Shaking("192.0.2.1") for _ in range(11)]
    begun = [door.limiter.accept_handshake(cast(Handshake, each)) for each in shaking]
    assert begun == [True] * 10 + [False]
    assert "too many connections from 192.0.2.1" in str(shaking[-1].error)
    assert all(door.limiter.accept(cast(Connection, each.conn)) for each in shaking[:10])
    assert [each.error or each.conn.error for each in shaking[:10]] == [None] * 10


def test_a_connection_is_as_old_as_its_handshake() -> None:
    door = Door(max_handshakes=2)
    first, second = Shaking("192.0.2.1"), Shaking("192.0.2.2")
    for each in (first, second):
        assert door.limiter.accept_handshake(cast(Handshake, each))
    assert door.limiter.accept(cast(Connection, first.conn))
    door.come("192.0.2.3")
    assert (first.error, second.error) == (None, None)
    assert "sent no Hello while many others came" in str(first.conn.error)
    door.come("192.0.2.4")
    assert "sent no Hello while many others came" in str(second.error)


async def fine() -> int:
    return 1


async def test_a_connection_that_has_said_hello_is_not_closed_for_silent_ones() -> None:
    async with serving(fine, max_handshakes=2) as server, calling(server) as client:
        await client.raw_call("fine")
        port = server.addresses[0].port
        async with speaking(port, b"\0") as first, speaking(port, b"\0"), speaking(port, b"\0"):
            assert await first.closed() is not None
            await eventually(lambda: len(server.connection_manager.connections) == 3)
            assert await client.raw_call("fine") == 1


async def test_hundreds_of_connections_can_be_opened_at_once() -> None:
    async with serving(fine, handshake_timeout=60) as server:
        port = server.addresses[0].port
        async with asyncio.TaskGroup() as group:
            opening = [
                group.create_task(asyncio.open_connection("127.0.0.1", port)) for _ in range(300)
            ]
        writers = [task.result()[1] for task in opening]
        await eventually(lambda: len(server.connection_manager.connections) == 300)
        async with calling(server) as client:
            assert await within(client.raw_call("fine")) == 1
        for writer in writers:
            writer.transport.abort()
        await eventually(lambda: not server.connection_manager.connections)
