"""Failed attempts per address, so that nobody can try tokens at leisure.

In memory, for one process: what it is to slow down, guessing, needs many more attempts than there
are processes.
"""

from rap.address import Peer
from rap.clock import Clock

__all__ = ["Failures"]

_WINDOW = 60.0  # seconds
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
