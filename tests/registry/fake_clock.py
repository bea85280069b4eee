"""The fake clock, for tests in which tasks go on sleeping while time passes."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from tests import fake_clock


class FakeClock(fake_clock.FakeClock):
    """Also notes how long everybody slept, and lets them run whenever one wakes."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> Coroutine[Any, Any, None]:
        self.slept.append(seconds)
        return super().sleep(seconds)

    async def run(self, seconds: float) -> None:
        """Let time pass, one sleeper after the other."""
        end = self.monotonic() + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self.advance(max(0.0, self._sleepers[0][0] - self.monotonic()))
            await settle()
        self.advance(end - self.monotonic())
        await settle()


async def settle() -> None:
    """Let every task run until it waits for something."""
    for _ in range(20):
        await asyncio.sleep(0)
