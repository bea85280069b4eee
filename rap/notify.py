"""A notification for one waiting task, with a timeout on a given clock."""

import asyncio

from rap.clock import Clock

__all__ = ["Notify"]


class Notify:
    """Wakes the one task that waits for it, as tokio's ``Notify`` does.

    `notify` may be called any number of times. If no task waits, the next `wait` returns at once.
    Create it in the event loop of the task that waits.

    Args:
        clock: Time source of the timeout.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def notify(self) -> None:
        """End the current or the next wait."""
        self._event.set()

    def notify_threadsafe(self) -> None:
        """Do the same from any thread; without effect once the event loop is closed."""
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:
            pass  # the event loop is closed, so no task waits

    async def wait(self, seconds: float | None) -> bool:
        """Return whether a notification came within `seconds`; `None` waits without a timeout."""
        if seconds is None:
            await self._event.wait()
        elif not self._event.is_set():
            await self._wait_either(seconds)
        is_notified = self._event.is_set()
        self._event.clear()
        return is_notified

    async def _wait_either(self, seconds: float) -> None:
        notified = asyncio.create_task(self._event.wait())
        timer = asyncio.create_task(self._clock.sleep(seconds))
        try:
            await asyncio.wait((notified, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            notified.cancel()
            timer.cancel()
            await asyncio.gather(notified, timer, return_exceptions=True)
