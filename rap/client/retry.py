"""All policies of further attempts: retries, their budget, and when to hedge. No I/O.

Retries must not make an outage worse. A limit of attempts per call does not prevent that: where
everything fails, three retries of each call are four times the load. So there is one budget for all
calls of a client, as in Finagle and tower: with a budget of a fifth, the load grows by a fifth,
whatever the limit of a single call.

Attempts that cost no server anything are not taken from the budget (gRPC's transparent retries,
A6):

- The attempt was never written to a connection, so no server has seen it.
- The attempt was open on a connection that its server has left. A GoAway says so once, and the next
  call goes elsewhere, so there are no more of these than calls were under way.

- The server does not have the function. In a rolling update another one may have it, so each is
  asked once, at once, and `max_attempts` does not count.

The first retry of a call whose connection was lost is free too, for a server dies once: callers do
not notice a server that is killed, however many calls it had. If the next server dies as well, the
call itself may be the cause, and its further retries count.

All other retries count: a server that sheds load, or is down and says so, says so to each attempt.
A call that an overloaded server has refused is retried only if there is a server that has not
refused calls just now, because more attempts are what an overloaded service needs least. Where a
whole service is started again, that server may still have to come: for five seconds after the first
one is ready, the call waits as long as the refusal says, and is then made again, until others are
ready or its deadline passes. These attempts do not count, because all calls of the outage come at
once, and no budget is made for that; a refusal costs the server some microseconds.
A call that a handler makes while it serves a further attempt is not retried by its own client:
four attempts at each of four would be sixteen, and so are seven. What that call in turn calls does
not know of it; there the budgets of the services between bound the load.
"""

import random
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import accumulate
from math import ceil, exp, inf, log
from typing import Any, Self

from rap.call import CallSource
from rap.errors import CallError, Code
from rap.record import Record

__all__ = [
    "DEFAULT_RULES",
    "FAULT_CODES",
    "NONE",
    "CallRules",
    "HedgePolicy",
    "RetryBudget",
    "RetryPolicy",
    "RetryState",
    "RollingQuantile",
    "check_hedge",
    "is_refusal",
    "is_retryable",
    "pushback",
    "serves_retry",
]

WINDOW = 10.0
"""Seconds for which a call and a retry count in the budget."""
FLOOR = 10.0
"""Retries per second that are allowed without any calls, for clients that have just started."""
REFUSED_PART = 0.5
"""The part of the budget that retries of refused calls may use up. While all servers refuse, these
retries are of no use, and the rest is for calls whose server has failed."""
_SLOTS = 10  # in which a window expires
_BUDGET_LOOK = 0.05  # seconds between two looks at the counts of calls
_LONGEST_PAUSE = 20.0  # times the first one
FAULT_CODES = frozenset(
    {Code.UNKNOWN, Code.INTERNAL, Code.UNAVAILABLE, Code.DATA_LOSS, Code.DEADLINE_EXCEEDED}
)
"""Errors that may be the fault of a server."""

SOONEST, LATEST = 0.95, 0.99
"""Latency percentiles that trigger a hedge: p95 with full credit, falling to p99 when it is empty.
With p95 alone, all calls that are somewhat late would use up the credit, and leave nothing for when
a server stalls."""
MIN_DELAY = 0.001
"""Seconds before which nothing is hedged: below, it is the event loops that decide who is late."""
PRICE = 20
"""Calls of a function for each hedge by default: at most 5 % more load."""
_KEPT_HEDGES = 100  # that were not sent and may be for later: so many late calls at once
_ERROR = 0.05  # of a quantile, relative
_GROWTH = log((1 + _ERROR) / (1 - _ERROR))
_HALF = 30.0  # seconds of each of the two histograms
_MIN_VALUES = 20
_QUANTILE_LOOK = 0.1  # seconds between two looks
_SHORTEST, _LONGEST = 1e-6, 1e6  # seconds

# Returns how many attempts each server was given so far, by its id.
Attempts = Callable[[], Iterable[tuple[str, int]]]


NONE: frozenset[str] = frozenset()
"""No nodes to avoid."""


