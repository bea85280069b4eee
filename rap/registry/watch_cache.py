"""The watch cache of one service, as in etcd and Kubernetes, without I/O.

A service is at an epoch, a version and a chain hash. Each change increments the version and hashes
itself onto the chain. After a failover that lost writes, two histories can have the same epoch and
version with different content, and only the hash differs. A watcher therefore follows the log of
changes while each hash matches, and otherwise reads everything.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from hashlib import sha1
from typing import NamedTuple

from rap.registry.base import Endpoint, Snapshot
from rap.registry.records import BadRecords, from_record
from rap.registry.self_preservation import as_snapshot
from rap.wire.codec import unpack

__all__ = ["Entry", "SyncAction", "Version", "WatchCache", "next_hash"]

_MAX_CHANGES = 512  # a watcher that is further behind reads everything


class Version(NamedTuple):
    """The version of a service."""

    epoch: int
    number: int
    hash: str


class Entry(NamedTuple):
    """One change in the log: ``put`` with a record, or ``del`` or ``exp`` without."""

    epoch: int
    number: int
    operation: str
    endpoint_id: str
    record: bytes
    hash: str


class SyncAction(Enum):
    """The next step to bring a watch cache up to date."""

    NOTHING = "nothing"
    READ_LOG = "read log"
    READ_ALL = "read all"


class WatchCache:
    """The endpoints of one service at one version."""

    def __init__(self) -> None:
        self._version: Version | None = None
        self._members: dict[str, Endpoint] = {}
        self._known = False
        self._bad = BadRecords()

    @property
    def version(self) -> Version | None:
        """The version of the cache; `None` if the service has none, or nothing was read yet."""
        return self._version

    @property
    def snapshot(self) -> Snapshot | None:
        """The endpoints; `None` until the first read. A snapshot is never changed later."""
        return self._members if self._known else None

    def next_action(self, current: Version | None) -> SyncAction:
        """Return how to get to the current version of the service."""
        mine = self._version
        if mine is None or current is None or current.epoch != mine.epoch:
            return SyncAction.READ_ALL
        if current == mine:
            return SyncAction.NOTHING
        if 0 < current.number - mine.number <= _MAX_CHANGES:
            return SyncAction.READ_LOG
        return SyncAction.READ_ALL

    def follow(self, current: Version, entries: Iterable[Entry]) -> bool:
        """Apply changes from the log; return whether they lead to `current` or beyond.

        If a change is missing or does not fit the chain, the cache stays as it was.
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
        if at.number < current.number or (at.number == current.number and at.hash != current.hash):
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
        """Replace the content with what was read in one step.

        Without a version the service is new, or Redis has been emptied. Then the cache keeps its
        endpoints until the instances have registered again.

        Args:
            version: The version of the service.
            records: Id to msgpack record.
            expiries: Id to the end of its lease, in milliseconds on the same clock as `now`.
            now: The time of the read.
        """
        self._version = version
        self._known = True
        if version is None and self._members:
            return
        members: dict[str, Endpoint] = {}
        for endpoint_id, record in records.items():
            self._put(members, endpoint_id, record)
        self._members = as_snapshot(
            (endpoint, (expiries.get(key, now) - now) / 1000) for key, endpoint in members.items()
        )

    def _put(self, members: dict[str, Endpoint], endpoint_id: str, record: bytes) -> None:
        try:
            members[endpoint_id] = from_record(endpoint_id, unpack(record))
        except ValueError as exc:
            self._bad.warn(endpoint_id, "the record of %s is ignored: %s", exc)


def next_hash(last: str, operation: str, endpoint_id: str, record: bytes) -> str:
    """Return the chain hash after one more change, as `scripts/prelude.lua` computes it."""
    link = f"{last}|{operation}|{endpoint_id}|".encode(errors="surrogateescape") + record
    return sha1(link, usedforsecurity=False).hexdigest()[:12]
