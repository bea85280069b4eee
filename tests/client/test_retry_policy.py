"""The budget of retries and the policy that asks it, on a fake clock."""

import random
from math import inf, nan
from typing import Any

import pytest

from rap.call import DEFAULT_PRIORITY
from rap.client.retry import (
    CallRules,
    RetryBudget,
    RetryPolicy,
    is_retryable,
    pushback,
    serves_retry,
)
from rap.errors import CallError, Code, HandlerError, ResourceExhausted, Unavailable
from tests.fake_clock import FakeClock

LOST = Unavailable("the connection was lost")


class Servers(dict[str, int]):
    """How many attempts each was given."""

    def told(self) -> list[tuple[str, int]]:
        return list(self.items())


def budget_of(clock: FakeClock, share: float = 0.2, **servers: int) -> tuple[RetryBudget, Servers]:
    known = Servers(servers)
    budget = RetryBudget(share, known.told, clock.monotonic)
    clock.advance(0.1)  # so that it looks at the counts
    return budget, known


def taken(budget: RetryBudget) -> int:
    """Take all that there is."""
    count = 0
    while count < 10_000 and budget.take():
        count += 1
    return count


def policy(attempts: int = 4, budget: RetryBudget | None = None) -> RetryPolicy:
    budget = budget or RetryBudget(0.2, list, FakeClock().monotonic)
    return RetryPolicy(CallRules(max_attempts=attempts), budget, random.Random(1))


def test_without_calls_there_are_ten_a_second(clock: FakeClock) -> None:
    budget, _ = budget_of(clock)
    assert taken(budget) == 100
    assert budget.retries == 100
    assert budget.refused == 1


def test_a_fifth_of_the_calls_comes_on_top(clock: FakeClock) -> None:
    budget, _ = budget_of(clock, a=600, b=400)
    assert taken(budget) == 300


def test_after_ten_seconds_neither_calls_nor_retries_count(clock: FakeClock) -> None:
    budget, servers = budget_of(clock, a=1000)
    assert taken(budget) == 300
    clock.advance(9.9)
    servers["a"] += 300  # the retries are attempts, but no calls
    assert taken(budget) == 0
    clock.advance(0.1)
    assert taken(budget) == 100


def test_the_budget_comes_back_slot_by_slot(clock: FakeClock) -> None:
    budget, _ = budget_of(clock)
    for _ in range(10):
        assert all(budget.take() for _ in range(10))
        clock.advance(1.0)
    assert taken(budget) == 10
    clock.advance(1.0)
    assert taken(budget) == 10


def test_new_calls_are_seen_at_most_twenty_times_a_second(clock: FakeClock) -> None:
    budget, servers = budget_of(clock)
    assert taken(budget) == 100
    servers["a"] = 1000
    assert taken(budget) == 0
    clock.advance(0.05)
    assert taken(budget) == 180  # a fifth of those that were no retries


def test_of_a_long_time_ten_seconds_count(clock: FakeClock) -> None:
    budget, _ = budget_of(clock, a=36_000)
    clock.advance(3599.9)
    assert taken(budget) == 120


def test_a_server_that_left_takes_no_budget_with_it_and_may_come_again(clock: FakeClock) -> None:
    budget, servers = budget_of(clock, a=500, b=500)
    assert budget.take()
    del servers["a"]
    clock.advance(1.0)
    assert budget.take()
    servers |= {"a": 10, "b": 691}  # 201 more, of which one was a retry
    clock.advance(1.0)
    assert taken(budget) == 100 + 240 - 2


def test_retries_that_are_free_are_no_calls_either(clock: FakeClock) -> None:
    budget, _ = budget_of(clock, a=100)
    budget.retries += 150
    assert taken(budget) == 100


def test_a_budget_of_nothing_has_no_floor(clock: FakeClock) -> None:
    budget, _ = budget_of(clock, 0.0, a=1000)
    assert taken(budget) == 0


def test_a_budget_without_bound_refuses_nothing(clock: FakeClock) -> None:
    assert taken(budget_of(clock, inf)[0]) == 10_000
    assert taken(budget_of(clock, inf, a=1)[0]) == 10_000


@pytest.mark.parametrize(
    ("error", "once", "twice"),
    [
        (Unavailable(unserved=True), True, True),
        (ResourceExhausted(remote=True, unserved=True), True, True),
        (LOST, False, True),
        (CallError(code=Code.UNAVAILABLE, remote=True), False, True),
        (ResourceExhausted(remote=True), False, False),
        (ResourceExhausted(remote=True, details={"retry_after": 1}), False, True),
        (ResourceExhausted(remote=True, details={"retry_after": -1}), False, False),
        (Unavailable(remote=True, details={"retry_after": -1}), False, False),
        (Unavailable(remote=True, unserved=True, details={"retry_after": -0.5}), False, False),
        (HandlerError(remote=True, details={"retry_after": 1}), False, False),
        (CallError(code=Code.DEADLINE_EXCEEDED), False, False),
    ],
)
def test_errors_that_may_be_retried(error: CallError, once: bool, twice: bool) -> None:
    assert is_retryable(error, idempotent=False) is once
    assert is_retryable(error, idempotent=True) is twice


