"""Connection counts in Redis: one lease and one set of absolute counts for each instance.

Redis never increments a count. An instance sends its absolute counts in numbered messages, one at a
time. A lost answer, or a message that arrives late or twice, can therefore make a count wrong only
until the next message. The counts of an instance are removed when its lease expires.
"""

import asyncio
import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from time import monotonic
from typing import Any

from rap.errors import RegistryError
from rap.redis.client import RedisClient, Script, Value
from rap.shared_state.base import StateUnavailable, check_number
from rap.tasks import start_task

__all__ = ["ASSUMED_INSTANCES", "RedisConnections"]

_log = logging.getLogger("rap.server")

ASSUMED_INSTANCES = 8
"""Number of instances that an instance assumes until Redis has told it."""

_TTL = 10.0  # seconds
_RENEWALS = 3  # per time to live of a lease
_RETRY_INTERVAL = 1.0  # seconds between checks whether Redis is available again
_BATCH = 500  # keys in one message

_KINDS = ("hash", "zset")  # of `_keys`
_CONNECTIONS = Script.load("rap.shared_state", "connections", kinds=_KINDS)
_TOTAL = Script.load("rap.shared_state", "total", kinds=_KINDS)


@dataclass(slots=True)
class _Request:
    """The callers that wait to be admitted under one key."""

    limit: int = 0
    waiters: list[asyncio.Future[bool]] = field(default_factory=list)


