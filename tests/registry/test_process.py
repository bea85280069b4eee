"""Marks of processes, and registrations of processes that have ended."""

import asyncio
import logging
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from rap.client import Client
from rap.errors import Unavailable
from rap.registry import (
    AddressTaken,
    CachedResolver,
    FileRegistry,
    Lease,
    MemoryRegistry,
    Resolver,
    SnapshotCache,
    State,
)
from rap.registry.process import MARK, has_ended, process_mark, suspect_ended, without_ended
from rap.server import Server
from tests.ports import free_address
from tests.registry.conftest import Connect
from tests.registry.sample import make_endpoint, ports, until, watching

OWN = process_mark()
LONG = 30.0  # seconds to live
SERVER = """
import asyncio, sys
from rap import Server
async def main():
    server = Server(sys.argv[1], service="calc", registry=sys.argv[2], lease_ttl=30)
    async with server:
        print("listening", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""
MARKED = "import sys; from rap.registry.process import process_mark; print(process_mark())"


def ended_mark() -> str:
    """Return the mark of a process that has ended."""
    command = [sys.executable, "-c", MARKED]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_process_that_runs_has_not_ended() -> None:
    assert OWN
    assert process_mark() == OWN
    assert not has_ended(OWN)


def test_a_process_has_ended_when_it_was_killed_also_before_its_parent_knows() -> None:
    code = f"{MARKED}; sys.stdout.flush(); sys.stdin.read()"
    arguments = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **arguments) as process:  # type: ignore[call-overload]  # a dict
        mark = process.stdout.readline().strip()
        assert not has_ended(mark)
        process.send_signal(signal.SIGKILL)
        while not has_ended(mark):  # a zombie, as nobody has waited for it
            assert process.returncode is None
        process.wait()
        assert has_ended(mark)


def test_a_process_whose_id_another_one_has_now_has_ended() -> None:
    machine, pid, started = OWN.split("/")
    assert has_ended(f"{machine}/{pid}/{int(started) - 1}")


@pytest.mark.parametrize("mark", ["", "x", "x/1", f"0123456789abcdef/{2**22}/7", "///", "x/1/"])
def test_of_another_machine_and_of_nonsense_nothing_is_known(mark: str) -> None:
    assert not has_ended(mark)


def test_a_mark_whose_process_id_is_nonsense_says_nothing() -> None:
    machine = OWN.partition("/")[0]
    for process in ("../7", "-1/7", "x/7", "", "7", "7/"):
        assert not has_ended(f"{machine}/{process}")


def in_namespace(script: str) -> str:
    """Return what a shell prints that has its own mounts."""
    command = ["unshare", "--mount", "sh", "-c", script]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"this system gives no mounts of one's own: {exc}")
    return done.stdout.strip()


def test_a_process_that_proc_does_not_show_has_not_ended() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        stat = Path(f"/proc/{process.pid}/stat").read_text()
        started = stat.rpartition(") ")[2].split()[19]
        mark = f"{OWN.partition('/')[0]}/{process.pid}/{started}"
        asking = f"from rap.registry.process import has_ended; print(has_ended({mark!r}))"
        hide = f"mount -t tmpfs none /proc/{process.pid} && ! test -e /proc/{process.pid}/stat"
        try:
            assert in_namespace(f'{hide} && "{sys.executable}" -c "{asking}"') == "False"
        finally:
            process.kill()


@pytest.mark.parametrize("url", ["file", "single", "cluster"], indirect=True)
async def test_an_instance_whose_process_has_ended_is_suspect_whatever_its_lease(
    connect: Connect,
) -> None:
    for port, mark in ((1, ended_mark()), (2, OWN), (3, ""), (4, "0123456789abcdef/77/7")):
        await connect().register("calc", make_endpoint(port, metadata={MARK: mark}), ttl=LONG)
    async with watching(connect()) as snapshots:
        snapshot = await anext(snapshots)
    assert ports(snapshot) == {1, 2, 3, 4}
    assert [it.address.port for it in snapshot.values() if it.state is State.SUSPECT] == [1]
    assert ports(without_ended(snapshot)) == {2, 3, 4}


def test_a_draining_instance_whose_process_has_ended_is_left_out() -> None:
    draining = make_endpoint(state=State.DRAINING, metadata={MARK: ended_mark()})
    assert suspect_ended({draining.id: draining}) == {draining.id: draining}
    assert without_ended({draining.id: draining}) == {}


@pytest.mark.parametrize("url", ["file", "single"], indirect=True)
async def test_a_watch_sees_that_a_process_ends(connect: Connect) -> None:
    code = f"{MARKED}; sys.stdout.flush(); sys.stdin.read()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        metadata = {MARK: (await process.stdout.readline()).decode().strip()}
        await connect().register("calc", make_endpoint(metadata=metadata), ttl=LONG)
        async with watching(connect()) as snapshots:
            assert ports(await anext(snapshots)) == {9000}
            process.kill()
            await until(snapshots, lambda it: it["10.0.0.1:9000"].state is State.SUSPECT)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.mark.parametrize("kind", ["memory", "file", "cache"])
async def test_a_client_does_not_dial_what_a_process_has_left_that_was_killed(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = make_endpoint(metadata={MARK: ended_mark()})
    registry = MemoryRegistry() if kind == "memory" else FileRegistry(tmp_path)
    resolver: Resolver = registry
    if kind == "cache":
        SnapshotCache(tmp_path / "cache").save("calc", {left.id: left})
        resolver = CachedResolver(registry, SnapshotCache(tmp_path / "cache", patience=0))
    else:
        await registry.register("calc", left, ttl=LONG)
    client = Client(service="calc", registry=resolver, wait_for_ready=False)
    with pytest.raises(Unavailable, match="no server of service 'calc': the registry lists none"):
        await client.raw_call("add", [1, 2])
    assert "cannot reach" not in caplog.text
    assert client.cluster.counters.failed == 0
    await client.await_close()


@pytest.mark.parametrize("url", ["memory", "file", "single", "cluster"], indirect=True)
async def test_the_address_of_a_process_that_has_ended_is_free_at_once(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rap.registry")
    former = make_endpoint(metadata={MARK: ended_mark()})
    await connect().register("calc", former, ttl=LONG)
    own = make_endpoint(incarnation="second", metadata={MARK: OWN})
    async with watching(connect()) as snapshots, Lease(connect(), "calc", own, LONG) as lease:
        assert lease.healthy
        await until(snapshots, lambda it: own.id in it and it[own.id].incarnation == "second")
    assert "10.0.0.1:9000 is free: the process that was registered there has end" in caplog.text
    assert max(it.levelno for it in caplog.records) == logging.INFO


@pytest.mark.parametrize("url", ["memory", "file", "single"], indirect=True)
@pytest.mark.parametrize("mark", [pytest.param(OWN, id="own"), "", "0123456789abcdef/77/7"])
async def test_the_address_of_a_process_that_may_run_is_not_taken(
    connect: Connect, mark: str
) -> None:
    former = make_endpoint(metadata={MARK: mark} if mark else {})
    await connect().register("calc", former, ttl=LONG)
    async with Lease(connect(), "calc", make_endpoint(incarnation="second"), LONG) as lease:
        assert isinstance(lease.error, AddressTaken)


async def test_a_server_that_crashed_restarts_at_its_address_and_drains_within_its_lease(
    tmp_path: Path,
) -> None:
    address, url = free_address(), f"file://{tmp_path}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, address, url, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    async with watching(FileRegistry(tmp_path)) as snapshots:
        former = (await until(snapshots, lambda it: address in it))[address]
        assert former.state is State.UP
        process.kill()
        await process.wait()
        await until(snapshots, lambda it: it[address].state is State.SUSPECT)
        server = Server(address, service="calc", registry=url, lease_ttl=LONG, drain_delay=0)
        async with server, Client(service="calc", registry=url):
            found = await until(snapshots, lambda it: it.get(address) not in (former, None))
            assert found[address].incarnation == server.incarnation
            await server.set_serving(False)
            await until(snapshots, lambda it: it[address].state is State.DRAINING)
        await until(snapshots, lambda it: not it)
