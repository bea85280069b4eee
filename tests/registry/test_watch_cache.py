"""Following the log of a service, link by link."""

import logging
from collections.abc import Sequence

import pytest

from rap.registry import Endpoint, State
from rap.registry.records import to_record
from rap.registry.watch_cache import Entry, SyncAction, Version, WatchCache, next_hash
from rap.wire.codec import pack
from tests.registry.sample import make_endpoint, ports

EPOCH = 1_700_000_000_000


def record_of(endpoint: Endpoint) -> bytes:
    return pack(to_record(endpoint))


def entries_after(at: Version, changes: Sequence[tuple[str, Endpoint]]) -> list[Entry]:
    """Return the log that a registry would have written."""
    made = []
    for operation, endpoint in changes:
        record = record_of(endpoint) if operation == "put" else b""
        chain = next_hash(at.hash, operation, endpoint.id, record)
        at = Version(at.epoch, at.number + 1, chain)
        made.append(Entry(at.epoch, at.number, operation, endpoint.id, record, chain))
    return made


def told_by(entry: Entry) -> Version:
    return Version(entry.epoch, entry.number, entry.hash)


def cache_of(*endpoints: Endpoint, left: float = 10.0) -> tuple[WatchCache, Version]:
    version = Version(EPOCH, 7, "abcdefabcdef")
    cache = WatchCache()
    cache.replace(
        version,
        {it.id: record_of(it) for it in endpoints},
        {it.id: 100.0 + 1000 * left for it in endpoints},
        100.0,
    )
    return cache, version


def test_a_new_view_knows_nothing_and_reads_all() -> None:
    cache = WatchCache()
    assert cache.snapshot is None
    assert cache.next_action(Version(EPOCH, 1, "x")) is SyncAction.READ_ALL
    assert cache.next_action(None) is SyncAction.READ_ALL


@pytest.mark.parametrize(
    ("current", "next_action"),
    [
        (Version(EPOCH, 7, "abcdefabcdef"), SyncAction.NOTHING),
        (Version(EPOCH, 8, "x"), SyncAction.READ_LOG),
        (Version(EPOCH, 7 + 512, "x"), SyncAction.READ_LOG),
        (Version(EPOCH, 7 + 513, "x"), SyncAction.READ_ALL),
        (Version(EPOCH, 7, "000000000000"), SyncAction.READ_ALL),  # a history that lost writes
        (Version(EPOCH, 6, "x"), SyncAction.READ_ALL),
        (Version(EPOCH + 1, 8, "x"), SyncAction.READ_ALL),
        (None, SyncAction.READ_ALL),
    ],
)
def test_the_version_tells_what_to_read(current: Version | None, next_action: SyncAction) -> None:
    cache, _ = cache_of(make_endpoint())
    assert cache.next_action(current) is next_action


def test_the_log_brings_a_view_up_to_date() -> None:
    cache, at = cache_of(make_endpoint(1), make_endpoint(2), make_endpoint(3))
    draining = make_endpoint(1, state=State.DRAINING)
    log = entries_after(
        at,
        [
            ("put", make_endpoint(4)),
            ("put", draining),
            ("del", make_endpoint(2)),
            ("exp", make_endpoint(3)),
        ],
    )
    before = cache.snapshot
    assert cache.follow(told_by(log[-1]), log)
    assert cache.snapshot == {it.id: it for it in (draining, make_endpoint(4))}
    assert cache.version == told_by(log[-1])
    assert before is not None
    assert ports(before) == {1, 2, 3}


def test_a_log_that_went_on_meanwhile_is_followed_to_its_end() -> None:
    cache, at = cache_of()
    log = entries_after(at, [("put", make_endpoint(1)), ("put", make_endpoint(2))])
    assert cache.follow(told_by(log[0]), log)
    assert cache.version == told_by(log[1])


def test_a_gap_is_not_followed() -> None:
    cache, at = cache_of()
    log = entries_after(at, [("put", make_endpoint(port)) for port in range(1, 4)])
    assert not cache.follow(told_by(log[-1]), [log[0], log[2]])
    assert not cache.follow(told_by(log[-1]), log[1:])
    assert not cache.follow(told_by(log[-1]), log[:2])
    assert cache.snapshot == {}
    assert cache.version == at


def test_a_wrong_link_is_not_followed() -> None:
    cache, at = cache_of()
    log = entries_after(at, [("put", make_endpoint(1)), ("put", make_endpoint(2))])
    forged = log[1]._replace(record=record_of(make_endpoint(3)))
    assert not cache.follow(told_by(log[1]), [log[0], forged])
    other_past = entries_after(at._replace(hash="000000000000"), [("put", make_endpoint(1))])
    assert not cache.follow(told_by(other_past[0]), other_past)
    assert not cache.follow(log_end_with_another_hash(log), log)
    assert cache.snapshot == {}


def log_end_with_another_hash(log: list[Entry]) -> Version:
    return told_by(log[-1])._replace(hash="000000000000")


def test_a_view_without_a_version_follows_no_log() -> None:
    assert not WatchCache().follow(Version(EPOCH, 1, "x"), [])


def test_leases_that_ran_out_make_suspects() -> None:
    cache, _ = cache_of(make_endpoint(), left=-0.001)
    assert cache.snapshot is not None
    assert [it.state for it in cache.snapshot.values()] == [State.SUSPECT]


def test_an_instance_without_a_lease_is_suspect() -> None:
    cache = WatchCache()
    cache.replace(Version(EPOCH, 1, "x"), {"10.0.0.1:9000": record_of(make_endpoint())}, {}, 100.0)
    assert cache.snapshot is not None
    assert [it.state for it in cache.snapshot.values()] == [State.SUSPECT]


def test_what_is_known_stands_when_redis_has_lost_the_service() -> None:
    cache, _ = cache_of(make_endpoint())
    cache.replace(None, {}, {}, 100.0)
    assert cache.snapshot is not None
    assert ports(cache.snapshot) == {9000}
    assert cache.next_action(Version(EPOCH, 7, "abcdefabcdef")) is SyncAction.READ_ALL


def test_a_service_that_nobody_registered_is_empty() -> None:
    cache = WatchCache()
    cache.replace(None, {}, {}, 100.0)
    assert cache.snapshot == {}


def test_a_record_that_cannot_be_read_is_left_out_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache, at = cache_of(make_endpoint(1))
    caplog.set_level(logging.WARNING, "rap.registry")
    for _ in range(2):
        cache.replace(
            at, {"x": b"\xc1", "10.0.0.1:1": record_of(make_endpoint(1))}, {"x": 101.0}, 100.0
        )
    assert cache.snapshot is not None
    assert ports(cache.snapshot) == {1}
    assert len(caplog.records) == 1
