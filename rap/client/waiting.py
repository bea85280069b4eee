"""Calls that wait for a server, in order and not too many of them."""

import asyncio
from collections import deque

from rap.clock import Clock
from rap.errors import CallError, ResourceExhausted

__all__ = ["Waiting"]


class Waiting:
    """The queue of calls that no server can take now.

    Args:
        limit: Calls at the most.
        clock: Source of time.

    Attributes:
        queue: A future for each call; false in a condition when nobody waits.
    """

    def __init__(self, limit: int, clock: Clock) -> None:
        self.queue: deque[asyncio.Future[None]] = deque()
        self._limit = limit
        self._clock = clock
        self._loop = asyncio.get_running_loop()

    async def wait(self, until: float) -> None:
        """Return when it is this call's turn to try again.

        Args:
            until: Seconds on the monotonic clock.

        Raises:
            ResourceExhausted: Too many wait already.
            TimeoutError: Its turn did not come in time.
        """
        if len(self.queue) >= self._limit:
            raise ResourceExhausted(
                f"{self._limit} calls wait for a server, which is max_waiting", unserved=True
            )
        turn = self._loop.create_future()
        self.queue.append(turn)
        try:
            async with asyncio.timeout(max(0.0, until - self._clock.monotonic())):
                await turn
        except BaseException:
            if turn in self.queue:
                self.queue.remove(turn)
            elif turn.done() and not turn.cancelled() and turn.exception() is None:
                self.wake()  # nobody takes this turn: the next in line does
            raise

    def wake(self) -> None:
        """Let the first in line go on."""
        while self.queue:
            turn = self.queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def wake_all(self) -> None:
        """Let all go on; who finds no place waits again."""
        for turn in self.queue:
            if not turn.done():
                turn.set_result(None)
        self.queue.clear()

    def fail(self, error: CallError) -> None:
        """End the wait of all with an error."""
        for turn in self.queue:
            if not turn.done():
                turn.set_exception(error)
        self.queue.clear()
