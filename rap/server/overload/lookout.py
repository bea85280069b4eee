"""Finds functions whose calls begin to wait, before any of them expires.

To watch every call would burden the hot path. So one call in each slice of the gate is a sample:
about a hundred calls in a second, of all functions together. A function whose samples one after
another still run after a fifth of the time that their callers allow, and after twice as long as
usual, is watched; `rap.server.overload.limits` has what follows.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Generic, Protocol, TypeVar

__all__ = ["Lookout", "Sampled"]

_SLOW, _MOST_SLOW = 0.2, 0.75  # shares of the time that a caller allows
_GROWTH = 2.0  # times as long as usual
_IN_A_ROW = 2  # slow samples
_MEMORY = 64  # samples whose average is kept
_OFTEN = 0.6  # share of the samples from which on slow ones are usual
_MOST = 16  # samples of a function at a time
_MOST_FUNCTIONS = 1024


class Sampled(Protocol):
    """A call that may be a sample."""

    deadline: float
    is_excused: bool
    """It has waited for a server that was away: its time says nothing about the other calls."""

    @property
    def error(self) -> object:
        """How it has ended before its handler did; `None`: it has not."""
        ...

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The task that runs it; `None`: it has not begun, or has ended."""
        ...

    @property
    def method(self) -> str:
        """The function, as ``/group/name``."""
        ...


S = TypeVar("S", bound=Sampled)


class _Sample(Generic[S]):
    __slots__ = ("began", "call", "slow_at")

    def __init__(self, call: S, began: float, usual: float) -> None:
        time = call.deadline - began
        self.call: S | None = call  # until it ends
        self.began = began
        self.slow_at = began + max(time * _SLOW, min(usual * _GROWTH, time * _MOST_SLOW))


class _Function(Generic[S]):
    """The samples of a function.

    Attributes:
        open: Those that are not judged, in order.
        ended: Samples that have been answered.
        usual: Seconds that they took on average.
        slow: Share of them that is slow.
        in_a_row: Slow ones since the last one that was not.
    """

    __slots__ = ("_judged", "ended", "in_a_row", "open", "slow", "usual")

    def __init__(self) -> None:
        self.open: deque[_Sample[S]] = deque()
        self.usual = 0.0
        self.slow = 0.0
        self.in_a_row = 0
        self.ended = self._judged = 0

    def end(self, seconds: float) -> None:
        """Count a sample that has been answered."""
        self.ended = min(self.ended + 1, _MEMORY)
        self.usual += (seconds - self.usual) / self.ended

    def judge(self, *, slow: bool) -> bool:
        """Count a sample; return whether too many are slow, which is not usual."""
        self.in_a_row = self.in_a_row + 1 if slow else 0
        found = self.in_a_row >= _IN_A_ROW and self.slow < _OFTEN
        self._judged = min(self._judged + 1, _MEMORY)
        self.slow += (slow - self.slow) / self._judged
        return found


class Lookout(Generic[S]):
    """Takes samples of calls, and tells which functions have calls that wait.

    Args:
        clock: Returns seconds on the monotonic clock.
        call_soon: Calls a function in the next turn of the event loop.
        on_slow: Called with a call of such a function.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        call_soon: Callable[..., object],
        on_slow: Callable[[S], object],
    ) -> None:
        self._clock = clock
        self._call_soon = call_soon
        self._on_slow = on_slow
        self._functions: dict[str, _Function[S]] = {}

    def __len__(self) -> int:
        """Return the number of functions of which it has samples."""
        return len(self._functions)

    def add(self, call: S, now: float) -> None:
        """Take a call that is about to begin as a sample."""
        function = self._functions.get(call.method)
        if function is None:
            if len(self._functions) >= _MOST_FUNCTIONS:
                self._functions.clear()
            function = self._functions[call.method] = _Function()
        slow = self._judge(function, now)
        if len(function.open) < _MOST and call.deadline < inf:
            sample = _Sample(call, now, function.usual)
            function.open.append(sample)
            self._call_soon(self._begin, function, sample)
        if slow is not None:
            self._on_slow(slow)

    def usual(self, method: str) -> float | None:
        """Return the seconds that calls of a function take usually; `None` if that is unknown."""
        function = self._functions.get(method)
        return None if function is None or not function.ended else function.usual

    def _begin(self, function: _Function[S], sample: _Sample[S]) -> None:
        """Notice the end of a sample, unless it has ended already."""
        call = sample.call
        task = None if call is None else call.task
        if task is None or task.done():
            self._end(function, sample)
        else:
            task.add_done_callback(partial(self._end, function, sample))

    def _end(self, function: _Function[S], sample: _Sample[S], _: object = None) -> None:
        call, sample.call = sample.call, None
        if call is not None and call.error is None and not call.is_excused:
            function.end(self._clock() - sample.began)

    def _judge(self, function: _Function[S], now: float) -> S | None:
        """Judge the samples that are due; return one that is slow if the function is to watch."""
        found, samples = None, function.open
        while samples:
            call = samples[0].call
            still_runs = call is not None and not call.is_excused
            if still_runs and now < samples[0].slow_at:
                break
            samples.popleft()
            if function.judge(slow=still_runs):
                found = call
        return found
