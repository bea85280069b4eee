"""Signals to a server process: exit codes, and what its clients see."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rap.client import Client
from rap.errors import Unavailable
from tests.loopback import PATIENCE, eventually, within

ROOT = Path(__file__).parents[2]

PROGRAM = """
import asyncio, sys, time
from rap.server import Server

options = {"service": "s", "registry": "memory://"} if len(sys.argv) == 3 else {}
delay = float(sys.argv[2]) if options else None
server = Server("127.0.0.1:0", close_timeout=float(sys.argv[1]), drain_delay=delay, **options)
server.load_stop_event([lambda: print("stopped", flush=True)])

@server.register
async def echo(text: str) -> str:
    return text

@server.register
async def slow(seconds: float) -> str:
    print("began", flush=True)
    await asyncio.sleep(seconds)
    return "done"

@server.register
def block(seconds: float) -> str:
    print("began", flush=True)
    time.sleep(seconds)
    return "done"

async def hang() -> None:
    if "hang" in sys.argv:
        print("hangs", flush=True)
        await asyncio.sleep(600)

server.load_stop_event([hang])

async def main() -> None:
    await server.create_server()
    print(server.addresses[0], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""

CUT = "stopped at once: ended 1 call open on 1 connection: /default/"


@contextmanager
def program(close_timeout: float = 20, *more: str) -> Iterator["tuple[subprocess.Popen[str], str]"]:
    """Run the program; yield its process and address."""
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(close_timeout), *more]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


async def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Return exit code, output and errors once the process has ended."""
    out, err = await asyncio.to_thread(process.communicate, timeout=PATIENCE)
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_exits_with_0(number: signal.Signals) -> None:
    with program() as (process, address):
        async with Client(address) as client:
            call = asyncio.create_task(client.raw_call("slow", 0.2))
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == "began\n"
            process.send_signal(number)
            assert await within(call) == "done"
            assert await ended(process) == (0, "stopped\n", "")


async def test_an_idle_server_exits_at_once() -> None:
    with program() as (process, address):
        async with Client(address) as client:
            assert await client.raw_call("echo", "x") == "x"
            process.send_signal(signal.SIGTERM)
            assert await ended(process) == (0, "stopped\n", "")


async def test_a_second_signal_stops_the_drain_at_once() -> None:
    with program(close_timeout=600) as (process, address):
        async with Client(address) as client:
            call = asyncio.create_task(client.raw_call("slow", 600, timeout=600))
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == "began\n"
            process.send_signal(signal.SIGTERM)
            await eventually(lambda: not client.cluster.ready)
            process.send_signal(signal.SIGTERM)
            with pytest.raises(Unavailable):
                await within(call)
            assert await ended(process) == (0, "stopped\n", f"{CUT}slow\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_stops_the_delay_before_the_drain(number: signal.Signals) -> None:
    with program(600, "600") as (process, address):
        async with Client(address) as client:
            call = asyncio.create_task(client.raw_call("slow", 600, timeout=600))
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == "began\n"
            process.send_signal(number)
            assert await client.raw_call("echo", "x") == "x"  # clients have yet to notice
            process.send_signal(number)
            with pytest.raises(Unavailable):
                await within(call)
            assert await ended(process) == (0, "stopped\n", f"{CUT}slow\n")


@pytest.mark.parametrize("signals", [1, 2])
async def test_a_blocking_function_does_not_keep_the_process_alive(signals: int) -> None:
    with program(0.1 if signals == 1 else 600) as (process, address):
        async with Client(address) as client:
            call = asyncio.create_task(client.raw_call("block", 600, timeout=600))
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == "began\n"
            process.send_signal(signal.SIGTERM)
            if signals == 2:
                await eventually(lambda: not client.cluster.ready)
                process.send_signal(signal.SIGTERM)
            with pytest.raises(Unavailable):
                await within(call)
            told = f"draining {address}: ended 1 call open on 1 connection: /default/block"
            told += ", after 0.1 s (option close_timeout)\n"
            expected = told if signals == 1 else f"{CUT}block\n"
            assert await ended(process) == (0, "stopped\n", expected)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_third_signal_kills(number: signal.Signals) -> None:
    with program(600, "0", "hang") as (process, address):
        async with Client(address) as client:
            assert await client.raw_call("echo", "x") == "x"
        process.send_signal(number)
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "hangs\n"
        while process.poll() is None:
            process.send_signal(number)  # signals that come at once may be taken for one
            await asyncio.sleep(0.01)
        assert (await ended(process))[0] == -number


async def test_the_death_of_a_server_is_noticed_at_once() -> None:
    with program() as (process, address):
        async with Client(address) as client:
            call = asyncio.create_task(client.raw_call("slow", 600))
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == "began\n"
            process.kill()
            with pytest.raises(Unavailable):
                await within(call)
            await eventually(lambda: not client.cluster.ready)
            (node,) = client.cluster.nodes.values()
            assert node.stats.in_flight == 0


STARTING = """
import asyncio, os, signal, sys
from rap.registry.memory import MemoryRegistry
from rap.server import Server

registry, when = MemoryRegistry(), sys.argv[1]
told = []

def kill() -> None:
    os.kill(os.getpid(), signal.SIGTERM)

class Registry:
    watch = registry.watch

    async def register(self, service, endpoint, *, ttl):
        if when == "registering" and not told:
            told.append(kill())
        await registry.register(service, endpoint, ttl=ttl)

    async def deregister(self, service, endpoint):
        print("deregistered", flush=True)
        await registry.deregister(service, endpoint)

    async def aclose(self):
        pass

async def prepare():
    if when == "preparing":
        kill()
        await asyncio.sleep(600)

server = Server("127.0.0.1:0", service="s", registry=Registry(), drain_delay=0)
server.load_start_event([prepare])
server.load_stop_event([lambda: print("stopped", flush=True)])

def started():
    print("started", flush=True)
    kill()

asyncio.run(server.serve_forever(started))
print("returned", flush=True)
"""


@pytest.mark.parametrize(
    ("when", "lines"),
    [
        ("preparing", ["returned"]),
        ("registering", ["started", "deregistered", "stopped", "returned"]),
        ("started", ["started", "deregistered", "stopped", "returned"]),
    ],
)
async def test_a_signal_in_the_first_moments_drains(when: str, lines: list[str]) -> None:
    process = starting(when)
    try:
        assert await ended(process) == (0, "\n".join([*lines, ""]), "")
    finally:
        process.kill()


def starting(when: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-W", "error", "-c", STARTING, when]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)
