"""Accept TLS connections, and know of each from the first moment.

The loop's own servers tell of a TLS connection when its handshake is done: who begins many and
ends none would be counted nowhere.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable

from rap.address import Peer
from rap.errors import ConnectionClosed, RapError
from rap.transport.connection import Connection

__all__ = ["TLS_GOODBYE", "Handshake", "TlsServer"]

TLS_GOODBYE = 1.0  # seconds for a peer to answer that TLS ends; nothing depends on it

_CLOSED = ConnectionClosed("the server accepts nothing more")
_TURN = 64  # connections that are accepted before others run
_RETRY = 1.0  # seconds until the next try after an error, as of too many open files


class Handshake:
    """A connection whose TLS handshake goes on.

    Args:
        conn: What takes over when it is done.
        sock: What was accepted.
        peer: Who is at the other end.
    """

    def __init__(self, conn: Connection, sock: socket.socket, peer: Peer) -> None:
        self.conn = conn
        self.peer = peer
        self._sock = sock
        self._cut = self._begun = False
        self._task: asyncio.Task[None] | None = None

    def begin(self, context: ssl.SSLContext, timeout: float) -> asyncio.Task[None] | None:
        """Begin; return the task that does it, or nothing if it was cut before."""
        if self._cut:
            self._sock.close()
        else:
            self._task = asyncio.create_task(self._run(context, timeout), name="rap TLS handshake")
        return self._task

    def abort(self, error: RapError) -> None:
        """Cut it, unless it is done."""
        self._cut = True
        if self.conn.transport is None:
            if self._task is not None:
                self._task.cancel()
            self.conn.log.info("TLS handshake with %s ended: %s", self.peer, error)

    def discard(self) -> None:
        """Close what was accepted, if it was cut before the loop took it over."""
        if not self._begun:
            self._sock.close()

    async def _run(self, context: ssl.SSLContext, timeout: float) -> None:
        self._begun = True
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self.conn,
                self._sock,
                ssl=context,
                ssl_handshake_timeout=timeout,
                ssl_shutdown_timeout=TLS_GOODBYE,
            )
        except OSError as exc:
            self.conn.log.debug("TLS handshake with %s failed: %s", self.peer, exc)


class TlsServer:
    """Accepts on one socket, as `asyncio.Server` does.

    Args:
        sock: Bound, and not blocking.
        make: Makes the driver of each accepted connection.
        context: TLS context.
        backlog: Connections that may wait to be accepted.
        timeout: Seconds a handshake may take.
        on_begin: Told of each handshake before it begins; may cut it.
        on_failed: Told of the connection of each handshake that did not lead to one.
    """

    def __init__(
        self,
        sock: socket.socket,
        make: Callable[[], Connection],
        context: ssl.SSLContext,
        *,
        backlog: int,
        timeout: float,
        on_begin: Callable[[Handshake], object],
        on_failed: Callable[[Connection], object],
    ) -> None:
        self._sock = sock
        self._make = make
        self._context = context
        self._timeout = timeout
        self._on_begin = on_begin
        self._on_failed = on_failed
        self._under_way: dict[asyncio.Task[None], Handshake] = {}
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        sock.listen(backlog)
        self._listen()

    def close(self) -> None:
        """Accept nothing more, and cut handshakes; connections live on. May be called again."""
        if self._sock.fileno() == -1:
            return
        if self._retry is not None:
            self._retry.cancel()
        else:
            self._loop.remove_reader(self._sock)
        self._sock.close()
        for handshake in self._under_way.values():
            handshake.abort(_CLOSED)

    async def wait_closed(self) -> None:
        """Return when no handshake goes on any more."""
        if self._under_way:
            await asyncio.wait(self._under_way)

    def _listen(self) -> None:
        self._retry = None
        self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        for _ in range(_TURN):
            try:
                sock, name = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                logging.getLogger("rap.server").error("cannot accept a connection: %s", exc)
                self._loop.remove_reader(self._sock)
                self._retry = self._loop.call_later(_RETRY, self._listen)
                return
            sock.setblocking(False)
            self._begin(sock, name)

    def _begin(self, sock: socket.socket, name: object) -> None:
        handshake = Handshake(self._make(), sock, Peer.from_sockname(name))
        self._on_begin(handshake)
        task = handshake.begin(self._context, self._timeout)
        if task is not None:
            self._under_way[task] = handshake
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        handshake = self._under_way.pop(task)
        handshake.discard()
        if handshake.conn.transport is None:
            self._on_failed(handshake.conn)
