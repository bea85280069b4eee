"""Clients and servers of several versions of the wire protocol, and those that have none in common.

A later release is pretended: a process that says which versions it speaks before it imports the
rest.
"""

import asyncio
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rap.client import Client
from rap.client.pool import Pool
from rap.client.stats import client_status
from rap.errors import Unavailable, VersionMismatch
from rap.observe.metrics import StatusCollector
from rap.observe.metrics_server import readiness
from rap.server import Server
from rap.transport import Connection
from tests.loopback import eventually, within
from tests.registry.fake_clock import FakeClock, settle

ROOT = Path(__file__).parents[2]
PRETEND = """
import asyncio, sys
from rap.wire import hello
hello.VERSIONS = hello.Versions(int(sys.argv[1]), int(sys.argv[2]))
"""
SERVER = f"""{PRETEND}
from rap.server import Server

async def add(a: int, b: int) -> int:
    return a + b

async def main():
    server = Server("127.0.0.1:0")
    server.register(add)
    await server.create_server()
    print(server.addresses[0], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""
CLIENT = f"""{PRETEND}
from rap.client import Client
from rap.errors import CallError

async def main():
    async with Client(sys.argv[3]) as client:
        print(await client.raw_call("add", 1, 2))

try:
    asyncio.run(main())
except CallError as error:
    print(type(error).__name__, error)
"""


def mismatch(client: str, server: str, older: str) -> str:
    return (
        f"no version of the wire protocol in common: the client speaks {client}, the server"
        f" {server}; upgrade rap on the {older}"
    )


@contextmanager
def server_of(low: int, high: int) -> Iterator[str]:
    """A server in its own process that speaks some versions; yields its address."""
    command = [sys.executable, "-c", SERVER, str(low), str(high)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


async def client_of(low: int, high: int, address: str) -> str:
    """Let a client in its own process call a server; return what it prints."""
    command = [sys.executable, "-c", CLIENT, str(low), str(high), address]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    output, _ = await within(process.communicate())
    return output.decode().strip()


async def add(a: int, b: int) -> int:
    return a + b


@pytest.mark.parametrize("versions", [(1, 1), (1, 2), (1, 3)])
async def test_a_client_of_version_1_calls_servers_that_speak_it_too(
    versions: tuple[int, int],
) -> None:
    with server_of(*versions) as address:
        async with Client(address) as client:
            assert await client.raw_call("add", 1, 2) == 3


@pytest.mark.parametrize("versions", [(1, 1), (1, 2), (1, 3)])
async def test_a_server_of_version_1_serves_clients_that_speak_it_too(
    versions: tuple[int, int],
) -> None:
    async with Server("127.0.0.1:0") as server:
        server.register(add)
        assert await client_of(*versions, str(server.addresses[0])) == "3"


@pytest.mark.parametrize("client", [(2, 2), (1, 2), (2, 3)])
async def test_a_server_of_versions_1_and_2_serves_clients_of_either(
    client: tuple[int, int],
) -> None:
    with server_of(1, 2) as address:
        assert await client_of(*client, address) == "3"


async def test_a_client_without_a_version_in_common_is_told_once_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Server("127.0.0.1:0") as server:
        address = str(server.addresses[0])
        text = mismatch("2-3", "1", "server")
        assert await client_of(2, 3, address) == f"VersionMismatch {address}: {text}"
        assert await client_of(2, 3, address) == f"VersionMismatch {address}: {text}"
        await eventually(lambda: server.connection_manager.versions_refused == 2)
        logged = [it for it in caplog.records if text in it.message and it.levelname == "ERROR"]
        assert [it.name for it in logged] == ["rap.server"]
        metrics = {it.name: it for it in StatusCollector([server], []).collect()}
        (sample,) = metrics["rap_server_versions_refused"].samples
        assert sample.value == 2


async def test_a_server_without_a_version_in_common_fails_calls_at_once_and_is_seen(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with server_of(2, 2) as address:
        client = Client(address, timeout=30)
        text = f"{address}: " + mismatch("1", "2", "client")
        for _ in range(3):
            with pytest.raises(VersionMismatch) as caught:
                await within(client.raw_call("add", 1, 2))
            assert str(caught.value) == text
        assert client_status(client).nodes["incompatible"] == 1
        ready, (reason,) = readiness([], [client])
        assert not ready
        assert reason.endswith("0 ready, 1 incompatible: no version of the protocol in common")
        logged = [it for it in caplog.records if it.levelname in ("WARNING", "ERROR")]
        assert [(it.levelname, it.message) for it in logged] == [("ERROR", text)]
        await client.await_close()


async def test_calls_go_to_the_servers_that_have_a_version_in_common() -> None:
    with server_of(2, 2) as later:
        async with Server("127.0.0.1:0") as server:
            server.register(add)
            async with Client([later, str(server.addresses[0])]) as client:
                nodes = client.cluster.nodes
                await eventually(lambda: nodes[later].state == "incompatible")
                for _ in range(20):
                    assert await client.raw_call("add", 1, 2) == 3


class Later:
    """Dials of a server that is replaced by later releases, with the error of each dial."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.count = 0

    async def __call__(self) -> Connection:
        self.count += 1
        raise self.errors[min(self.count, len(self.errors)) - 1]


def pool_of(dials: Later, clock: FakeClock) -> Pool:
    pool = Pool(
        "server",
        dials,
        lambda conn: False,
        max_connections=1,
        clock=clock,
        rng=random.Random(1),
        on_change=lambda: None,
    )
    pool.set_wanted(True)
    return pool


async def test_a_server_without_a_version_in_common_is_dialled_every_15_s_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, dials = FakeClock(), Later(VersionMismatch("1 here, 2 there"))
    pool = pool_of(dials, clock)
    await settle()
    for _ in range(200):
        pool.hurry()  # calls wait for a server, and this one cannot take them
        await clock.run(1.0)
    assert 200 / 18 <= dials.count <= 200 / 12 + 1
    assert [it.message for it in caplog.records] == ["1 here, 2 there"]
    assert pool.incompatible
    await pool.close()


async def test_another_reason_is_logged_and_haste_helps_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    dials = Later(
        VersionMismatch("1 here, 2 there"),
        VersionMismatch("1 here, 3 there"),
        Unavailable("nobody there"),
    )
    pool = pool_of(dials, clock)
    await clock.run(18.1)
    assert dials.count == 2
    pool.reset_backoff()  # the registry lists another process at the address
    await settle()
    assert dials.count == 3
    assert not pool.incompatible
    errors = [it.message for it in caplog.records if it.levelname == "ERROR"]
    assert errors == ["1 here, 2 there", "1 here, 3 there"]
    pool.hurry()
    await clock.run(0.7)
    assert dials.count >= 4
    await pool.close()
