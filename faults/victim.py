"""A server in a process of its own, to be attacked, and what it says of its health.

``python -m faults.victim [OPTIONS AS JSON]`` prints its port and that of its health page, and
serves until its standard input ends. The options are those of `Server`, and ``nofile``: how many
files it may open.
"""

import asyncio
import json
import os
import re
import resource
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from prometheus_client import CollectorRegistry

from rap.client import Client
from rap.observe import serve_metrics
from rap.server import Channel, Server

__all__ = ["Group", "Victim", "attacked", "memory_group"]

_ROOT = Path(__file__).parents[1]
_RESIDENT = re.compile(r"VmRSS:\s+(\d+) kB")
_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


class Group:
    """A control group with a limit of memory.

    Args:
        path: Its folder.
        limit: Bytes that its processes may use.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.limit = limit

    @property
    def peak(self) -> int:
        """The most bytes that its processes have used, the cache of files included."""
        for name in ("memory.max_usage_in_bytes", "memory.peak"):
            if (self.path / name).exists():
                return int((self.path / name).read_text())
        return 0


@contextmanager
def memory_group(limit: int) -> Iterator[Group | None]:
    """Make a control group; `None` if this process may not."""
    for top, name in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        path = Path("/sys/fs/cgroup") / top / f"rap-faults-{os.getpid()}"
        try:
            path.mkdir()
        except OSError:
            continue
        try:
            (path / name).write_text(str(limit))
        except OSError:
            path.rmdir()
            continue
        try:
            yield Group(path, limit)
        finally:
            path.rmdir()
        return
    yield None


class Victim:
    """A server that is attacked, and a client that behaves."""

    def __init__(self, port: int, health: int, client: Client, log: IO[bytes]) -> None:
        self.port = port
        self.health = health
        self.client = client
        self._log = log

    async def vitals(self) -> dict[str, int]:
        """Return memory in bytes, and how many tasks there are."""
        found: dict[str, int] = await self.client.raw_call("vitals")
        return found

    def logged(self, text: str) -> int:
        """Return how often it has logged a text."""
        self._log.seek(0)
        return self._log.read().count(text.encode())


@asynccontextmanager
async def attacked(group: Group | None = None, **options: int) -> AsyncIterator[Victim]:
    """Start one with some options, in a control group, and end it."""
    command = [sys.executable, "-m", "faults.victim", json.dumps(options)]
    if group is not None:  # from its first byte on
        script = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        command = ["sh", "-c", script, str(group.path), *command]
    with ExitStack() as stack:
        log = stack.enter_context(TemporaryFile())
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            cwd=_ROOT,
        )
        try:
            assert process.stdout is not None
            port, health = map(int, (await process.stdout.readline()).split())
            async with Client(f"127.0.0.1:{port}") as client:
                yield Victim(port, health, client, log)
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


async def hold(data: bytes) -> int:
    """Wait to be cancelled, with the argument."""
    await asyncio.Event().wait()
    return len(data)


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
    options = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (options.pop("nofile", min(most, 65536)), most))
    server = Server("127.0.0.1:0", close_timeout=0.2, **options)
    for func in (echo, wait, hold, sleepy, vitals):
        server.register(func)
    async with server, serve_metrics([server], port=0, registry=CollectorRegistry()) as page:
        print(server.addresses[0].port, page.address.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main())
