"""`rap serve --workers`: real processes that share the load, are restarted, and drain together."""

import asyncio
import os
import random
import re
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest

from rap.cli.workers import Restarts
from rap.client import Channel, Client
from rap.errors import RapError
from tests.cli.programs import PATIENCE, is_running, line_with, rap, wait_until
from tests.fake_clock import FakeClock
from tests.loopback import eventually

MODULE = """
import os
from rap.server import Channel, Server

def make(**options) -> Server:
    server = Server("127.0.0.1:0", **{"close_timeout": 20, **options})

    @server.register
    async def pid() -> int:
        return os.getpid()

    @server.register
    async def echo(channel: Channel) -> None:
        async for body in channel:
            await channel.write(body)

    return server

def registered() -> Server:
    return make(service="shop", registry="file://" + os.getcwd(), drain_delay=0)

def brief() -> Server:
    registry = "file://" + os.getcwd()
    return make(service="shop", registry=registry, drain_delay=0, close_timeout=4)

def broken() -> Server:
    return Server("unix:///tmp/never.sock")
"""
LISTENS = re.compile(r"rap: worker (\d) \(pid (\d+)\) listening on (\S+)")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(MODULE)
    return tmp_path


@contextmanager
def workers(target: str, shop: Path) -> Iterator[subprocess.Popen[str]]:
    with rap("serve", target, "--workers", "2", cwd=shop) as process:
        yield process


