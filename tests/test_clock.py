"""Deadlines: seconds on the monotonic clock inside, milliseconds that remain on the wire."""

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rap.clock import (
    MAX_TIMEOUT_MS,
    NEVER,
    Pace,
    SystemClock,
    check_timeout,
    deadline_after,
    remaining_ms,
)
from tests.fake_clock import FakeClock


@pytest.mark.parametrize("value", [None, 1, 0.001, 9.0, inf])
def test_a_timeout_is_seconds_or_none(value: float | None) -> None:
    assert check_timeout("timeout", value) == value


@pytest.mark.parametrize("value", [0, -1, 0.0, nan])
def test_a_timeout_that_is_no_positive_time_is_refused_by_name(value: float) -> None:
    with pytest.raises(ValueError, match=r"^run_timeout must be more than 0 seconds, got"):
        check_timeout("run_timeout", value)


@pytest.mark.parametrize("value", ["9", True, (9,)])
def test_a_timeout_that_is_no_number_is_refused_by_name(value: object) -> None:
    with pytest.raises(ValueError, match=r"^timeout must be a number of seconds or None, got"):
        check_timeout("timeout", value)  # type: ignore[arg-type]  # on purpose


def test_a_deadline_is_counted_from_now(clock: FakeClock) -> None:
    deadline = deadline_after(9, clock)
    clock.advance(8.5)
    assert remaining_ms(deadline, clock.monotonic()) == 500


def test_no_timeout_is_no_deadline_and_travels_as_zero(clock: FakeClock) -> None:
    assert deadline_after(None, clock) == NEVER
    assert remaining_ms(NEVER, clock.monotonic()) == 0


def test_a_deadline_that_passed_travels_as_one_millisecond() -> None:
    assert remaining_ms(10.0, 12.0) == 1
    assert remaining_ms(10.0, 9.9999) == 1


def test_a_deadline_beyond_the_largest_number_travels_as_that() -> None:
    assert remaining_ms(1e12, 0.0) == MAX_TIMEOUT_MS


@given(st.floats(0.0, 1e9), st.floats(0.0, 1e9))
def test_what_travels_is_never_more_than_what_remains(now: float, left: float) -> None:
    deadline = now + left
    sent = remaining_ms(deadline, now)
    assert 1 <= sent <= MAX_TIMEOUT_MS
    assert sent == 1 or sent <= (deadline - now) * 1000.0


@pytest.mark.parametrize("seconds", [0.0004, 0.0014, 0.0024])  # uvloop counts whole milliseconds
async def test_a_sleep_does_not_end_before_its_time(seconds: float) -> None:
    clock = SystemClock()
    start = clock.monotonic()
    await clock.sleep(seconds)
    assert clock.monotonic() - start >= seconds


def test_a_pace_allows_something_once_in_so_many_seconds() -> None:
    clock = FakeClock()
    pace = Pace(10.0, clock.monotonic)
    assert pace.left <= 0.0
    assert pace.allow()
    assert pace.left == 10.0
    clock.advance(9.5)
    assert not pace.allow()
    assert not pace.allow()
    clock.advance(0.5)
    assert pace.allow()
    assert (pace.take_skipped(), pace.take_skipped()) == (2, 0)
    pace.begin()
    assert not pace.allow()
