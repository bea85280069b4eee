"""How many calls of a function run at a time.

The gate sees only what keeps the event loop busy. An `async` function that waits, such as for a
database, keeps it idle, and may yet be asked for more than it can do: then its calls wait for each
other until their deadlines. `AdaptiveLimit` finds how many of them may run so that those are
answered in time. It costs nothing until calls of the function begin to wait.
"""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from math import inf
from typing import Any, Protocol
from weakref import WeakSet

from rap.call import PRIORITIES
from rap.errors import CallError, Code

__all__ = ["AdaptiveLimit", "FixedLimit", "Limit", "Limited", "Running", "Shares"]

_CRITICAL, _, _SHEDDABLE = range(len(PRIORITIES))
_RESERVE = 0.2  # share of a limit that sheddable calls leave to others
_RETRY_AFTER = 0.1  # seconds after which a call may find a place, if nothing better is known

_LOOK = 0.05  # seconds between two looks at what has become of calls
_WINDOW = 0.2  # seconds between two judgements
_FEW = 10  # calls; as many must be judged
_LEAST = 4  # calls that every limit allows
_MANY_GOOD = 5  # calls from which on their rate is believed
_MANY_EXPIRED = 5  # in a window, from which on a function is in trouble
_FEW_GOOD = 0.1  # share of the calls that ended
_SOME_EXPIRED = 0.05  # share of the calls that ended, under a limit
# Share of the time that they have left when they begin, which the good calls take on average.
_SLOW, _LONG, _AIM, _SHORT, _WAITS = 0.7, 0.6, 0.5, 0.45, 0.2
_GROWTH = 2.0  # times as long as usual
_LEAST_PART, _MOST_PART = 0.2, 0.5  # of a limit that is kept when calls expire
_LOWER, _RAISE, _MOST_RAISE = 0.85, 1.1, 4.0
_LEAST_SHARE = 1e-3
_PROBE, _MOST_PROBE = 1.25, 1.6  # times as many calls, to find out whether they wait
_PAUSE, _MOST_PAUSE = 2.0, 16.0  # seconds between two such trials
_QUICK = 0.1  # share of a function whose calls do not wait for each other
_QUICK_FOR = 1.0  # seconds for which they have to be quick, and none refused, to end the limit
_ROOM = 1.2  # times as many calls as are needed for the rate of good ones
_SAME = 1.15  # times the least average: the calls do not wait
_LEAST_RATE = 0.7  # of the rate before, while older calls expire
_FADE = 0.0005  # of the difference, by which the least average follows in each window
_FORGET = 60.0  # seconds without a refusal after which the limit ends
_CALM = 10.0  # seconds without an expired call after which a function is watched no more


class Limited(Protocol):
    """A call that counts towards a limit."""

    conn: Any
    deadline: float
    error: CallError | None
    is_excused: bool
    """It has waited for a server that was away: its time says nothing about the other calls."""


# A call that runs, its task, and when it began.
Running = tuple[Limited, asyncio.Task[None], float]


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


class _Window:
    """What became of calls since a moment. *Fresh* ones began after the limit was last changed.

    Args:
        now: The moment.
        running: Calls that run then.

    Attributes:
        began_at: The moment.
        running: Calls that ran then.
        good: Calls that were answered in time.
        seconds: Seconds that they took, added up.
        shares: The same as shares of the time that they had.
        fresh_good, fresh_seconds, fresh_shares: The same of the fresh ones.
        slowest: The highest share of a fresh good one.
        expired: Fresh calls that expired.
        refused: Calls that were refused.
    """

    __slots__ = (
        "began_at",
        "expired",
        "fresh_good",
        "fresh_seconds",
        "fresh_shares",
        "good",
        "refused",
        "running",
        "seconds",
        "shares",
        "slowest",
    )

    def __init__(self, now: float, running: int) -> None:
        self.began_at = now
        self.running = running
        self.good = self.fresh_good = self.expired = self.refused = 0
        self.seconds = self.shares = self.fresh_seconds = self.fresh_shares = 0.0
        self.slowest = 0.0

    def add(self, seconds: float, time: float, *, fresh: bool) -> None:
        """Count a good call that took some seconds, and had some time."""
        share = seconds / time if 0 < time < inf else 0.0
        self.good += 1
        self.seconds += seconds
        self.shares += share
        if fresh:
            self.fresh_good += 1
            self.fresh_seconds += seconds
            self.fresh_shares += share
            self.slowest = max(self.slowest, share)

    @property
    def mean(self) -> float:
        """Seconds that good calls took, those that are fresh if there are any."""
        if self.fresh_good:
            return self.fresh_seconds / self.fresh_good
        return self.seconds / self.good if self.good else inf

    @property
    def time(self) -> float:
        """Seconds that calls have."""
        return self.seconds / self.shares if self.shares else inf


