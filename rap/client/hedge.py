"""When a call is sent a second time before it was answered, and how often, without I/O.

After Dean and Barroso, "The Tail at Scale" (2013): a second copy of those calls that have waited
longer than 95 % do shortens the tail, and is only a few per cent more load. How long that is tells
a histogram like that of DDSketch (Masson, Rim and Lee, 2019) of how long calls took lately: its
buckets grow by a constant factor, so that it is right within 5 % whatever the scale.
"""

from collections import Counter
from itertools import accumulate
from math import ceil, exp, inf, log

from rap.deadline import check_timeout
from rap.options import check_flag

__all__ = ["Hedge", "RollingQuantile", "check_options"]

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
