"""What only the registry of files must survive."""

import asyncio
import fcntl
import json
import logging
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from rap.errors import RegistryError
from rap.registry import FileRegistry, Lease, State
from rap.registry.self_preservation import DEAD_AFTER
from tests.registry.fake_clock import FakeClock
from tests.registry.sample import make_endpoint, ports, until, until_true, watching


@pytest.fixture
def registry(tmp_path: Path) -> FileRegistry:
    return FileRegistry(tmp_path)


async def test_the_last_set_stands_while_the_directory_is_gone_and_leases_write_it_anew(
    tmp_path: Path,
) -> None:
    root = tmp_path / "registry"
    registry, client = FileRegistry(root), FileRegistry(root)
    async with (
        Lease(registry, "calc", make_endpoint(1), 0.3),
        Lease(registry, "calc", make_endpoint(2), 0.3),
        watching(client) as snapshots,
    ):
        await until(snapshots, lambda it: ports(it) == {1, 2})
        root.rename(tmp_path / "gone")
        await until_true(lambda: len(list(root.glob("default/calc/*.json"))) == 2)
        await registry.register("calc", make_endpoint(3), ttl=10)
        await until(snapshots, lambda it: ports(it) == {1, 2, 3})


async def test_a_watch_never_shows_a_removed_directory_as_the_empty_set(tmp_path: Path) -> None:
    clock = FakeClock()
    registry = FileRegistry(tmp_path / "registry", clock=clock)
    await registry.register("calc", make_endpoint(), ttl=1000)
    async with watching(registry) as snapshots:
        assert ports(await anext(snapshots)) == {9000}
        shutil.rmtree(tmp_path / "registry")
        later = asyncio.ensure_future(anext(snapshots))
        for _ in range(20):
            await clock.run(1.0)
            await asyncio.to_thread(lambda: None)
        assert not later.done()
        later.cancel()
        await asyncio.gather(later, return_exceptions=True)