class CallRules(Record, frozen=True, kw_only=True):
    """How the calls of one function are retried, hedged and judged.

    Args:
        max_attempts: Maximum attempts of one call.
        retry_codes: Errors after which a call of an idempotent function is made again although a
            handler may have run. `None`: `UNAVAILABLE`.
        retry_pause: Maximum seconds before the second attempt; doubled with each further one, up to
            20 times as long.
        hedge_share: Maximum hedged requests as a share of the calls.
        fault_codes: Errors that may be the fault of the server, if it alone has them. `None`: see
            `FAULT_CODES`.
        wait_for_ready: How long a call waits for a server; `None`: as the client does.
    """

    max_attempts: int = 4
    retry_codes: Collection[Code] | None = None
    retry_pause: float = 0.05
    hedge_share: float = 0.05
    fault_codes: Collection[Code] | None = None
    wait_for_ready: bool | float | None = None

    def override(self, own: Mapping[str, Any]) -> Self:
        """Return the rules of a function that has its own ones, where they are not `None`."""
        given = {name: value for name, value in own.items() if value is not None}
        return self.replace(**given) if given else self

    def may_repeat(self, error: CallError, *, idempotent: bool) -> bool:
        """Whether it is safe to repeat a call that failed like this."""
        return is_retryable(error, idempotent=idempotent, codes=self.retry_codes)

    def is_fault(self, error: CallError) -> bool:
        """Whether an error may be the fault of the server that has answered with it."""
        codes = FAULT_CODES if self.fault_codes is None else self.fault_codes
        return error.code in codes

    def pause(self, attempts: int) -> float:
        """Return the longest pause after so many attempts, in seconds."""
        return self.retry_pause * min(2.0 ** min(attempts - 1, 10), _LONGEST_PAUSE)


DEFAULT_RULES = CallRules()
"""The rules of functions if neither the client nor the function says otherwise."""


class RetryState:
    """The attempts of one call.

    Attributes:
        count: Number of the present or next attempt; 1 is the first.
        exclude: Ids of the nodes to avoid: attempts there have failed, or are late.
    """

    __slots__ = ("count", "exclude")

    def __init__(self) -> None:
        self.count = 1
        self.exclude = NONE

    def avoid(self, key: str) -> None:
        """Avoid one more node.

        Args:
            key: Its id.
        """
        self.exclude |= {key}

    def next_attempt(self, exclude: frozenset[str]) -> None:
        """Count one more attempt.

        Args:
            exclude: Ids of the nodes to avoid for it.
        """
        self.exclude = exclude
        self.count += 1


class RetryBudget:
    """How many attempts beyond the first ones all calls of a client may make.

    Within any ten seconds these are a share of the calls, plus 100. No call pays for the counting:
    the connections count calls already, and the budget looks there when a call has failed. So calls
    count from when they are seen on, and at most as many as ten seconds have had on average.

    Args:
        share: Retries per call, such as 0.2. With 0 there is no budget, not even the floor.
        attempts: See `Attempts`. A server that has left need not be in it any more.
        now: Returns seconds on the monotonic clock.

    Attributes:
        retries: Attempts beyond the first so far, free ones included.
        hedges: Those of them that were hedges.
        rescues: Those of them that were made while another attempt waited in vain.
        refused: Attempts so far for which there was no budget.
    """

    __slots__ = (
        "_attempts",
        "_calls",
        "_counts",
        "_looked_at",
        "_now",
        "_retries",
        "_share",
        "_slots",
        "_spent",
        "hedges",
        "refused",
        "rescues",
        "retries",
    )

    def __init__(self, share: float, attempts: Attempts, now: Callable[[], float]) -> None:
        self.retries = 0
        self.hedges = 0
        self.rescues = 0
        self.refused = 0
        self._share = share
        self._attempts = attempts
        self._now = now
        self._counts: dict[str, int] = {}
        self._retries = 0  # `retries` at the last look
        self._looked_at = now()
        self._slots: deque[list[float]] = deque()  # each: its start, calls, withdrawals
        self._calls = 0.0  # sums of the slots
        self._spent = 0

    def __str__(self) -> str:
        return f"{self._share * 100:g} % of calls + {FLOOR:g}/s" if self._share else "0"

    def take(self, part: float = 1.0) -> bool:
        """Take a retry out of the budget; return whether there was one.

        Args:
            part: The part of the budget that may be used up, from 0 to 1.
        """
        now = self._now()
        slot = self._slot(now)
        budget = (FLOOR * WINDOW + self._share * self._calls) * part
        if not self._share or self._spent + 1 > budget:
            self.refused += 1
            return False
        slot[2] += 1
        self._spent += 1
        self.retries += 1
        return True

    def take_hedge(self) -> bool:
        """Take a hedge out of the budget; return whether there was one."""
        taken = self.take()
        self.hedges += taken
        return taken

    def take_copy(self, *, free: bool) -> bool:
        """Take one more attempt of a call that waits in vain; return whether there was one.

        Args:
            free: It is not taken out of the budget.
        """
        if free:
            self.count_free()
        elif not self.take():
            return False
        self.rescues += 1
        return True

    def count_free(self) -> None:
        """Count a retry that is not taken out of the budget."""
        self.retries += 1

    def _slot(self, now: float) -> list[float]:
        """Return the present slot, with what has expired gone and new calls counted."""
        slots = self._slots
        while slots and slots[0][0] <= now - WINDOW:
            _, calls, spent = slots.popleft()
            self._calls -= calls
            self._spent -= int(spent)
        if not slots:
            self._calls = 0.0  # drop the rounding error of sums and differences
        if not slots or now >= slots[-1][0] + WINDOW / _SLOTS:
            slots.append([now, 0.0, 0])
        if now >= self._looked_at + _BUDGET_LOOK:
            calls = self._new_calls(now)
            slots[-1][1] += calls
            self._calls += calls
        return slots[-1]

    def _new_calls(self, now: float) -> float:
        """Return how many calls began since the last look; over a long time, its average."""
        before, self._counts = self._counts, dict(self._attempts())
        made = 0
        for server, count in self._counts.items():
            known = before.get(server, 0)
            made += count - known if count >= known else count  # it left and came again
        calls = max(0, made - (self.retries - self._retries))
        self._retries = self.retries
        past = now - self._looked_at
        self._looked_at = now
        return calls * min(1.0, WINDOW / past)


