"""How long a call waits for a server, by ``wait_for_ready``: ``python -m bench.waiting``.

Each case has a client of its own for each value of the option, all of them at the same time. Calls
have the default timeout of 9 s. "Later" is a call that is made when the first one has failed.
"""

import asyncio
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from rap.client import Client
from rap.errors import CallError

CHOICES: tuple[bool | float | None, ...] = (None, True, 2, False)
PROGRAM = """
import asyncio, sys
from rap import Server
server = Server("127.0.0.1:" + sys.argv[1])
@server.register
async def which() -> int:
    return 1
async def main():
    async with server:
        print("listening", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""
BACKLOG = 8  # connections that fill the queue of a listener that accepts none


def free_port() -> int:
    """Return a port of this machine at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def start(port: int) -> Process:
    """Return a server process that listens."""
    arguments = ("-c", PROGRAM, str(port))
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=PIPE)
    assert process.stdout is not None
    await process.stdout.readline()
    return process


async def kill(process: Process) -> None:
    """End a server process as a crash does."""
    process.send_signal(signal.SIGKILL)
    await process.wait()


@asynccontextmanager
async def black_hole() -> AsyncIterator[str]:
    """Yield an address where packets of new connections are dropped: the queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(BACKLOG)]
        for each in fillers:
            each.setblocking(False)
            each.connect_ex(address)
        await asyncio.sleep(0.1)
        yield f"127.0.0.1:{address[1]}"
        for each in fillers:
            each.close()


async def timed(client: Client) -> str:
    """Return how long one call took, and whether it was answered."""
    began = time.monotonic()
    try:
        await client.raw_call("which")
        how = "answered"
    except CallError:
        how = "fails"
    return f"{how} after {time.monotonic() - began:.2f} s"


async def first_and_later(options: dict[str, Any]) -> str:
    """Return what becomes of the first call of a client, and of the next one."""
    client = Client(**options)
    first, later = await timed(client), await timed(client)
    await client.close()
    return f"{first}, later {later.removeprefix('fails after ')}"


def restarted(pause: float) -> Callable[[bool | float | None], Awaitable[str]]:
    """Return a case: the only server is killed, and started again after a pause."""

    async def case(choice: bool | float | None) -> str:
        port = free_port()
        process = await start(port)
        async with Client(f"127.0.0.1:{port}", wait_for_ready=choice) as client:
            await client.raw_call("which")
            await kill(process)
            while client.cluster.ready:  # noqa: ASYNC110  # what ends is a connection
                await asyncio.sleep(0.001)
            call = asyncio.create_task(timed(client))
            await asyncio.sleep(pause)
            process = await start(port)
            told = await call
        await kill(process)
        return told

    return case


async def main() -> None:
    """Measure every case, and print the table."""
    redis = {"service": "shop", "registry": f"redis://127.0.0.1:{free_port()}/0"}
    async with black_hole() as hole:
        cases: dict[str, Callable[[bool | float | None], Awaitable[str]]] = {
            "nothing listens there": lambda choice: first_and_later(
                {"host_list": f"127.0.0.1:{free_port()}", "wait_for_ready": choice}
            ),
            "an address that drops packets": lambda choice: first_and_later(
                {"host_list": hole, "wait_for_ready": choice}
            ),
            "the registry lists no server": lambda choice: first_and_later(
                {"service": "shop", "registry": "memory://", "wait_for_ready": choice}
            ),
            "the registry is down": lambda choice: first_and_later(
                {**redis, "wait_for_ready": choice}
            ),
            **{
                f"killed, listens again after {pause:g} s": restarted(pause)
                for pause in (0.5, 3.0, 10.0)
            },
        }
        table = Table("case", *(f"{choice!r}" for choice in CHOICES))
        for name, case in cases.items():
            table.add_row(name, *await asyncio.gather(*(case(choice) for choice in CHOICES)))
            print(name, file=sys.stderr, flush=True)
    Console(width=200).print(table)


if __name__ == "__main__":
    asyncio.run(main())
