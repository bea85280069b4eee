"""One worker of ``rap serve --workers``: ``python -m rap.cli.worker JSON``.

`rap.cli.workers` runs it. It tells where it listens on a socket that it shares with that process.
When that process is no more, the socket ends, and the worker drains as on SIGTERM.
"""

import asyncio
import json
import os
import signal
import socket
import sys

from rap.address import Address
from rap.cli.commands.serve import configure_logging
from rap.cli.metrics_page import worker_page
from rap.cli.runtime import keep_freed_memory, loop_factory
from rap.cli.target import load_server
from rap.errors import RapError
from rap.server import Server
from rap.server.prefork import become_worker

__all__ = ["main"]


def main() -> None:
    """Run the worker that the argument describes."""
    order = json.loads(sys.argv[1])
    keep_freed_memory()
    link = socket.socket(fileno=order["link"])
    link.setblocking(False)
    target = order["target"]
    shared = order["shared"]
    try:
        server = load_server(target)
        configure_logging(order["log_level"])
        addresses = [Address.parse(each) for each in shared] if shared else None
        shares = become_worker(server, order["number"], addresses)
        with asyncio.Runner(loop_factory=loop_factory(order["loop"])) as runner:
            runner.run(_serve(server, shares, link, order["metrics"]))
    except (OSError, RapError, ValueError) as exc:
        sys.exit(f"Error: {target} cannot be served: {exc}")


async def _serve(server: Server, shares: bool, link: socket.socket, metrics: int | None) -> None:
    async with worker_page(server, metrics):
        await server.create_server()
        await _serve_and_tell(server, shares, link)


async def _serve_and_tell(server: Server, shares: bool, link: socket.socket) -> None:
    serving = asyncio.create_task(server.serve_forever(), name="rap serve")
    await asyncio.sleep(0)  # from here on signals drain: who is told may send one
    told = {"addresses": [str(each) for each in server.addresses], "shared": shares}
    reader, writer = await asyncio.open_connection(sock=link)
    writer.write(json.dumps(told).encode() + b"\n")
    orphaned = asyncio.create_task(_when_ended(reader), name="rap worker link")
    try:
        await serving
    finally:
        orphaned.cancel()
        writer.close()


async def _when_ended(link: asyncio.StreamReader) -> None:
    await link.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
