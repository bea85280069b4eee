"""A lease against a scripted registry, on a clock that the test moves."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from rap.errors import RegistryError
from rap.registry import AddressTaken, Endpoint, Lease, LeaseLost, MemoryRegistry, Snapshot, State
from tests.registry.fake_clock import FakeClock, settle
from tests.registry.sample import make_endpoint, ports, watching

TTL = 9.0
INTERVAL = TTL / 3


class ScriptedRegistry:
    """Raises what the test put into `errors`, one at a time, and notes what it was asked."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.errors: list[Exception] = []
        self.registered: list[tuple[float, Endpoint]] = []
        self.deregistered: list[Endpoint] = []
        self.gate: asyncio.Event | None = None

    async def register(self, service: str, endpoint: Endpoint, *, ttl: float) -> None:
        assert (service, ttl) == ("calc", TTL)
        if self.gate is not None:
            await self.gate.wait()
        self.registered.append((self._clock.monotonic(), endpoint))
        if self.errors:
            raise self.errors.pop(0)

    async def deregister(self, service: str, endpoint: Endpoint) -> None:
        self.deregistered.append(endpoint)
        if self.errors:
            raise self.errors.pop(0)

    async def watch(self, service: str) -> AsyncIterator[Snapshot]:
        yield {}  # to see who holds an address

    async def aclose(self) -> None:
        pass


@pytest.fixture
def registry(clock: FakeClock) -> ScriptedRegistry:
    return ScriptedRegistry(clock)


def make_lease(registry: ScriptedRegistry, clock: FakeClock, seed: int = 1) -> Lease:
    rng = random.Random(seed)
    return Lease(registry, "calc", make_endpoint(), TTL, clock=clock, rng=rng)


async def test_a_lease_registers_renews_and_deregisters(
    registry: ScriptedRegistry, clock: FakeClock
) -> None:
    lease = make_lease(registry, clock)
    health = [lease.healthy]
    async with lease:
        health.append(lease.healthy)
        await clock.run(10 * INTERVAL)
    assert [*health, lease.healthy] == [False, True, False]
    times = [when for when, _ in registry.registered]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert len(pauses) >= 9
    assert all(0.9 * INTERVAL <= pause <= 1.1 * INTERVAL for pause in pauses)
    assert len(set(pauses)) > 1
    assert registry.deregistered == [make_endpoint()]


async def test_an_update_is_published_at_once(registry: ScriptedRegistry, clock: FakeClock) -> None:
    async with make_lease(registry, clock) as lease:
        draining = make_endpoint(state=State.DRAINING)
        await lease.update(draining)
        assert registry.registered[-1] == (clock.monotonic(), draining)
        await clock.run(INTERVAL * 1.2)
        assert [it for _, it in registry.registered] == [make_endpoint(), draining, draining]


async def test_an_update_cannot_change_who_is_registered(
    registry: ScriptedRegistry, clock: FakeClock
) -> None:
    lease = make_lease(registry, clock)
    with pytest.raises(ValueError, match="id of a leased endpoint cannot change"):
        await lease.update(make_endpoint(1))
    with pytest.raises(ValueError, match="incarnation of a leased endpoint cannot change"):
        await lease.update(make_endpoint(incarnation="second"))


async def test_an_update_before_start_is_what_start_registers(
    registry: ScriptedRegistry, clock: FakeClock
) -> None:
    lease = make_lease(registry, clock)
    await lease.update(make_endpoint(weight=5))
    assert registry.registered == []
    async with lease:
        assert [it.weight for _, it in registry.registered] == [5]


