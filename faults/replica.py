"""One of several servers of a service, in a process of its own, that does not answer when told.

``python -m faults.replica BLOCK`` prints its port and serves until its standard input ends. Every
0.7 s it blocks its event loop for so many seconds. On SIGUSR1, its handlers hang until the next.
"""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from rap.server import Server

__all__ = ["Replica", "replicas"]

_ROOT = Path(__file__).parents[1]
_WORK = 0.005  # seconds
_PAUSE = 0.7  # seconds between two blocks


class Replica:
    """A server in another process.

    Args:
        process: Its process.
        port: Where it listens.
    """

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.port = port
        self._process = process

    def freeze(self) -> None:
        """Stop the process."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the process go on."""
        self._process.send_signal(signal.SIGCONT)

    def toggle_hanging(self) -> None:
        """Let its handlers hang from now on, or no longer."""
        self._process.send_signal(signal.SIGUSR1)


@asynccontextmanager
async def replicas(count: int, block: float = 0.0) -> AsyncIterator[list[Replica]]:
    """Start some, and end them.

    Args:
        count: How many.
        block: Seconds for which each blocks its event loop again and again.
    """
    async with AsyncExitStack() as stack:
        started = []
        for _ in range(count):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "faults.replica", str(block)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                cwd=_ROOT,
            )
            stack.push_async_callback(_end, process)
            assert process.stdout is not None
            started.append(Replica(process, int(await process.stdout.readline())))
        yield started


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def _main(block: float) -> None:
    hanging = False

    def toggle() -> None:
        nonlocal hanging
        hanging = not hanging

    async def work(number: int) -> int:
        if hanging:
            await asyncio.Event().wait()
        await asyncio.sleep(_WORK)
        return number

    async def items(number: int) -> AsyncIterator[int]:
        if hanging:
            await asyncio.Event().wait()
        await asyncio.sleep(_WORK)
        yield number

    async def block_again_and_again() -> None:
        while block:
            await asyncio.sleep(_PAUSE)
            time.sleep(block)  # noqa: ASYNC251  # this is what it is for

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, toggle)
    server = Server("127.0.0.1:0", close_timeout=0.2)
    for func in (work, items):
        server.register(func)
    async with server:
        print(server.addresses[0].port, flush=True)
        blocking = asyncio.create_task(block_again_and_again())
        await asyncio.to_thread(sys.stdin.read)
        blocking.cancel()


if __name__ == "__main__":
    asyncio.run(_main(float(sys.argv[1])))