@pytest.mark.parametrize("told", ["soon", None, nan, True, [1]])
def test_a_time_that_cannot_be_read_says_nothing(told: Any) -> None:
    assert pushback(Unavailable(remote=True, details={"retry_after": told})) is None


def test_only_a_server_can_say_when_to_come_again() -> None:
    assert pushback(Unavailable(details={"retry_after": 2})) is None
    assert pushback(Unavailable(remote=True, details={"retry_after": 2})) == 2.0


def test_pauses_grow_to_a_second_with_full_jitter() -> None:
    retries = policy(attempts=100)
    for attempts in range(1, 10):
        found = [retries.pause(LOST, attempts, idempotent=True, elsewhere=True) for _ in range(200)]
        pauses = [each for each in found if each is not None]
        longest = min(0.05 * 2 ** (attempts - 1), 1.0)
        assert len(pauses) == 200
        assert 0.0 <= min(pauses) < longest / 10
        assert longest * 0.9 < max(pauses) <= longest


def test_a_call_that_no_server_began_goes_elsewhere_at_once() -> None:
    error = Unavailable(unserved=True)
    assert policy().pause(error, 1, idempotent=False, elsewhere=True) == 0.0
    assert policy().pause(error, 2, idempotent=False, elsewhere=True) != 0.0


def test_the_last_attempt_is_the_last() -> None:
    assert policy(attempts=3).pause(LOST, 3, idempotent=True, elsewhere=True) is None


def test_a_server_is_not_asked_before_the_time_it_said() -> None:
    error = Unavailable(remote=True, details={"retry_after": 3})
    for attempts in (1, 2, 3):
        pause = policy().pause(error, attempts, idempotent=True, elsewhere=True)
        assert pause is not None
        assert 3.0 < pause <= 3.0 + 0.05 * 2 ** (attempts - 1)


def test_the_pushback_of_a_full_server_does_not_keep_a_call_from_another_one() -> None:
    error = ResourceExhausted(remote=True, unserved=True, details={"retry_after": 3})
    assert policy().pause(error, 1, idempotent=False, elsewhere=True) == 0.0
    assert policy().pause(error, 1, idempotent=False, elsewhere=False) == 3.0


@pytest.mark.parametrize(
    ("error", "parted", "free"),
    [
        (Unavailable(unserved=True), False, True),  # never written
        (Unavailable(remote=True, unserved=True), True, True),  # above the last id of a GoAway
        (ResourceExhausted(remote=True, unserved=True), False, False),  # shed
        (LOST, True, True),
        (LOST, False, False),  # its connection lives: it was not lost, but failed
        (Unavailable(remote=True), True, False),
    ],
)
def test_a_retry_that_costs_no_server_anything_is_free(
    error: CallError, parted: bool, free: bool, clock: FakeClock
) -> None:
    budget, _ = budget_of(clock)
    retries = policy(budget=budget)
    assert retries.admits(error, 1, parted=parted, in_retry=False)
    assert budget.retries == 1
    assert taken(budget) == (100 if free else 99)
    assert retries.admits(error, 1, parted=parted, in_retry=False) is free


def test_only_the_first_retry_after_a_lost_connection_is_free(clock: FakeClock) -> None:
    budget, _ = budget_of(clock)
    taken(budget)
    assert policy(budget=budget).admits(LOST, 1, parted=True, in_retry=False)
    assert not policy(budget=budget).admits(LOST, 2, parted=True, in_retry=False)
    assert not policy(budget=budget).admits(LOST, 1, parted=True, in_retry=True)


def test_the_error_says_that_the_budget_is_used_up(clock: FakeClock) -> None:
    budget, _ = budget_of(clock)
    taken(budget)
    error = Unavailable("away", remote=True)
    assert not policy(budget=budget).admits(error, 1, parted=False, in_retry=False)
    why = "the retry budget (20 % of calls + 10/s) is used up"
    assert error.__notes__ == [f"not retried: {why}"]
    assert error.details == {"not_retried": why}
    assert str(error) == "away"


def test_a_retry_is_not_retried_unless_that_is_free() -> None:
    error = Unavailable("away", remote=True)
    assert not policy().admits(error, 1, parted=False, in_retry=True)
    assert error.details == {"not_retried": "it was made to serve a retry"}
    assert policy().admits(Unavailable(unserved=True), 1, parted=False, in_retry=True)


class Source:
    """The call that a handler serves."""

    deadline = inf

    method = "/default/f"
    draining = False
    priority = DEFAULT_PRIORITY

    def __init__(self, header: dict[str, Any]) -> None:
        self.header = header

    def set_header(self, name: str, value: Any) -> None:
        raise AssertionError("it is not asked for")

    def set_trailer(self, name: str, value: Any) -> None:
        raise AssertionError("it is not asked for")

    is_over = False

    def excuse(self) -> None:
        raise AssertionError("it does not wait for a server")

    def keep_thread(self, running: object) -> None:
        raise AssertionError("it is not asked for")

    def request(self) -> Any:
        raise AssertionError("it is not asked for")


def test_a_retry_is_known_by_its_header() -> None:
    assert not serves_retry(None)
    assert not serves_retry(Source({}))
    assert serves_retry(Source({":attempt": 2}))