async def test_a_file_that_is_no_record_is_ignored_with_one_warning(
    registry: FileRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await registry.register("calc", make_endpoint(1), ttl=10)
    folder = tmp_path / "default" / "calc"
    for name, text in {"a": "", "b": "[1]", "c": '{"id": "x"}', "d": "[" * 100_000}.items():
        (folder / f"{name}.json").write_text(text)
        os.utime(folder / f"{name}.json", (4e9, 4e9))
    caplog.set_level(logging.WARNING, "rap.registry")
    for port in (1, 2):
        await registry.register("calc", make_endpoint(port), ttl=10)
        async with watching(registry) as snapshots:
            await anext(snapshots)
    assert len(caplog.records) == 4
    async with watching(registry) as snapshots:
        assert ports(await anext(snapshots)) == {1, 2}


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nothing"])
async def test_what_has_the_name_of_a_record_and_is_no_file_is_ignored(
    registry: FileRegistry, tmp_path: Path, kind: str
) -> None:
    await registry.register("calc", make_endpoint(1), ttl=10)
    forged = tmp_path / "default" / "calc" / "forged.json"
    if kind == "folder":
        forged.mkdir()
    elif kind == "pipe":
        os.mkfifo(forged)
    else:
        forged.symlink_to("nothing")
    async with asyncio.timeout(10), watching(registry) as snapshots:
        await registry.register("calc", make_endpoint(2), ttl=10)
        await until(snapshots, lambda it: ports(it) == {1, 2})


async def test_a_server_replaces_its_own_corrupt_file(
    registry: FileRegistry, tmp_path: Path
) -> None:
    await registry.register("calc", make_endpoint(), ttl=10)
    [path] = (tmp_path / "default" / "calc").glob("*.json")
    path.write_text("nonsense")
    await registry.register("calc", make_endpoint(), ttl=10)
    assert json.loads(path.read_text())["id"] == make_endpoint().id


async def test_a_renewal_leaves_the_record_and_its_folder_as_they_are(
    registry: FileRegistry, tmp_path: Path
) -> None:
    await registry.register("calc", make_endpoint(), ttl=10)
    folder = tmp_path / "default" / "calc"
    [path] = folder.glob("*.json")
    before = folder.stat().st_mtime_ns, path.stat().st_ino
    await registry.register("calc", make_endpoint(), ttl=20)
    assert (folder.stat().st_mtime_ns, path.stat().st_ino) == before


async def test_leases_are_on_the_given_clock(tmp_path: Path, clock: FakeClock) -> None:
    registry = FileRegistry(tmp_path, clock=clock)
    await registry.register("calc", make_endpoint(), ttl=10)
    await clock.run(9.9)
    async with watching(registry) as snapshots:
        assert [it.state for it in (await anext(snapshots)).values()] == [State.UP]
    await clock.run(0.2)
    async with watching(registry) as snapshots:
        assert [it.state for it in (await anext(snapshots)).values()] == [State.SUSPECT]
    await clock.run(DEAD_AFTER)
    async with watching(registry) as snapshots:  # perhaps the folder takes no writes
        assert [it.state for it in (await anext(snapshots)).values()] == [State.SUSPECT]


async def test_of_many_processes_that_claim_one_address_one_gets_it(tmp_path: Path) -> None:
    claims = [
        FileRegistry(tmp_path).register("calc", make_endpoint(incarnation=str(i)), ttl=10)
        for i in range(8)
    ]
    results = await asyncio.gather(*claims, return_exceptions=True)
    assert results.count(None) == 1


async def test_a_lock_that_a_stopped_process_holds_is_a_registry_error(
    registry: FileRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rap.registry.file._LOCK_TIMEOUT", 0.02)
    await registry.register("calc", make_endpoint(), ttl=10)
    with (tmp_path / "default" / "calc" / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RegistryError, match=r"another process has held .*lock"):
            await registry.register("calc", make_endpoint(), ttl=10)
    await registry.register("calc", make_endpoint(), ttl=10)


async def test_a_folder_removed_under_the_lock_is_made_anew(
    registry: FileRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real, removals = tmp_path / "default" / "calc", fcntl.flock, [2]

    def removing(handle: int, operation: int) -> None:
        real(handle, operation)
        if removals[0]:
            removals[0] -= 1
            shutil.rmtree(folder)

    monkeypatch.setattr(fcntl, "flock", removing)
    await registry.register("calc", make_endpoint(), ttl=10)
    removals[0] = 3
    with pytest.raises(RegistryError, match="cannot register in"):
        await registry.register("calc", make_endpoint(), ttl=10)


async def test_a_directory_that_cannot_be_written_is_a_registry_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    registry = FileRegistry(tmp_path / "file")
    with pytest.raises(RegistryError, match="cannot register in"):
        await registry.register("calc", make_endpoint(), ttl=10)
    with pytest.raises(RegistryError, match="cannot deregister in"):
        await registry.deregister("calc", make_endpoint())
    assert await registry.services() == []


async def test_folders_whose_names_are_none_are_no_services(tmp_path: Path) -> None:
    registry = FileRegistry(tmp_path)
    await registry.register("calc", make_endpoint(), ttl=10)
    for name in (b"\xff", b"\x1b[2J", b"a\nb"):
        folder = tmp_path / "default" / os.fsdecode(name)
        folder.mkdir()
        (folder / ".known").touch()
    assert await registry.services() == ["calc"]


async def test_a_directory_that_cannot_be_read_leaves_the_last_set(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    registry = FileRegistry(tmp_path / "registry", clock=clock)
    await registry.register("calc", make_endpoint(), ttl=1000)
    async with watching(registry) as snapshots:
        assert await anext(snapshots)
        shutil.rmtree(tmp_path / "registry")
        loop = tmp_path / "registry"
        loop.symlink_to(loop)  # reading below it fails with ELOOP
        later = asyncio.ensure_future(anext(snapshots))
        for _ in range(10):
            await clock.run(1.0)
            await asyncio.to_thread(lambda: None)
        assert not later.done()
        later.cancel()
        await asyncio.gather(later, return_exceptions=True)


def test_a_relative_directory_is_refused() -> None:
    with pytest.raises(ValueError, match="must be an absolute path, got 'here'"):
        FileRegistry("here")


@pytest.fixture
def no_umask() -> Iterator[None]:
    """Let new files have all permissions that are asked for."""
    former = os.umask(0)
    yield
    os.umask(former)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.usefixtures("no_umask")
async def test_what_it_creates_is_not_writable_for_all_users(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "registry"
    await FileRegistry(root).register("calc", make_endpoint(), ttl=10)
    records = [path for path in root.glob("default/calc/*") if path.name != ".known"]
    for path in (root, root / "default", root / "default/calc", *records):
        assert not path.stat().st_mode & stat.S_IWOTH, path
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("place", ["", "default", "default/calc"])
async def test_a_folder_that_all_users_may_change_is_logged_once_by_servers_and_clients(
    place: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "default/calc").mkdir(parents=True)
    (tmp_path / place).chmod(0o1777)
    server, client = FileRegistry(tmp_path), FileRegistry(tmp_path)
    for number in range(3):
        await server.register("calc", make_endpoint(number + 1), ttl=10)
    text = f"{tmp_path / place} is writable for all users: they decide where clients connect"
    assert [text in each for each in warnings_of(caplog)] == [True]
    async with watching(client) as snapshots:
        await anext(snapshots)
        await client.register("calc", make_endpoint(9), ttl=10)
        await until(snapshots, lambda it: 9 in ports(it))
    assert [text in each for each in warnings_of(caplog)] == [True, True]


async def test_a_folder_for_a_group_is_trusted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.chmod(tmp_path, 0o2775)  # as of a volume in Kubernetes with fsGroup
    await FileRegistry(tmp_path).register("calc", make_endpoint(), ttl=10)
    assert warnings_of(caplog) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
async def test_a_folder_of_another_user_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.chown(tmp_path, 12345, -1)
    await FileRegistry(tmp_path).register("calc", make_endpoint(), ttl=10)
    (warning,) = warnings_of(caplog)
    assert f"{tmp_path} belongs to another user (uid 12345): they decide" in warning
    assert "use a folder to which only you and root may write" in warning


async def test_a_link_that_another_user_has_put_there_is_not_written_through(
    registry: FileRegistry, tmp_path: Path
) -> None:
    precious, folder = tmp_path / "precious", tmp_path / "default/calc"
    precious.write_text("data")
    folder.mkdir(parents=True)
    (folder / ".new").symlink_to(precious)
    await registry.register("calc", make_endpoint(), ttl=10)
    assert precious.read_text() == "data"
    (folder / ".lock").unlink()
    (folder / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RegistryError, match="cannot register in"):
        await registry.register("calc", make_endpoint(2), ttl=10)
    assert not (tmp_path / "elsewhere").exists()
