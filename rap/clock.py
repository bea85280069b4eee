"""Time as an argument: what waits, expires or decays takes a `Clock`."""

import asyncio
import time as _time
from typing import Protocol

__all__ = ["Clock", "SystemClock", "clock_of"]


class Clock(Protocol):
    """Source of time and of waiting."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back; for durations and deadlines."""

    def time(self) -> float:
        """Return seconds since the epoch; only for what another machine reads."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""


class SystemClock:
    """The clocks of this machine; `monotonic` is the clock of asyncio and uvloop on Linux."""

    monotonic = staticmethod(_time.monotonic)
    time = staticmethod(_time.time)
    sleep = staticmethod(asyncio.sleep)


def clock_of(clock: Clock | None) -> Clock:
    """Return the clock of an option: that of this machine for `None`.

    Raises:
        ValueError: It is no clock.
    """
    if clock is None:
        return SystemClock()
    if isinstance(clock, type) or not all(
        callable(getattr(clock, name, None)) for name in ("monotonic", "time", "sleep")
    ):
        raise ValueError(f"clock must have methods monotonic, time and sleep, got {clock!r}")
    return clock
