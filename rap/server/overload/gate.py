"""Begins calls in slices of the event loop's time.

A server that begins every call that has arrived begins them all too late when there are too many:
its loop runs handlers for seconds before it reads its sockets again, so each call is past its
deadline when its turn comes. The gate begins about 10 ms of work in one turn of the loop. The rest
waits in a queue of its connection, and connections have equal shares of the time, so a client with
few or quick calls does not wait behind one with many or slow ones.

How many calls are 10 ms of work is learned from how long turns of the loop take. While calls wait,
each turn is a sample. Otherwise one turn per slice is measured.

The deadline of a call says how long its caller would wait. A call is refused as soon as its wait
will take more than half of that, because the caller can then still ask another server. There is no
other target: a burst of calls with much time is served in full.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import repeat
from math import inf
from operator import length_hint
from typing import Any, Generic, Protocol, TypeVar

from rap.call import PRIORITIES
from rap.clock import Clock

__all__ = ["Gate", "Line", "Waiting"]

_SLICE = 0.01  # seconds of work that are begun in one turn of the loop
_SHORTEST_SLICE = 0.001
_SLICE_SHARE = 0.1  # of the time that the caller of a waiting call allows
_SHORTEST_KEPT = 0.05  # seconds for which the shortest of these times counts at least
_FIRST_COST = _SLICE / 8  # seconds that a call takes until the first one is measured
_MOST = 1024  # calls of one slice
_LEAST_COST = _SLICE / _MOST
_MOST_COST = 1.0
_RISE = 0.5  # of the difference, when a call costs more than was thought
_SINK = 0.1  # the same when it costs less
_LEAST_WORK = 0.25  # share of a turn that is not reading; what reads in two places counts as less
_MEMORY = 0.25  # seconds over which the cost and the pace of waiting calls are averaged
_PAUSE = 0.001  # seconds for which the loop may be idle when no call can begin yet
_LEAST_TURN = 1e-5  # seconds; the clock of a test may stand still
_FASTER = 2.0  # calls that begin in the time in which so far one was served
_MEASURED = 2 * _SLICE  # seconds of measuring before a wait is predicted
_LEARN = 0.1  # of the difference, when a call of a connection costs more than was thought
_LEARN_LESS = 0.3  # the same if it costs less
_MOST_GROWTH = 4.0  # times as much, which is believed at once
_SPARE_LINES = 64  # of connections without calls that are kept
_PATIENCE = 0.5  # share of its time that a call may wait, by the prediction when it arrives
_LATEST = 0.75  # share of its time at which it is begun at the latest
_MAX_WAITING = 16_384  # calls that wait, when one without a deadline arrives


class Waiting(Protocol):
    """A call that may have to wait."""

    conn: Any
    deadline: float

    def set_line(self, line: "Line[Any] | None") -> None:
        """Take the queue in which the call waits; it must be removed there if it ends."""
        ...


W = TypeVar("W", bound=Waiting)


class Line(Generic[W]):
    """The waiting calls of one connection and one priority, in order of arrival.

    Args:
        level: All calls of the priority.
        cost: Seconds that a call takes, until calls of the connection were measured.

    Attributes:
        calls: The flags of its Open and its time of arrival, by call.
        cost: Seconds that a call of the connection takes.
        tag: Virtual time until which the connection has had its share.
    """

    __slots__ = ("_level", "calls", "cost", "tag")

    def __init__(self, level: "_Level[W]", cost: float) -> None:
        self.calls: OrderedDict[W, tuple[int, float]] = OrderedDict()
        self.cost = cost
        self.tag = level.time
        self._level = level

    def remove(self, call: W) -> None:
        """Forget a call that has ended while it waited."""
        del self.calls[call]
        self._level.leave(self)

    def charge(self, paid: float, cost: float) -> None:
        """Learn from a call that has begun.

        Args:
            paid: Seconds that it was thought to take.
            cost: Seconds that it has taken.
        """
        self.tag += cost - paid
        before, self.cost = self.cost, _learned(self.cost, cost)
        self._level.backlog += (self.cost - before) * len(self.calls)


class _Level(Generic[W]):
    """The waiting calls of one priority.

    Connections share the time of the event loop, not the number of calls: the next call is of the
    connection that has had the least time (start-time fair queueing; Goyal, Vin and Cheng, 1996).
    A connection that had no calls for a while has not saved time for later.

    Attributes:
        count: Number of calls.
        backlog: Seconds that they take.
        busy: Number of connections that have calls.
        lines: Their queues, by connection; and those of connections that had calls before.
        time: Virtual time: how much each connection with calls has had so far.
    """

    __slots__ = ("_number", "_turns", "backlog", "busy", "count", "lines", "time")

    def __init__(self) -> None:
        self.count = self.busy = 0
        self.backlog = 0.0
        self.lines: dict[Any, Line[W]] = {}
        self.time = 0.0
        self._turns: list[tuple[float, int, Line[W]]] = []  # a heap of those with calls
        self._number = 0

    def add(self, call: W, flags: int, now: float, cost: float) -> None:
        """Append a call to the queue of its connection.

        Args:
            call: The call.
            flags: Flags of its Open.
            now: Seconds on the monotonic clock.
            cost: Seconds that calls take, if the connection is new.
        """
        line = self.lines.get(call.conn)
        if line is None:
            if len(self.lines) > _SPARE_LINES + 2 * self.busy:
                self._forget_lines()
            line = self.lines[call.conn] = Line(self, cost)
        if not line.calls:
            self.busy += 1
            line.tag = max(line.tag, self.time)
            self._push(line)
        line.calls[call] = (flags, now)
        self.count += 1
        self.backlog += line.cost
        call.set_line(line)

    def leave(self, line: Line[W]) -> None:
        """Count a call less, which has left its queue."""
        self.count -= 1
        self.backlog = self.backlog - line.cost if self.count else 0.0
        self.busy -= not line.calls

    def ahead(self, conn: Any) -> float:
        """Return the seconds of calls that begin before the next one of a connection."""
        line = self.lines.get(conn)
        if line is None:
            return 0.0
        share = max(line.tag - self.time, 0.0) + len(line.calls) * line.cost
        return min(self.backlog, share * max(self.busy, 1))

    def take(self) -> tuple[W, int, float, Line[W]] | None:
        """Return the next call, its flags, its time of arrival, and the queue where it waited."""
        turns = self._turns
        while turns:
            tag, _, line = heappop(turns)
            if not line.calls:  # they have ended
                continue
            if tag < line.tag:  # its calls have taken longer than was thought
                self._push(line)
                continue
            self.time = max(self.time, tag)
            call, (flags, arrived) = line.calls.popitem(last=False)
            self.leave(line)
            line.tag += line.cost
            if line.calls:
                self._push(line)
            call.set_line(None)
            return call, flags, arrived, line
        return None

    def clear(self) -> None:
        """Forget what connections have had; none has calls."""
        self.lines.clear()
        self._turns.clear()
        self.time = 0.0

    def _push(self, line: Line[W]) -> None:
        self._number += 1
        heappush(self._turns, (line.tag, self._number, line))

    def _forget_lines(self) -> None:
        """Forget connections without calls that have had no more time than others."""
        self.lines = {
            conn: line for conn, line in self.lines.items() if line.calls or line.tag > self.time
        }


class Gate(Generic[W]):
    """Decides when the calls of a server begin.

    A call that finds room costs little: its caller takes an element of `room`. It calls `hold` if
    there is none, or if it is `until` or later.

    Args:
        begin: Begins a call that has waited: call, flags. It must not raise for a bad call.
        refuse: Refuses a call: call, priority, why, seconds that it would have waited.
        clock: Source of time.
        loop: The event loop of the server.
        is_on: Whether calls ever wait.
        sample: Called with one call of each slice, before it begins, and the time.

    Attributes:
        room: Has one `True` for each call that may begin before `hold` is to be asked.
        until: When it is to be asked at the latest, in seconds on the monotonic clock.
        waited: Seconds that all calls that began after a wait have waited.
        delay: Seconds that the last of them has waited; 0 while no call waits.
    """

    __slots__ = (
        "_began_draining",
        "_begin",
        "_begun_at_turn",
        "_begun_before",
        "_call_later",
        "_call_soon",
        "_calls",
        "_clock",
        "_cost",
        "_drain_begun",
        "_drained_at",
        "_first_arrival",
        "_full",
        "_granted",
        "_held",
        "_in_turn",
        "_is_draining",
        "_is_on",
        "_last_arrival",
        "_levels",
        "_mean",
        "_pause",
        "_probe",
        "_progress_at",
        "_reading",
        "_refuse",
        "_sample",
        "_saved",
        "_shortest",
        "_shortest_at",
        "_shortest_before",
        "_spent",
        "_stamped_at",
        "_stamps",
        "_time",
        "_work",
        "delay",
        "room",
        "until",
        "waited",
    )

    def __init__(
        self,
        begin: Callable[[W, int], None],
        refuse: Callable[[W, int, str, float], None],
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        *,
        is_on: bool = True,
        sample: Callable[[W, float], object] | None = None,
    ) -> None:
        self.room = _room(0)
        self.until = -inf
        self.waited = 0.0
        self.delay = 0.0
        self._begin = begin
        self._refuse = refuse
        self._clock = clock.monotonic
        self._call_soon = loop.call_soon
        self._call_later = loop.call_later
        self._is_on = is_on
        self._sample = sample
        self._levels: tuple[_Level[W], ...] = tuple(_Level() for _ in PRIORITIES)
        self._cost = _FIRST_COST
        self._begun_at_turn = 0  # calls that had begun when the loop turned last
        self._granted = 0  # elements that `room` has had so far
        self._in_turn = False  # the loop has not turned since `room` was made
        self._probe = (0.0, 0, 0)  # when it began, calls begun then, and before
        # While calls wait:
        self._is_draining = False
        self._held = False  # a call had to wait since the last drain
        self._began_draining = self._drained_at = self._progress_at = 0.0
        self._drain_begun = 0  # calls that the last drain has begun
        self._begun_before = 0  # calls that had begun without a wait by then
        self._reading = 0.0  # seconds of reading calls since
        self._first_arrival = self._last_arrival = 0.0  # in this phase of reading
        # A connection and a priority, seconds that a call has that is refused there, and those that
        # it would wait: so are the next ones, until calls begin.
        self._full: tuple[Any, int, float, float] | None = None
        # Of all turns, with exponential decay: seconds, those without reading, and calls.
        self._time = self._work = self._calls = 0.0
        self._mean = self._cost  # seconds that the calls of all connections take
        self._pause = 0.0  # seconds for which the loop could be idle before the next drain
        self._saved = 0.0  # seconds of work that may begin for the time that has passed
        self._stamped_at = 0.0  # when the last call was measured that has begun
        self._stamps = self._spent = 0.0  # seconds of these calls: since the last drain, and of all
        self._shortest = self._shortest_before = inf  # seconds that callers allow
        self._shortest_at = 0.0

    @property
    def waiting(self) -> int:
        """Number of calls that wait."""
        return sum([level.count for level in self._levels])

    @property
    def known(self) -> int:
        """Number of connections whose share of the time is known."""
        return sum([len(level.lines) for level in self._levels])

    @property
    def slice(self) -> float:
        """Seconds of work that are begun in one turn of the loop."""
        shortest = min(self._shortest, self._shortest_before)
        return max(_SHORTEST_SLICE, min(_SLICE, shortest * _SLICE_SHARE))

    def hold(self, call: W, flags: int, priority: int, now: float | None = None) -> bool:
        """Return whether a call that has arrived waits or is refused, and must not begin now.

        Args:
            call: The call.
            flags: Flags of its Open.
            priority: Index in `rap.call.PRIORITIES`; the highest begins first.
            now: Seconds on the monotonic clock, if they are known.
        """
        if not self._is_on:
            self.room, self.until = repeat(True), inf
            return False
        if now is None:
            now = self._clock()
        if not self._is_draining:
            if not self._in_turn:
                self._renew(now)
                next(self.room)
                if self._sample is not None:
                    self._sample(call, now)
                return False
            self._start_draining(now)
        self._held = True
        if not self._first_arrival:
            self._first_arrival = now
        self._last_arrival = now
        time = call.deadline - now
        full = self._full
        if full is not None and full[0] is call.conn and full[1] == priority and time <= full[2]:
            self._refuse(call, priority, "queue", full[3])
            return True
        wait = self._expected_wait(call.conn, priority)
        if wait > time * _PATIENCE or (time == inf and self.waiting >= _MAX_WAITING):
            if time < inf:
                self._full = (call.conn, priority, time, wait)
            self._refuse(call, priority, "queue", wait)
            return True
        if time < self._shortest:
            self._shortest = time
        self._levels[priority].add(call, flags, now, self._mean)
        return True

    def _renew(self, now: float) -> None:
        """Begin a slice, and measure the next turn of the loop."""
        self._make_room(max(1, int(_SLICE / self._cost)))
        self.until = now + _SLICE
        self._watch_turn()

    def _make_room(self, count: int) -> None:
        self._granted = self._begun + count
        self.room = _room(count)

    @property
    def _begun(self) -> int:
        """Number of calls that have begun without a wait."""
        return self._granted - length_hint(self.room)

    def _watch_turn(self) -> None:
        self._in_turn = True
        self._begun_at_turn = self._begun
        self._call_soon(self._begin_probe)

    def _begin_probe(self) -> None:
        """Note when the turn begins in which the calls run that were begun in the last one."""
        self._in_turn = False
        if not self._is_draining:
            self._probe = (self._clock(), self._begun, self._begun_at_turn)
            self._call_soon(self._end_probe)

    def _end_probe(self) -> None:
        if not self._is_draining:
            began, begun, before = self._probe
            calls = max(begun - before, self._begun - begun)
            if calls:
                self._learn((self._clock() - began) / calls)

    def _learn(self, cost: float) -> None:
        more = cost - self._cost
        self._cost = max(self._cost + more * (_RISE if more > 0 else _SINK), _LEAST_COST)

    # While calls wait.

    def _start_draining(self, now: float) -> None:
        self._is_draining = True
        self._began_draining = now
        self._make_room(0)
        self.until = inf
        self._drained_at = self._progress_at = now
        self._drain_begun = 0
        self._begun_before = self._begun_at_turn  # they run in the next turn
        self._reading = self._first_arrival = self._last_arrival = 0.0
        self._time = self._work = _SLICE
        self._mean = self._cost
        self._calls = _SLICE / self._cost
        self._saved = self._pause = 0.0
        self._shortest = self._shortest_before = inf
        self._shortest_at = now
        self._call_soon(self._before_drain)

    def _expected_wait(self, conn: Any, priority: int) -> float:
        """Return how many seconds a call will wait; 0 if that cannot be known yet."""
        if self._drained_at - self._began_draining < _MEASURED:
            return 0.0
        levels = self._levels
        ahead = levels[priority].ahead(conn)
        while priority:  # those of a higher priority begin before
            priority -= 1
            ahead += levels[priority].backlog
        return ahead / self._mean * self._time / max(self._calls, 1e-9)

    def _count_reading(self) -> None:
        self._reading += self._last_arrival - self._first_arrival
        self._first_arrival = self._last_arrival = 0.0

    def _before_drain(self) -> None:
        """Let the loop read what has arrived while calls ran: it may end calls that wait."""
        self._count_reading()
        self._call_soon(self._drain)

    def _drain(self) -> None:
        """Begin the calls of one slice."""
        now = self._clock()
        self._count_reading()
        self._measure(now)
        if not self._held and not self.waiting:
            self._is_draining = False
            self._full = None
            self.delay = 0.0
            for level in self._levels:
                level.clear()
            self._renew(now)
            return
        self._held = False
        self._full = None
        length = self.slice
        left = budget = self._afford(now, length)
        end = now + length
        begun = 0
        self._make_room(0)
        self._call_soon(self._stamp)
        try:
            while left > 0.0:
                call = self._next(now)
                if call is None:
                    break
                line, before = call[2], now
                if not begun and self._sample is not None:
                    self._sample(call[0], now)
                begun += 1
                paid = line.cost
                left -= paid / self._mean * self._cost
                self._begin(call[0], call[1])
                now = self._clock()
                self._call_soon(self._stamp, line, paid, now - before)
                if now >= end:  # handlers have run already
                    break
        finally:
            self._drain_begun = begun
            self._saved -= budget - left
            if not self.waiting:
                self._make_room(int(max(left, 0.0) / self._cost))
            if budget > 0.0:
                self._pause = 0.0
                self._call_soon(self._before_drain)
            else:
                self._pause = _PAUSE
                self._call_later(_PAUSE, self._before_drain)

    def _measure(self, now: float) -> None:
        """Learn from the calls that have begun since the last drain."""
        spent, begun = now - self._drained_at, self._begun - self._begun_before + self._drain_begun
        # The process may not have run for a while, which does not justify refusing the next calls.
        spent = min(spent, max(begun * self._cost * _MOST_GROWTH, _MEASURED))
        self._drained_at = now
        self._begun_before = self._begun
        keep = max(0.0, 1.0 - spent / _MEMORY)
        busy = max(spent - self._pause, 0.0)
        work = max(busy - self._reading, busy * _LEAST_WORK)
        self._reading = 0.0
        self._time = self._time * keep + spent
        self._work = self._work * keep + work
        self._spent = self._spent * keep + self._stamps
        self._stamps = 0.0
        self._calls = self._calls * keep + begun
        if self._calls > 1e-9:
            self._cost = min(max(self._work / self._calls, _LEAST_COST), _MOST_COST)
        self._saved += max(spent, self._pause, _LEAST_TURN) * _FASTER
        if now - self._shortest_at >= _SHORTEST_KEPT:
            self._shortest_at = now
            self._shortest_before, self._shortest = self._shortest, inf

    def _afford(self, now: float, length: float) -> float:
        """Return how many seconds of work may begin now.

        A turn is short if calls only begin to wait for something in it, and their work comes later.
        So no more work begins than the time that has passed is worth, with some more in case that
        the loop could do more. One call begins in each slice, whatever else the loop does.
        """
        self._saved = min(self._saved, max(length, self._cost))
        if self._saved <= 0.0 and now - self._progress_at >= length:
            self._saved = self._cost
        if self._saved > 0.0:
            self._progress_at = now
        return self._saved

    def _stamp(self, line: Line[W] | None = None, paid: float = 0.0, before: float = 0.0) -> None:
        """Measure the first step of a call; this runs right after it.

        Args:
            line: The queue in which it waited; `None`: the first call of a drain comes next.
            paid: Seconds that it was thought to take.
            before: Seconds that it took to begin it.
        """
        now = self._clock()
        if line is not None:
            spent = before + now - self._stamped_at
            self._stamps += spent
            # What else calls take, such as to read and to answer them, all have alike.
            rest = max(self._work - self._spent, 0.0) / max(self._calls, 1.0)
            self._mean = _learned(self._mean, spent + rest)
            line.charge(paid, spent + rest)
        self._stamped_at = now

    def _next(self, now: float) -> tuple[W, int, Line[W]] | None:
        """Return the next call that is in time, its flags and its queue; refuse late ones."""
        for priority, level in enumerate(self._levels):
            while level.count:
                found = level.take()
                if found is None:
                    break
                call, flags, arrived, line = found
                deadline = call.deadline
                latest = arrived + (deadline - arrived) * _LATEST - self.slice
                if now > latest and now > arrived:
                    self._refuse(call, priority, "late", now - arrived)
                    continue
                self.delay = now - arrived
                self.waited += self.delay
                return call, flags, line
        return None


def _learned(cost: float, sample: float) -> float:
    """Return the average of seconds with one more sample."""
    more = min(sample, cost * _MOST_GROWTH) - cost
    return cost + more * (_LEARN if more > 0 else _LEARN_LESS)


def _room(count: int) -> Iterator[bool]:
    return repeat(True, count)
