"""Slow start: the ramp of a new node's weight."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rap.balance.slow_start import effective_weights, slow_start


@pytest.mark.parametrize(
    ("age", "weight"),
    [(-1.0, 1.0), (0.0, 1.0), (3.0, 1.0), (15.0, 5.0), (30.0, 10.0), (1e6, 10.0)],
)
def test_a_weight_grows_from_a_tenth_within_the_window(age: float, weight: float) -> None:
    assert slow_start(10.0, age) == pytest.approx(weight)


def test_a_window_of_zero_means_no_ramp() -> None:
    assert slow_start(4.0, 0.0, window=0.0) == 4.0


def test_only_the_new_nodes_of_a_set_start_slowly() -> None:
    assert effective_weights([(2.0, 100.0), (2.0, 6.0)]) == pytest.approx([2.0, 0.4])


def test_when_all_nodes_are_new_none_starts_slowly() -> None:
    assert effective_weights([(1.0, 0.0), (3.0, 29.0)]) == [1.0, 3.0]
    assert effective_weights([]) == []


@given(st.floats(1.0, 1000.0), st.floats(0.0, 100.0), st.floats(0.0, 100.0))
def test_the_ramp_never_falls(weight: float, age: float, later: float) -> None:
    assert 0.0 < slow_start(weight, age) <= slow_start(weight, age + later) <= weight
