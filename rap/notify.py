"""A notification for one waiting task, with a timeout on a given clock."""

import asyncio

from rap.clock import Clock
from rap.tasks import start_task

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
        self._loop = asyncio.get_running_loop()
        self._is_notified = False
        self._waiter: asyncio.Future[None] | None = None  # of the task that waits

    def notify(self) -> None:
        """End the current or the next wait."""
        self._is_notified = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def notify_threadsafe(self) -> None:
        """Do the same from any thread; without effect once the event loop is closed."""
        try:
            self._loop.call_soon_threadsafe(self.notify)
        except RuntimeError:
            pass  # the event loop is closed, so no task waits

    async def wait(self, seconds: float | None) -> bool:
        """Return whether a notification came within `seconds`; `None` waits without a timeout."""
        if not self._is_notified:
            self._waiter = self._loop.create_future()
            if seconds is None:
                await self._waiter
            else:
                await self._wait_until_timeout(self._waiter, seconds)
        is_notified, self._is_notified = self._is_notified, False
        return is_notified

    async def _wait_until_timeout(self, waiter: asyncio.Future[None], seconds: float) -> None:
        timer = start_task(self._clock.sleep(seconds))
        try:
            await asyncio.wait((waiter, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()  # it ends in the next turn; to wait for that would resume callers twice
