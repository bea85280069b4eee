"""One worker of ``rap serve --workers``: ``python -m rap.cli.worker JSON``.

`rap.cli.workers` starts it and shares a socket with it. The worker writes the addresses that it
listens on to that socket, and whether the program has set up logging. The parent then writes a line
when the worker is to drain, and another one when it is to end at once. When the parent dies, the
socket ends, and the worker drains.

The parent sends no signals to a worker that listens, because a service manager may send SIGTERM to
parent and workers alike, and a second SIGTERM would end the calls of a worker at once.
"""

import asyncio
import json
import socket
import sys
from typing import Any

from rap.address import Address
from rap.cli.command import ProgramError
from rap.cli.logs import (
    configure_access_log,
    configure_logging,
    handlers_of_rap,
    leave_news_to_parent,
    load_log_config,
)
from rap.cli.metrics_page import worker_page
from rap.cli.runtime import keep_freed_memory, loop_factory
from rap.cli.target import load_server, search_here
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
    search_here()
    try:
        before = handlers_of_rap()
        log_config = order["log_config"]
        if log_config is not None:
            load_log_config(log_config)
            leave_news_to_parent()
        server = load_server(target)
        own_log = configure_logging(order["log_level"], before) and log_config is None
        configure_access_log(server, order["access_log"])
        addresses = [Address.parse(each) for each in shared] if shared else None
        shares = become_worker(server, order["number"], addresses, count=order["count"])
        with asyncio.Runner(loop_factory=loop_factory(order["loop"])) as runner:
            report = {"shared": shares, "own_log": own_log}
            runner.run(_serve(server, report, link, order["metrics"]))
    except ProgramError as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except (OSError, RapError, ValueError) as exc:
        sys.exit(f"Error: {target} cannot be served: {exc}")


async def _serve(
    server: Server, report: dict[str, Any], link: socket.socket, metrics: int | None
) -> None:
    async with worker_page(server, metrics):
        await _serve_and_report(server, report, link)


async def _serve_and_report(server: Server, report: dict[str, Any], link: socket.socket) -> None:
    started = asyncio.Event()
    serving = asyncio.create_task(server.serve_forever(started.set), name="rap serve")
    serving.add_done_callback(lambda _: started.set())
    await started.wait()
    if serving.done():  # the start has failed, or a signal has ended it
        return serving.result()
    ready = {"addresses": [str(each) for each in server.addresses], **report}
    reader, writer = await asyncio.open_connection(sock=link)
    writer.write(json.dumps(ready).encode() + b"\n")
    following = asyncio.create_task(_follow(reader, server), name="rap worker link")
    try:
        await serving
    finally:
        following.cancel()
        writer.close()


async def _follow(link: asyncio.StreamReader, server: Server) -> None:
    await link.readline()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.await_closed(), name="rap worker drain")
        if await link.readline():
            server.connection_manager.stop_at_once()


if __name__ == "__main__":
    main()
