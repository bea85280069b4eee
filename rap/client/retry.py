"""Whether a call that failed is made again, and when: policy, pushback and budget, without I/O.

What keeps retries from making an outage worse is not the number of attempts of one call but a
budget of all of them, as in Finagle and tower: where everything fails, three retries of each call
are four times the load, and a budget of a fifth is a fifth more, whatever a call may ask for.

Not every further attempt is a retry for it. gRPC's transparent retries (A6) cost no server
anything, and are free:

- what was never written to a connection has met no server;
- what was open on a connection that its server has left: a GoAway says that once, and the next call
  goes elsewhere, so there are no more of them than calls were under way.

Nor are there more first retries of calls whose connection was lost: a server dies once. They are
free too, so that nobody notices a server that is killed, however many calls it had; if the next
server dies as well, that may be the doing of the call, and its further retries count.

All others count: a server that sheds load, or is down and says so, says so to each attempt. A call
that a handler makes while it serves a further attempt is not retried by its own client in turn:
four attempts at each of four would be sixteen, and are seven. What is called below that one does
not know of it; there the budgets of the services between are what bounds the load.
"""

import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from itertools import accumulate
from math import ceil, exp, inf, log
from typing import Any

from rap.call import CallSource
from rap.clock import check_timeout
from rap.errors import CallError, Code
from rap.options import check_flag

__all__ = [
    "Attempt",
    "Hedge",
    "RetryBudget",
    "RetryPolicy",
    "RollingQuantile",
    "check_options",
    "is_retryable",
    "pushback",
    "serves_retry",
]


SOONEST, LATEST = 0.95, 0.99
"""Shares of the calls that are answered when another one is late: the first where much is saved
(see `PRICE`), the second where nothing is. With the first alone all calls that are somewhat late
would use up all that is allowed, and leave nothing for when a server stalls."""
LEAST_DELAY = 0.001
"""Seconds: below it the event loops decide who is late."""
PRICE = 20
"""Calls for each second copy: 5 % more load, of all calls that a function had."""
MOST_SAVED = 100 * PRICE
"""Calls that needed none and count for later: so many late ones at once can have a second copy."""
_ERROR = 0.05
_GROWTH = log((1 + _ERROR) / (1 - _ERROR))
_HALF = 30.0  # seconds of each of the two histograms
_LEAST_SEEN = 20  # values
_LOOK = 0.1  # seconds between two looks
_SHORTEST, _LONGEST = 1e-6, 1e6


def check_options(timeout: float | None, idempotent: bool, hedge: bool | float | None) -> None:
    """Refuse options of a function that are of no use.

    Raises:
        ValueError: One is; the message names it.
    """
    check_timeout("timeout", timeout)
    check_flag("idempotent", idempotent)
    if hedge is None or hedge is False:
        return
    if not isinstance(hedge, int | float) or not 0 < hedge < inf:
        text = "hedge must be True, a number of seconds above 0, or None"
        raise ValueError(f"{text}, got {hedge!r}")
    if not idempotent:
        raise ValueError(f"hedge={hedge!r} needs idempotent=True: a call may be served twice")


class RollingQuantile:
    """Quantiles of what was added in the last half minute to minute, within 5 %."""

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
        """Return what a share of the values are at most; `None` while there are less than 20.

        It is up to 0.1 s old, then for the share that was asked for at that time.
        """
        if now >= self._due:
            self._due = now + _LOOK
            if now >= self._turn_at:
                self._turn(now)
            self._value = self._find(share)
        return self._value

    def _turn(self, now: float) -> None:
        late = now >= self._turn_at + _HALF  # the present ones are old, too
        self._past = Counter() if late else self._present
        self._present = Counter()
        self._turn_at = now + _HALF

    def _find(self, share: float) -> float | None:
        counts = self._present + self._past
        if counts.total() < _LEAST_SEEN:
            return None
        rank = ceil(counts.total() * share)
        places = sorted(counts)
        up_to = accumulate(counts[place] for place in places)
        place = next(place for place, seen in zip(places, up_to, strict=True) if seen >= rank)
        return exp(place * _GROWTH) * (1 - _ERROR)  # the bucket ends 5 % above


