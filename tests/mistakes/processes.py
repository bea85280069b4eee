"""Mistakes with event loops, threads and processes."""

import asyncio
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from rap import Client, Server
from rap.testing import TestClient
from tests.loopback import LOOPBACK
from tests.mistakes.catalogue import Scene, mistake
from tests.mistakes.programs import python


async def add(a: int, b: int) -> int:
    """Be a handler."""
    return a + b


def _server() -> Server:
    server = Server(LOOPBACK, close_timeout=0.1)
    server.register(add)
    return server


@mistake(
    "a client is used in the event loop of another thread",
    3,
    what="belongs to another event loop",
    where="the client",
    remedy="make another one for this loop, or use a SyncClient",
)
async def other_thread(scene: Scene) -> Any:
    async with _server() as server, Client(server.addresses) as client:
        await asyncio.to_thread(asyncio.run, client.raw_call("add", 1, 2))


@mistake(
    "a client of a module is used in a second asyncio.run",
    3,
    what="belongs to another event loop",
    where="the client",
    remedy="make another one for this loop, or use a SyncClient",
)
def second_run(scene: Scene) -> Any:
    found: list[BaseException] = []

    async def first() -> None:
        async with _server() as server:
            client = Client(server.addresses)
            await client.connect()
            thread = threading.Thread(target=second, args=[client])
            thread.start()
            await asyncio.to_thread(thread.join)
            await client.close()

    def second(client: Client) -> None:
        async def main() -> None:
            await client.connect()

        try:
            asyncio.run(main())
        except RuntimeError as exc:
            found.append(exc)

    asyncio.run(first())
    raise found[0]


@mistake(
    "a connected client is used in a forked child",
    3,
    what="belongs to the process that this one was forked from",
    where="the client",
    remedy="make it after the fork",
)
def forked_client(scene: Scene) -> Any:
    return python(
        scene.folder,
        """
        import asyncio, os, warnings
        from rap import Client, Server
        warnings.simplefilter("ignore")

        async def main():
            async with Server("127.0.0.1:0") as server, Client(server.addresses) as client:
                pid = os.fork()
                if pid == 0:
                    try:
                        client.raw_call("add", 1, 2).send(None)
                    except RuntimeError as exc:
                        print("RuntimeError:", exc, flush=True)
                    os._exit(0)
                os.waitpid(pid, 0)

        asyncio.run(main())
        """,
    )


_ = (ProcessPoolExecutor, get_context, TestClient)
