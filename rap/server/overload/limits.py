"""How many calls of a function run at a time.

The gate sees only what keeps the event loop busy. An `async` function that waits, such as for a
database, keeps it idle, and may yet be asked for more than it can do: then its calls wait for each
other until their deadlines. `AdaptiveLimit` finds how many of them may run so that those are
answered in time. It costs nothing until calls of the function expire.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any, Protocol

from rap.call import PRIORITIES
from rap.errors import CallError, Code

__all__ = ["AdaptiveLimit", "FixedLimit", "Limit", "Limited", "Shares"]

_CRITICAL, _, _SHEDDABLE = range(len(PRIORITIES))
_RESERVE = 0.2  # share of a limit that sheddable calls leave to others
_RETRY_AFTER = 0.1  # seconds after which a call may find a place, if nothing better is known

_WINDOW = 0.2  # seconds between two judgements
_FIRST_WINDOW = 0.05  # before the first limit: enough calls may have ended by then
_FEW = 10  # calls; as many must run at a time, and be judged
_MANY_EXPIRED = 5  # in a window, from which on a function is in trouble
_FEW_GOOD = 0.1  # share of the calls that ended
_SOME_EXPIRED = 0.05  # share of the calls that ended, under a limit
# Share of the time that they have left when they begin, which the good calls take on average.
_SLOW, _LONG, _SHORT = 0.7, 0.6, 0.45
_LEAST_PART, _MOST_PART = 0.2, 0.5  # of a limit that is kept when calls expire
_LOWER, _RAISE, _MOST_RAISE = 0.85, 1.1, 4.0
_AIM = 0.8 * _SHORT  # share that a limit may bring, as calls that wait for each other take longer
_QUICK = 0.1  # share of a function whose calls do not wait for each other
_QUICK_FOR = 1.0  # seconds for which they have to be quick, and none refused, to end the limit
_ROOM = 1.2  # times as many calls as are needed for the rate of good ones
_FORGET = 60.0  # seconds without a refusal after which the limit ends
_CALM = 10.0  # seconds without an expired call after which a function is watched no more


class Limited(Protocol):
    """A call that counts towards a limit."""

    conn: Any
    deadline: float
    error: CallError | None
    is_excused: bool
    """It has waited for a server that was away: its time says nothing about the other calls."""


class Limit(Protocol):
    """How many calls may run at a time."""

    @property
    def reason(self) -> str:
        """Why a call is refused, for its error and for metrics."""
        ...

    def refuses(self, call: Limited, priority: int, now: float) -> bool:
        """Return whether a call of a priority must not begin."""
        ...

    def enter(self, call: Limited, task: asyncio.Task[None], now: float) -> None:
        """Count a call until its task ends."""
        ...

    @property
    def retry_after(self) -> float:
        """Seconds after which a refused call may find a place."""
        ...


class Shares:
    """How many calls of each connection there are, so that a client with few of them keeps them."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[Any, int] = {}

    def add(self, conn: Any) -> None:
        """Count a call of a connection."""
        self._counts[conn] = self._counts.get(conn, 0) + 1

    def remove(self, conn: Any) -> None:
        """Undo one `add`."""
        count = self._counts[conn] - 1
        if count:
            self._counts[conn] = count
        else:
            del self._counts[conn]

    def has_room(self, conn: Any, most: float) -> bool:
        """Return whether a connection has fewer calls than its equal share of `most`."""
        count = self._counts.get(conn, 0)
        connections = len(self._counts) + (not count)
        return count * connections < most and connections > 1


class FixedLimit:
    """A limit that the application has set.

    Args:
        most: Maximum number of calls.
        spares_critical: Whether critical calls may exceed it.

    Attributes:
        most: Maximum number of calls.
        running: Number of calls that run.
    """

    reason = "max_concurrency"
    retry_after = _RETRY_AFTER

    def __init__(self, most: int, *, spares_critical: bool = False) -> None:
        self.most = most
        self.running = 0
        self._spares_critical = spares_critical

    def refuses(self, call: Limited, priority: int, now: float) -> bool:
        """Return whether a call of a priority must not begin."""
        if priority == _CRITICAL and self._spares_critical:
            return False
        return self.running >= _share_of(self.most, priority)

    def enter(self, call: Limited, task: asyncio.Task[None], now: float) -> None:
        """Count a call until its task ends."""
        self.running += 1
        task.add_done_callback(self._leave)  # the task may be cancelled before it runs

    def _leave(self, _: asyncio.Task[None]) -> None:
        self.running -= 1


