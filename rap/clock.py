"""Time, deadlines and randomness, which are injected.

Anything that waits, expires or samples takes a `Clock` or a `random.Random`.
"""

import asyncio
import os
import random
import time as _time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from math import inf
from typing import Protocol, cast

from rap.misuse import OptionTypeError

__all__ = [
    "LEAST_DELAY",
    "MAX_MARGIN",
    "MAX_TIMEOUT_MS",
    "NEVER",
    "Clock",
    "Pace",
    "SystemClock",
    "Timer",
    "check_call_timeout",
    "check_timeout",
    "clock_of",
    "deadline_after",
    "inherited_deadline",
    "random_of",
    "remaining_ms",
    "shared_random",
    "timeout_on",
    "timer_of",
]


NEVER = inf  # a deadline that never passes
MAX_TIMEOUT_MS = 2**32 - 1
_MARGIN = 0.05  # of the time that is left
MAX_MARGIN = 0.05
"""Seconds by which an inherited deadline is earlier at most."""

LEAST_DELAY = 0.01
"""Seconds until a timer of a connection fires at the earliest: shorter deadlines end then."""

_EARLY = 0.002  # seconds; timers of uvloop count whole milliseconds, at both ends


class Clock(Protocol):
    """A source of time.

    One that is moved by hand also has a method ``call_later(delay, callback, *args)``, as event
    loops have; see `timer_of`.
    """

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back, for durations and deadlines."""
        ...

    def time(self) -> float:
        """Return seconds since the epoch, for times that another machine reads."""
        ...

    async def sleep(self, seconds: float, /) -> None:
        """Return after `seconds`."""
        ...


class SystemClock:
    """The clock of this machine; `monotonic` is the clock of asyncio and uvloop on Linux."""

    monotonic = staticmethod(_time.monotonic)
    time = staticmethod(_time.time)

    @staticmethod
    async def sleep(seconds: float, /) -> None:
        """Return after `seconds`, and never earlier, although timers of uvloop may be early."""
        end = _time.monotonic() + seconds
        await asyncio.sleep(seconds)
        left = end - _time.monotonic()
        if left > 0.0:
            await asyncio.sleep(left + _EARLY)


class Pace:
    """Lets something happen once in so many seconds at most, such as a line in the log.

    Args:
        seconds: Time between two events.
        now: Returns the seconds on a clock that never goes back.
    """

    def __init__(self, seconds: float, now: Callable[[], float]) -> None:
        self._skipped = 0
        self._seconds = seconds
        self._now = now
        self._next = -inf

    @property
    def left(self) -> float:
        """Seconds until it may happen; not positive if it may now."""
        return self._next - self._now()

    def begin(self) -> None:
        """Note that it happens now."""
        self._next = self._now() + self._seconds

    def allow(self) -> bool:
        """Return whether it may happen, and note that it does."""
        if self.left > 0.0:
            self._skipped += 1
            return False
        self.begin()
        return True

    def take_skipped(self) -> int:
        """Return how often it was not allowed since this was last asked."""
        skipped, self._skipped = self._skipped, 0
        return skipped


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> object:
        """Do not make it."""
        ...


def timer_of(clock: Clock | None, loop: asyncio.AbstractEventLoop) -> Callable[..., Timer]:
    """Return what calls a function after some seconds of a clock: ``(delay, function, *args)``.

    It is `call_later` of the clock, or of the event loop if the clock has none: its seconds then
    pass like those of the event loop.
    """
    return cast(Callable[..., Timer], getattr(clock, "call_later", loop.call_later))


def timeout_on(clock: Clock | None, seconds: float) -> AbstractAsyncContextManager[object]:
    """Return `asyncio.timeout`, for seconds of a clock; they pass in the running event loop."""
    if not hasattr(clock, "call_later"):
        return asyncio.timeout(seconds)
    return _timeout_by_hand(clock, seconds)


@asynccontextmanager
async def _timeout_by_hand(clock: Clock | None, seconds: float) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as timeout:
        timer = timer_of(clock, loop)(seconds, lambda: timeout.reschedule(loop.time()))
        try:
            yield
        finally:
            timer.cancel()


def clock_of(clock: Clock | None) -> Clock:
    """Return the clock of an option; `None` means the clock of this machine.

    Raises:
        ValueError: It is not a clock.
    """
    if clock is None:
        return SystemClock()
    if isinstance(clock, type) or not all(
        callable(getattr(clock, name, None)) for name in ("monotonic", "time", "sleep")
    ):
        raise ValueError(f"clock must have methods monotonic, time and sleep, got {clock!r}")
    return clock


def check_timeout(name: str, value: float | None) -> float | None:
    """Return `value`: a positive number of seconds, or `None` for no limit.

    Raises:
        ValueError: It is neither; the message names the option.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number of seconds or None, got {value!r}")
    if not value > 0:
        raise ValueError(f"{name} must be more than 0 seconds, got {value!r}")
    return value


def check_call_timeout(value: float | None) -> float | None:
    """Return the timeout of one call: a number of seconds, or `None` if it is not given.

    With 0 or less, the deadline of the call has passed when the call is made. Such a value is often
    the rest of a time that was computed.

    Raises:
        ValueError: It is neither.
    """
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or value != value:
        kind = ValueError if is_number else OptionTypeError
        raise kind(f"timeout must be a number of seconds or None, got {value!r}")
    return value


def deadline_after(seconds: float | None, clock: Clock) -> float:
    """Return the deadline `seconds` from now; `NEVER` for `None`."""
    return NEVER if seconds is None else clock.monotonic() + seconds


def inherited_deadline(deadline: float, now: float) -> float:
    """Return the deadline of a call that a handler makes, from the deadline of its own call.

    It is 5 % of the remaining time earlier, at most 50 ms. Otherwise both deadlines pass at the
    same moment, and the caller never hears which of the calls behind it was late. 50 ms is enough
    for an error to cross a busy network, and 5 % takes no noticeable part of a short time.
    """
    if deadline == NEVER:
        return NEVER
    return deadline - min(_MARGIN * max(deadline - now, 0.0), MAX_MARGIN)


def remaining_ms(deadline: float, now: float) -> int:
    """Return the milliseconds left, as on the wire: 0 without a deadline, else at least 1."""
    if deadline == NEVER:
        return 0
    return max(1, int(min((deadline - now) * 1000.0, MAX_TIMEOUT_MS)))  # it may be infinite


# Seeding a generator takes 8 us, a tenth of the time to create a client.
_shared = random.Random()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_shared.seed)  # a child must not draw the same numbers


def shared_random() -> random.Random:
    """Return the shared generator; any thread may use it."""
    return _shared


def random_of(rng: random.Random | None) -> random.Random:
    """Return the generator of an option; `None` means the shared one.

    Raises:
        ValueError: It is not a `random.Random`.
    """
    if rng is None:
        return _shared
    if not isinstance(rng, random.Random):
        raise ValueError(f"rng must be a random.Random, got {rng!r}")
    return rng
