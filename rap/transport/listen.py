"""Listen on one address: TCP on every local address its host names, TLS, or a unix socket."""

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from rap.address import Address, Peer
from rap.errors import ConnectionClosed, RapError
from rap.transport.connection import Connection

__all__ = ["TLS_GOODBYE", "Handshake", "Listener", "TlsServer", "listen"]


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


_Info = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]  # what getaddrinfo tells


_TURNS = 2  # of asyncio's loop from an accepted socket to `connection_made`: a task, a callback
_TRIES = 16  # to find a port that is free on all addresses of a name


class _Server(Protocol):
    """What accepts on one socket."""

    def close(self) -> None:
        """Accept nothing more."""


class Listener:
    """One address that is listened on.

    Args:
        servers: What accepts, one for each socket.
        address: What was bound, with its real port.
        file: Device and number of the file of a unix socket.
    """

    def __init__(
        self,
        servers: Sequence[_Server],
        address: Address,
        file: tuple[int, int] | None = None,
    ) -> None:
        self.address = address
        self._servers = servers
        self._file = file

    def close(self) -> None:
        """Accept nothing more, and cut TLS handshakes; connections live on."""
        for server in self._servers:
            if isinstance(server, asyncio.Server):
                _close_soon(server)
            else:
                server.close()
        if self._file is not None and self._file == _file_at(self.address.path):
            os.unlink(self.address.path)
        self._file = None

    async def settled(self) -> None:
        """Return when all that was accepted is in, or its TLS handshake over; after `close`."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        for server in self._servers:
            if isinstance(server, TlsServer):
                await server.wait_closed()


def _close_soon(server: asyncio.Server) -> None:
    """Accept nothing more, and close in the next turn of the loop.

    Closed in the turn in which it accepted a connection, asyncio's server drops that unclosed.
    """
    loop = server.get_loop()
    for sock in server.sockets:
        loop.remove_reader(sock)
    loop.call_soon(server.close)


def _ignore(_: object) -> None:
    """Do nothing: nobody asked to be told."""


async def listen(
    address: Address,
    make: Callable[[], Connection],
    *,
    backlog: int,
    context: ssl.SSLContext | None = None,
    handshake_timeout: float = 5.0,
    reuse_port: bool = False,
    on_handshake: Callable[[Handshake], object] = _ignore,
    on_failed: Callable[[Connection], object] = _ignore,
) -> Listener:
    """Start to listen.

    Args:
        address: Where; port 0 binds a free one.
        make: Makes the driver of each accepted connection.
        backlog: Connections that may wait to be accepted.
        context: TLS context; `None` for plain TCP.
        handshake_timeout: Seconds a client's TLS handshake may take.
        reuse_port: Share the port with other processes that do so too; the kernel spreads the
            connections among them (socket(7), SO_REUSEPORT).
        on_handshake: On TCP, told of each TLS handshake before it begins; may cut it.
        on_failed: Told of the connection of each that did not lead to one.

    Raises:
        OSError: The address cannot be bound; the message names it.
    """
    loop = asyncio.get_running_loop()
    servers: list[_Server] = []
    try:
        if address.scheme == "unix":
            path = address.path
            _refuse_if_used(path)
            servers.append(
                await loop.create_unix_server(
                    make,
                    path,
                    backlog=backlog,
                    ssl=context,
                    ssl_handshake_timeout=None if context is None else handshake_timeout,
                    ssl_shutdown_timeout=None if context is None else TLS_GOODBYE,
                )
            )
            return Listener(servers, address, _file_at(path))
        sockets = await _bind(address, reuse_port)
        try:
            for sock in sockets:
                server: _Server  # one by one: what is there is closed if the next fails
                if context is None:
                    server = await loop.create_server(make, sock=sock, backlog=backlog)
                else:
                    server = TlsServer(
                        sock,
                        make,
                        context,
                        backlog=backlog,
                        timeout=handshake_timeout,
                        on_begin=on_handshake,
                        on_failed=on_failed,
                    )
                servers.append(server)
        except BaseException:
            for server in servers:
                server.close()
            _close(sockets)
            raise
    except OSError as exc:
        raise OSError(exc.errno, f"cannot listen on {address}: {exc.strerror or exc}") from exc
    scheme = "tls" if context is not None else address.scheme
    return Listener(servers, Address(scheme, address.host, sockets[0].getsockname()[1]))


async def _bind(address: Address, reuse_port: bool) -> list[socket.socket]:
    """Bind every local address of the host name, all with one port."""
    infos = await asyncio.get_running_loop().getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    tries = 1 if address.port else _TRIES
    while True:
        tries -= 1
        try:
            return _bind_all(list(dict.fromkeys(infos)), address.port, reuse_port)
        except OSError as exc:
            # A port that is free on one address may be taken on the next.
            if exc.errno != errno.EADDRINUSE or not tries:
                raise


def _bind_all(infos: list[_Info], port: int, reuse_port: bool = False) -> list[socket.socket]:
    """Bind all of `infos` with one port.

    Addresses that this machine does not have (IPv6 of "localhost" where it is switched off) are
    left out if another can be bound.
    """
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, kind, proto, _, sockaddr in infos:
            try:
                sock = socket.socket(family, kind, proto)
            except OSError as exc:  # a family that is switched off
                absent = exc
                continue
            sockets.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sock.bind((sockaddr[0], port, *sockaddr[2:]))
            except OSError as exc:
                if exc.errno != errno.EADDRNOTAVAIL:
                    raise
                absent = exc
                sockets.pop().close()
                continue
            port = port or sock.getsockname()[1]
        if not sockets:
            raise absent or OSError(errno.EADDRNOTAVAIL, "the name has no address")
    except OSError:
        _close(sockets)
        raise
    return sockets


def _close(sockets: Sequence[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def _refuse_if_used(path: str) -> None:
    """Refuse a unix socket that another server listens on; the loop would take it over in silence.

    Raises:
        OSError: Somebody listens there.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return
        except BlockingIOError:
            pass  # somebody does, and has much to do
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _file_at(path: str) -> tuple[int, int] | None:
    """Return what tells the file at `path` from any other, `None` if there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
