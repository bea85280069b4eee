"""How calls wait for a server: how long each does, and in which order they go on.

A call that finds no server waits, or fails fast: that is the choice of the caller, by the option
``wait_for_ready``. In gRPC, the default is to fail fast and an option of the same name waits. Here
the default is in between, so that neither the start of a client nor the restart of all servers is
an error, and an outage does not hold every call for its whole timeout.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from math import inf
from typing import NamedTuple

from rap.call import inherited_from
from rap.clock import NEVER, Clock, timer_of
from rap.errors import CallError, ResourceExhausted
from rap.misuse import OptionTypeError

__all__ = ["Outlook", "Patience", "PickQueue", "WaitForReady", "check_wait_for_ready"]

WaitForReady = bool | float | None
"""``True``: until the deadline. ``False``: not if every server has failed. A number: at most so
many seconds. ``None``: the default of `Patience`."""

_AT_LEAST = 1.0  # seconds by default, from when the call began to wait
_ROOM = 2.0  # latencies that a call leaves for its answer when it waits for a place
_LEAST_PACE, _LONGEST_PACE = 0.1, 0.5  # seconds for which the pace of a queue is measured
_STALL = 1.0  # seconds without a turn that say nothing about the pace, if turns came much faster
_FASTER = 8.0  # times
_AFTER_LOSS = 5.0  # seconds by default, from when a server was last ready


class Outlook(NamedTuple):
    """What a call without a server may hope for.

    Times are in seconds on the monotonic clock; -inf is in the past, inf not foreseeable.

    Args:
        full: Whether a server is connected, but has no place.
        failed_at: When every server will have failed: its last dial did, or there is none.
        tried_at: When every server was tried: the first dial of each has ended.
        ready_until: When a server was last ready.
        latency: Seconds that the fastest server takes for a call; 0 if it is not known.
    """

    full: bool = False
    failed_at: float = inf
    tried_at: float = inf
    ready_until: float = -inf
    latency: float = 0.0


class Patience:
    """How long one call waits for a server.

    By default, while the registry has not answered, or a server is being dialled for the first
    time, the call waits until its deadline. Otherwise it waits for one second, or until five
    seconds after a server was last ready, whichever is later: a process that is restarted in place
    is back by then.

    A call for which a connected server has no place waits as long as it can still be answered: it
    leaves twice the latency of the servers, but at most half of its time. Otherwise, in an
    overload, each call would get its place just before its deadline, so that all of them would be
    served in vain. (The gate of a server has the same rule.)

    Args:
        began: When the call began to wait, in seconds on the monotonic clock.
        deadline: Until when it waits at most, likewise; `NEVER`: no limit.
        chosen: What the caller has chosen.
        is_call: Whether `deadline` is that of a call; else it follows from `connect_timeout`.
    """

    __slots__ = ("_began", "_chosen", "_deadline", "_is_call")

    def __init__(
        self, began: float, deadline: float, chosen: WaitForReady, *, is_call: bool = True
    ) -> None:
        self._began = began
        self._deadline = deadline
        self._chosen = chosen
        self._is_call = is_call

    def until(self, outlook: Outlook) -> float:
        """Return until when the call waits if nothing changes, on the monotonic clock."""
        chosen, deadline = self._chosen, self._deadline
        if outlook.full:
            return self._latest(outlook.latency)
        if chosen is True:
            return deadline
        if chosen is None:
            after_loss = outlook.ready_until + _AFTER_LOSS
            return min(deadline, max(self._began + _AT_LEAST, after_loss, outlook.tried_at))
        if chosen is False:
            return min(deadline, max(self._began, outlook.failed_at))
        return min(deadline, self._began + chosen)

    def _latest(self, latency: float) -> float:
        """Return when a call must have a place, if servers take so many seconds for it."""
        deadline = self._deadline
        if not self._is_call or deadline == NEVER:
            return deadline
        return deadline - min(_ROOM * latency, (deadline - self._began) / 2)

    def describe(self, now: float, outlook: Outlook) -> str:
        """Return for an error how long the call has waited, and what ended that."""
        chosen = self._chosen
        limit = self._deadline
        if chosen is not None and not isinstance(chosen, bool):
            limit = min(limit, self._began + chosen)
        text = f"waited {round(max(min(now, limit) - self._began, 0.0), 3):g} s"
        if now < self._deadline:
            if outlook.full:
                return f"{text}, and an answer takes longer than the rest of its time"
            if chosen is None:
                return f"{text}; use wait_for_ready=True to wait until the deadline"
            return f"{text} (wait_for_ready={chosen!r})"
        if not self._is_call:
            return f"{text} (option connect_timeout)"
        if outer := inherited_from(self._deadline):
            return (
                f"{text} (the deadline of {outer} left no more: call that with a longer timeout=)"
            )
        return f"{text} (the timeout of the call)"


class PickQueue:
    """The queue of calls that no server can take now, in the order in which they came.

    Args:
        limit: How many calls may wait.
        clock: Source of time.

    Attributes:
        queue: Each call by its future; empty, and so false, while no call waits.
        called: Calls whose turn it is, and that have not run since.
    """

    def __init__(self, limit: int, clock: Clock) -> None:
        self.queue: OrderedDict[asyncio.Future[None], _Wait] = OrderedDict()  # removes in O(1)
        self.called = 0
        self._woken = 0.0  # calls whose turn came, for `expected_wait`
        self._woken_since = self._woken_at = clock.monotonic()  # since when, and the last one
        self._limit = limit
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._is_moved_by_hand = hasattr(clock, "call_later")

    @property
    def is_full(self) -> bool:
        """Whether as many calls wait as may."""
        return len(self.queue) >= self._limit

    def earliest(self) -> float:
        """Return until when the least patient call waits, in seconds on the monotonic clock."""
        return min((wait.until() for wait in self.queue.values()), default=NEVER)

    def expected_wait(self, now: float) -> float:
        """Return in how many seconds the turn of one more call would come; 0 if that is not known.

        While no turns come, the pace stays what it was, and the queue is expected to stand still
        for as long again.

        Args:
            now: Seconds on the monotonic clock.
        """
        if not self.queue:
            self.forget_pace(now)
            return 0.0
        if not self._woken or now - self._woken_since < _LEAST_PACE:
            return 0.0
        past = self._woken_at - self._woken_since
        wait = len(self.queue) * past / self._woken + now - self._woken_at
        if past > _LONGEST_PACE:
            self._woken /= 2
            self._woken_since += past / 2
        return wait

    def forget_pace(self, now: float) -> None:
        """Note that turns so far do not tell when the next ones come."""
        self._woken, self._woken_since, self._woken_at = 0.0, now, now

    async def wait(self, until: Callable[[], float], *, first: bool = False) -> None:
        """Return when it is this call's turn to pick again.

        Args:
            until: Returns until when the call waits, in seconds on the monotonic clock. It is asked
                again by `retime`.
            first: Whether it has waited before, and found no place: it is the next again.

        Raises:
            ResourceExhausted: Too many calls wait already.
            TimeoutError: Its turn did not come in time.
        """
        if self.is_full and not first:
            raise ResourceExhausted(
                f"{self._limit} calls wait for a server, which is max_waiting", unserved=True
            )
        turn = self._loop.create_future()
        timeout = asyncio.timeout_at(self._on_loop(until()))
        self.queue[turn] = _Wait(until, timeout)
        if self._is_moved_by_hand:
            self._retime_at(until())
        if first:
            self.queue.move_to_end(turn, last=False)
        try:
            async with timeout:
                await turn
        except BaseException:  # raised again
            if turn in self.queue:
                del self.queue[turn]
            elif turn.done() and not turn.cancelled() and turn.exception() is None:
                self.called -= 1
                self.wake()  # this call does not use its turn: pass it on
            raise
        self.called -= 1

    def _on_loop(self, until: float) -> float | None:
        """Return a time on the clock of the event loop; `None` if it never comes."""
        if until == NEVER or (self._is_moved_by_hand and until > self._clock.monotonic()):
            return None
        return self._loop.time() + max(0.0, until - self._clock.monotonic())

    def retime(self) -> None:
        """Ask for each call again how long it waits."""
        for turn, wait in self.queue.items():
            if not turn.done():
                until = wait.until()
                wait.timeout.reschedule(self._on_loop(until))
                if self._is_moved_by_hand:
                    self._retime_at(until)

    def _retime_at(self, until: float) -> None:
        """Look again at a time on a clock that is moved by hand."""
        if until != NEVER:
            later = timer_of(self._clock, self._loop)
            later(max(0.0, until - self._clock.monotonic()), self._end_waits)

    def _end_waits(self) -> None:
        for turn, wait in self.queue.items():
            if not turn.done() and wait.until() <= self._clock.monotonic():
                wait.timeout.reschedule(self._loop.time())

    def wake(self, count: int = 1, *, extra: int = 0) -> None:
        """Let the first calls in the queue go on.

        Args:
            count: How many places there are.
            extra: How many more calls go on, and wait again if they find no place.
        """
        woken = 0
        while self.queue and woken < count + extra:
            turn, _ = self.queue.popitem(last=False)
            if not turn.done():
                woken += 1
                turn.set_result(None)
        self.called += woken
        if count and woken:
            self._measure(min(count, woken), self._clock.monotonic())

    def _measure(self, woken: int, now: float) -> None:
        """Note that so many calls have left the queue."""
        stall, past = now - self._woken_at, self._woken_at - self._woken_since
        if stall > _STALL and stall * self._woken > _FASTER * past:
            self.forget_pace(now)  # what came before the stall and the stall do not tell it
        else:
            self._woken += woken
            self._woken_at = now

    def wake_all(self) -> None:
        """Let all calls go on; those that find no server wait again."""
        self.wake(len(self.queue))

    def fail(self, error: CallError) -> None:
        """Fail all calls."""
        for turn in self.queue:
            if not turn.done():
                turn.set_exception(error)
        self.queue.clear()


class _Wait(NamedTuple):
    """How long a call in the queue waits, and the timer that ends that."""

    until: Callable[[], float]
    timeout: asyncio.Timeout


def check_wait_for_ready(value: object, option: str = "wait_for_ready") -> None:
    """Check that a value says how long a call waits for a server.

    Raises:
        ValueError: It is neither a bool, nor a number of seconds of at least 0, nor `None`.
    """
    if value is None or isinstance(value, bool):
        return
    if not isinstance(value, int | float) or not 0 <= value < inf:
        kind = ValueError if isinstance(value, int | float) else OptionTypeError
        raise kind(f"{option} must be True, False, a number of seconds or None, got {value!r}")
