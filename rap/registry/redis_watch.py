"""A watch of one service in Redis: messages shorten the wait, versions guarantee correctness."""

import logging
import random
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, NamedTuple

from rap.clock import Clock
from rap.errors import RegistryError
from rap.foreign import one_line
from rap.notify import Notify
from rap.redis.client import RedisClient, Script, WrongType
from rap.redis.pubsub import Subscription
from rap.registry.base import Snapshot
from rap.registry.process import suspect_ended
from rap.registry.records import BadRecords, text_of
from rap.registry.watch_cache import Entry, SyncAction, Version, WatchCache

__all__ = ["Keys", "follow"]

logger = logging.getLogger("rap.registry")

_JITTER = 0.2  # share of the poll interval, either way
_RETRY = 0.5  # share of the poll interval, after a poll without an answer
_SUBSCRIBE_TIMEOUT = 1.0  # seconds that the first read waits for the subscription
_LOOK = 30.0  # seconds between two looks whether any lease is renewed
_MIN_PAUSE = 0.01  # seconds between two reads, however many messages arrive
_NUMBER = re.compile(rb"[0-9]{1,15}")  # what the scripts write, and count with exactly
_MALFORMED = (ValueError, TypeError, LookupError, AttributeError)


class Keys(NamedTuple):
    """The keys of one service in Redis; the braces keep them in one slot of a Cluster."""

    inst: str
    lease: str
    load: str
    ver: str
    log: str
    channel: str

    @classmethod
    def of(cls, namespace: str, service: str) -> "Keys":
        """Return the keys of a service in a namespace."""
        parts = ("inst", "lease", "load", "ver", "log", "ch")
        return cls(*(f"rap:{{{namespace}/{service}}}:{part}" for part in parts))


async def follow(
    redis: RedisClient,
    keys: Keys,
    script: Script,
    *,
    poll_interval: float,
    clock: Clock,
    rng: random.Random,
    on_read: Callable[[str], None],
) -> AsyncGenerator[Snapshot, None]:
    """Yield a snapshot of a service now and after each change.

    It subscribes before it reads, so that no change is missed. While Redis does not answer, the
    last snapshot remains valid and reading continues.

    Args:
        redis: The client of Redis.
        keys: The keys of the service.
        script: `scripts/snapshot.lua`.
        poll_interval: Seconds between reads of the version.
        clock: Time source.
        rng: Random numbers for the jitter of the reads.
        on_read: Called after each read with the reason why it failed, or an empty text.
    """
    reader = _Reader(redis, keys, script, clock)
    notify = Notify(clock)

    def on_message(message: bytes | None) -> None:
        reader.stale |= message is None
        notify.notify()

    last: Snapshot | None = None
    failing = False
    async with Subscription(redis, keys.channel, on_message, clock=clock, rng=rng):
        await notify.wait(_SUBSCRIBE_TIMEOUT)
        while True:
            pause = poll_interval
            try:
                snapshot = await reader.read()
            except RegistryError as exc:
                if not failing:
                    what = "no set is known yet" if last is None else "keeping the last known set"
                    logger.warning("%s: %s", what, exc)
                failing, snapshot, pause = True, None, poll_interval * _RETRY
                on_read(str(exc))
            else:
                on_read("")
                if failing:
                    logger.info("Redis answers again")
                failing = False
            if snapshot is not None and snapshot != last:
                last = snapshot
                yield snapshot
            await clock.sleep(_MIN_PAUSE)
            await notify.wait(pause * rng.uniform(1.0 - _JITTER, 1.0 + _JITTER))


class _Reader:
    """Brings a watch cache up to date with as few reads as possible."""

    def __init__(self, redis: RedisClient, keys: Keys, script: Script, clock: Clock) -> None:
        self.stale = True  # messages may have been missed, so the log is not enough
        self._clock = clock
        self._look_at = clock.monotonic() + _LOOK
        self._latest: Any = None  # the lease that ended last, at that look
        self._redis = redis
        self._keys = keys
        self._script = script
        self._cache = WatchCache()
        self._bad = BadRecords()

    async def read(self) -> Snapshot | None:
        """Return the current snapshot; instances whose process is known to have ended are SUSPECT.

        Records, leases and changes that are not valid do not keep others from being read.

        Raises:
            RegistryError: Redis does not answer, or a key has another type. The next read is full.
        """
        stale, self.stale = self.stale, False
        try:
            if stale or not await self._catch_up():
                await self._read_all()
        except _MALFORMED as exc:
            self.stale = True
            text = f"cannot understand what {self._keys.ver} holds: {one_line(exc)}"
            raise RegistryError(text) from exc
        except RegistryError:
            self.stale = True
            raise
        snapshot = self._cache.snapshot
        return None if snapshot is None else suspect_ended(snapshot)

    async def _catch_up(self) -> bool:
        """Bring the cache up to date by the log; return whether that was possible."""
        current = _version(await self._redis.call("HMGET", self._keys.ver, "e", "v", "h"))
        mine, action = self._cache.version, self._cache.next_action(current)
        if action is SyncAction.NOTHING:
            return await self._has_renewals()
        if action is SyncAction.READ_ALL or mine is None or current is None:
            return False
        start = f"{mine.epoch}-{mine.number + 1}"
        try:
            reply = await self._redis.call("XRANGE", self._keys.log, start, "+")
        except WrongType as exc:  # servers register without the log, so all is read each time
            self._bad.warn(self._keys.log, "the log of changes %s is not read: %s", exc)
            return False
        try:
            changes = [_entry(*it) for it in reply]
        except _MALFORMED:
            return False
        return self._cache.follow(current, changes)

    async def _has_renewals(self) -> bool:
        """Return whether servers still renew their leases, as far as is known.

        The servers write to the log which of them have died. If the last one has, nothing is
        written any more, and only the leases tell it.
        """
        now = self._clock.monotonic()
        if now < self._look_at:
            return True
        self._look_at = now + _LOOK
        before = self._latest
        self._latest = await self._redis.call("ZRANGE", self._keys.lease, -1, -1, "WITHSCORES")
        return not before or before != self._latest

    async def _read_all(self) -> None:
        keys = [self._keys.inst, self._keys.lease, self._keys.ver]
        *version, now, records, leases = await self._redis.run(self._script, keys, [])
        self._cache.replace(
            _version(version),
            {text_of(key): value for key, value in _pairs(records)},
            {text_of(key): float(value) for key, value in _pairs(leases)},
            float(now),
        )


def _version(reply: list[bytes | None]) -> Version | None:
    """Return the version of a service; `None` for one that `scripts/prelude.lua` replaces."""
    epoch, number, chain = reply
    if epoch is None or number is None or chain is None:
        return None
    if not (_NUMBER.fullmatch(epoch) and _NUMBER.fullmatch(number)):
        return None
    return Version(int(epoch), int(number), text_of(chain))


def _entry(entry_id: bytes, fields: dict[bytes, bytes]) -> Entry:
    epoch, _, number = entry_id.partition(b"-")
    operation, endpoint_id, chain = (text_of(fields[name]) for name in (b"o", b"i", b"h"))
    return Entry(int(epoch), int(number), operation, endpoint_id, fields[b"r"], chain)


def _pairs(flat: list[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)
