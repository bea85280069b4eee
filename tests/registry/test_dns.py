import logging
import random

import pytest

from rap.registry import DnsResolver
from tests.registry.fake_clock import FakeClock
from tests.registry.sample import watching


class Zone:
    def __init__(self, *hosts: str) -> None:
        self.hosts: tuple[str, ...] | OSError = hosts
        self.asked = 0

    async def lookup(self, name: str) -> tuple[str, ...]:
        assert name == "calc.prod"
        self.asked += 1
        if isinstance(self.hosts, OSError):
            raise self.hosts
        return self.hosts


class QuickClock(FakeClock):
    """Sleeping takes no time."""

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._now += seconds


def resolver_of(zone: Zone, clock: FakeClock) -> DnsResolver:
    return DnsResolver("calc.prod", 9000, clock=clock, rng=random.Random(1), lookup=zone.lookup)


async def test_every_address_of_the_name_is_an_instance() -> None:
    zone = Zone("10.0.0.2", "10.0.0.1", "10.0.0.2", "fd00::1")
    async with watching(resolver_of(zone, QuickClock())) as snapshots:
        snapshot = await anext(snapshots)
    assert list(snapshot) == ["10.0.0.1:9000", "10.0.0.2:9000", "[fd00::1]:9000"]


async def test_a_change_is_seen_and_the_same_answer_is_not_repeated() -> None:
    zone, clock = Zone("10.0.0.1"), QuickClock()
    async with watching(resolver_of(zone, clock)) as snapshots:
        assert len(await anext(snapshots)) == 1
        zone.hosts = ("10.0.0.1", "10.0.0.2")
        assert len(await anext(snapshots)) == 2
    assert all(4.0 <= pause <= 6.0 for pause in clock.slept)


async def test_the_last_set_stands_while_the_name_cannot_be_resolved(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class HealingClock(QuickClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            if zone.asked == 5:
                zone.hosts = ("10.0.0.2",)

    zone = Zone("10.0.0.1")
    caplog.set_level(logging.WARNING, "rap.registry")
    async with watching(resolver_of(zone, HealingClock())) as snapshots:
        await anext(snapshots)
        zone.hosts = OSError("no such name")
        assert list(await anext(snapshots)) == ["10.0.0.2:9000"]
    assert len(caplog.records) == 1


async def test_the_systems_resolver_is_the_default() -> None:
    async with watching(DnsResolver("127.0.0.1", 9000)) as snapshots:
        assert list(await anext(snapshots)) == ["127.0.0.1:9000"]


@pytest.mark.parametrize(("port", "interval"), [(0, 5.0), (70000, 5.0), (1, 0.0), (1, -1.0)])
def test_bad_options_are_refused(port: int, interval: float) -> None:
    with pytest.raises(ValueError, match=r"(port|interval) must be"):
        DnsResolver("name", port, interval=interval)
