"""Time that a test moves by hand."""

import asyncio
import threading
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Any

__all__ = ["FakeClock", "FakeTimer"]

_TURNS = 16  # of the event loop after each step; a call inside the process takes about eight


class FakeTimer:
    """A call that a `FakeClock` makes at a moment, in the event loop where it was asked for."""

    __slots__ = ("_args", "_callback", "_clock", "_loop")

    def __init__(
        self,
        clock: "FakeClock",
        loop: asyncio.AbstractEventLoop,
        callback: Callable[..., object],
        args: tuple[Any, ...],
    ) -> None:
        self._clock = clock
        self._loop = loop
        self._callback: Callable[..., object] | None = callback
        self._args = args

    def cancel(self) -> None:
        """Do not make the call."""
        if self._callback is not None:
            self._callback = None
            self._clock.forget(self)

    def fire(self) -> None:
        """Make the call in the next turn of the event loop."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback(*self._args)


class FakeClock:
    """A clock that stands still until a test moves it.

    Give it to a `TestClient`, a `Fleet`, or as `clock` to a client, a server or a registry. Their
    deadlines, retries, keepalive and leases then go by it. What your code waits for with
    `asyncio.sleep` does not: let it use `sleep` of this clock. Any thread may use it.

    Args:
        monotonic: Seconds on the monotonic clock at the start.
        epoch: Seconds since the epoch at the start.
    """

    def __init__(self, monotonic: float = 1000.0, epoch: float = 1_700_000_000.0) -> None:
        self._now = monotonic
        self._epoch_offset = epoch - monotonic
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._count = 0
        self._lock = threading.RLock()

    @property
    def timers(self) -> int:
        """How many wait for time to pass."""
        with self._lock:
            return len(self._timers)

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""
        return self._now

    def time(self) -> float:
        """Return seconds since the epoch."""
        return self._now + self._epoch_offset

    async def sleep(self, seconds: float, /) -> None:
        """Return when the clock has been moved by so many seconds."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        timer = self.call_later(seconds, _wake, woken)
        try:
            await woken
        finally:
            timer.cancel()

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> FakeTimer:
        """Call a function in the running event loop when the clock has moved by `delay` seconds."""
        timer = FakeTimer(self, asyncio.get_running_loop(), callback, args)
        if delay <= 0:
            timer.fire()
            return timer
        with self._lock:
            self._count += 1
            heappush(self._timers, (self._now + delay, self._count, timer))
        return timer

    def jump(self, seconds: float) -> None:
        """Move the clock at once.

        What is due runs, in its order, when the test next awaits. It finds the clock at the end of
        the jump; `advance` stops at each moment at which something is due.

        Args:
            seconds: At least 0.
        """
        with self._lock:
            due = self._take(self._now + seconds)
            self._now += seconds
        for timer in due:
            timer.fire()

    async def advance(self, seconds: float) -> None:
        """Move the clock, stop at each moment at which something is due, and let it run there.

        It waits for no threads, sockets or other real time.

        Args:
            seconds: At least 0.
        """
        end = self._now + seconds
        await _settle()
        while True:
            with self._lock:
                when = self._timers[0][0] if self._timers else end
            step = max(min(when, end) - self._now, 0.0)
            self.jump(step)
            await _settle()
            if when >= end:
                break
        with self._lock:
            self._now = max(self._now, end)

    def forget(self, timer: FakeTimer) -> None:
        """Drop a timer that was cancelled."""
        with self._lock:
            left = [each for each in self._timers if each[2] is not timer]
            if len(left) < len(self._timers):
                self._timers = left
                heapify(self._timers)

    def _take(self, until: float) -> list[FakeTimer]:
        due = []
        while self._timers and self._timers[0][0] <= until:
            due.append(heappop(self._timers)[2])
        return due


def _wake(woken: "asyncio.Future[None]") -> None:
    if not woken.done():
        woken.set_result(None)


async def _settle() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)
