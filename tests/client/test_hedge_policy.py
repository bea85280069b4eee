"""When a call is hedged, and how often, on a fake clock."""

import random
from collections.abc import AsyncIterator
from math import inf, nan
from typing import Any

import pytest

from rap.client import Client
from rap.client.retry import HedgePolicy, RollingQuantile
from rap.client.sync import SyncClient
from rap.errors import RegistrationError
from tests.fake_clock import FakeClock

NEAR = 0.05 + 1e-9


def filled(values: list[float], now: float = 0.0) -> RollingQuantile:
    quantile = RollingQuantile()
    for value in values:
        quantile.add(value, now)
    return quantile


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0, 300.0])
@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_a_quantile_is_right_within_five_per_cent(scale: float, share: float) -> None:
    rng = random.Random(1)
    values = [scale * rng.lognormvariate(0.0, 1.0) for _ in range(2000)]
    found = filled(values).value(share, 0.0)
    assert found is not None
    assert abs(found / sorted(values)[int(share * 2000) - 1] - 1) <= NEAR


def test_few_values_have_no_quantile() -> None:
    assert filled([1.0] * 19).value(1.0, 0.0) is None
    assert filled([1.0] * 20).value(1.0, 0.0) == pytest.approx(1.0, rel=NEAR)
    assert RollingQuantile().value(0.5, 0.0) is None


def test_values_beyond_all_bounds_are_kept_within_them() -> None:
    quantile = filled([0.0, -1.0, inf] * 10)
    assert quantile.value(1.0, 0.0) == pytest.approx(1e6, rel=NEAR)


def test_values_older_than_a_minute_are_forgotten(clock: FakeClock) -> None:
    quantile = filled([1.0] * 100, clock.monotonic())
    for _ in range(30):
        clock.advance(1.0)
        quantile.add(0.001, clock.monotonic())
    assert quantile.value(0.95, clock.monotonic()) == pytest.approx(1.0, rel=NEAR)
    clock.advance(30.0)
    assert quantile.value(0.95, clock.monotonic()) is None  # 1 of the second half minute is left
    for _ in range(20):
        quantile.add(0.001, clock.monotonic())
    clock.advance(0.1)
    assert quantile.value(0.95, clock.monotonic()) == pytest.approx(0.001, rel=NEAR)


def test_after_a_long_pause_nothing_is_left(clock: FakeClock) -> None:
    quantile = filled([1.0] * 100, clock.monotonic())
    clock.advance(60.0)
    assert quantile.value(0.95, clock.monotonic()) is None


def test_a_quantile_is_looked_up_ten_times_a_second(clock: FakeClock) -> None:
    quantile = filled([1.0] * 20, clock.monotonic())
    assert quantile.value(0.95, clock.monotonic()) == pytest.approx(1.0, rel=NEAR)
    for _ in range(100):
        quantile.add(2.0, clock.monotonic())
    assert quantile.value(0.95, clock.monotonic()) == pytest.approx(1.0, rel=NEAR)
    clock.advance(0.1)
    assert quantile.value(0.95, clock.monotonic()) == pytest.approx(2.0, rel=NEAR)


def test_a_call_is_late_after_the_time_that_was_given() -> None:
    hedge = HedgePolicy(0.25)
    hedge.record(7.0, 0.0)
    assert hedge.delay(0.0) == 0.25


def test_a_call_is_late_when_most_are_answered(clock: FakeClock) -> None:
    hedge = HedgePolicy(None)
    assert hedge.delay(clock.monotonic()) is None
    for millis in range(1, 101):
        hedge.record(millis / 1000, clock.monotonic())
    clock.advance(0.1)
    assert hedge.delay(clock.monotonic()) == pytest.approx(0.099, rel=NEAR)
    for _ in range(2000):  # what they may be sent twice is saved
        hedge.delay(clock.monotonic())
    clock.advance(0.1)
    assert hedge.delay(clock.monotonic()) == pytest.approx(0.095, rel=NEAR)


def test_in_the_long_run_there_is_enough_credit_for_a_server_that_stalls(clock: FakeClock) -> None:
    hedge, rng = HedgePolicy(None), random.Random(1)
    for _ in range(50_000):
        clock.advance(0.001)
        time, delay = rng.expovariate(1000 / 5), hedge.delay(clock.monotonic())
        if delay is not None and time > delay and hedge.allows:
            hedge.spend()
        hedge.record(time, clock.monotonic())
    assert 0.03 < hedge.sent / 50_000 <= 0.05
    at_once = 0
    while hedge.allows:
        hedge.spend()
        at_once += 1
    assert at_once > 40


def test_no_call_is_late_within_a_millisecond(clock: FakeClock) -> None:
    hedge = HedgePolicy(None)
    for _ in range(100):
        hedge.record(0.0001, clock.monotonic())
    assert hedge.delay(clock.monotonic()) == 0.001


def test_one_of_twenty_calls_may_be_hedged() -> None:
    hedge = HedgePolicy(0.1)
    for _ in range(1000):
        hedge.delay(0.0)
        if hedge.allows:
            hedge.spend()
    assert hedge.sent == 50


def test_after_many_calls_a_hundred_may_be_hedged_at_once() -> None:
    hedge = HedgePolicy(0.1)
    for _ in range(100_000):
        hedge.delay(0.0)
    while hedge.allows:
        hedge.spend()
    assert hedge.sent == 100


@pytest.mark.parametrize("hedge", [0, -1, 0.0, inf, nan, "yes", [1]])
def test_a_hedge_is_a_time_or_a_flag(hedge: Any) -> None:
    with pytest.raises(
        ValueError, match="hedge must be True, a number of seconds above 0, or None"
    ):
        Client().register(idempotent=True, hedge=hedge)


@pytest.mark.parametrize("hedge", [None, False, True, 0.5, 3])
def test_a_valid_hedge_is_accepted(hedge: Any) -> None:
    Client().register(idempotent=True, hedge=hedge)


@pytest.mark.parametrize("client", [Client, SyncClient])
def test_only_idempotent_functions_are_hedged(client: Any) -> None:
    with pytest.raises(ValueError, match=r"hedge=0\.5 needs idempotent=True"):
        client().register(hedge=0.5)
    with pytest.raises(ValueError, match="hedge=True needs idempotent=True"):
        client().bind(Interface, hedge=True)
    client().register(hedge=False)


class Interface:
    async def unary(self) -> int: ...  # type: ignore[empty-body]  # declared only

    async def stream(self) -> AsyncIterator[int]:
        yield 1


async def items() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("client", [Client, SyncClient])
def test_only_unary_functions_are_hedged(client: Any) -> None:
    with pytest.raises(
        RegistrationError, match="hedge=True is for unary functions, items is a str"
    ):
        client().register(idempotent=True, hedge=True)(items)


@pytest.mark.parametrize("client", [Client, SyncClient])
def test_of_an_interface_unary_methods_are_hedged(client: Any) -> None:
    bound = client().bind(Interface, idempotent=True, hedge=0.5)
    assert bound.unary.__rap_method__.hedge.delay(0.0) == 0.5
    assert bound.stream.__rap_method__.hedge is None
