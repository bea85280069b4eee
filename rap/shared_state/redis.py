"""Shared state in Redis: one Lua script an operation, all times on the clock of Redis.

::

    rap:nonce:<namespace>:<nonce>             string   id of the attempt that claimed it
    rap:lim:{<namespace>/<scope>}:n           hash     how many connections each instance holds
    rap:lim:{<namespace>/<scope>}:x           zset     instance to the end of its lease
    rap:bucket:<namespace>:<scope>:<key>      hash     tokens and when they were counted

Every script has its declared keys in one slot. Redis 6.2 or later, single, under Sentinel or as a
Cluster; it must not evict keys (``maxmemory-policy noeviction``).
"""

import secrets
from hashlib import sha256

from rap.clock import Clock, SystemClock
from rap.errors import RegistryError
from rap.redis.client import RedisClient, Script
from rap.shared_state.base import Bucket, StateUnavailable, check_number, check_scope
from rap.shared_state.memory import MemoryBuckets
from rap.shared_state.redis_connections import RedisConnections

__all__ = ["RedisBuckets", "RedisNonces", "RedisState"]

_CLAIM = Script.load("rap.shared_state", "claim")
_TAKE = Script.load("rap.shared_state", "take")

_CLAIM_TRIES = 3  # each with the time limit of a command: a refusal takes 4 s at the most
_MAX_NONCE = 256  # characters
_MAX_KEY = 200  # characters of a bucket's key; a longer one stands as its hash
_BUCKET_TIMEOUT = 0.5  # seconds: a request waits for it
_RETRY_INTERVAL = 1.0  # seconds between looks whether Redis is back
_KEEP_FULL = 1.0  # seconds that a full bucket is kept
_KEEP_PARTIAL = 86_400.0  # the same where a new one would have less in it


class RedisState:
    """Makes nonces, counters and buckets in one Redis; each has connections of its own.

    Args:
        url: As in `rap.redis.url`.
        namespace: Keeps environments apart.
        clock: Time source of what does not depend on Redis.
    """

    def __init__(self, url: str, *, namespace: str = "default", clock: Clock | None = None) -> None:
        self._url = url
        self._namespace = check_scope(namespace)
        self._clock: Clock = clock or SystemClock()

    def nonces(self) -> "RedisNonces":
        """Return the nonces of the namespace."""
        return RedisNonces(RedisClient(self._url), self._namespace)

    def connections(self, scope: str) -> RedisConnections:
        """Return a counter; counters of one scope count together."""
        return RedisConnections(RedisClient(self._url), f"{self._namespace}/{check_scope(scope)}")

    def buckets(self, scope: str) -> "RedisBuckets":
        """Return token buckets; those of one scope are the same."""
        return RedisBuckets(
            RedisClient(self._url, timeout=_BUCKET_TIMEOUT),
            f"{self._namespace}:{check_scope(scope)}",
            self.connections(f"{scope}/buckets"),
            clock=self._clock,
        )


class RedisNonces:
    """Nonces that all instances of a namespace share.

    Redis may lose what it acknowledged when its primary fails, so whoever relies on this also
    limits the age of what bears the nonce.

    Args:
        link: The way to Redis; closed with this.
        namespace: Part of the keys.
    """

    def __init__(self, redis: RedisClient, namespace: str) -> None:
        self._redis = redis
        self._prefix = f"rap:nonce:{namespace}:"

    async def claim(self, nonce: str | bytes, *, ttl: float) -> bool:
        """Return whether the nonce is new, and remember it for `ttl` seconds.

        Raises:
            StateUnavailable: Redis did not answer, three times.
            ValueError: The nonce is empty or longer than 256 characters.
        """
        check_number("ttl", ttl, least=0, above=True)
        text = nonce.hex() if isinstance(nonce, bytes) else nonce
        if not 0 < len(text) <= _MAX_NONCE:
            raise ValueError(f"nonce must have 1 to {_MAX_NONCE} characters, got {len(text)}")
        attempt = secrets.token_bytes(8)
        error: RegistryError | None = None
        for _ in range(_CLAIM_TRIES):
            try:
                args = (attempt, max(1, round(ttl * 1000)))
                return bool(await self._redis.run(_CLAIM, [self._prefix + text], args))
            except RegistryError as exc:
                error = exc
        raise StateUnavailable(f"the nonces cannot be asked: {error}") from error

    async def aclose(self) -> None:
        """Close the connections to Redis."""
        await self._redis.aclose()


class RedisBuckets:
    """Token buckets that all instances share.

    While Redis is away each instance has buckets of its own, for its share of the rate.

    Args:
        link: The way to Redis; closed with this.
        prefix: Part of the keys.
        members: Knows how many instances there are; closed with this.
        clock: Source of time.
    """

    def __init__(
        self, redis: RedisClient, prefix: str, members: RedisConnections, *, clock: Clock
    ) -> None:
        self._redis = redis
        self._prefix = f"rap:bucket:{prefix}:"
        self._members = members
        self._clock = clock
        self._fallback = MemoryBuckets(clock=clock)
        self._away_until: float | None = None

    @property
    def away(self) -> bool:
        """Whether Redis did not answer when it was last asked."""
        return self._away_until is not None

    async def take(self, key: str, bucket: Bucket) -> float:
        """Take one token; return 0, or the seconds after which to try again if there is none."""
        self._members.start()
        now = self._clock.monotonic()
        if self._away_until is not None:
            if now < self._away_until:
                return await self._take_share(key, bucket)
            self._away_until = now + _RETRY_INTERVAL  # this request looks; others do not wait
        try:
            wait = await self._take_shared(key, bucket)
        except RegistryError:
            self._away_until = self._clock.monotonic() + _RETRY_INTERVAL
            return await self._take_share(key, bucket)
        if self._away_until is not None:
            self._away_until = None
            await self._fallback.aclose()
        return wait

    async def aclose(self) -> None:
        """Close the connections to Redis."""
        await self._members.aclose()
        await self._redis.aclose()

    async def _take_shared(self, key: str, bucket: Bucket) -> float:
        if len(key) > _MAX_KEY:
            key = sha256(key.encode()).hexdigest()
        keep = _KEEP_FULL if bucket.initial >= bucket.capacity else _KEEP_PARTIAL
        args = (
            secrets.token_bytes(8),
            bucket.capacity,
            bucket.rate,
            bucket.initial,
            bucket.block_time * 1000,
            keep * 1000,
        )
        milliseconds: int = await self._redis.run(_TAKE, [self._prefix + key], args)
        return milliseconds / 1000

    async def _take_share(self, key: str, bucket: Bucket) -> float:
        return await self._fallback.take(key, bucket.share(self._members.instances))
