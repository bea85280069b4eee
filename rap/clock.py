"""Time as an argument: what waits, expires or decays takes a `Clock`."""

import asyncio
import time as _time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


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
