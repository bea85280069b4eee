"""Servers that are killed, and started again on the same addresses."""

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from integration.stage import PATIENCE
from integration.watching import answered
from rap.client import Client
from rap.registry import State
from rap.registry.url import registry_from_url
from tests.loopback import eventually, until
from tests.registry import sample

SERVER = """
import asyncio, logging, sys
from rap.server import Server

logging.basicConfig(level=logging.INFO, stream=sys.stdout)
options = {"registry": sys.argv[2], "service": "calc", "drain_delay": 5} if sys.argv[2] else {}
server = Server(sys.argv[1], **options)

@server.register
async def add(a: int, b: int) -> int:
    return a + b

asyncio.run(server.serve_forever())
"""


class Servers:
    """Processes with one server each."""

    def __init__(self, log: Path, registry: str = "", count: int = 1) -> None:
        held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        self.addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in held]
        self.log = log
        self._registry = registry
        self._running: list[subprocess.Popen[bytes]] = []
        for each in held:
            each.close()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._running = [
                subprocess.Popen(
                    [sys.executable, "-c", SERVER, address, self._registry],
                    stdout=log,
                    stderr=log,
                )
                for address in self.addresses
            ]

    def signal(self, number: signal.Signals) -> None:
        for process in self._running:
            process.send_signal(number)

    def kill(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()

    async def listening(self) -> float:
        """Return when one server listens, as seconds on the monotonic clock."""
        addresses = [address.split(":") for address in self.addresses]

        async def ask() -> float:
            for host, port in addresses:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection(host, int(port))
                    writer.close()
                    return time.monotonic()
            return 0.0

        return await until(ask, PATIENCE)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(tmp_path / "log")
    yield made
    made.kill()


@pytest.fixture
def registered(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(tmp_path / "log", f"file://{tmp_path}/registry", 3)
    yield made
    made.kill()


async def started(servers: Servers) -> None:
    servers.start()
    await servers.listening()


async def logged(servers: Servers, text: str, count: int) -> None:
    """Return when the servers have logged a text so many times."""
    await eventually(lambda: servers.log.read_text().count(text) >= count, PATIENCE)


@pytest.mark.parametrize("timeout", [0.3, 9.0])
async def test_calls_succeed_soon_after_a_long_outage(servers: Servers, timeout: float) -> None:
    await started(servers)
    async with Client(servers.addresses) as client:
        await answered(client)
        servers.kill()
        nodes = client.cluster.nodes.values()
        long = 5  # failures, after which the pause between two dials is 6.6 s
        await eventually(lambda: min(node.pool.failures for node in nodes) >= long, PATIENCE)
        answer = asyncio.create_task(answered(client, timeout))
        servers.start()
        back = await servers.listening()
        await answer
        assert time.monotonic() - back < 1.5


async def test_servers_killed_in_their_drain_are_found_when_they_are_back(
    registered: Servers,
) -> None:
    await started(registered)
    await logged(registered, "is registered", 3)
    registry = f"file://{registered.log.parent}/registry"
    async with Client(service="calc", registry=registry) as client:
        await answered(client)
        gone = {State.DRAINING}
        registered.signal(signal.SIGTERM)
        async with sample.watching(registry_from_url(registry)) as snapshots:
            await sample.until(snapshots, lambda it: {each.state for each in it.values()} == gone)
        registered.kill()
        answer = asyncio.create_task(answered(client))
        registered.start()
        back = await registered.listening()
        await answer
        assert time.monotonic() - back < 1.0
    assert "ERROR" not in registered.log.read_text()


async def test_a_restart_after_a_crash_logs_no_error(registered: Servers) -> None:
    await started(registered)
    await logged(registered, "is registered", 3)
    registered.kill()
    await started(registered)
    await logged(registered, "is registered", 6)
    log = registered.log.read_text()
    assert log.count("is free: the process that was registered there has ended") == 3
    assert "ERROR" not in log
