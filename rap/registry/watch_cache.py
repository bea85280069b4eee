"""What a watcher knows of one service, and how it keeps up; without any I/O.

A service stands at an epoch, a version and a chain hash; each change adds one to the version and
hashes itself onto the chain. After a failover that lost writes, two histories can reach the same
epoch and version with different content: only the hash tells them apart. So a watcher follows the
log of changes as long as every link of the chain fits, and reads everything otherwise.
"""

import logging
from collections.abc import Iterable, Mapping
from enum import Enum
from hashlib import sha1
from typing import NamedTuple

from rap.registry.base import Endpoint, Snapshot
from rap.registry.records import from_record
from rap.registry.self_preservation import as_seen
from rap.wire.codec import unpack

__all__ = ["Entry", "SyncAction", "Version", "WatchCache", "next_hash"]

logger = logging.getLogger("rap.registry")

_MOST_CHANGES = 512  # a watcher that is further behind reads everything at once


class Version(NamedTuple):
    """Where a service stands."""

    epoch: int
    number: int
    hash: str


class Entry(NamedTuple):
    """One change of the log. `operation` is put, del or exp; `record` is empty but for put."""

    epoch: int
    number: int
    operation: str
    endpoint_id: str
    record: bytes
    hash: str


class SyncAction(Enum):
    """What a watcher has to do."""

    NOTHING = "nothing"
    READ_LOG = "read log"
    READ_ALL = "read all"


class WatchCache:
    """Endpoints of one service at one version."""

    def __init__(self) -> None:
        self._version: Version | None = None
        self._members: dict[str, Endpoint] = {}
        self._known = False
        self._warned: set[str] = set()

    @property
    def version(self) -> Version | None:
        """Where the view stands; `None` while the service has no version, or nothing was read."""
        return self._version

    @property
    def snapshot(self) -> Snapshot | None:
        """The endpoints; `None` as long as nothing was read. Never changed afterwards."""
        return self._members if self._known else None

    def next_action(self, told: Version | None) -> SyncAction:
        """Return how to get to where the service stands now."""
        mine = self._version
        if mine is None or told is None or told.epoch != mine.epoch:
            return SyncAction.READ_ALL
        if told == mine:
            return SyncAction.NOTHING
        if 0 < told.number - mine.number <= _MOST_CHANGES:
            return SyncAction.READ_LOG
        return SyncAction.READ_ALL

    def follow(self, told: Version, entries: Iterable[Entry]) -> bool:
        """Apply changes from the log; return whether they led to `told` or beyond.

        If not, because one is missing or does not fit the chain, nothing is changed.
        """
        if self._version is None:
            return False
        at, members = self._version, dict(self._members)
        for entry in entries:
            expected = next_hash(at.hash, entry.operation, entry.endpoint_id, entry.record)
            if (entry.epoch, entry.number) != (at.epoch, at.number + 1) or entry.hash != expected:
                return False
            at = Version(entry.epoch, entry.number, entry.hash)
            members.pop(entry.endpoint_id, None)
            if entry.operation == "put":
                self._put(members, entry.endpoint_id, entry.record)
        if at.number < told.number or (at.number == told.number and at.hash != told.hash):
            return False
        self._version, self._members = at, members
        return True

    def replace(
        self,
        version: Version | None,
        records: Mapping[str, bytes],
        expiries: Mapping[str, float],
        now: float,
    ) -> None:
        """Take over everything that was read at once.

        Without a version Redis knows nothing of the service: it is new, or Redis has been
        emptied. What is known stands then, until the instances have registered again.

        Args:
            version: Where the service stands.
            records: Id to msgpack record.
            expiries: Id to the time its lease runs out, on the same clock as `now`.
            now: The time at which all this was read.
        """
        self._version = version
        self._known = True
        if version is None and self._members:
            return
        members: dict[str, Endpoint] = {}
        for endpoint_id, record in records.items():
            self._put(members, endpoint_id, record)
        self._members = {
            key: as_seen(endpoint, expiries.get(key, now) - now)
            for key, endpoint in members.items()
        }

    def _put(self, members: dict[str, Endpoint], endpoint_id: str, record: bytes) -> None:
        try:
            members[endpoint_id] = from_record(endpoint_id, unpack(record))
        except ValueError as exc:
            if endpoint_id not in self._warned:
                self._warned.add(endpoint_id)
                logger.warning("the record of %s is ignored: %s", endpoint_id, exc)


def next_hash(last: str, operation: str, endpoint_id: str, record: bytes) -> str:
    """Return the chain hash after one more change, as `scripts/prelude.lua` computes it."""
    link = f"{last}|{operation}|{endpoint_id}|".encode() + record
    return sha1(link, usedforsecurity=False).hexdigest()[:12]
