"""Shared state in memory, for one process, and as fallback while another store is unavailable."""

from dataclasses import dataclass
from math import inf

from rap.clock import Clock, SystemClock
from rap.shared_state.base import Bucket, StateUnavailable, check_number, check_scope

__all__ = ["MemoryBuckets", "MemoryConnections", "MemoryNonces", "MemoryState"]

_MAX_NONCES = 1_000_000  # about 120 bytes each
_MAX_BUCKETS = 100_000
_EXPIRE_BATCH = 8  # old entries that are checked for each new one


class MemoryNonces:
    """A nonce store in memory.

    Args:
        max_nonces: Maximum number of nonces. If that many have not expired, it refuses new ones,
            because forgetting a nonce too early would allow a replay.
        clock: Source of time.
    """

    def __init__(self, *, max_nonces: int = _MAX_NONCES, clock: Clock | None = None) -> None:
        self._max = int(check_number("max_nonces", max_nonces, least=1))
        self._clock: Clock = clock or SystemClock()
        self._expiries: dict[str | bytes, float] = {}  # in the order of claims

    def __len__(self) -> int:
        return len(self._expiries)

    async def claim(self, nonce: str | bytes, *, ttl: float) -> bool:
        """Return whether the nonce is new, and remember it for `ttl` seconds.

        Raises:
            StateUnavailable: It holds `max_nonces` nonces.
        """
        check_number("ttl", ttl, least=0, above=True)
        now = self._clock.monotonic()
        known = self._expiries.get(nonce)
        if known is not None:
            if known > now:
                return False
            del self._expiries[nonce]
        self._forget_expired(now)
        if len(self._expiries) >= self._max:
            raise StateUnavailable(f"{self._max} nonces are remembered, which is the maximum")
        self._expiries[nonce] = now + ttl
        return True

    async def aclose(self) -> None:
        """Do nothing: forgetting the nonces would allow replays."""

    def _forget_expired(self, now: float) -> None:
        """Drop the oldest few nonces, up to the first that has not expired."""
        for _ in range(min(_EXPIRE_BATCH, len(self._expiries))):
            oldest = next(iter(self._expiries))
            if self._expiries[oldest] > now:
                return
            del self._expiries[oldest]


class MemoryConnections:
    """A connection counter in memory."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}

    async def acquire(self, key: str, limit: int) -> bool:
        """Count one more connection under `key` if that keeps `limit`; return whether it does."""
        held = self._held.get(key, 0)
        if held >= limit:
            return False
        self._held[key] = held + 1
        return True

    def release(self, key: str) -> None:
        """Count one connection less. Call it once for each `acquire` that returned true."""
        held = self._held.get(key, 0)
        assert held > 0, f"more released than acquired under {key!r}"
        if held == 1:
            del self._held[key]
        else:
            self._held[key] = held - 1

    def held(self, key: str) -> int:
        """Return the count under `key`."""
        return self._held.get(key, 0)

    async def total(self, key: str) -> int:
        """Return the count under `key`: there are no other instances."""
        return self.held(key)

    async def aclose(self) -> None:
        """Release all counts."""
        self._held.clear()


@dataclass(slots=True)
class _Level:
    tokens: float
    updated: float  # seconds on the monotonic clock, like all times here
    blocked_until: float
    idle_from: float  # from then on it equals a new bucket


class MemoryBuckets:
    """Token buckets in memory.

    Args:
        max_buckets: Maximum number of buckets. Beyond it, the least recently used bucket is
            dropped, so that its next use starts a new one. Full buckets are dropped earlier.
        clock: Source of time.
    """

    def __init__(self, *, max_buckets: int = _MAX_BUCKETS, clock: Clock | None = None) -> None:
        self._max = int(check_number("max_buckets", max_buckets, least=1))
        self._clock: Clock = clock or SystemClock()
        self._levels: dict[str, _Level] = {}  # least recently used first

    def __len__(self) -> int:
        return len(self._levels)

    async def take(self, key: str, bucket: Bucket) -> float:
        """Take one token and return 0; if there is none, return the seconds until the next try."""
        now = self._clock.monotonic()
        level = self._levels.pop(key, None)
        if level is None:
            self._make_room(now)
            level = _Level(bucket.initial, now, now, now)
        self._levels[key] = level
        level.tokens = min(bucket.capacity, level.tokens + (now - level.updated) * bucket.rate)
        level.updated = now
        wait = max(0.0, level.blocked_until - now)
        if not wait and level.tokens >= 1:
            level.tokens -= 1
        elif not wait:
            wait = max((1 - level.tokens) / bucket.rate, bucket.block_time)
            level.blocked_until = now + bucket.block_time
        if bucket.initial < bucket.capacity:
            level.idle_from = inf
        else:
            full_at = now + (bucket.capacity - level.tokens) / bucket.rate
            level.idle_from = max(full_at, level.blocked_until)
        return wait

    async def aclose(self) -> None:
        """Drop all buckets."""
        self._levels.clear()

    def _make_room(self, now: float) -> None:
        for _ in range(min(_EXPIRE_BATCH, len(self._levels))):
            oldest = next(iter(self._levels))
            if self._levels[oldest].idle_from > now and len(self._levels) < self._max:
                return
            del self._levels[oldest]


class MemoryState:
    """Shared state in memory. All objects of one scope share their values.

    Args:
        clock: Source of time.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._nonces = MemoryNonces(clock=self._clock)
        self._connections: dict[str, MemoryConnections] = {}
        self._buckets: dict[str, MemoryBuckets] = {}

    def nonces(self) -> MemoryNonces:
        """Return the nonce store."""
        return self._nonces

    def connections(self, scope: str) -> MemoryConnections:
        """Return the counter of a scope."""
        return self._connections.setdefault(check_scope(scope), MemoryConnections())

    def buckets(self, scope: str) -> MemoryBuckets:
        """Return the token buckets of a scope."""
        return self._buckets.setdefault(check_scope(scope), MemoryBuckets(clock=self._clock))