class RedisConnections:
    """A connection counter in Redis, shared by all instances of a scope.

    Use it in one event loop. Its task starts with the first `acquire` and ends with `aclose`. While
    Redis is unavailable, each instance admits its share: ``limit / instances``, at least 1.

    Args:
        redis: The client of Redis; `aclose` closes it.
        scope: Part of the keys.
        ttl: Seconds after its last message until the connections of a dead instance are free.
        assumed: Number of instances until Redis has told it.

    Attributes:
        away: Whether Redis did not answer the last command.
        instances: Number of instances with a lease, by the last answer of Redis. If Redis has lost
            its data, the number before counts until all instances have registered again.
    """

    def __init__(
        self,
        redis: RedisClient,
        scope: str,
        *,
        ttl: float = _TTL,
        assumed: int = ASSUMED_INSTANCES,
    ) -> None:
        self._redis = redis
        self._scope = scope
        self._keys = (f"rap:lim:{{{scope}}}:n", f"rap:lim:{{{scope}}}:x")
        self._ttl = check_number("ttl", ttl, least=0.1)
        self._instance = secrets.token_hex(8)
        self._sequence = 0
        self._held: dict[str, int] = {}
        self._unsent: dict[str, None] = {}  # keys whose count in Redis may differ
        self._requests: dict[str, _Request] = {}
        self._has_lease = False
        self.away = False
        self._closed = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.instances = assumed
        self._full_at = -inf  # when all instances have registered again that Redis has lost

    def start(self) -> None:
        """Start the task that holds the lease, unless it is running."""
        if self._closed:
            raise RuntimeError(f"the counter of {self._scope} is closed")
        if self._task is None:
            self._task = start_task(self._run(), name=f"rap limit {self._scope}")

    async def acquire(self, key: str, limit: int) -> bool:
        """Count one more connection under `key` if that keeps `limit`; return whether it does."""
        self.start()
        if self.away:
            return self._acquire_share(key, limit)
        request = self._requests.setdefault(key, _Request(limit))
        request.limit = limit
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        request.waiters.append(waiter)
        self._wake.set()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.result():
                self.release(key)
            raise

    def release(self, key: str) -> None:
        """Count one connection less. Call it once for each `acquire` that returned true."""
        held = self._held.get(key, 0)
        assert held > 0, f"more released than acquired under {key!r}"
        if held == 1:
            del self._held[key]
        else:
            self._held[key] = held - 1
        self._unsent[key] = None
        self._wake.set()

    def held(self, key: str) -> int:
        """Return the count of this instance under `key`."""
        return self._held.get(key, 0)

    async def total(self, key: str) -> int:
        """Return the count of all instances under `key`.

        Raises:
            StateUnavailable: Redis does not answer.
        """
        try:
            return int(await self._redis.run(_TOTAL, self._keys, [key]))
        except RegistryError as exc:
            raise StateUnavailable(f"the limit {self._scope} cannot be asked: {exc}") from exc

    async def aclose(self) -> None:
        """Release all counts of this instance, and close the connections to Redis."""
        if self._closed:
            return
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            for key, request in self._requests.items():
                self._grant(key, request, 0)
            with suppress(RegistryError):
                await self._send((), ttl=0.0)
        await self._redis.aclose()

    async def _run(self) -> None:
        """Send changes and renew the lease, one message at a time."""
        pause = self._ttl / _RENEWALS
        while True:
            if self.away:
                await asyncio.sleep(min(pause, _RETRY_INTERVAL))
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
            self._wake.clear()
            await self._exchange()

    async def _exchange(self) -> None:
        """Send one message and process its answer."""
        keys = [*islice(self._requests, _BATCH)]
        keys += islice(
            (key for key in self._unsent if key not in self._requests), _BATCH - len(keys)
        )
        requests = {key: self._requests.pop(key, _Request()) for key in keys}
        entries: list[Value] = []
        for key, request in requests.items():
            self._unsent.pop(key, None)
            entries += (key, self._held.get(key, 0), len(request.waiters), request.limit)
        try:
            status, *granted = await self._send(entries, ttl=self._ttl)
        except RegistryError as exc:
            self._on_silence(requests, exc)
            return
        except asyncio.CancelledError:
            for key, request in requests.items():
                self._grant(key, request, 0)
            raise
        if self.away:
            self.away = False
            _log.warning("the limit %s counts all instances again", self._scope)
        if status < 0:
            self._on_lost(requests)
        else:
            self._has_lease = True
            self.instances = status if monotonic() >= self._full_at else max(status, self.instances)
            for (key, request), number in zip(requests.items(), granted, strict=True):
                self._grant(key, request, number)
        if self._unsent or self._requests:
            self._wake.set()

    async def _send(self, entries: Sequence[Value], *, ttl: float) -> list[int]:
        self._sequence += 1
        head = (self._instance, round(ttl * 1000), self._sequence, int(not self._has_lease))
        reply: Any = await self._redis.run(_CONNECTIONS, self._keys, [*head, *entries])
        return [int(number) for number in reply]

    def _grant(self, key: str, request: _Request, number: int) -> None:
        """Admit `number` of the waiting callers and refuse the others."""
        for waiter in request.waiters:
            if waiter.cancelled():
                continue
            if number:
                self._held[key] = self._held.get(key, 0) + 1
                number -= 1
                waiter.set_result(True)
            else:
                waiter.set_result(False)
        if number:  # a caller no longer waits
            self._unsent[key] = None

    def _on_lost(self, requests: dict[str, _Request]) -> None:
        """Send all counts and requests again, because Redis has lost this instance."""
        if self._has_lease:
            self._full_at = monotonic() + self._ttl
        self._has_lease = False
        self._unsent |= dict.fromkeys(self._held)
        for key, request in requests.items():
            self._unsent[key] = None
            if request.waiters:
                newer = self._requests.get(key, request)
                if newer is not request:
                    newer.waiters[:0] = request.waiters
                self._requests[key] = newer

    def _on_silence(self, requests: dict[str, _Request], error: RegistryError) -> None:
        """Admit the share of this instance, because Redis does not answer."""
        if not self.away:
            self.away = True
            _log.warning(
                "the limit %s counts this instance alone, for 1/%d of it: %s",
                self._scope,
                self.instances,
                error,
            )
        for key, request in (*requests.items(), *self._requests.items()):
            self._unsent[key] = None
            for waiter in request.waiters:
                if not waiter.cancelled():
                    waiter.set_result(self._acquire_share(key, request.limit))
        self._requests.clear()

    def _acquire_share(self, key: str, limit: int) -> bool:
        held = self._held.get(key, 0)
        if held >= max(min(1, limit), limit // self.instances):
            return False
        self._held[key] = held + 1
        self._unsent[key] = None
        return True
