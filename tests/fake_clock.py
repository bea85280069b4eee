"""Time under control of a test: it stands still until it is told to advance.

`rap.testing.FakeClock` also moves timers, as it has a method `call_later`. With the clock of this
module, what asks `rap.clock` for a timer or a timeout waits in real time.
"""

import asyncio
from collections.abc import Coroutine
from heapq import heappop, heappush
from typing import Any


class FakeClock:
    """A `Clock` whose sleepers wake when `advance` has passed their time."""

    def __init__(self, monotonic: float = 1000.0, epoch: float = 1_700_000_000.0) -> None:
        self._now = monotonic
        self._epoch_offset = epoch - monotonic
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    @property
    def sleeping(self) -> int:
        """How many wait for time to pass."""
        return len(self._sleepers)

    def monotonic(self) -> float:
        return self._now

    def time(self) -> float:
        return self._now + self._epoch_offset

    def sleep(self, seconds: float) -> Coroutine[Any, Any, None]:
        """Sleep from now on, also if a task that is to await this has not begun yet."""
        return self._sleep_until(self._now + seconds)

    async def _sleep_until(self, end: float) -> None:
        if end <= self._now:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        self._count += 1
        heappush(self._sleepers, (end, self._count, woken))
        await woken

    def advance(self, seconds: float) -> None:
        """Let time pass; those who wake run when the test next awaits."""
        end = self._now + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            self._now, _, woken = heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)
        self._now = end
