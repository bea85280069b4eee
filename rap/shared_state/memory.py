"""Shared state of one process: what needs no store, and what stands in when that is away."""

from dataclasses import dataclass
from math import inf

from rap.clock import Clock, SystemClock
from rap.shared_state.base import Bucket, StateUnavailable, check_number, check_scope

__all__ = ["MemoryBuckets", "MemoryConnections", "MemoryNonces", "MemoryState"]

_MAX_NONCES = 1_000_000  # about 120 bytes each
_MAX_BUCKETS = 100_000
_SWEEP = 8  # old entries looked at for each new one


class MemoryNonces:
    """Nonces of this process.

    Args:
        max_nonces: Remembered at once. When so many have not expired it answers no more:
            forgetting one too early would let it be used twice.
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
            StateUnavailable: As many as there may be are remembered.
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
            raise StateUnavailable(f"{self._max} nonces are remembered, and no more may be")
        self._expiries[nonce] = now + ttl
        return True

    async def aclose(self) -> None:
        """Do nothing: forgetting now could let a nonce be used twice."""

    def _forget_expired(self, now: float) -> None:
        """Look at the oldest few, until the first that lives."""
        for _ in range(min(_SWEEP, len(self._expiries))):
            oldest = next(iter(self._expiries))
            if self._expiries[oldest] > now:
                return
            del self._expiries[oldest]


class MemoryConnections:
    """Counts of this process."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}

    async def acquire(self, key: str, limit: int) -> bool:
        """Count one more under `key` if no more than `limit` are open then; return whether."""
        held = self._held.get(key, 0)
        if held >= limit:
            return False
        self._held[key] = held + 1
        return True

    def release(self, key: str) -> None:
        """Count one less; for each `acquire` that returned true, once."""
        held = self._held.get(key, 0)
        assert held > 0, f"more released than acquired under {key!r}"
        if held == 1:
            del self._held[key]
        else:
            self._held[key] = held - 1

    def held(self, key: str) -> int:
        """Return how many are held under `key`."""
        return self._held.get(key, 0)

    async def total(self, key: str) -> int:
        """Return the same: there is no other instance."""
        return self.held(key)

    async def aclose(self) -> None:
        """Give back all that is held."""
        self._held.clear()


@dataclass(slots=True)
class _Level:
    tokens: float
    updated: float  # seconds on the monotonic clock, like all times here
    blocked_until: float
    idle_from: float  # from then on it is like a new one


class MemoryBuckets:
    """Token buckets of this process.

    Args:
        max_buckets: Kept at once; past this number the one used least recently is forgotten,
            which makes it a new one. One that is full again is forgotten before.
        clock: Source of time.
    """

    def __init__(self, *, max_buckets: int = _MAX_BUCKETS, clock: Clock | None = None) -> None:
        self._max = int(check_number("max_buckets", max_buckets, least=1))
        self._clock: Clock = clock or SystemClock()
        self._levels: dict[str, _Level] = {}  # the one used least recently first

    def __len__(self) -> int:
        return len(self._levels)

    async def take(self, key: str, bucket: Bucket) -> float:
        """Take one token; return 0, or the seconds after which to try again if there is none."""
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
        """Forget all."""
        self._levels.clear()

    def _make_room(self, now: float) -> None:
        for _ in range(min(_SWEEP, len(self._levels))):
            oldest = next(iter(self._levels))
            if self._levels[oldest].idle_from > now and len(self._levels) < self._max:
                return
            del self._levels[oldest]


class MemoryState:
    """Makes nonces, counters and buckets of this process; those of one scope are the same.

    Args:
        clock: Source of time.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._nonces = MemoryNonces(clock=self._clock)
        self._connections: dict[str, MemoryConnections] = {}
        self._buckets: dict[str, MemoryBuckets] = {}

    def nonces(self) -> MemoryNonces:
        """Return the nonces."""
        return self._nonces

    def connections(self, scope: str) -> MemoryConnections:
        """Return the counter of a scope."""
        return self._connections.setdefault(check_scope(scope), MemoryConnections())

    def buckets(self, scope: str) -> MemoryBuckets:
        """Return the token buckets of a scope."""
        return self._buckets.setdefault(check_scope(scope), MemoryBuckets(clock=self._clock))