class AdaptiveLimit:
    """Watches a function whose calls begin to wait, and limits how many run if they are too many.

    A connection that has less than its equal share of the calls may exceed the limit: a client with
    few calls does not lose them to one with many.

    Calls that wait for each other take as long as there are calls before them: by Little's law, the
    number that runs divided by the number that ends in a second. If this is more than 0.6 of the
    time that calls have, as many may run as end in half of it. Some more may where a call takes as
    long although it need not wait: 1.2 times as many as would then run at once.

    While more calls arrive, fewer end than have begun, although none waits. So the first limit
    comes when calls take twice as long as is usual, or after as long as a call takes. It also comes
    when calls expire of which the others take most of their time, or of which hardly any are good:
    if some calls hang and the others are quick, a limit would not help.

    Calls that have waited for another service, of which no server was there, do not count: when it
    comes back, they are answered at once.

    Calls may also take long for another reason. They do if they take as long under a higher or a
    lower limit: then it is raised. While it refuses calls, a higher limit is tried now and then.

    The limit is judged every 0.2 s by the calls that have ended. It ends where they are quick and
    none is refused.

    Args:
        clock: Returns seconds on the monotonic clock.
        running: Returns the calls of the function that run on the connection of one of them.
        usual: Seconds that calls took until they began to wait; `None`: not known.

    Attributes:
        most: Maximum number of calls; infinity while there is no limit.
    """

    reason = "limit"

    def __init__(
        self,
        clock: Callable[[], float],
        running: Callable[[Any], Iterable[Running]],
        usual: float | None = None,
    ) -> None:
        self.most = inf
        self._calls: dict[Limited, float] = {}  # when they began
        self._shares_of = Shares()
        self._conns: WeakSet[object] = WeakSet()  # those whose calls are watched
        self._running_of = running
        self._clock = clock
        now = clock()
        self._window = _Window(now, 0)
        self._look_at = now + _LOOK
        self._changed_at = self._fresh_at = -inf  # and when the first call began after that
        self._expired_at = self._refused_at = now
        self._usual = usual
        self._rate = 0.0  # good calls in a second
        self._least = inf if usual is None else usual  # seconds of calls on average, in a window
        self._latency = _RETRY_AFTER
        # To find out whether calls wait for each other: the limit before, and the seconds that they
        # took; when it may be raised for that; and how long not again if they do.
        self._trial: tuple[float, float] | None = None
        self._try_at, self._pause = now + _PAUSE, _PAUSE
        self._alone = 0  # times in a row that it was raised because they do not

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

    def watch(self, call: Limited) -> None:
        """Watch the calls that run on the connection of a call, from now on."""
        if call.conn not in self._conns:
            self._conns.add(call.conn)
            for each in self._running_of(call):
                self.enter(*each)
            if self.most == inf:
                self._window.running = self.running

    def refuses(self, call: Limited, priority: int, now: float) -> bool:
        """Return whether a call of a priority must not begin."""
        self.watch(call)
        self._look(now)
        most = _share_of(self.most, priority)
        if (
            priority == _CRITICAL
            or self.running < most
            or self._shares_of.has_room(call.conn, most)
        ):
            return False
        self._window.refused += 1
        self._refused_at = now
        return True

    def enter(self, call: Limited, task: asyncio.Task[None], now: float) -> None:
        """Watch a call until its task ends; does nothing if it is watched."""
        if call not in self._calls:
            self._calls[call] = now
            if self._fresh_at == inf and now >= self._changed_at:
                self._fresh_at = now
            self._shares_of.add(call.conn)
            task.add_done_callback(partial(self._leave, call))

    def _leave(self, call: Limited, _: asyncio.Task[None]) -> None:
        began = self._calls.pop(call)
        self._shares_of.remove(call.conn)
        now = self._clock()
        self._look(now)  # without this call: it may be the first one of many
        fresh = began >= self._changed_at
        if call.is_excused:
            return
        if call.error is None:
            self._window.add(now - began, call.deadline - began, fresh=fresh)
        elif call.error.code is Code.DEADLINE_EXCEEDED:
            self._expired_at = now
            self._window.expired += fresh

    def _look(self, now: float) -> None:
        if now >= self._look_at:
            self._look_at = now + _LOOK
            is_judged = self._judge_first(now) if self.most == inf else self._judge(now)
            if is_judged:
                self._begin_window(now)

    def _judge_first(self, now: float) -> bool:
        """Set the first limit if there must be one; return whether there was enough to judge."""
        window = self._window
        good, expired, seconds = window.good, window.expired, now - window.began_at
        if good < _FEW and seconds < _WINDOW:
            return False
        if self._calls_wait(window, seconds):
            self._lower(self._aim(window, seconds), now)
        elif expired >= _MANY_EXPIRED and (
            good < (good + expired) * _FEW_GOOD or window.shares > good * _SLOW
        ):
            needed = 0.0 if self._usual is None else (good + expired) / seconds * self._usual
            part = max(self.running * _part(good / (good + expired)), needed)
            self._lower(min(part, self.running * _MOST_PART), now)
        elif self._usual is not None and good and seconds < min(window.mean, window.time):
            return False
        return True

    def _calls_wait(self, window: _Window, seconds: float) -> bool:
        """Return whether calls wait for each other, and the next ones too long."""
        good, running = window.good, self.running
        if self._usual is None or good < _MANY_GOOD or window.shares < good * _WAITS:
            return False
        if window.mean < min(_GROWTH * self._usual, _SLOW * window.time):
            if seconds < window.mean:
                return False
            running = min(running, window.running)
        return running * seconds > (good + window.expired) * window.time * _LONG

    def _aim(self, window: _Window, seconds: float) -> float:
        """Return as many calls as end in half of the time that they have."""
        self._rate = max(window.good / seconds, self._rate * _LEAST_RATE)
        return self._rate * max(window.time * _AIM, _ROOM * min(self._least, window.mean))

    def _judge(self, now: float) -> bool:
        """Judge the limit; return whether there was enough to do so."""
        window = self._window
        good, seconds = window.fresh_good, now - window.began_at
        if seconds < _WINDOW:
            return False
        late = window.expired + self._count_late(now, window.slowest)
        ended = good + late
        is_enough = ended >= _FEW and (good >= _MANY_GOOD or late > good)
        if not is_enough and seconds < 10 * _WINDOW:
            return False
        if not good:
            if late:
                self._lower(max(self.most * _LEAST_PART, _FEW), now)
            return True
        share = (window.fresh_shares + late) / ended
        if self._trial is not None and self._is_settled(window):
            self._end_trial(*self._trial, window, now)
        is_alone = window.mean < self._least * _SAME and self._least < inf
        self._least = min(self._least, window.mean)
        self._least += (window.mean - self._least) * _FADE
        aim = self._aim(window, seconds)
        if late > ended * _SOME_EXPIRED and share > _LONG:
            self._lower(min(self.most * _LOWER, max(self.most * _part(good / ended), aim)), now)
        elif window.refused:
            share = window.mean / window.time
            if share < _SHORT or is_alone:
                if self._is_settled(window):
                    room = (_SLOW if is_alone else _AIM) / max(share, _LEAST_SHARE)
                    self._alone = self._alone + 1 if is_alone else 0
                    least = min(1.0 + (_RAISE - 1.0) * 2.0**self._alone, _MOST_PROBE)
                    self._raise(self.most * max(room, least), now)
            elif self._trial is None:
                before = self.most, window.mean
                if self.most > self._rate * window.time * _LONG:
                    self._lower(max(aim, self.most * _MOST_PART), now)
                elif now >= self._try_at:
                    self._raise(self.most * _PROBE, now)
                self._trial = before if self.most != before[0] else None
        elif share < _QUICK and now - max(self._refused_at, self._changed_at) > _QUICK_FOR:
            self.most = inf
        return True

    def _end_trial(self, most: float, mean: float, window: _Window, now: float) -> None:
        """Learn from a changed limit whether calls wait for each other.

        If they do, they take longer under a higher limit, and less long under a lower one. If they
        do not, something else makes them slow, and a limit would refuse calls without any use.

        Args:
            most: The limit before.
            mean: Seconds that calls took under that.
            window: What has become of calls since.
            now: The present time.
        """
        self._trial = None
        if abs(window.mean / mean - 1.0) < abs(self.most / most - 1.0) / 2:
            self._least = window.mean
            self._pause = _PAUSE
            return
        self._least = min(self._least, window.mean / 2 if self._usual is None else self._usual)
        self._try_at = now + self._pause
        self._pause = min(2 * self._pause, _MOST_PAUSE)
        if self.most > most:
            self._lower(most, now)

    def _is_settled(self, window: _Window) -> bool:
        """Return whether the calls of a window show how long they take under the limit.

        They do once the first calls under it have ended, or if they have ended although as many
        others as it allows have begun.
        """
        if self.running < self.most * _MOST_PART:
            return True
        return window.began_at >= self._fresh_at + max(window.mean, self.most / self._rate)

    def _count_late(self, now: float, slowest: float) -> int:
        """Return how many calls run that have taken most of their time, and more than others."""
        share = max(_SLOW, slowest)
        alone = 0.0 if self._least == inf else self._least * _SAME
        return sum(
            [
                now - began > max((call.deadline - began) * share, alone)
                for call, began in self._calls.items()
                if began >= self._changed_at and not call.is_excused
            ]
        )

    def _lower(self, most: float, now: float) -> None:
        if most < self.most:
            self.most = max(most, _LEAST)
            self._alone, self._trial = 0, None
            self._changed_at, self._fresh_at = now, inf

    def _raise(self, most: float, now: float) -> None:
        if most > self.most:
            self.most = min(most, self.most * _MOST_RAISE)
            self._trial = None
            self._changed_at, self._fresh_at = now, inf

    def _begin_window(self, now: float) -> None:
        if self._window.good:
            self._latency = self._window.mean
        self._window = _Window(now, self.running)


def _part(good: float) -> float:
    """Return the part of a limit to keep when calls expire; `good` is the share of good ones."""
    return min(max(good, _LEAST_PART), _MOST_PART)


def _share_of(most: float, priority: int) -> float:
    """Return the part of a limit that calls of a priority may use."""
    return most - int(most * _RESERVE) if priority == _SHEDDABLE and most < inf else most
