import asyncio
import errno
import logging
import os
import stat
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

import rap.registry.cache
from rap.registry import CachedResolver, Snapshot, SnapshotCache
from rap.registry.folder import write_new
from tests.registry.fake_clock import FakeClock, settle
from tests.registry.sample import make_endpoint, ports, watching


class FedResolver:
    """Yields what the test puts into `feed`."""

    def __init__(self) -> None:
        self.feed: asyncio.Queue[Snapshot] = asyncio.Queue()
        self.closed = 0

    async def watch(self, service: str) -> AsyncGenerator[Snapshot, None]:
        try:
            while True:
                yield await self.feed.get()
        finally:
            self.closed += 1

    async def aclose(self) -> None:
        self.closed += 10


def snapshot_of(*numbers: int) -> Snapshot:
    return {it.id: it for it in map(make_endpoint, numbers)}


@pytest.fixture
def fed() -> FedResolver:
    return FedResolver()


def cached(fed: FedResolver, directory: Path, clock: FakeClock) -> CachedResolver:
    return CachedResolver(fed, SnapshotCache(directory, clock=clock))


async def test_a_client_starts_from_what_an_earlier_one_saw(
    fed: FedResolver, tmp_path: Path, clock: FakeClock
) -> None:
    fed.feed.put_nowait(snapshot_of(1, 2))
    async with watching(cached(fed, tmp_path, clock)) as snapshots:
        assert ports(await anext(snapshots)) == {1, 2}
    async with watching(cached(fed, tmp_path, clock)) as snapshots:
        first = asyncio.ensure_future(anext(snapshots))
        await settle()
        assert not first.done()
        await clock.run(1.0)
        assert await first == snapshot_of(1, 2)
        fed.feed.put_nowait(snapshot_of(1, 2))  # the same as kept: nothing new
        fed.feed.put_nowait(snapshot_of(3))
        assert ports(await anext(snapshots)) == {3}


async def test_a_registry_that_answers_in_time_is_believed(
    fed: FedResolver, tmp_path: Path, clock: FakeClock
) -> None:
    SnapshotCache(tmp_path).save("calc", snapshot_of(1))
    fed.feed.put_nowait(snapshot_of(2))
    async with watching(cached(fed, tmp_path, clock)) as snapshots:
        assert ports(await anext(snapshots)) == {2}
    assert ports(SnapshotCache(tmp_path).load("calc")) == {2}


async def test_the_kept_set_stands_in_for_an_empty_first_answer(
    fed: FedResolver, tmp_path: Path, clock: FakeClock
) -> None:
    SnapshotCache(tmp_path).save("calc", snapshot_of(1))
    fed.feed.put_nowait({})
    async with watching(cached(fed, tmp_path, clock)) as snapshots:
        assert ports(await anext(snapshots)) == {1}
        fed.feed.put_nowait(snapshot_of(2))
        assert ports(await anext(snapshots)) == {2}
        fed.feed.put_nowait({})
        assert await anext(snapshots) == {}
    assert ports(SnapshotCache(tmp_path).load("calc")) == {2}


async def test_without_a_kept_set_the_first_answer_is_awaited(
    fed: FedResolver, tmp_path: Path, clock: FakeClock
) -> None:
    async with watching(cached(fed, tmp_path, clock)) as snapshots:
        first = asyncio.ensure_future(anext(snapshots))
        await clock.run(5.0)
        assert not first.done()
        fed.feed.put_nowait({})
        assert await first == {}


async def test_closing_closes_what_is_below(
    fed: FedResolver, tmp_path: Path, clock: FakeClock
) -> None:
    resolver = cached(fed, tmp_path, clock)
    SnapshotCache(tmp_path).save("calc", snapshot_of(1))
    async with watching(resolver) as snapshots:
        first = asyncio.ensure_future(anext(snapshots))
        await clock.run(1.0)
        await first
    await resolver.aclose()
    assert fed.closed == 11


def test_services_and_namespaces_have_files_of_their_own(tmp_path: Path) -> None:
    SnapshotCache(tmp_path, namespace="a.b").save("c", snapshot_of(1))
    SnapshotCache(tmp_path, namespace="a").save("b.c", snapshot_of(2))
    assert ports(SnapshotCache(tmp_path, namespace="a.b").load("c")) == {1}
    assert SnapshotCache(tmp_path).load("c") == {}
    assert [it.name for it in tmp_path.iterdir() if it.name.startswith(".")] == []


@pytest.mark.parametrize("text", ["", "[]", '{"x": 1}', '{"x": {"meta": {}}}', "[" * 100_000])
def test_a_corrupt_file_is_as_good_as_none(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "calc@default.json").write_text(text)
    cache = SnapshotCache(tmp_path)
    assert cache.load("calc") == {}
    assert cache.load("calc") == {}
    assert len(caplog.records) == 1


def test_a_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = SnapshotCache(tmp_path)
    cache.save("calc", {make_endpoint(1).id: make_endpoint(1)})

    def full_disk(path: Path, text: str) -> None:
        write_new(path, text[: len(text) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rap.registry.cache, "write_new", full_disk)
    cache.save("calc", {make_endpoint(2).id: make_endpoint(2)})
    assert cache.load("calc").keys() == {make_endpoint(1).id}


def test_a_directory_that_cannot_be_written_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    cache = SnapshotCache(tmp_path / "file")
    caplog.set_level(logging.WARNING, "rap.registry")
    cache.save("calc", snapshot_of(1))
    cache.save("calc", snapshot_of(2))
    assert len(caplog.records) == 1


def test_a_relative_directory_is_refused() -> None:
    with pytest.raises(ValueError, match="cache must be an absolute path, got 'here'"):
        SnapshotCache("here")


async def test_a_cache_that_all_users_may_change_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.chmod(tmp_path, 0o777)
    cache = SnapshotCache(tmp_path)
    for number in (1, 2):
        cache.save("calc", snapshot_of(number))
        assert ports(cache.load("calc")) == {number}
    (record,) = caplog.records
    assert f"{tmp_path} is writable for all users: they decide" in record.getMessage()


async def test_a_cache_that_it_creates_is_not_writable_for_all_users(tmp_path: Path) -> None:
    former = os.umask(0)
    try:
        SnapshotCache(tmp_path / "cache").save("calc", snapshot_of(1))
    finally:
        os.umask(former)
    for path in (tmp_path / "cache", *(tmp_path / "cache").iterdir()):
        assert not path.stat().st_mode & stat.S_IWOTH, path
