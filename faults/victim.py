"""A server in a process of its own, to be attacked, and what it says of its health.

``python -m faults.victim [OPTIONS AS JSON]`` prints its address and serves until its standard input
ends.
"""

import asyncio
import json
import re
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rap.client import Client
from rap.server import Channel, Server

__all__ = ["Victim", "attacked"]

_ROOT = Path(__file__).parents[1]
_RESIDENT = re.compile(r"VmRSS:\s+(\d+) kB")
_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


class Victim:
    """A server that is attacked, and a client that behaves."""

    def __init__(self, port: int, client: Client) -> None:
        self.port = port
        self.client = client

    async def vitals(self) -> dict[str, int]:
        """Return memory in bytes, and how many tasks there are."""
        found: dict[str, int] = await self.client.raw_call("vitals")
        return found


@asynccontextmanager
async def attacked(**options: int) -> AsyncIterator[Victim]:
    """Start one with some options of `Server`, and end it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "faults.victim", json.dumps(options)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=_ROOT,
    )
    try:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        async with Client(f"127.0.0.1:{port}") as client:
            yield Victim(port, client)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def echo(value: Any) -> Any:
    """Return the argument."""
    return value


async def wait() -> None:
    """Wait to be cancelled."""
    await asyncio.Event().wait()


async def sleepy(channel: Channel) -> None:
    """Read nothing."""
    await asyncio.Event().wait()


async def vitals() -> dict[str, int]:
    """Tell memory and tasks."""
    status = await asyncio.to_thread(Path("/proc/self/status").read_text)
    found = {"resident": _RESIDENT, "peak": _PEAK}
    memory = {
        name: int(match[1]) * 1024 for name, at in found.items() if (match := at.search(status))
    }
    return {**memory, "tasks": len(asyncio.all_tasks())}


async def _main() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 65536), most))
    options = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    server = Server("127.0.0.1:0", close_timeout=0.2, **options)
    for func in (echo, wait, sleepy, vitals):
        server.register(func)
    async with server:
        print(server.addresses[0].port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main())
