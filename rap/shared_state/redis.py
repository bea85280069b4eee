"""Shared state in Redis: one Lua script per operation, with the clock of Redis.

::

    rap:nonce:<namespace>:<nonce>             string   id of the attempt that claimed it
    rap:lim:{<namespace>/<scope>}:n           hash     number of connections of each instance
    rap:lim:{<namespace>/<scope>}:x           zset     instance to the end of its lease
    rap:bucket:<namespace>:<scope>:<key>      hash     tokens, and the time of their count

All keys of a script are in one slot. Redis must be 6.2 or later: a single server, a primary under
Sentinel, or a Cluster. It must not evict keys (``maxmemory-policy noeviction``).
"""

import secrets
from hashlib import sha256

from rap.clock import Clock, SystemClock
from rap.errors import RegistryError
from rap.redis.client import RedisClient, Script
from rap.shared_state.base import Bucket, StateUnavailable, check_number, check_scope
from rap.shared_state.memory import MemoryBuckets
from rap.shared_state.redis_connections import ASSUMED_INSTANCES, RedisConnections

__all__ = ["RedisBuckets", "RedisNonces", "RedisState"]

_CLAIM = Script.load("rap.shared_state", "claim", kinds=["string"])
_TAKE = Script.load("rap.shared_state", "take", kinds=["hash"])

_CLAIM_TRIES = 3  # each with the time limit of a command, so a refusal takes at most 4 s
_MAX_NONCE = 256  # characters
_MAX_KEY = 200  # characters of the key of a bucket; a longer key is hashed
_BUCKET_TIMEOUT = 0.5  # seconds: a request waits for it
_RETRY_INTERVAL = 1.0  # seconds between checks whether Redis is available again
_KEEP_FULL = 1.0  # seconds that a full bucket is kept
_KEEP_PARTIAL = 86_400.0  # the same if a new bucket would have fewer tokens


class RedisState:
    """Shared state in one Redis. Each object that it makes has its own connections.

    Args:
        url: The URL of Redis, as in `rap.redis.url`.
        namespace: Separates environments.
        clock: Time source while Redis is unavailable.
        instances: Number of instances that are assumed until Redis has told it.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "default",
        clock: Clock | None = None,
        instances: int = ASSUMED_INSTANCES,
    ) -> None:
        self._instances = instances
        self._url = url
        self._namespace = check_scope(namespace)
        self._clock: Clock = clock or SystemClock()

    def nonces(self) -> "RedisNonces":
        """Return the nonce store of the namespace."""
        return RedisNonces(RedisClient(self._url), self._namespace)

    def connections(self, scope: str) -> RedisConnections:
        """Return a counter. All counters of one scope count together."""
        return RedisConnections(
            RedisClient(self._url),
            f"{self._namespace}/{check_scope(scope)}",
            assumed=self._instances,
        )

    def buckets(self, scope: str) -> "RedisBuckets":
        """Return token buckets. All objects of one scope have the same buckets."""
        return RedisBuckets(
            RedisClient(self._url, timeout=_BUCKET_TIMEOUT),
            f"{self._namespace}:{check_scope(scope)}",
            self.connections(f"{scope}/buckets"),
            clock=self._clock,
        )


class RedisNonces:
    """A nonce store in Redis, shared by all instances of a namespace.

    If its primary fails, Redis may lose nonces that it has acknowledged. Limit the age of messages
    as well.

    Args:
        redis: The client of Redis; `aclose` closes it.
        namespace: Part of the keys.
    """

    def __init__(self, redis: RedisClient, namespace: str) -> None:
        self._redis = redis
        self._prefix = f"rap:nonce:{namespace}:"

    async def claim(self, nonce: str | bytes, *, ttl: float) -> bool:
        """Return whether the nonce is new, and remember it for `ttl` seconds.

        Raises:
            StateUnavailable: Redis did not answer three times.
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
    """Token buckets in Redis, shared by all instances.

    While Redis is unavailable, each instance uses buckets in memory with its share of the rate.

    Args:
        redis: The client of Redis; `aclose` closes it.
        prefix: Part of the keys.
        members: Counts the instances; `aclose` closes it.
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
        """Whether Redis did not answer the last command."""
        return self._away_until is not None

    async def take(self, key: str, bucket: Bucket) -> float:
        """Take one token and return 0; if there is none, return the seconds until the next try."""
        self._members.start()
        now = self._clock.monotonic()
        if self._away_until is not None:
            if now < self._away_until:
                return await self._take_share(key, bucket)
            self._away_until = now + _RETRY_INTERVAL  # only this request tries Redis
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
