"""Counts of connections in Redis: one lease and one set of absolute counts for each instance.

Nothing is ever incremented there. An instance says what it holds, in messages numbered in order and
one at a time, so neither a lost answer nor a message that comes late or twice can make a count
wrong for longer than until the next message. What an instance held goes with its lease.
"""

import asyncio
import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from rap.errors import RegistryError
from rap.redis.client import RedisClient, Script, Value
from rap.shared_state.base import StateUnavailable, check_number

__all__ = ["RedisConnections"]

_log = logging.getLogger("rap.server")

_TTL = 10.0  # seconds
_RENEWALS = 3  # in the time of a lease
_RETRY_INTERVAL = 1.0  # seconds between looks whether Redis is back
_BATCH = 500  # keys in one message

_CONNECTIONS = Script.load("rap.shared_state", "connections")
_TOTAL = Script.load("rap.shared_state", "total")


@dataclass(slots=True)
class _Wish:
    """Those who wait to be admitted under one key."""

    limit: int = 0
    waiters: list[asyncio.Future[bool]] = field(default_factory=list)


class RedisConnections:
    """A counter that all instances of a scope share; to be used in one event loop.

    Its task begins with the first `acquire` and ends with `aclose`. While Redis is away, each
    instance admits up to its share, ``limit / instances`` and at least 1, without asking.

    Args:
        link: The way to Redis; closed with this.
        scope: Part of the keys.
        ttl: Seconds after its last sign of life until what a dead instance held is free.

    Attributes:
        away: Redis did not answer when it was last asked.
        instances: With a lease, when Redis last answered.
    """

    def __init__(self, redis: RedisClient, scope: str, *, ttl: float = _TTL) -> None:
        self._redis = redis
        self._scope = scope
        self._keys = (f"rap:lim:{{{scope}}}:n", f"rap:lim:{{{scope}}}:x")
        self._ttl = check_number("ttl", ttl, least=0.1)
        self._instance = secrets.token_hex(8)
        self._sequence = 0
        self._held: dict[str, int] = {}
        self._unsent: dict[str, None] = {}  # keys whose count in Redis may be another
        self._wishes: dict[str, _Wish] = {}
        self._has_lease = False
        self.away = False
        self._closed = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.instances = 1

    def start(self) -> None:
        """Begin to hold a lease, if that has not begun."""
        if self._closed:
            raise RuntimeError(f"the counter of {self._scope} is closed")
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"rap limit {self._scope}")

    async def acquire(self, key: str, limit: int) -> bool:
        """Count one more under `key` if no more than `limit` are open then; return whether."""
        self.start()
        if self.away:
            return self._acquire_share(key, limit)
        wish = self._wishes.setdefault(key, _Wish(limit))
        wish.limit = limit
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        wish.waiters.append(waiter)
        self._wake.set()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.result():
                self.release(key)
            raise

    def release(self, key: str) -> None:
        """Count one less; for each `acquire` that returned true, once."""
        held = self._held.get(key, 0)
        assert held > 0, f"more released than acquired under {key!r}"
        if held == 1:
            del self._held[key]
        else:
            self._held[key] = held - 1
        self._unsent[key] = None
        self._wake.set()

    def held(self, key: str) -> int:
        """Return how many this instance holds under `key`."""
        return self._held.get(key, 0)

    async def total(self, key: str) -> int:
        """Return how many all instances hold.

        Raises:
            StateUnavailable: Redis does not answer.
        """
        try:
            return int(await self._redis.run(_TOTAL, self._keys, [key]))
        except RegistryError as exc:
            raise StateUnavailable(f"the limit {self._scope} cannot be asked: {exc}") from exc

    async def aclose(self) -> None:
        """Give back all that is held, and close the connections to Redis."""
        if self._closed:
            return
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            for key, wish in self._wishes.items():
                self._grant(key, wish, 0)
            with suppress(RegistryError):
                await self._send((), ttl=0.0)
        await self._redis.aclose()

    async def _run(self) -> None:
        """Send what there is to say, and renew the lease, one message at a time."""
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
        """Send one message, and act on its answer."""
        keys = [*islice(self._wishes, _BATCH)]
        keys += islice((key for key in self._unsent if key not in self._wishes), _BATCH - len(keys))
        wishes = {key: self._wishes.pop(key, _Wish()) for key in keys}
        entries: list[Value] = []
        for key, wish in wishes.items():
            self._unsent.pop(key, None)
            entries += (key, self._held.get(key, 0), len(wish.waiters), wish.limit)
        try:
            status, *granted = await self._send(entries, ttl=self._ttl)
        except RegistryError as exc:
            self._on_silence(wishes, exc)
            return
        except asyncio.CancelledError:
            for key, wish in wishes.items():
                self._grant(key, wish, 0)
            raise
        if self.away:
            self.away = False
            _log.warning("the limit %s counts all instances again", self._scope)
        if status < 0:
            self._on_lost(wishes)
        else:
            self._has_lease = True
            self.instances = status
            for (key, wish), number in zip(wishes.items(), granted, strict=True):
                self._grant(key, wish, number)
        if self._unsent or self._wishes:
            self._wake.set()

    async def _send(self, entries: Sequence[Value], *, ttl: float) -> list[int]:
        self._sequence += 1
        head = (self._instance, round(ttl * 1000), self._sequence, int(not self._has_lease))
        reply: Any = await self._redis.run(_CONNECTIONS, self._keys, [*head, *entries])
        return [int(number) for number in reply]

    def _grant(self, key: str, wish: _Wish, number: int) -> None:
        """Admit so many of those who wait; refuse the others."""
        for waiter in wish.waiters:
            if waiter.cancelled():
                continue
            if number:
                self._held[key] = self._held.get(key, 0) + 1
                number -= 1
                waiter.set_result(True)
            else:
                waiter.set_result(False)
        if number:  # somebody no longer waits
            self._unsent[key] = None

    def _on_lost(self, wishes: dict[str, _Wish]) -> None:
        """Redis knows nothing of this instance: send all again, and ask again."""
        self._has_lease = False
        self._unsent |= dict.fromkeys(self._held)
        for key, wish in wishes.items():
            self._unsent[key] = None
            if wish.waiters:
                newer = self._wishes.get(key, wish)
                if newer is not wish:
                    newer.waiters[:0] = wish.waiters
                self._wishes[key] = newer

    def _on_silence(self, wishes: dict[str, _Wish], error: RegistryError) -> None:
        """Redis does not answer: nobody knows what it did with the message."""
        if not self.away:
            self.away = True
            _log.warning(
                "the limit %s counts this instance alone, for 1/%d of it: %s",
                self._scope,
                self.instances,
                error,
            )
        for key, wish in (*wishes.items(), *self._wishes.items()):
            self._unsent[key] = None
            for waiter in wish.waiters:
                if not waiter.cancelled():
                    waiter.set_result(self._acquire_share(key, wish.limit))
        self._wishes.clear()

    def _acquire_share(self, key: str, limit: int) -> bool:
        held = self._held.get(key, 0)
        if held >= max(min(1, limit), limit // self.instances):
            return False
        self._held[key] = held + 1
        self._unsent[key] = None
        return True