async def test_a_registry_with_other_errors_is_asked_again(
    registry: ScriptedRegistry, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_lease(registry, clock) as lease:
        registry.errors = [OSError("no route"), KeyError("table")]
        await clock.run(2 * INTERVAL)
        assert registry.errors == []
        assert lease.failures == 2
        await clock.run(4 * INTERVAL)
        assert lease.healthy
    logged = [each for each in caplog.records if "is not registered" in each.message]
    assert [each.levelname for each in logged] == ["ERROR"]
    assert "OSError: no route" in logged[0].message
    assert logged[0].exc_info is not None


async def test_an_update_and_the_end_survive_other_errors_of_a_registry(
    registry: ScriptedRegistry, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_lease(registry, clock) as lease:
        registry.errors = [OSError("no route")]
        await lease.update(make_endpoint(state=State.DRAINING))
        assert not lease.healthy
        assert isinstance(lease.error, RegistryError)
        registry.errors = [OSError("no route")]
    assert registry.deregistered == [make_endpoint(state=State.DRAINING)]
    assert "could not be deregistered" in caplog.text


async def test_an_outage_is_logged_once_and_backed_off(
    registry: ScriptedRegistry, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    registry.errors = [RegistryError("down")] * 12
    caplog.set_level(logging.INFO, "rap.registry")
    async with make_lease(registry, clock) as lease:
        assert [lease.healthy, str(lease.error)] == [False, "down"]
        await clock.run(3 * INTERVAL)
        assert len(registry.registered) < 12
        await clock.run(10 * INTERVAL)
        assert [lease.healthy, lease.error] == [True, None]
    warnings = [it for it in caplog.records if it.levelno == logging.WARNING]
    assert len(warnings) == 1
    times = [when for when, _ in registry.registered[:12]]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[0] <= 0.25
    assert all(INTERVAL / 4 <= pause <= INTERVAL / 2 for pause in pauses[5:])


async def test_a_server_that_was_never_registered_is_reminded_of_every_half_minute(
    registry: ScriptedRegistry, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    registry.errors = [RegistryError("down")] * 1_000
    async with make_lease(registry, clock) as lease:
        await clock.run(95.0)
        assert not lease.has_registered
        registry.errors.clear()
        await clock.run(INTERVAL)
        assert lease.has_registered
        warnings = [it.getMessage() for it in caplog.records if it.levelno == logging.WARNING]
        registry.errors = [RegistryError("down")] * 1_000
        await clock.run(95.0)
        assert lease.has_registered
        assert not lease.healthy
        later = [it.getMessage() for it in caplog.records if it.levelno == logging.WARNING][4:]
    assert warnings[0] == "calc: 10.0.0.1:9000 is not registered yet, and so not ready: down"
    assert len(warnings) == 4
    assert all(", after " in text and text.endswith(" s: down") for text in warnings[1:])
    assert later == ["calc: 10.0.0.1:9000 is not registered: down"]  # once per outage


async def test_the_end_of_a_server_that_was_never_registered_leaves_nothing_to_tell(
    registry: ScriptedRegistry, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    registry.errors = [RegistryError("down")] * 1_000
    async with make_lease(registry, clock):
        pass
    assert "could not be deregistered" not in caplog.text
    assert len(caplog.records) == 1


async def test_a_server_whose_address_stays_taken_is_reminded_of_too(
    registry: ScriptedRegistry, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    registry.errors = [AddressTaken("10.0.0.1:9000", 7.0)] * 1_000
    async with make_lease(registry, clock):
        await clock.run(120.0)
        told = [it.getMessage() for it in caplog.records if it.levelno == logging.WARNING]
    assert len(told) >= 2
    assert all("not registered yet, and so not ready, after " in text for text in told)
    assert all("another process is registered as 10.0.0.1:9000" in text for text in told)


async def test_a_lost_lease_is_registered_again_at_a_random_point_of_an_interval(
    clock: FakeClock,
) -> None:
    waits = []
    for seed in range(20):
        registry = ScriptedRegistry(clock)
        async with make_lease(registry, clock, seed):
            registry.errors = [LeaseLost("10.0.0.1:9000")]
            await clock.run(2.3 * INTERVAL)
            lost, again = registry.registered[1][0], registry.registered[2][0]
            waits.append(again - lost)
    assert all(0.0 <= wait <= INTERVAL for wait in waits)
    assert min(waits) < 0.25 * INTERVAL
    assert max(waits) > 0.75 * INTERVAL


async def test_an_address_of_a_former_process_is_registered_when_its_lease_has_ended(
    registry: ScriptedRegistry, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rap.registry")
    registry.errors = [AddressTaken("10.0.0.1:9000", 7.0)]
    async with make_lease(registry, clock) as lease:
        assert isinstance(lease.error, AddressTaken)
        [record] = caplog.records
        assert record.levelno == logging.INFO
        assert "10.0.0.1:9000" in record.getMessage()
        assert "7.0 s" in record.getMessage()
        await clock.run(6.9)
        assert len(registry.registered) == 1
        await clock.run(0.5)
        assert lease.healthy
    assert max(it.levelno for it in caplog.records) == logging.INFO


async def test_two_processes_with_one_address_are_one_error_that_names_it(
    registry: ScriptedRegistry, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    taken = AddressTaken("10.0.0.1:9000", 7.0)
    registry.errors = [taken, RegistryError("down"), taken, taken, taken]
    async with make_lease(registry, clock) as lease:
        await lease.update(make_endpoint(weight=2))  # within the seven seconds
        await clock.run(0.5)
        assert not [it for it in caplog.records if it.levelno == logging.ERROR]
        await clock.run(7.5)
        [error] = [it for it in caplog.records if it.levelno == logging.ERROR]
        assert "10.0.0.1:9000" in error.getMessage()
        await clock.run(7.5)
        assert len([it for it in caplog.records if it.levelno == logging.ERROR]) == 1
        await clock.run(7.5)
        assert lease.healthy


async def test_a_draining_process_that_is_replaced_logs_no_error(
    registry: ScriptedRegistry, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_lease(registry, clock) as lease:
        registry.errors = [AddressTaken("10.0.0.1:9000", 7.0)] * 4
        await lease.update(make_endpoint(state=State.DRAINING))
        await clock.run(30.0)
    assert not [it for it in caplog.records if it.levelno > logging.INFO]


async def test_closing_twice_or_before_start_does_nothing(
    registry: ScriptedRegistry, clock: FakeClock
) -> None:
    lease = make_lease(registry, clock)
    await lease.close()
    await lease.start()
    await lease.close()
    await lease.close()
    assert len(registry.deregistered) == 1


async def test_a_lease_that_cannot_deregister_closes_all_the_same(
    registry: ScriptedRegistry, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_lease(registry, clock):
        registry.errors = [RegistryError("down")]
    assert "could not be deregistered" in caplog.text


async def test_an_update_that_waits_while_the_lease_closes_publishes_nothing(
    registry: ScriptedRegistry, clock: FakeClock
) -> None:
    lease = make_lease(registry, clock)
    await lease.start()
    registry.gate = asyncio.Event()
    first = asyncio.create_task(lease.update(make_endpoint(weight=2)))
    second = asyncio.create_task(lease.update(make_endpoint(weight=3)))
    await settle()
    closing = asyncio.create_task(lease.close())
    await settle()
    registry.gate.set()
    await asyncio.gather(first, second, closing)
    assert [it.weight for _, it in registry.registered] == [1, 2]
    assert [it.weight for it in registry.deregistered] == [3]


async def test_starting_twice_is_refused(registry: ScriptedRegistry, clock: FakeClock) -> None:
    async with make_lease(registry, clock) as lease:
        with pytest.raises(RuntimeError, match="already started"):
            await lease.start()


async def test_a_renewal_that_comes_late_is_measured(
    registry: ScriptedRegistry, clock: FakeClock
) -> None:
    class LateClock(FakeClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds + 0.5)

    late = LateClock()
    async with make_lease(registry, late) as lease:
        assert lease.lag == 0.0
        await late.run(INTERVAL * 1.5)
        assert lease.lag == pytest.approx(0.5)


async def test_the_lag_is_reported_with_the_load() -> None:
    class LateClock(FakeClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds + 0.5)

    late = LateClock()
    registry, endpoint = MemoryRegistry(clock=late), make_endpoint()
    async with Lease(registry, "calc", endpoint, TTL, clock=late, load=lambda: {"conns": 3}):
        await late.run(INTERVAL * 1.5)
        assert await registry.loads("calc") == {endpoint.id: {"conns": 3, "lag": 0.5}}


@pytest.mark.parametrize("ttl", [0, -1, 0.05, 90_000, float("nan"), float("inf"), True, "9", None])
def test_a_bad_ttl_is_refused(registry: ScriptedRegistry, ttl: float) -> None:
    with pytest.raises(ValueError, match="ttl must be"):
        Lease(registry, "calc", make_endpoint(), ttl)


async def test_a_lease_reports_load_with_each_renewal(clock: FakeClock) -> None:
    registry = MemoryRegistry(clock=clock)
    endpoint, figures = make_endpoint(), iter([1.0, 2.0, 3.0])
    lease = Lease(
        registry, "calc", endpoint, TTL, clock=clock, load=lambda: {"util": next(figures)}
    )
    async with lease:
        await clock.run(INTERVAL * 1.2)
        assert await registry.loads("calc") == {endpoint.id: {"util": 2.0, "lag": 0.0}}


async def test_a_lease_keeps_an_instance_up_and_gives_it_up_on_close(clock: FakeClock) -> None:
    registry = MemoryRegistry(clock=clock)
    async with watching(registry) as snapshots:
        assert not await anext(snapshots)
        async with Lease(registry, "calc", make_endpoint(), TTL, clock=clock):
            await clock.run(10 * TTL)
            snapshot = await anext(snapshots)
            assert [it.state for it in snapshot.values()] == [State.UP]
        assert ports(await anext(snapshots)) == set()
