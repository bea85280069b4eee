"""Mistakes with event loops, threads and processes."""

import asyncio
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from rap import Client, Server, SyncClient
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
    "a client that is connected is used in another asyncio.run",
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
    "a SyncClient is used inside an event loop",
    3,
    what="this thread runs an event loop, which a blocking call holds",
    where="/default/add",
    remedy="use a Client and `await`",
)
async def sync_client_in_loop(scene: Scene) -> Any:
    async with _server() as server:
        client = SyncClient(server.addresses, connect_timeout=0.2, timeout=0.3)
        try:
            client.raw_call("add", 1, 2)
        finally:
            await asyncio.to_thread(client.close)


@mistake(
    "a client is pickled for a pool of processes",
    3,
    what="cannot be pickled",
    where="a Client",
    remedy="make one in each process",
)
def pickled_client(scene: Scene) -> Any:
    pickle.dumps(Client("localhost:9000"))


@mistake(
    "a blocking client is pickled for a pool of processes",
    3,
    what="cannot be pickled",
    where="a SyncClient",
    remedy="make one in each process",
)
def pickled_sync_client(scene: Scene) -> Any:
    pickle.dumps(SyncClient("localhost:9000"))


@mistake(
    "a server is pickled for another process",
    3,
    what="cannot be pickled",
    where="a Server",
    remedy="make one in each process",
)
def pickled_server(scene: Scene) -> Any:
    pickle.dumps(Server("localhost:9000"))


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


@mistake(
    "a server is started twice",
    3,
    what="was started already",
    where="<Server 127.0.0.1:<port> serving",
    remedy="await its close() before it starts again",
)
async def started_twice(scene: Scene) -> Any:
    async with _server() as server:
        await server.create_server()


@mistake(
    "a client is dropped without being closed",
    3,
    what="it was not closed before its event loop ended",
    where="unclosed client <Client 127.0.0.1:<port>",
    remedy="use `async with client`, or await client.close()",
)
def never_closed(scene: Scene) -> Any:
    return python(
        scene.folder,
        """
        import asyncio, sys, warnings
        from rap import Client, Server
        warnings.simplefilter("default")

        async def main():
            async with Server("127.0.0.1:0") as server:
                client = Client(server.addresses)
                await client.connect()

        asyncio.run(main())
        """,
    )


@mistake(
    "a server is not awaited",
    2,
    what="was never awaited",
    where="<string>:5: RuntimeWarning: coroutine 'Server.serve_forever'",
)
def not_awaited(scene: Scene) -> Any:
    return python(
        scene.folder,
        """
        from rap import Server

        server = Server("127.0.0.1:0")
        server.serve_forever()
        """,
    )


@mistake(
    "a handler calls with a SyncClient on the event loop of its server",
    3,
    what="this thread runs an event loop, which a blocking call holds",
    where="/default/add",
    remedy="use a Client and `await`",
)
def handler_uses_blocking_client(scene: Scene) -> Any:
    async def main() -> object:
        server = _server()
        async with server:
            blocking = SyncClient(server.addresses, timeout=0.3, connect_timeout=0.3)

            @server.register
            async def outer() -> int:
                result: int = blocking.raw_call("add", 1, 2)
                return result

            try:
                async with Client(server.addresses) as client:
                    return await client.raw_call("outer")
            finally:
                await asyncio.to_thread(blocking.close)

    return asyncio.run(main())


_ = (ProcessPoolExecutor, get_context, TestClient)
