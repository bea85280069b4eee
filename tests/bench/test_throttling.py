"""Clients that throttle their calls, in simulated time."""

import pytest

from bench.throttling import simulate


@pytest.mark.parametrize(("cost", "least"), [(2, 0.4), (5, 0.75), (20, 0.9), (100, 0.95)])
def test_throttling_keeps_a_server_of_small_calls_going(cost: float, least: float) -> None:
    with_throttle = simulate(cost, 4.0, throttle=True)
    assert with_throttle >= least
    assert with_throttle >= simulate(cost, 4.0, throttle=False)


@pytest.mark.parametrize("cost", [20, 100])
def test_throttling_takes_nothing_from_a_server_that_can_refuse(cost: float) -> None:
    assert simulate(cost, 1.2, throttle=True) >= 0.95 * simulate(cost, 1.2, throttle=False)