class Hedge:
    """The second copies of the calls of one function. Times are seconds on the monotonic clock.

    Args:
        after: Seconds after which a call that is not answered is late; `None`: when 95 % of the
            calls are answered, but at least a millisecond.

    Attributes:
        sent: Second copies so far.
    """

    __slots__ = ("_after", "_credit", "_times", "sent")

    def __init__(self, after: float | None) -> None:
        self.sent = 0
        self._after = after
        self._credit = 0  # calls
        self._times = RollingQuantile()

    def delay(self, now: float) -> float | None:
        """Count a call; return in how many seconds it is late, `None`: that is not known yet."""
        self._credit = min(self._credit + 1, MOST_SAVED)
        if self._after is not None:
            return self._after
        share = LATEST - (LATEST - SOONEST) * self._credit / MOST_SAVED
        usual = self._times.value(share, now)
        return None if usual is None else max(usual, LEAST_DELAY)

    @property
    def allows(self) -> bool:
        """Whether one more second copy is within 5 % of the calls."""
        return self._credit >= PRICE

    def spend(self) -> None:
        """Count a second copy."""
        self._credit -= PRICE
        self.sent += 1

    def took(self, seconds: float, now: float) -> None:
        """Note how long the first copy of a call took, or was waited for in vain."""
        if self._after is None:
            self._times.add(seconds, now)


WINDOW = 10.0
"""Seconds for which a call counts, and a retry."""
FLOOR = 10.0
"""Retries a second that are there without any call: for clients that have just begun."""
_SLOTS = 10  # in which a window expires
_RETRY_LOOK = 0.05  # seconds between two looks at the counts
_FIRST_PAUSE = 0.05
_MAX_PAUSE = 1.0

# Returns how many attempts were given to each server so far, by its id.
Attempts = Callable[[], Iterable[tuple[str, int]]]


class Attempt:
    """The tries of one call: how many there were, and which nodes failed."""

    __slots__ = ("count", "exclude")

    def __init__(self) -> None:
        self.count = 1
        self.exclude: frozenset[str] = frozenset()


