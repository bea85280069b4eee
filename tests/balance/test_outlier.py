"""Breaker: when a node is ejected, for how long, and how it comes back."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rap.balance.outlier import Breaker, BreakerPolicy, BreakerState, ejection_limit, is_panic
from rap.errors import Verdict

CLOSED, OPEN, HALF_OPEN = BreakerState


class Longest(Random):
    """Draws the longest of all pauses."""

    def random(self) -> float:
        return 1.0


def opened(at: float = 0.0) -> Breaker:
    breaker = Breaker(Longest())
    fail(breaker, 5, at)
    assert breaker.state is OPEN
    return breaker


def fail(breaker: Breaker, times: int, now: float) -> None:
    for _ in range(times):
        breaker.record(Verdict.FAILURE, now)


def succeed(breaker: Breaker, times: int, now: float) -> None:
    for _ in range(times):
        breaker.succeeded(now)


def test_a_new_breaker_lets_calls_through() -> None:
    breaker = Breaker(Random(1))
    assert breaker.available(-1e6)
    assert breaker.allow(0.0)
    assert breaker.allow(0.0)
    assert breaker.state is CLOSED


def test_five_failures_in_a_row_open_it() -> None:
    breaker = Breaker(Random(1))
    succeed(breaker, 1000, 0.0)
    fail(breaker, 4, 1.0)
    assert breaker.state is CLOSED
    fail(breaker, 1, 1.0)
    assert breaker.state is OPEN
    assert not breaker.available(1.0)
    assert not breaker.allow(1.0)


def test_an_answer_between_failures_ends_the_row() -> None:
    breaker = Breaker(Random(1))
    succeed(breaker, 1000, 0.0)
    for verdict in (Verdict.SUCCESS, Verdict.ANSWERED):
        fail(breaker, 4, 1.0)
        breaker.record(verdict, 1.0)
    assert breaker.state is CLOSED


def test_ignored_calls_neither_end_the_row_nor_count() -> None:
    breaker = Breaker(Random(1))
    for _ in range(4):
        fail(breaker, 1, 0.0)
        breaker.record(Verdict.IGNORED, 0.0)
    assert breaker.state is CLOSED
    fail(breaker, 1, 0.0)
    assert breaker.state is OPEN


def test_a_success_rate_below_four_fifths_opens_it() -> None:
    breaker = Breaker(Random(1))
    for _ in range(4):
        succeed(breaker, 4, 0.0)
        fail(breaker, 1, 0.0)
    assert breaker.state is CLOSED  # four fifths are enough
    fail(breaker, 1, 0.0)
    assert breaker.state is OPEN


def test_the_rate_of_fewer_than_five_calls_tells_nothing() -> None:
    breaker = Breaker(Random(1))
    fail(breaker, 2, 0.0)
    succeed(breaker, 1, 0.0)
    fail(breaker, 1, 0.0)
    assert breaker.state is CLOSED
    fail(breaker, 1, 0.0)
    assert breaker.state is OPEN


def test_failures_older_than_the_window_are_forgotten() -> None:
    breaker = Breaker(Random(1))
    fail(breaker, 4, 0.0)
    succeed(breaker, 1, 30.0)
    fail(breaker, 1, 30.0)
    succeed(breaker, 8, 30.0)
    fail(breaker, 1, 30.0)
    assert breaker.state is CLOSED


def test_failures_of_earlier_steps_in_the_window_count() -> None:
    breaker = Breaker(Random(1))
    for second in (0.0, 6.0, 12.0, 18.0):
        succeed(breaker, 1, second)
        fail(breaker, 1, second)
    assert breaker.state is OPEN


def test_a_pause_takes_between_half_and_all_of_five_seconds() -> None:
    breaker = Breaker(Random(1))
    fail(breaker, 5, 100.0)
    assert not breaker.available(102.4)
    assert breaker.available(105.0)


def test_after_the_pause_one_probe_goes_through() -> None:
    breaker = opened()
    assert not breaker.available(4.9)
    assert breaker.available(5.0)
    assert breaker.state is OPEN  # asking changes nothing
    assert breaker.allow(5.0)
    assert breaker.state is HALF_OPEN
    assert not breaker.available(5.0)
    assert not breaker.allow(5.0)


@pytest.mark.parametrize("verdict", [Verdict.SUCCESS, Verdict.ANSWERED])
def test_a_probe_that_is_answered_closes_it_with_a_clean_record(verdict: Verdict) -> None:
    breaker = opened()
    breaker.allow(5.0)
    breaker.record(verdict, 5.1)
    assert breaker.state is CLOSED
    fail(breaker, 3, 5.2)
    assert breaker.state is CLOSED
    fail(breaker, 1, 5.2)
    assert breaker.state is OPEN


def test_pauses_double_up_to_five_minutes() -> None:
    breaker = opened()
    now = 0.0
    for pause in (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0):
        assert not breaker.available(now + pause - 0.1)
        now += pause
        assert breaker.allow(now)
        fail(breaker, 1, now)


def test_a_node_that_fails_soon_again_waits_longer() -> None:
    breaker = opened()
    breaker.allow(5.0)
    breaker.succeeded(5.0)
    fail(breaker, 5, 34.9)
    assert not breaker.available(44.8)
    assert breaker.available(44.9)


def test_a_node_that_was_well_for_a_window_starts_over() -> None:
    breaker = opened()
    breaker.allow(5.0)
    breaker.succeeded(5.0)
    fail(breaker, 5, 35.0)
    assert breaker.available(40.0)


def test_a_probe_that_tells_nothing_lets_the_next_call_probe() -> None:
    breaker = opened()
    breaker.allow(5.0)
    breaker.record(Verdict.IGNORED, 6.0)
    assert breaker.available(6.0)
    assert breaker.allow(6.0)
    assert not breaker.allow(6.0)


def test_a_probe_that_never_ends_does_not_keep_the_node_out() -> None:
    breaker = opened()
    breaker.allow(5.0)
    assert not breaker.available(14.9)
    assert breaker.allow(15.0)


def test_ends_of_calls_from_before_change_nothing_while_open() -> None:
    breaker = opened()
    breaker.succeeded(1.0)
    breaker.record(Verdict.IGNORED, 1.0)
    fail(breaker, 9, 1.0)
    assert breaker.state is OPEN
    assert not breaker.available(4.9)
    assert breaker.available(5.0)


def test_it_stays_closed_while_too_many_others_are_ejected() -> None:
    free = False
    breaker = Breaker(Random(1), may_open=lambda: free)
    fail(breaker, 20, 0.0)
    assert breaker.available(0.0)
    free = True
    fail(breaker, 1, 0.0)
    assert not breaker.available(0.0)


def test_its_policy_can_be_set() -> None:
    policy = BreakerPolicy(
        failures=1, success_rate=0.0, min_calls=1, window=1.0, pause=2.0, max_pause=2.0
    )
    breaker = Breaker(Longest(), policy)
    for start in (0.0, 2.0):
        fail(breaker, 1, start)
        assert not breaker.available(start + 1.9)
        assert breaker.allow(start + 2.0)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("failures", 0),
        ("success_rate", 1.1),
        ("success_rate", -0.1),
        ("min_calls", 0),
        ("window", 0.0),
        ("window", float("inf")),
        ("pause", -1.0),
        ("max_pause", 4.0),
        ("max_pause", float("nan")),
    ],
)
def test_a_policy_out_of_its_limits_is_refused_by_name(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{option} must be .*, got {value}"):
        BreakerPolicy(**{option: value})  # type: ignore[arg-type]  # an int or a float


@pytest.mark.parametrize(
    ("total", "limit"), [(0, 0), (1, 1), (2, 1), (10, 1), (19, 1), (20, 2), (1000, 100)]
)
def test_a_tenth_of_the_nodes_may_be_ejected_but_at_least_one(total: int, limit: int) -> None:
    assert ejection_limit(total) == limit


@pytest.mark.parametrize(
    ("available", "total", "panic"),
    [(0, 1, True), (1, 1, False), (1, 2, False), (1, 3, True), (2, 3, False), (0, 0, False)],
)
def test_it_is_panic_when_less_than_half_are_available(
    available: int, total: int, panic: bool
) -> None:
    assert is_panic(available, total) is panic


steps = st.tuples(st.floats(0.0, 400.0), st.sampled_from([*Verdict, "allow"]))


@given(st.lists(steps), st.integers())
def test_whatever_happens_a_node_is_tried_again_within_five_minutes(
    history: list[tuple[float, Verdict | str]], seed: int
) -> None:
    breaker = Breaker(Random(seed))
    now = 0.0
    for wait, what in history:
        now += wait
        if isinstance(what, Verdict):
            breaker.record(what, now)
        else:
            expected = breaker.available(now)
            assert breaker.allow(now) is expected
    assert breaker.available(now + 300.0)


def test_a_breaker_without_failures_never_opens() -> None:
    breaker = Breaker(Random(1))
    for second in range(200):
        succeed(breaker, 2, float(second))
    assert breaker.state is CLOSED
