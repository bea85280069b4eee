"""A registry in Redis: leases on the clock of Redis, changes with a version and a chain hash.

::

    rap:{ns/svc}:inst   hash      instance id -> msgpack record
    rap:{ns/svc}:lease  sorted    instance id -> end of its lease, ms
    rap:{ns/svc}:load   hash      instance id -> msgpack load report
    rap:{ns/svc}:ver    hash      e: epoch, v: version, h: chain hash
    rap:{ns/svc}:log    stream    the last changes, id epoch-version
    rap:{ns/svc}:ch     channel   "e v h" after each change
    rap:services        set       ns/svc ever registered

Scripts do all writes, so an instance is never half registered; the files in `scripts/` describe
them. Redis must be 6.2 or later: a single server, a primary under Sentinel, or a Cluster. It must
not evict keys (``maxmemory-policy noeviction``).
"""

import random
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from rap.address import Address
from rap.clock import Clock, SystemClock, check_timeout
from rap.errors import RegistryError
from rap.redis.client import RedisClient, Script, Value, WrongType
from rap.registry.base import (
    AddressTaken,
    Endpoint,
    LeaseLost,
    LoadReport,
    Snapshot,
    check_load,
    check_name,
    is_name,
)
from rap.registry.cache import SnapshotCache
from rap.registry.records import BadRecords, check_id, text_of, to_record
from rap.registry.redis_watch import Keys, follow
from rap.registry.self_preservation import DEAD_AFTER, EVICT_PERCENT, SMALL_SERVICE
from rap.wire.codec import pack, unpack

__all__ = ["RedisRegistry"]

_POLL_INTERVAL = 2.0  # seconds, +-20 %
_KEEP = 86_400  # seconds after the last heartbeat until the keys of a service expire
_LOG_LENGTH = 1024  # changes
_SERVICES = "rap:services"

_UNUSED = "servers are registered without %s: %s"
_LOST = -1  # status that a script returns if the registration does not exist


_KINDS = ("hash", "zset", "hash", "hash", "stream")
_REGISTER = Script.load("rap.registry", "prelude", "register", kinds=_KINDS)
_HEARTBEAT = Script.load("rap.registry", "prelude", "heartbeat", kinds=_KINDS)
_DEREGISTER = Script.load("rap.registry", "prelude", "deregister", kinds=_KINDS)
_SNAPSHOT = Script.load("rap.registry", "snapshot", kinds=("hash", "zset", "hash"))