class RetryPolicy:
    """Decides whether and when a client attempts a failed call again.

    Args:
        rules: Those of functions that have none of their own.
        budget: The budget of all calls.
        rng: Source of jitter.
    """

    __slots__ = ("_uniform", "budget", "rules")

    def __init__(self, rules: CallRules, budget: RetryBudget, rng: random.Random) -> None:
        self.budget = budget
        self.rules = rules
        self._uniform = rng.uniform

    def pause(
        self,
        error: CallError,
        attempts: int,
        *,
        idempotent: bool,
        elsewhere: bool,
        rules: CallRules | None = None,
    ) -> float | None:
        """Return in how many seconds a call may be attempted again; `None`: not at all.

        Args:
            error: How its last attempt failed.
            attempts: How many attempts there were.
            rules: Of the function; `None`: those of the client.
            idempotent: Whether the call may be served twice.
            elsewhere: Whether a server is ready that has not been tried yet.
        """
        rules = self.rules if rules is None else rules
        if attempts >= rules.max_attempts or not rules.may_repeat(error, idempotent=idempotent):
            return None
        told = pushback(error)
        if told is None or (error.unserved and elsewhere):  # a server speaks for itself alone
            told = 0.0
        if error.unserved and attempts == 1:
            return told
        return told + self._uniform(0.0, rules.pause(attempts))

    def admits(self, error: CallError, attempts: int, *, parted: bool, in_retry: bool) -> bool:
        """Return whether one more attempt may be made; if so, it counts as made.

        Args:
            error: How the last attempt failed. If no more are admitted, its details say why.
            attempts: How many attempts there were.
            parted: Whether the connection of that attempt takes no more calls.
            in_retry: Whether the call is made to serve a further attempt of another one.
        """
        if error.unserved and (parted or not error.remote):
            self.budget.count_free()
            return True
        if in_retry:
            _explain(error, "it was made to serve a retry")
            return False
        if parted and not error.remote and attempts == 1:
            self.budget.count_free()
            return True
        if self.budget.take(REFUSED_PART if is_refusal(error) else 1.0):
            return True
        _explain(error, f"the retry budget ({self.budget}) is used up")
        return False

    def gives_up(self, error: CallError) -> None:
        """Note in the error of a refused call that all other servers refuse calls as well."""
        _explain(error, "no other server takes calls now")


class HedgePolicy:
    """When the calls of one function are hedged, and how many of them.

    Times are in seconds on the monotonic clock.

    Args:
        after: Seconds after which a call that is not answered is late. `None`: the 95th to 99th
            percentile of the latency of the function, but at least a millisecond.
        price: Calls of the function for each hedge.

    Attributes:
        sent: Hedges so far.
    """

    __slots__ = ("_after", "_credit", "_max_credit", "_price", "_times", "sent")

    def __init__(self, after: float | None, price: float = PRICE) -> None:
        self.sent = 0
        self._after = after
        self._price = price
        self._max_credit = _KEPT_HEDGES * price
        self._credit = 0.0  # calls
        self._times = RollingQuantile()

    def delay(self, now: float) -> float | None:
        """Count a call; return in how many seconds it is late. `None`: not known yet."""
        self._credit = min(self._credit + 1, self._max_credit)
        if self._after is not None:
            return self._after
        share = LATEST - (LATEST - SOONEST) * self._credit / self._max_credit
        usual = self._times.value(share, now)
        return None if usual is None else max(usual, MIN_DELAY)

    @property
    def allows(self) -> bool:
        """Whether one more hedge is within its share of the calls."""
        return self._credit >= self._price

    def spend(self) -> None:
        """Count a hedge."""
        self._credit -= self._price
        self.sent += 1

    def record(self, seconds: float, now: float) -> None:
        """Record how long the first attempt of a call took, or was waited for in vain."""
        if self._after is None:
            self._times.add(seconds, now)