class RetryBudget:
    """How many attempts may be made beyond the first ones, by all calls of a client.

    Within any ten seconds they are a share of the calls, and 100 more. No call pays for this: they
    are counted already, by their connections, and looked at when one has failed. So calls count
    from when they are seen on, and at most as many as ten seconds have had on average.

    Args:
        share: Of the calls; 0: there is no budget, not even the floor.
        attempts: See `Attempts`. Those of a server that has left need not be told any more.
        now: Source of time, seconds on the monotonic clock.

    Attributes:
        retries: Attempts beyond the first so far, also those that were free.
        hedges: Those of them so far that were made while the first was open.
        refused: Attempts for which there was no budget so far.
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
        "retries",
    )

    def __init__(self, share: float, attempts: Attempts, now: Callable[[], float]) -> None:
        self.retries = 0
        self.hedges = 0
        self.refused = 0
        self._share = share
        self._attempts = attempts
        self._now = now
        self._counts: dict[str, int] = {}
        self._retries = 0  # `retries` at the last look
        self._looked_at = now()
        self._slots: deque[list[float]] = deque()  # each: its begin, calls, withdrawals
        self._calls = 0.0  # sums of the slots
        self._spent = 0

    def __str__(self) -> str:
        return f"{self._share * 100:g} % of calls + {FLOOR:g}/s" if self._share else "0"

    def take(self) -> bool:
        """Count an attempt, if there is budget for it; return whether there was."""
        now = self._now()
        slot = self._slot(now)
        if not self._share or self._spent + 1 > FLOOR * WINDOW + self._share * self._calls:
            self.refused += 1
            return False
        slot[2] += 1
        self._spent += 1
        self.retries += 1
        return True

    def _slot(self, now: float) -> list[float]:
        """Return the present slot, with what has expired gone and new calls counted."""
        slots = self._slots
        while slots and slots[0][0] <= now - WINDOW:
            _, calls, spent = slots.popleft()
            self._calls -= calls
            self._spent -= int(spent)
        if not slots:
            self._calls = 0.0  # no rest of sums and differences
        if not slots or now >= slots[-1][0] + WINDOW / _SLOTS:
            slots.append([now, 0.0, 0])
        if now >= self._looked_at + _RETRY_LOOK:
            calls = self._new_calls(now)
            slots[-1][1] += calls
            self._calls += calls
        return slots[-1]

    def _new_calls(self, now: float) -> float:
        """Return how many calls began since the last look; of a long time, its average."""
        before, self._counts = self._counts, dict(self._attempts())
        made = 0
        for server, count in self._counts.items():
            known = before.get(server, 0)
            made += count - known if count >= known else count  # it has left, and come again
        calls = max(0, made - (self.retries - self._retries))
        self._retries = self.retries
        past = now - self._looked_at
        self._looked_at = now
        return calls * min(1.0, WINDOW / past)


class RetryPolicy:
    """Decides about the attempts of a client's calls.

    Args:
        max_attempts: Of one call.
        budget: Of all calls.
        rng: Source of jitter.
    """

    __slots__ = ("_uniform", "budget", "max_attempts")

    def __init__(self, max_attempts: int, budget: RetryBudget, rng: random.Random) -> None:
        self.budget = budget
        self.max_attempts = max_attempts
        self._uniform = rng.uniform

    def pause(
        self, error: CallError, attempts: int, *, idempotent: bool, elsewhere: bool
    ) -> float | None:
        """Return in how many seconds a call may be made again; `None`: not at all.

        Args:
            error: How its last attempt failed.
            attempts: How many there were.
            idempotent: It may have been served, and be served again.
            elsewhere: A server is ready that it was not given to yet.
        """
        if attempts >= self.max_attempts or not is_retryable(error, idempotent=idempotent):
            return None
        told = pushback(error)
        if told is None or (error.unserved and elsewhere):  # what one says holds for that one
            told = 0.0
        if error.unserved and attempts == 1:
            return told
        longest = min(_FIRST_PAUSE * 2 ** (attempts - 1), _MAX_PAUSE)
        return told + self._uniform(0.0, longest)

    def admits(self, error: CallError, attempts: int, *, parted: bool, in_retry: bool) -> bool:
        """Return whether one more attempt may be made, which counts it.

        Args:
            error: How the last attempt failed; if there is to be none, it is told why.
            attempts: How many there were.
            parted: The connection of that attempt takes no more calls.
            in_retry: The call is made to serve a further attempt of another one.
        """
        if error.unserved and (parted or not error.remote):
            self.budget.retries += 1
            return True
        if in_retry:
            _explain(error, "it was made to serve a retry")
            return False
        if parted and not error.remote and attempts == 1:
            self.budget.retries += 1
            return True
        if self.budget.take():
            return True
        _explain(error, f"the retry budget ({self.budget}) is used up")
        return False


def is_retryable(error: CallError, *, idempotent: bool) -> bool:
    """Whether it does no harm to make the call again that ended so."""
    told = pushback(error)
    if told is not None and told < 0:
        return False
    if error.unserved:
        return True
    busy = error.code is Code.RESOURCE_EXHAUSTED and told is not None
    return idempotent and (busy or error.code is Code.UNAVAILABLE)


def pushback(error: CallError) -> float | None:
    """Return in how many seconds a server wants to be asked again; less than 0: never.

    It says so by ``retry_after`` in the details of its error; `None` if it does not.
    """
    told: Any = error.details.get("retry_after") if error.remote else None
    if isinstance(told, bool) or not isinstance(told, int | float):
        return None
    return float(told) if -inf <= told <= inf else None  # it is a number


def serves_retry(outer: CallSource | None) -> bool:
    """Whether the call that a handler serves, if one does here, is an attempt beyond the first."""
    return outer is not None and outer.header.get(":attempt", 1) != 1


def _explain(error: CallError, why: str) -> None:
    error.add_note(f"not retried: {why}")
    error.details["not_retried"] = why