class AdaptiveLimit:
    """Watches a function whose calls expire, and limits how many run if they are too many.

    A connection that has less than its equal share of the calls may exceed the limit: a client with
    few calls does not lose them to one with many.

    The limit is judged every 0.2 s by the calls that have ended, and that began after it was last
    lowered. There is none until good calls, which were answered in time, take most of their time,
    or hardly any call is good: if some calls hang and the others are quick, it would help nobody.
    Calls that have waited for another service, of which no server was there, do not count: when it
    comes back, they are answered at once.

    The time of calls that wait for each other grows at most as the limit does. So a limit under
    which they are quick is raised at once to what keeps them in time. It ends where they are quick
    and none is refused.

    Args:
        clock: Returns seconds on the monotonic clock.

    Attributes:
        most: Maximum number of calls; infinity while there is no limit.
    """

    reason = "limit"

    def __init__(self, clock: Callable[[], float]) -> None:
        self.most = inf
        self._calls: dict[Limited, float] = {}  # when they began
        self._shares_of = Shares()
        self._clock = clock
        now = clock()
        self._began_at = now  # the window
        self._lowered_at = -inf
        self._expired_at = self._refused_at = now
        self._good = self._expired = self._refused = 0  # in the window
        self._shares = self._seconds = 0.0  # of the good ones, added up
        self._latency = _RETRY_AFTER

    @property
    def is_needed(self) -> bool:
        """Whether the function is in trouble, or was not long ago."""
        now = self._clock()
        if self.most < inf:
            return now - self._refused_at < _FORGET
        return now - self._expired_at < _CALM

    @property
    def running(self) -> int:
        """Number of calls that run, of those that are known."""
        return len(self._calls)

    @property
    def retry_after(self) -> float:
        """Seconds that good calls take."""
        return self._latency

    def refuses(self, call: Limited, priority: int, now: float) -> bool:
        """Return whether a call of a priority must not begin."""
        most = _share_of(self.most, priority)
        if (
            priority == _CRITICAL
            or self.running < most
            or self._shares_of.has_room(call.conn, most)
        ):
            return False
        self._refused += 1
        self._refused_at = now
        return True

    def enter(self, call: Limited, task: asyncio.Task[None], now: float) -> None:
        """Watch a call until its task ends; does nothing if it is watched."""
        if call not in self._calls:
            self._calls[call] = now
            self._shares_of.add(call.conn)
            task.add_done_callback(partial(self._leave, call))

    def _leave(self, call: Limited, _: asyncio.Task[None]) -> None:
        began = self._calls.pop(call)
        self._shares_of.remove(call.conn)
        now = self._clock()
        if began >= self._lowered_at and not call.is_excused:
            time = call.deadline - began
            if call.error is None:
                self._good += 1
                self._seconds += now - began
                self._shares += (now - began) / time if 0 < time < inf else 0.0
            elif call.error.code is Code.DEADLINE_EXCEEDED:
                self._count_expired(now)
        if now - self._began_at >= (_FIRST_WINDOW if self.most == inf else _WINDOW):
            self._judge(now)

    def _count_expired(self, now: float) -> None:
        self._expired += 1
        self._expired_at = now

    def _judge(self, now: float) -> None:
        good, expired = self._good, self._expired
        ended = good + expired
        if self.most == inf:
            enough = good >= _FEW or now - self._began_at >= _WINDOW
            if expired >= _MANY_EXPIRED and enough:
                if good < ended * _FEW_GOOD or self._shares > good * _SLOW:
                    self._lower(self.running * _part(good / ended), now)
                self._begin_window(now)
            elif now - self._began_at >= _WINDOW:
                self._begin_window(now)
            return
        late = expired + self._count_late(now)  # the others would say too early that all is well
        ended = good + late
        if ended < _FEW and now - self._began_at < 10 * _WINDOW:
            return
        share = (self._shares + late) / ended if ended else 1.0
        if late > ended * _SOME_EXPIRED and share > _LONG:
            self._lower(self.most * _part(good / ended), now)
        elif good and share > _LONG:
            rate = good / (now - self._began_at)
            needed = _ROOM * rate * self._seconds / good
            self._lower(max(self.most * _LOWER, needed), now)
        elif self._refused and share < _SHORT:
            factor = _AIM / share if share else _MOST_RAISE
            self.most = self.most * min(max(_RAISE, factor), _MOST_RAISE)
        elif good and share < _QUICK and now - max(self._refused_at, self._lowered_at) > _QUICK_FOR:
            self.most = inf
        self._begin_window(now)

    def _count_late(self, now: float) -> int:
        """Return how many calls run that have taken most of their time."""
        return sum(
            [
                now - began > (call.deadline - began) * _SLOW
                for call, began in self._calls.items()
                if began >= self._lowered_at and not call.is_excused
            ]
        )

    def _lower(self, most: float, now: float) -> None:
        self.most = max(min(most, self.most), _FEW)
        self._lowered_at = now

    def _begin_window(self, now: float) -> None:
        if self._good:
            self._latency = self._seconds / self._good
        self._began_at = now
        self._good = self._expired = self._refused = 0
        self._shares = self._seconds = 0.0


def _part(good: float) -> float:
    """Return the part of a limit to keep when calls expire; `good` is the share of good ones."""
    return min(max(good, _LEAST_PART), _MOST_PART)


def _share_of(most: float, priority: int) -> float:
    """Return the part of a limit that calls of a priority may use."""
    return most - int(most * _RESERVE) if priority == _SHEDDABLE and most < inf else most
