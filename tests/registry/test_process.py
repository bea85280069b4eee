"""Marks of processes, and registrations of processes that have ended."""

import asyncio
import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rap.client import Client
from rap.registry import AddressTaken, FileRegistry, Lease, State
from rap.registry.process import MARK, has_ended, process_mark
from rap.server import Server
from tests.ports import free_address
from tests.registry.conftest import Connect
from tests.registry.sample import make_endpoint, until, watching

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
    process.kill()
    await process.wait()
    async with watching(FileRegistry(tmp_path)) as snapshots:
        former = (await until(snapshots, lambda it: address in it))[address]
        assert former.state is State.UP
        server = Server(address, service="calc", registry=url, lease_ttl=LONG, drain_delay=0)
        async with server, Client(service="calc", registry=url):
            found = await until(snapshots, lambda it: it.get(address) not in (former, None))
            assert found[address].incarnation == server.incarnation
            await server.set_serving(False)
            await until(snapshots, lambda it: it[address].state is State.DRAINING)
        await until(snapshots, lambda it: not it)
