"""Measure the memory of idle connections and open calls: ``python -m bench.memory``.

Server and client are separate processes. Each figure is the growth of the private memory of a
process (anonymous pages in /proc) from the first object to N more, divided by N. It does not
include the socket buffers of the kernel.
"""

import argparse
import asyncio
import gc
import resource
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rap.address import Address
from rap.cli.runtime import loop_factory
from rap.client import Channel, Client
from rap.client.config import ClientConfig
from rap.client.dialer import Dialer
from rap.clock import SystemClock
from rap.errors import ExceptionTypes
from rap.registry import Endpoint
from rap.server import Server

CHANNELS = 10_000
CONNECTIONS = 1_000
BATCH = 200  # opened at a time
TIMEOUT = 120.0  # seconds that one measurement may take

# Opens some, first a few and then all; says how often.
Open = Callable[[int], Awaitable[None]]


def kib_of(pid: int | str) -> int:
    """Return the anonymous memory of a process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1])
    raise RuntimeError(f"no memory figures of process {pid}")


def raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def serve() -> None:
    """Run the server process: print its address, and serve until it is told to stop."""
    server = Server("127.0.0.1:0", backlog=4096)

    @server.register
    async def hold(channel: Channel) -> None:
        async for body in channel:
            await channel.write(body)

    @server.register
    async def tidy() -> int:
        """Collect garbage; return this process's own memory in KiB."""
        gc.collect()
        return kib_of("self")

    await server.create_server()
    print(server.addresses[0], flush=True)
    await server.serve_forever()


async def measure(client: Client, open_more: Open, count: int) -> tuple[float, float]:
    """Return the KiB of each on the server and on the client."""
    await open_more(BATCH)
    gc.collect()
    server, own = await client.raw_call("tidy"), kib_of("self")
    for _ in range(count // BATCH):
        await open_more(BATCH)
    gc.collect()
    grown = await client.raw_call("tidy") - server, kib_of("self") - own
    return grown[0] / count, grown[1] / count


async def channels(address: str, stack: AsyncExitStack, client: Client) -> Open:
    over = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    async def close() -> None:
        over.set()
        await asyncio.gather(*tasks)

    stack.push_async_callback(close)

    async def open_more(count: int) -> None:
        opened = asyncio.Semaphore(0)

        @client.register("hold")
        async def hold(channel: Channel) -> None:
            await channel.write(1)
            await channel.read_body()
            opened.release()
            await over.wait()

        # The stub makes the channel.
        tasks.update(asyncio.create_task(hold()) for _ in range(count))
        for _ in range(count):
            await opened.acquire()

    return open_more


async def connections(address: str, stack: AsyncExitStack, client: Client) -> Open:
    dialer = Dialer(ClientConfig(), SystemClock(), ExceptionTypes())
    endpoint = Endpoint(address, Address.parse(address))

    async def open_more(count: int) -> None:
        found = await asyncio.gather(
            *(dialer.dial(endpoint, lambda conn: None) for _ in range(count))
        )
        for conn in found:
            stack.push_async_callback(conn.close)

    return open_more


async def clients(address: str, stack: AsyncExitStack, client: Client) -> Open:
    async def open_more(count: int) -> None:
        found = [Client(address) for _ in range(count)]
        await asyncio.gather(*(each.connect() for each in found))
        for each in found:
            stack.push_async_callback(each.await_close)

    return open_more


KINDS = {
    "channels": ("channel, all on one connection", channels, CHANNELS),
    "connections": ("idle connection", connections, CONNECTIONS),
    "clients": ("idle connection, each of a Client of its own", clients, CONNECTIONS),
}


async def hold(address: str, kind: str) -> None:
    """Run the client process: print the memory of one object on either side."""
    _, opener, count = KINDS[kind]
    async with Client(address) as client, AsyncExitStack() as stack:
        open_more = await opener(address, stack, client)
        server, own = await measure(client, open_more, count)
        print(f"{server:.2f} {own:.2f}", flush=True)


@contextmanager
def run(*args: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "bench.memory", *args]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def main() -> None:
    table = Table("KiB of each", "n", "server", "client")
    for kind, (title, _, count) in KINDS.items():
        with run("serve") as server:
            assert server.stdout is not None
            with run("hold", server.stdout.readline().strip(), kind) as client:
                figures = client.communicate(timeout=TIMEOUT)[0].split()
        table.add_row(title, f"{count:,}", *(f"{float(figure):.1f}" for figure in figures))
    Console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="?", choices=["serve", "hold"], help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    raise_file_limit()
    if options.role is None:
        main()
    else:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(serve() if options.role == "serve" else hold(*options.rest))