class RollingQuantile:
    """Quantiles of the values that were added in the last 30 to 60 seconds, within 5 %."""

    __slots__ = ("_due", "_past", "_present", "_turn_at", "_value")

    def __init__(self) -> None:
        self._present: Counter[int] = Counter()
        self._past: Counter[int] = Counter()
        self._turn_at = -inf
        self._due = -inf
        self._value: float | None = None

    def add(self, value: float, now: float) -> None:
        """Add a value; `now` is in seconds."""
        if now >= self._turn_at:
            self._turn(now)
        value = min(max(value, _SHORTEST), _LONGEST)
        self._present[ceil(log(value) / _GROWTH)] += 1

    def value(self, share: float, now: float) -> float | None:
        """Return the quantile; `None` while there are fewer than 20 values.

        The result is up to 0.1 s old, and then for the share that was asked for at that time.

        Args:
            share: Of the values, from 0 to 1, that are at most the result.
            now: Seconds.
        """
        if now >= self._due:
            self._due = now + _QUANTILE_LOOK
            if now >= self._turn_at:
                self._turn(now)
            self._value = self._find(share)
        return self._value

    def _turn(self, now: float) -> None:
        late = now >= self._turn_at + _HALF  # the present values are old, too
        self._past = Counter() if late else self._present
        self._present = Counter()
        self._turn_at = now + _HALF

    def _find(self, share: float) -> float | None:
        counts = self._present + self._past
        if counts.total() < _MIN_VALUES:
            return None
        rank = ceil(counts.total() * share)
        buckets = sorted(counts)
        up_to = accumulate(counts[bucket] for bucket in buckets)
        found = next(each for each, seen in zip(buckets, up_to, strict=True) if seen >= rank)
        return exp(found * _GROWTH) * (1 - _ERROR)  # the bucket ends 5 % above


def is_retryable(
    error: CallError, *, idempotent: bool, codes: Collection[Code] | None = None
) -> bool:
    """Whether it is safe to repeat a call that failed like this.

    Args:
        error: How it failed.
        idempotent: Whether it may be served twice.
        codes: The errors for which it then is repeated; `None`: `UNAVAILABLE`.
    """
    told = pushback(error)
    if told is not None and told < 0:
        return False
    if error.unserved:
        return True
    busy = error.code is Code.RESOURCE_EXHAUSTED and told is not None
    listed = error.code is Code.UNAVAILABLE if codes is None else error.code in codes
    return idempotent and (busy or listed)


def is_refusal(error: CallError) -> bool:
    """Whether an overloaded server has refused the call, and said when it would take calls."""
    if error.code is not Code.RESOURCE_EXHAUSTED or not error.unserved:
        return False
    told = pushback(error)
    return told is not None and told >= 0.0


def pushback(error: CallError) -> float | None:
    """Return in how many seconds a server wants to see the call again; below 0: never.

    The server says so by ``retry_after`` in the details of its error; `None` if it does not.
    """
    told: Any = error.details.get("retry_after") if error.remote else None
    if isinstance(told, bool) or not isinstance(told, int | float):
        return None
    return float(told) if -inf <= told <= inf else None  # not NaN


def serves_retry(outer: CallSource | None) -> bool:
    """Whether the call that a handler serves here, if any, is an attempt beyond the first."""
    return outer is not None and outer.header.get(":attempt", 1) != 1


def check_hedge(hedge: bool | float | None, idempotent: bool) -> None:
    """Refuse to hedge the calls of a function that may be served once only.

    Raises:
        ValueError: The function is not idempotent.
    """
    if hedge and not idempotent:
        raise ValueError(f"hedge={hedge!r} needs idempotent=True: a call may be served twice")


def _explain(error: CallError, why: str) -> None:
    error.add_note(f"not retried: {why}")
    error.details["not_retried"] = why