class RedisRegistry:
    """A registry in Redis, for use in one event loop.

    Args:
        url: The URL of Redis, as in `rap.redis.url`.
        namespace: Separates environments.
        cache: Stores snapshots, so that a client can start while Redis is down.
        poll_interval: Seconds between reads of a watched service without a message.
        timeout: Seconds that Redis has to answer a command.
        clock: Time source of everything except leases, which use the clock of Redis.
        rng: Random numbers for the jitter of polls.

    Attributes:
        last_error: The reason why the last read of a watched service failed; empty if it did not.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "default",
        cache: SnapshotCache | None = None,
        poll_interval: float = _POLL_INTERVAL,
        timeout: float = 1.0,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._namespace = check_name("namespace", namespace)
        if check_timeout("poll_interval", poll_interval) is None:
            raise ValueError("poll_interval must be a number of seconds, got None")
        self._poll_interval = poll_interval
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._redis = RedisClient(url, timeout=timeout, clock=self._clock, rng=self._rng)
        self._cache = cache
        # (service, endpoint id) to the incarnation and record that this object wrote to Redis
        self._held: dict[tuple[str, str], tuple[str, bytes]] = {}
        self._reports: dict[tuple[str, str], bytes] = {}
        self._unlisted: set[str] = set()
        self._bad = BadRecords()
        self.last_error = f"Redis at {self._redis.target}: no answer yet"

    @property
    def location(self) -> Address:
        """The address of Redis, of the first sentinel or of the first node of the Cluster."""
        target = self._redis.target
        if not target.hosts:
            return Address("unix", path=target.path)
        return Address("tls" if target.tls else "tcp", *target.hosts[0])

    @property
    def degraded(self) -> bool:
        """Whether Redis did not answer the last command; known endpoints remain valid."""
        return self._redis.degraded

    @property
    def age(self) -> float:
        """Seconds since the last answer of Redis, or since this object was created."""
        return self._redis.age

    async def register(self, service: str, endpoint: Endpoint, *, ttl: float) -> None:
        """Register in full the first time and after a change, otherwise renew the lease.

        A renewal also removes dead instances.

        Raises:
            LeaseLost: Redis has lost the registration; the next call registers in full.
            AddressTaken: Another incarnation holds the address.
            RegistryError: Redis does not answer.
        """
        key = (check_name("service", service), endpoint.id)
        entry = (endpoint.incarnation, pack(to_record(endpoint)))
        await self._redis.check_primary()
        if self._held.get(key) == entry:
            answer = await self._heartbeat(key, endpoint, ttl)
            await self._list(service)
        else:
            self._unlisted.add(service)
            await self._list(service)
            answer = await self._change(
                _REGISTER, service, endpoint.id, entry[1], entry[0], _milliseconds(ttl)
            )
        if answer[0] == 0:
            self._held[key] = entry
            return
        self._held.pop(key, None)
        if answer[0] == _LOST:
            raise LeaseLost(endpoint.id)
        raise AddressTaken(endpoint.id, int(answer[1]) / 1000)

    async def deregister(self, service: str, endpoint: Endpoint) -> None:
        """Remove the registration of this incarnation, if it exists.

        Raises:
            RegistryError: Redis does not answer.
        """
        key = (check_name("service", service), endpoint.id)
        self._held.pop(key, None)
        self._reports.pop(key, None)
        await self._change(_DEREGISTER, service, endpoint.id, endpoint.incarnation)

    def watch(self, service: str) -> AsyncGenerator[Snapshot, None]:
        """Yield a snapshot now and after each change."""
        snapshots = follow(
            self._redis,
            self._keys(service),
            _SNAPSHOT,
            poll_interval=self._poll_interval,
            clock=self._clock,
            rng=self._rng,
            on_read=self._on_read,
        )
        return snapshots if self._cache is None else self._cache.over(service, snapshots)

    def report_load(self, service: str, endpoint_id: str, load: LoadReport) -> None:
        """Store the load of an instance; it is sent with the next renewal of its lease."""
        self._reports[check_name("service", service), endpoint_id] = pack(check_load(load))

    async def loads(self, service: str) -> Mapping[str, LoadReport]:
        """Return the last reported load by endpoint id; reports that are not valid are ignored.

        Raises:
            RegistryError: Redis does not answer.
        """
        reply = await self._redis.call("HGETALL", self._keys(service).load)
        found: dict[str, LoadReport] = {}
        for key, value in reply.items():
            endpoint_id = text_of(key)
            try:
                found[check_id(endpoint_id)] = check_load(unpack(value))
            except ValueError as exc:
                self._bad.warn(endpoint_id, "the load report of %s is ignored: %s", exc)
        return found

    @property
    def place(self) -> str:
        """What this reads, for errors."""
        return f"{self._redis.target}, namespace {self._namespace!r}"

    async def services(self) -> list[str]:
        """Return the names of all services ever registered in this namespace, sorted.

        What cannot be the name of a service is left out.

        Raises:
            RegistryError: Redis does not answer.
        """
        prefix = f"{self._namespace}/"
        names = [text_of(name) for name in await self._redis.call("SMEMBERS", _SERVICES)]
        found = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
        return sorted(filter(is_name, found))

    async def aclose(self) -> None:
        """Close the connections to Redis."""
        await self._redis.aclose()

    def _on_read(self, last_error: str) -> None:
        self.last_error = last_error

    def _keys(self, service: str) -> Keys:
        return Keys.of(self._namespace, check_name("service", service))

    async def _list(self, service: str) -> None:
        """Add a service to the set of all services, which may be on another node of a Cluster.

        If that node is down, the registration still succeeds and a later renewal adds the service.
        """
        if service in self._unlisted:
            try:
                await self._redis.call("SADD", _SERVICES, f"{self._namespace}/{service}")
                self._unlisted.discard(service)
            except WrongType as exc:
                self._bad.warn(_SERVICES, _UNUSED, exc)
            except RegistryError:
                pass  # a later renewal tries again

    async def _heartbeat(self, key: tuple[str, str], endpoint: Endpoint, ttl: float) -> list[Any]:
        return await self._change(
            _HEARTBEAT,
            key[0],
            endpoint.id,
            endpoint.incarnation,
            _milliseconds(ttl),
            self._reports.get(key, b""),
            EVICT_PERCENT,
            SMALL_SERVICE,
            _milliseconds(DEAD_AFTER),
        )

    async def _change(self, script: Script, service: str, *args: Value) -> list[Any]:
        """Run a script that changes a service."""
        *keys, channel = self._keys(service)
        reply: list[Any] = await self._redis.run(script, keys, [channel, _KEEP, _LOG_LENGTH, *args])
        for key in map(text_of, reply[4:]):
            if self._bad.is_new(key):
                text = await self._redis.foreign({key: ""})
                self._bad.warn(key, _UNUSED, WrongType(text))
        return reply


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
