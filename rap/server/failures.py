"""Failed attempts per address, so that nobody can try tokens at leisure.

In memory, for one process: what it is to slow down, guessing, needs many more attempts than there
are processes. Attempts whose verdict is not there yet are few at a time, for else all guesses that
come before the first verdict would be heard.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rap.address import Peer
from rap.clock import Clock

__all__ = ["Failures"]

_WINDOW = 60.0  # seconds
_AT_ONCE = 10  # times the limit: attempts under way from an address of which none has failed
_MAX_KEPT = 10_000  # addresses; the one that failed first is forgotten for one more


class Failures:
    """Counts failures in windows of a minute that begin with the first.

    Args:
        limit: Failures of one address in a window, from which on it is blocked until its end.
        clock: Source of time.

    Attributes:
        total: All failures so far.
    """

    def __init__(self, limit: int, clock: Clock) -> None:
        self.total = 0
        self._limit = limit
        self._clock = clock
        self._windows: dict[str, tuple[float, int]] = {}  # when it ends, failures; oldest first
        self._trying: dict[str, int] = {}  # attempts without a verdict
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def blocked(self, peer: Peer) -> float:
        """Return for how many seconds the address of a peer is blocked; 0 if it is not."""
        end, count = self._windows.get(peer.network, (0.0, 0))
        return max(0.0, end - self._clock.monotonic()) if count >= self._limit else 0.0

    def add(self, peer: Peer) -> None:
        """Count a failure of a peer."""
        self.total += 1
        key, now = peer.network, self._clock.monotonic()
        end, count = self._windows.get(key, (0.0, 0))
        if now >= end:
            self._windows.pop(key, None)
            end, count = now + _WINDOW, 0
        self._windows[key] = (end, count + 1)
        if len(self._windows) > _MAX_KEPT:
            del self._windows[next(iter(self._windows))]

    @asynccontextmanager
    async def attempt(self, peer: Peer) -> AsyncIterator[float]:
        """Wait for a place, and keep it until the verdict; gives what `blocked` says by then."""
        network = peer.network
        while not (wait := self.blocked(peer)) and self._trying.get(network, 0) >= self._most(peer):
            await self._place(network)
        self._trying[network] = self._trying.get(network, 0) + 1
        try:
            yield wait
        finally:
            self._trying[network] -= 1
            if not self._trying[network]:
                del self._trying[network]
            self._wake(network, all_of_them=bool(self.blocked(peer)))

    def _most(self, peer: Peer) -> int:
        """How many attempts of an address may be under way."""
        end, count = self._windows.get(peer.network, (0.0, 0))
        failed = count if self._clock.monotonic() < end else 0
        return self._limit - failed if failed else _AT_ONCE * self._limit

    async def _place(self, network: str) -> None:
        place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(network, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.cancelled():
                self._forget(network, place)
            else:
                self._wake(network)  # it was this one's turn
            raise

    def _wake(self, network: str, *, all_of_them: bool = False) -> None:
        places = self._waiting.get(network)
        while places:
            place = places.popleft()
            if not place.done():
                place.set_result(None)
                if not all_of_them:
                    break
        if not places:
            self._waiting.pop(network, None)

    def _forget(self, network: str, place: asyncio.Future[None]) -> None:
        places = self._waiting.get(network)
        if places is not None and place in places:
            places.remove(place)
            if not places:
                del self._waiting[network]
