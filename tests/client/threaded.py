"""A server in its own thread, for tests of callers without an event loop."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rap.client import SyncClient
from rap.client.sync.loop_thread import LoopThread
from rap.server import Server
from tests.loopback import LOOPBACK, PATIENCE

__all__ = ["calling", "joined", "serving"]


@contextmanager
def serving(*functions: Callable[..., Any], **options: Any) -> Iterator[Server]:
    """Run a server on a free port."""
    thread = LoopThread("server")
    server = Server(LOOPBACK, **{"close_timeout": 0.2, **options})
    for function in functions:
        server.register(function)
    try:
        thread.run(server.create_server())
        yield server
    finally:
        thread.close(server.await_closed())


@contextmanager
def calling(server: Server, **options: Any) -> Iterator[SyncClient]:
    """Connect a blocking client to a server."""
    with SyncClient([str(each) for each in server.addresses], **options) as client:
        yield client


@contextmanager
def joined(target: Callable[[], object]) -> Iterator[threading.Thread]:
    """Run a function in a thread that has ended when the block has."""
    thread = threading.Thread(target=target)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(PATIENCE)
        assert not thread.is_alive()