def listening(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return the process and the address of the worker that listens next."""
    found = LISTENS.match(line_with(process, "listening on 127"))
    while found is None:  # what the server logs has the same words
        found = LISTENS.match(line_with(process, "listening on 127"))
    return int(found[2]), found[3]


async def pids_until(connect: Callable[[], Client], enough: Callable[[set[int]], bool]) -> set[int]:
    """Ask new connections who serves them, until there is enough."""
    seen: set[int] = set()
    async with asyncio.timeout(PATIENCE):
        while not enough(seen):
            async with connect() as client:
                seen.add(await client.raw_call("pid"))
    return seen


async def in_thread(work: Callable[[], tuple[int, str]]) -> tuple[int, str]:
    return await asyncio.to_thread(work)


async def test_without_a_registry_workers_share_one_port(shop: Path) -> None:
    with workers("shop:make", shop) as process:
        first, address = await in_thread(lambda: listening(process))
        second, other = await in_thread(lambda: listening(process))
        assert address == other
        seen = await pids_until(lambda: Client(address), lambda seen: len(seen) == 2)
        assert seen == {first, second}


async def test_with_a_registry_each_worker_is_a_separate_instance(shop: Path) -> None:
    with workers("shop:registered", shop) as process:
        first, address = await in_thread(lambda: listening(process))
        second, other = await in_thread(lambda: listening(process))
        assert address != other
        async with Client(service="shop", registry=f"file://{shop}") as client:
            seen: set[int] = set()
            async with asyncio.timeout(PATIENCE):
                while len(seen) < 2:
                    seen.add(await client.raw_call("pid"))
        assert seen == {first, second}


async def test_a_killed_worker_is_restarted_on_the_same_port(shop: Path) -> None:
    with workers("shop:make", shop) as process:
        first, address = await in_thread(lambda: listening(process))
        second, _ = await in_thread(lambda: listening(process))
        os.kill(first, signal.SIGKILL)
        third, other = await in_thread(lambda: listening(process))
        assert other == address
        seen = await pids_until(lambda: Client(address), lambda seen: third in seen)
        assert seen <= {second, third}


async def on_a_channel(address: str, while_open: Callable[[], Awaitable[None]]) -> object:
    """Do something while a channel is open; return what it then still brings."""
    async with Client(address) as client:

        @client.register("echo")
        async def talk(channel: Channel) -> object:
            await channel.write(1)
            await channel.read_body()
            await while_open()
            await eventually(lambda: channel.draining)
            await channel.write(2)
            return await channel.read_body()

        return await talk()


async def test_sigterm_drains_every_worker_and_an_open_channel_finishes(shop: Path) -> None:
    with workers("shop:make", shop) as process:
        _, address = await in_thread(lambda: listening(process))
        await in_thread(lambda: listening(process))

        async def stop() -> None:
            process.send_signal(signal.SIGTERM)

        async with asyncio.timeout(PATIENCE):
            assert await on_a_channel(address, stop) == 2
            output, _ = await asyncio.to_thread(process.communicate)
        assert process.returncode == 0
        assert output.splitlines()[-1] == "rap: stopped"


async def test_sigterm_drains_all_workers_at_the_same_time(shop: Path) -> None:
    """While the calls of one are still open, the other ones have begun to drain, too."""
    with workers("shop:brief", shop) as process:
        addresses = [(await in_thread(lambda: listening(process)))[1] for _ in range(2)]
        async with AsyncExitStack() as stack, asyncio.timeout(PATIENCE):
            channels = []
            for address in addresses:
                client = await stack.enter_async_context(Client(address))
                channel = await stack.enter_async_context(client.channel("echo"))
                await channel.write("before")
                assert await channel.read_body() == "before"
                channels.append(channel)
            process.send_signal(signal.SIGTERM)
            await eventually(lambda: all(each.draining for each in channels))
            for channel in channels:  # within `close_timeout` of all workers
                await channel.write("while draining")
                assert await channel.read_body() == "while draining"
        await asyncio.to_thread(process.communicate)
        assert process.returncode == 0


async def test_open_calls_finish_when_parent_and_workers_get_sigterm_alike(shop: Path) -> None:
    """As systemd does with `KillMode=control-group`, its default."""
    with workers("shop:make", shop) as process:
        first, address = await in_thread(lambda: listening(process))
        second, _ = await in_thread(lambda: listening(process))
        async with Client(address) as client, asyncio.timeout(PATIENCE):

            @client.register("echo")
            async def talk(channel: Channel) -> object:
                for pid in (process.pid, first, second):
                    os.kill(pid, signal.SIGTERM)
                await eventually(lambda: channel.draining)
                # Then the other worker, which has no calls, ends.
                await eventually(lambda: not (is_running(first) and is_running(second)))
                for n in range(500):
                    await channel.write(n)
                    assert await channel.read_body() == n
                return "finished"

            assert await talk() == "finished"
            await asyncio.to_thread(process.communicate)
        assert process.returncode == 0


async def test_a_second_sigterm_ends_the_workers_at_once(shop: Path) -> None:
    with workers("shop:make", shop) as process:
        _, address = await in_thread(lambda: listening(process))
        await in_thread(lambda: listening(process))
        async with Client(address) as client, asyncio.timeout(PATIENCE):

            @client.register("echo")
            async def talk(channel: Channel) -> object:
                process.send_signal(signal.SIGTERM)
                await eventually(lambda: channel.draining)
                process.send_signal(signal.SIGTERM)
                return await channel.read_body()

            with pytest.raises(RapError):
                await talk()
            assert await asyncio.to_thread(process.wait, PATIENCE) == 0


def test_workers_drain_when_their_parent_is_killed(shop: Path) -> None:
    with workers("shop:make", shop) as process:
        pids = [listening(process)[0], listening(process)[0]]
        process.kill()
        process.wait()
        wait_until(lambda: not any(map(is_running, pids)), "the workers to end")


def test_a_program_that_cannot_be_served_is_not_restarted(shop: Path) -> None:
    with workers("shop:broken", shop) as process:
        output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 1
    assert "a unix socket is for one process" in output
    assert "worker 0 did not start" in output


def test_restart_pauses_grow_with_every_death_up_to_a_limit() -> None:
    restarts = Restarts(FakeClock(), random.Random(3))
    pauses = []
    for _ in range(20):
        restarts.started()
        pauses.append(restarts.died())
    assert 0.08 <= pauses[0] <= 0.12
    assert 0.16 <= pauses[1] <= 0.24
    assert all(8.0 <= pause <= 12.0 for pause in pauses[7:])


def test_a_worker_that_ran_for_long_is_restarted_soon() -> None:
    clock = FakeClock()
    restarts = Restarts(clock, random.Random(3))
    for _ in range(5):
        restarts.started()
        restarts.died()
    restarts.started()
    clock.advance(30.0)
    assert restarts.died() <= 0.12
