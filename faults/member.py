"""A server of the service ``shop``, in a process that can be killed and started again.

``python -m faults.member PORT REGISTRY LEDGER`` prints its port when it serves, until SIGTERM. It
appends the number of each call of `put` to the ledger before it does anything else.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from rap.client import Client
from rap.errors import Unavailable
from rap.server import Server

__all__ = ["Member", "Shop", "shop"]

_ROOT = Path(__file__).parents[1]
_LEASE = 5.0  # seconds
_DRAIN = 9.0  # seconds


class Member:
    """A server at one address, which may be down.

    Args:
        directory: Of the registry, the ledgers and the logs.
        number: Which of the servers it is.
    """

    def __init__(self, directory: Path, number: int) -> None:
        self.port = 0
        self.listened_at = 0.0
        self._registry = f"file://{directory / 'registry'}"
        self._ledger = directory / f"{number}.ledger"
        self._log = directory / f"{number}.log"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it, at the address that it had before; return when it serves."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "faults.member"),
                *(str(self.port), self._registry, str(self._ledger)),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=_ROOT,
            )
        assert self._process.stdout is not None
        self.port = int(await self._process.stdout.readline())
        self.listened_at = time.monotonic()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def end(self) -> None:
        """Kill it."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    def executed(self) -> list[int]:
        """Return the numbers of the calls of `put` that it has begun."""
        return [int(line) for line in self._ledger.read_text().split()] if self.port else []

    def logged(self) -> str:
        """Return what it has logged."""
        return self._log.read_text()


class Shop:
    """All servers, and a client of them.

    Args:
        members: The servers.
        client: The client.
    """

    def __init__(self, members: list[Member], client: Client) -> None:
        self.members = members
        self.client = client


@asynccontextmanager
async def shop(directory: Path, count: int) -> AsyncIterator[Shop]:
    """Start servers and a client that has connected to all of them; end them.

    Args:
        directory: For whatever they write.
        count: How many servers.
    """
    async with AsyncExitStack() as stack:
        members = [Member(directory, number) for number in range(count)]
        for member in members:
            stack.push_async_callback(member.end)
        await asyncio.gather(*(member.start() for member in members))
        registry = f"file://{directory / 'registry'}"
        client = await stack.enter_async_context(Client(service="shop", registry=registry))
        while len(client.cluster.ready) < count:  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0.01)
        yield Shop(members, client)


async def _main(port: str, registry: str, ledger: str) -> None:
    is_ill = False
    puts = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def toggle() -> None:
        nonlocal is_ill
        is_ill = not is_ill

    server = Server(
        f"127.0.0.1:{port}",
        service="shop",
        registry=registry,
        close_timeout=_DRAIN,
        lease_ttl=_LEASE,
    )

    @server.register(idempotent=True)
    async def work(number: int) -> int:
        if is_ill:
            raise Unavailable("this server is down")
        return number

    @server.register
    async def put(number: int) -> int:
        os.write(puts, f"{number}\n".encode())
        return number

    @server.register
    async def hold(seconds: float) -> None:
        await asyncio.sleep(seconds)

    @server.register
    async def block(seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251  # this is what it is for

    @server.register
    def compute(seconds: float) -> None:
        time.sleep(seconds)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, toggle)
    await server.serve_forever(lambda: print(server.addresses[0].port, flush=True))


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
