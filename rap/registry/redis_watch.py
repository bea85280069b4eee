"""How a client follows one service in Redis: hints shorten the wait, versions keep it right."""

import logging
import random
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, NamedTuple

from rap.clock import Clock
from rap.errors import RegistryError
from rap.notify import Notify
from rap.redis.client import RedisClient, Script
from rap.redis.pubsub import Subscription
from rap.registry.base import Snapshot
from rap.registry.watch_cache import Entry, SyncAction, Version, WatchCache

__all__ = ["Keys", "follow"]

logger = logging.getLogger("rap.registry")

_SPREAD = 0.2  # of the poll interval, either way
_SOONER = 0.5  # of the poll interval, after a poll without an answer
_FIRST_HINT = 1.0  # seconds that the subscription may take before the first read goes ahead
_GAP = 0.01  # seconds between two reads, however many hints arrive


class Keys(NamedTuple):
    """The names that one service has in Redis; the braces keep them in one slot of a Cluster."""

    inst: str
    lease: str
    load: str
    ver: str
    log: str
    channel: str

    @classmethod
    def of(cls, namespace: str, service: str) -> "Keys":
        """Return the names for a service of a namespace."""
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
    tell: Callable[[str], None],
) -> AsyncGenerator[Snapshot, None]:
    """Yield the endpoints of a service, first and after each change.

    It subscribes first and reads then, so that no change falls between. While Redis does not
    answer, the last set stands and the reading goes on.

    Args:
        link: The way to Redis.
        keys: Where the service is.
        script: `scripts/snapshot.lua`.
        poll_interval: Seconds between looks at the version.
        clock: Time source.
        rng: Chance that spreads the looks of many clients.
        tell: Told why a read failed; nothing when one did not.
    """
    reader = _Reader(redis, keys, script)
    wakeup = Notify(clock)

    def on_hint(message: bytes | None) -> None:
        reader.stale |= message is None
        wakeup.set()

    last: Snapshot | None = None
    failing = False
    async with Subscription(redis, keys.channel, on_hint, clock=clock, rng=rng):
        await wakeup.wait(_FIRST_HINT)
        while True:
            pause = poll_interval
            try:
                snapshot = await reader.read()
            except RegistryError as exc:
                if not failing:
                    what = "no set has come yet" if last is None else "the last known set stands"
                    logger.warning("%s: %s", what, exc)
                failing, snapshot, pause = True, None, poll_interval * _SOONER
                tell(str(exc))
            else:
                tell("")
                if failing:
                    logger.info("Redis answers again")
                failing = False
            if snapshot is not None and snapshot != last:
                last = snapshot
                yield snapshot
            await clock.sleep(_GAP)
            await wakeup.wait(pause * rng.uniform(1.0 - _SPREAD, 1.0 + _SPREAD))


class _Reader:
    """Brings a view up to date with as little reading as its version allows."""

    def __init__(self, redis: RedisClient, keys: Keys, script: Script) -> None:
        self.stale = True  # changes may have been missed: the log is not enough
        self._redis = redis
        self._keys = keys
        self._script = script
        self._view = WatchCache()

    async def read(self) -> Snapshot | None:
        """Return the endpoints as they are.

        Raises:
            RegistryError: Redis does not answer, or not as it should; the next read is a full one.
        """
        stale, self.stale = self.stale, False
        try:
            if stale or not await self._catch_up():
                await self._read_all()
        except (ValueError, TypeError, IndexError, AttributeError) as exc:
            self.stale = True
            raise RegistryError(f"cannot understand what {self._keys.ver} holds: {exc}") from exc
        except RegistryError:
            self.stale = True
            raise
        return self._view.snapshot

    async def _catch_up(self) -> bool:
        """Return whether the view is up to date now, by the log if need be."""
        told = _version(await self._redis.call("HMGET", self._keys.ver, "e", "v", "h"))
        mine, next_action = self._view.version, self._view.next_action(told)
        if next_action is SyncAction.NOTHING:
            return True
        if next_action is SyncAction.READ_ALL or mine is None or told is None:
            return False
        start = f"{mine.epoch}-{mine.number + 1}"
        reply = await self._redis.call("XRANGE", self._keys.log, start, "+")
        return self._view.follow(told, [_entry(*it) for it in reply])

    async def _read_all(self) -> None:
        keys = [self._keys.inst, self._keys.lease, self._keys.ver]
        *version, now, records, leases = await self._redis.run(self._script, keys, [])
        self._view.replace(
            _version(version),
            {key.decode(): value for key, value in _pairs(records)},
            {key.decode(): float(value) for key, value in _pairs(leases)},
            float(now),
        )


def _version(reply: list[bytes | None]) -> Version | None:
    epoch, number, chain = reply
    if epoch is None or number is None or chain is None:
        return None
    return Version(int(epoch), int(number), chain.decode())


def _entry(entry_id: bytes, fields: dict[bytes, bytes]) -> Entry:
    epoch, _, number = entry_id.partition(b"-")
    operation, endpoint_id = fields[b"o"].decode(), fields[b"i"].decode()
    return Entry(
        int(epoch), int(number), operation, endpoint_id, fields[b"r"], fields[b"h"].decode()
    )


def _pairs(flat: list[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)
