"""Failed authentication is limited per address."""

import asyncio

from rap.address import Peer
from rap.server.authentication import AuthenticationThrottle
from tests.fake_clock import FakeClock

ALICE, BOB = Peer("192.0.2.1", 1), Peer("192.0.2.2", 2)


def make_throttle(limit: int = 2) -> tuple[AuthenticationThrottle, FakeClock]:
    clock = FakeClock()
    return AuthenticationThrottle(limit, clock), clock


def test_an_address_is_blocked_until_its_minute_is_over() -> None:
    throttle, clock = make_throttle()
    throttle.record_failure(ALICE)
    clock.advance(20.0)
    assert not throttle.blocked_for(ALICE)
    throttle.record_failure(ALICE)
    assert throttle.blocked_for(ALICE) == 40.0
    assert not throttle.blocked_for(BOB)
    clock.advance(40.0)
    assert not throttle.blocked_for(ALICE)
    assert throttle.failures == 2


def test_failures_are_counted_per_minute() -> None:
    throttle, clock = make_throttle()
    throttle.record_failure(ALICE)
    clock.advance(60.0)
    throttle.record_failure(ALICE)
    assert not throttle.blocked_for(ALICE)


def test_ports_do_not_matter_and_ipv6_counts_by_network() -> None:
    throttle, _ = make_throttle(1)
    throttle.record_failure(Peer("192.0.2.1", 5))
    assert throttle.blocked_for(ALICE)
    throttle.record_failure(Peer("2001:db8::1", 1))
    assert throttle.blocked_for(Peer("2001:db8::2", 1))
    assert not throttle.blocked_for(Peer("2001:db8:0:1::1", 1))


def test_peers_on_a_unix_socket_are_one_address() -> None:
    throttle, _ = make_throttle(1)
    throttle.record_failure(Peer(is_local=True))
    assert throttle.blocked_for(Peer(is_local=True))


def test_memory_is_bounded() -> None:
    throttle, _ = make_throttle(1)
    for i in range(10_001):
        throttle.record_failure(Peer(f"10.0.{i // 256}.{i % 256}", 1))
    assert not throttle.blocked_for(Peer("10.0.0.0", 1))
    assert throttle.blocked_for(Peer("10.0.0.1", 1))


# Attempts whose verdict is not there yet.


class Attempts:
    """Attempts of one address that end when the test says so."""

    def __init__(self, throttle: AuthenticationThrottle, peer: Peer = ALICE) -> None:
        self.heard: list[asyncio.Future[bool]] = []
        self.waits: list[float] = []
        self._throttle = throttle
        self._peer = peer

    async def make(self) -> None:
        async with self._throttle.attempt(self._peer) as wait:
            self.waits.append(wait)
            if not wait:
                self.heard.append(asyncio.get_running_loop().create_future())
                if not await self.heard[-1]:
                    self._throttle.record_failure(self._peer)


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_concurrent_attempts_of_an_address_are_limited() -> None:
    throttle, _ = make_throttle(2)
    attempts = Attempts(throttle)
    async with asyncio.TaskGroup() as group:
        for _ in range(100):
            group.create_task(attempts.make())
        await turns()
        assert len(attempts.heard) == 20  # ten times the limit, for none has failed yet
        attempts.heard[0].set_result(False)
        await turns()
        assert len(attempts.heard) == 20  # one may fail, and more than that are under way
        attempts.heard[1].set_result(False)
        await turns()
        assert len(attempts.waits) == 100  # the door is closed for all who waited
        assert sum(wait > 0 for wait in attempts.waits) == 80
        for verdict in attempts.heard[2:]:
            verdict.set_result(False)
    assert not throttle._pending
    assert not throttle._waiting


async def test_an_attempt_that_waits_behind_successful_ones_is_made() -> None:
    throttle, _ = make_throttle(1)
    attempts, other = Attempts(throttle), Attempts(throttle, BOB)
    async with asyncio.TaskGroup() as group:
        for _ in range(30):
            group.create_task(attempts.make())
        group.create_task(other.make())
        for number in range(30):
            await turns()
            assert len(attempts.heard) == min(30, number + 10)
            attempts.heard[number].set_result(True)
        assert len(other.heard) == 1
        other.heard[0].set_result(True)
    assert not any(attempts.waits)


async def test_a_cancelled_waiter_passes_its_slot_to_the_next() -> None:
    throttle, _ = make_throttle(1)
    attempts = Attempts(throttle)
    tasks = [asyncio.create_task(attempts.make()) for _ in range(13)]
    await turns()
    tasks[10].cancel()
    await turns()
    attempts.heard[0].set_result(True)
    await asyncio.sleep(0)
    tasks[11].cancel()  # it was its turn already, perhaps
    await turns()
    assert len(attempts.heard) == 11
    for verdict in attempts.heard[1:]:
        verdict.set_result(True)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [task.cancelled() for task in tasks[10:]] == [True, True, False]
    assert not throttle._pending
    assert not throttle._waiting
