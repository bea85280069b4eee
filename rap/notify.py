"""Waiting until told, or until a time has passed on a given clock."""

import asyncio

from rap.clock import Clock

__all__ = ["Notify"]


class Notify:
    """What one task sleeps on and others shorten.

    `set` may be called any number of times, also before the wait: the next wait returns at once.
    Only one task may wait. Made inside the event loop that waits.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def set(self) -> None:
        """End the present or the next wait."""
        self._told.set()

    def set_threadsafe(self) -> None:
        """Do the same from any thread; nothing happens once the loop is closed."""
        try:
            self._loop.call_soon_threadsafe(self._told.set)
        except RuntimeError:
            pass  # the waiting loop is closed, so nobody waits

    async def wait(self, seconds: float | None) -> bool:
        """Return whether it was told before `seconds` had passed; `None` waits for ever."""
        if seconds is None:
            await self._told.wait()
        elif not self._told.is_set():
            await self._wait_both(seconds)
        told = self._told.is_set()
        self._told.clear()
        return told

    async def _wait_both(self, seconds: float) -> None:
        told = asyncio.create_task(self._told.wait())
        timer = asyncio.create_task(self._clock.sleep(seconds))
        try:
            await asyncio.wait((told, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()
            timer.cancel()
            await asyncio.gather(told, timer, return_exceptions=True)
