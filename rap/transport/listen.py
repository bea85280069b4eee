"""Listen on one address: TCP or TLS on every local address of its host name, or a unix socket."""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
import stat
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from rap.address import Address, Peer
from rap.clock import Pace
from rap.errors import ConnectionClosed, RapError
from rap.tasks import start_task
from rap.transport.connection import Connection
from rap.transport.fork import descriptors_of_server, let_go_in_children
from rap.transport.tls import ServerTls

if TYPE_CHECKING:
    from rap.transport.inproc import InprocServer

__all__ = [
    "TLS_SHUTDOWN_TIMEOUT",
    "Handshake",
    "Listener",
    "PlainServer",
    "TlsServer",
    "bind",
    "listen",
]


TLS_SHUTDOWN_TIMEOUT = 1.0  # seconds for the close_notify of the peer; nothing depends on it

_CLOSED = ConnectionClosed("the server has stopped accepting connections")
# Connections that are accepted in one turn of the event loop. It takes four turns to refuse one, so
# more of them could use up the descriptors that are kept in reserve.
_ACCEPTS_PER_TURN = 8
_RETRY = 1.0  # seconds until the next attempt after an error, such as too many open files
_RETRY_WITH_SPARE = 0.1  # seconds, if a spare descriptor may be free again
_LOG_PAUSE = 60.0  # seconds between two lines about such errors
_TLS_LOG_PAUSE = 10.0  # seconds between two lines about failed handshakes, as scanners cause many
# What OpenSSL says if the first bytes are another protocol: of rap, of HTTP.
_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "UNKNOWN_PROTOCOL")
_log = logging.getLogger("rap.server")


class Handshake:
    """A connection whose TLS handshake is in progress.

    Args:
        conn: The connection that takes over when it is done.
        sock: The accepted socket.
        peer: The client.

    Attributes:
        refusal: Why one side refused the other, once it did.
    """

    def __init__(self, conn: Connection, sock: socket.socket, peer: Peer) -> None:
        self.conn = conn
        self.peer = peer
        self._sock = sock
        self._is_aborted = self._is_running = False
        let_go_in_children(self)
        self._task: asyncio.Task[None] | None = None
        self.refusal: ssl.SSLError | None = None

    def begin(self, context: ssl.SSLContext, timeout: float) -> asyncio.Task[None] | None:
        """Start it; return its task, or `None` if it was aborted before."""
        if self._is_aborted:
            self._sock.close()
        else:
            self._task = start_task(self._run(context, timeout), name="rap TLS handshake")
        return self._task

    def abort(self, error: RapError) -> None:
        """Cancel it, unless it is done."""
        self._is_aborted = True
        if self.conn.transport is None:
            if self._task is not None:
                self._task.cancel()
            self.conn.log.info("TLS handshake with %s ended: %s", self.peer, error)

    def let_go(self) -> list[int]:
        """In a forked child, return the descriptor of the socket."""
        return [self._sock.fileno()]

    def discard(self) -> None:
        """Close the socket, unless the event loop has taken it over."""
        if not self._is_running:
            self._sock.close()

    async def _run(self, context: ssl.SSLContext, timeout: float) -> None:
        self._is_running = True
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self.conn,
                self._sock,
                ssl=context,
                ssl_handshake_timeout=timeout,
                ssl_shutdown_timeout=TLS_SHUTDOWN_TIMEOUT,
            )
        except ssl.SSLError as exc:
            self.refusal = exc
        except OSError as exc:  # also what only looks whether the port is open, such as a probe
            reason = str(exc) or type(exc).__name__
            self.conn.log.debug("TLS handshake with %s failed: %s", self.peer, reason)


class Acceptor:
    """Accepts connections on one socket, and waits when that fails.

    The event loop of asyncio would try again at once, as often as its backlog is long, and log each
    failure: thousands of lines a second while no descriptors are left.

    Args:
        sock: A bound, non-blocking socket.
        take: Takes each accepted socket, and the address of its peer.
        backlog: Connections that may wait to be accepted.
        spare: Keep a descriptor in reserve, with which one connection at a time is accepted when
            no other descriptor is left.
    """

    def __init__(
        self,
        sock: socket.socket,
        take: Callable[[socket.socket, object], object],
        backlog: int,
        *,
        spare: bool = False,
    ) -> None:
        self._sock = sock
        self._take = take
        self._has_spare = spare
        self._spare: int | None = None
        self._refill()
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        self._failures = 0  # in a row
        self._log_pace = Pace(_LOG_PAUSE, self._loop.time)
        let_go_in_children(self)
        sock.listen(backlog)
        self._listen()

    def close(self) -> bool:
        """Stop accepting; return whether it had not been stopped before."""
        if self._sock.fileno() == -1:
            return False
        if self._retry is not None:
            self._retry.cancel()
        else:
            self._loop.remove_reader(self._sock)
        self._sock.close()
        if self._spare is not None:
            os.close(self._spare)
        return True

    def let_go(self) -> list[int]:
        """In a forked child, return the descriptors of the socket and of the reserve."""
        return [self._sock.fileno(), *([] if self._spare is None else [self._spare])]

    def _listen(self) -> None:
        self._retry = None
        self._loop.add_reader(self._sock, self._accept)

    def _refill(self) -> None:
        """Keep a descriptor in reserve again, if there is one."""
        if self._has_spare and self._spare is None:
            with contextlib.suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _accept(self) -> None:
        self._refill()
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, name = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                if exc.errno == errno.EMFILE and self._spare is not None:
                    os.close(self._spare)
                    self._spare = None
                    continue
                self._on_error(exc)
                return
            if self._failures:
                _log.info("accepting connections again")
                self._failures = 0
            sock.setblocking(False)
            self._take(sock, name)

    def _on_error(self, exc: OSError) -> None:
        """Log the error, at most once a minute, and wait."""
        self._failures += 1
        if self._log_pace.allow():
            text = "cannot accept a connection: %s; retrying until it is possible"
            _log.error(text, exc)
        self._loop.remove_reader(self._sock)
        pause = _RETRY_WITH_SPARE if self._has_spare else _RETRY
        self._retry = self._loop.call_later(pause, self._listen)


class PlainServer:
    """A server that accepts connections without TLS on one socket, like an `asyncio.Server`.

    Args:
        sock: A bound, non-blocking socket.
        make: Makes the protocol for each accepted socket.
        backlog: Connections that may wait to be accepted.
        spare: See `Acceptor`.
    """

    def __init__(
        self,
        sock: socket.socket,
        make: Callable[[], asyncio.BaseProtocol],
        *,
        backlog: int,
        spare: bool = False,
    ) -> None:
        self._make = make
        self._under_way: dict[asyncio.Task[None], socket.socket] = {}
        self._acceptor = Acceptor(sock, self._take, backlog, spare=spare)
        let_go_in_children(self)

    def close(self) -> None:
        """Stop accepting; connections stay open. Idempotent."""
        self._acceptor.close()

    async def wait_closed(self) -> None:
        """Wait until every accepted socket has its connection."""
        if self._under_way:
            await asyncio.wait(self._under_way)

    def let_go(self) -> list[int]:
        """In a forked child, return the descriptors of accepted sockets without a connection."""
        return [sock.fileno() for sock in self._under_way.values()]

    def _take(self, sock: socket.socket, _: object) -> None:
        task = start_task(self._connect(sock), name="rap accept")
        self._under_way[task] = sock
        task.add_done_callback(self._under_way.pop)

    async def _connect(self, sock: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._make, sock)
        except OSError as exc:
            sock.close()
            _log.debug("an accepted connection was lost: %s", exc)


class TlsServer:
    """A server that accepts TLS connections on one socket, like an `asyncio.Server`.

    It tells of each handshake, so that handshakes can be limited.

    Args:
        sock: A bound, non-blocking socket.
        make: Makes the connection for each accepted socket.
        tls: Has the TLS context for each handshake.
        backlog: Connections that may wait to be accepted.
        timeout: Seconds a handshake may take.
        on_begin: Called with each handshake before it starts; may abort it.
        on_failed: Called with the connection of each handshake that failed.
    """

    def __init__(
        self,
        sock: socket.socket,
        make: Callable[[], Connection],
        tls: ServerTls,
        *,
        backlog: int,
        timeout: float,
        on_begin: Callable[[Handshake], object],
        on_failed: Callable[[Connection], object],
    ) -> None:
        self._make = make
        self._tls = tls
        self._timeout = timeout
        self._on_begin = on_begin
        self._on_failed = on_failed
        self._under_way: dict[asyncio.Task[None], Handshake] = {}
        self._log_pace = Pace(_TLS_LOG_PAUSE, asyncio.get_running_loop().time)
        self._acceptor = Acceptor(sock, self._begin, backlog)

    def close(self) -> None:
        """Stop accepting and abort handshakes; connections stay open. Idempotent."""
        if self._acceptor.close():
            for handshake in self._under_way.values():
                handshake.abort(_CLOSED)

    async def wait_closed(self) -> None:
        """Wait until no handshake is in progress."""
        if self._under_way:
            await asyncio.wait(self._under_way)

    def _begin(self, sock: socket.socket, name: object) -> None:
        conn = self._make()
        peer = Peer.from_sockname(name).narrowed(conn.options.local)
        handshake = Handshake(conn, sock, peer)
        self._on_begin(handshake)
        task = handshake.begin(self._tls.context, self._timeout)
        if task is not None:
            self._under_way[task] = handshake
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        handshake = self._under_way.pop(task)
        handshake.discard()
        if handshake.conn.transport is None:
            self._on_failed(handshake.conn)
        if handshake.refusal is not None and self._log_pace.allow():
            skipped = self._log_pace.take_skipped()
            more = f" ({skipped} more have failed since the last such line)" if skipped else ""
            handshake.conn.log.warning(
                "TLS handshake with %s failed: %s%s",
                handshake.peer,
                _refusal(handshake.refusal),
                more,
            )


def _refusal(error: ssl.SSLError) -> str:
    """Return why a handshake failed, and what to do."""
    reason = error.reason or ""
    if reason in _NOT_TLS:
        return "the client does not speak TLS; give it ssl_ca_path or ssl_crt_path"
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "the client sent no certificate; give it ssl_client_crt_path and ssl_client_key_path"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the certificate of the client is refused: {error.verify_message.rstrip('.')} "
            "(options ssl_ca_path and ssl_crl_path of the server)"
        )
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return f"the client refuses the certificate of this server ({reason}); see its error"
    return str(error) or type(error).__name__


# An entry of getaddrinfo: family, kind, protocol, canonical name, socket address.
_Info = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]
_TURNS = 2  # of the event loop from accept to `connection_made`: a task and a callback
_TRIES = 16  # attempts to find a port that is free on all addresses of a name


# On one socket, or none. The server of uvloop is like the first.
_Server: TypeAlias = "asyncio.Server | PlainServer | TlsServer | InprocServer"


class Listener:
    """The servers of one address.

    Args:
        servers: One for each socket.
        address: The bound address, with its actual port.
        file: Device and inode of the file of a unix socket.
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
        let_go_in_children(self)

    def close(self) -> None:
        """Stop accepting and abort TLS handshakes; connections stay open."""
        for server in self._servers:
            if isinstance(server, asyncio.Server):
                _close_soon(server)
            else:
                server.close()
        if self._file is not None and self._file == _file_at(self.address.path):
            os.unlink(self.address.path)
        self._file = None

    def let_go(self) -> list[int]:
        """In a forked child, return the descriptors of the sockets; the file stays."""
        self._file = None
        descriptors = []
        for server in self._servers:
            if not isinstance(server, PlainServer | TlsServer):  # their acceptors return theirs
                descriptors += descriptors_of_server(server)
        return descriptors

    async def settled(self) -> None:
        """After `close`, wait until every accepted socket has its connection, or has failed."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        for server in self._servers:
            if isinstance(server, PlainServer | TlsServer):
                await server.wait_closed()


def _close_soon(server: asyncio.Server) -> None:
    """Stop accepting, and close in the next turn of the event loop.

    An asyncio server that is closed in the turn in which it accepted a connection leaks that one.
    """
    loop = server.get_loop()
    for sock in server.sockets:
        loop.remove_reader(sock)
    loop.call_soon(server.close)


def _ignore(_: object) -> None:
    """Do nothing: the default of the callbacks."""


async def listen(
    address: Address,
    make: Callable[[], Connection],
    *,
    backlog: int,
    tls: ServerTls | None = None,
    handshake_timeout: float = 5.0,
    reuse_port: bool = False,
    ipv6_only: bool = False,
    on_handshake: Callable[[Handshake], object] = _ignore,
    on_failed: Callable[[Connection], object] = _ignore,
) -> Listener:
    """Listen on an address.

    Args:
        address: The address; port 0 binds a free port.
        make: Makes the connection for each accepted socket.
        backlog: Connections that may wait to be accepted.
        tls: TLS of the server, for TCP; `None` for plain TCP.
        handshake_timeout: Seconds a client's TLS handshake may take.
        reuse_port: Share the port with other processes that set this too; the kernel distributes
            connections among them (socket(7), SO_REUSEPORT).
        ipv6_only: Whether ``[::]`` means IPv6 alone. By default it means IPv4 too, as in gRPC,
            whatever the system's `bindv6only` is.
        on_handshake: On TCP, called with each TLS handshake before it starts; may abort it.
        on_failed: Called with the connection of each handshake that failed.

    Raises:
        OSError: The address cannot be bound; the message has the address.
    """
    loop = asyncio.get_running_loop()
    servers: list[_Server] = []
    try:
        if address.scheme == "inproc":
            from rap.transport.inproc import InprocServer  # only tests have such addresses

            return Listener([InprocServer(address, make)], address)
        if address.scheme == "unix":
            path = address.path
            _refuse_if_used(path)
            if _floods(loop):
                servers.append(PlainServer(_bind_unix(path), make, backlog=backlog))
                return Listener(servers, address, _file_at(path))
            servers.append(await loop.create_unix_server(make, path, backlog=backlog))
            return Listener(servers, address, _file_at(path))
        sockets = await bind(address, reuse_port=reuse_port, ipv6_only=ipv6_only)
        try:
            for sock in sockets:
                server: _Server  # one by one: those that exist are closed if the next one fails
                if tls is None and _floods(loop):
                    server = PlainServer(sock, make, backlog=backlog)
                elif tls is None:
                    server = await loop.create_server(make, sock=sock, backlog=backlog)
                else:
                    server = TlsServer(
                        sock,
                        make,
                        tls,
                        backlog=backlog,
                        timeout=handshake_timeout,
                        on_begin=on_handshake,
                        on_failed=on_failed,
                    )
                servers.append(server)
        except BaseException:  # raised again
            for server in servers:
                server.close()
            _close(sockets)
            raise
    except OSError as exc:
        text = f"cannot listen on {address}: {exc.strerror or exc}{_advice(exc, address)}"
        raise OSError(exc.errno or errno.EINVAL, text) from exc
    scheme = "tls" if tls is not None else address.scheme
    return Listener(servers, Address(scheme, address.host, sockets[0].getsockname()[1]))


def _advice(error: OSError, address: Address) -> str:
    """Return what to do after an address could not be bound."""
    is_unix = address.scheme == "unix"
    if error.errno == errno.EADDRINUSE:
        if address.scheme == "inproc":
            return "; close it, or use another name"
        if is_unix:
            return "; another server listens there: stop it, or use another path"
        from rap.transport.port_owner import owner_of_port  # only for this error

        owner = owner_of_port(address.port)
        return f"; {owner} listens there: stop it, use another port, or port 0 for a free one"
    if error.errno == errno.EADDRNOTAVAIL:
        return "; this machine has no such address: use 0.0.0.0 or [::] for all that it has"
    if error.errno == errno.EACCES:
        return "; ports below 1024 need privileges: use a higher one" if not is_unix else ""
    if is_unix and error.errno == errno.ENOENT:
        return f"; make the folder {os.path.dirname(address.path)} first"
    if is_unix and error.errno is None:
        return "; a path has at most 107 bytes on Linux, and 103 elsewhere: use a shorter one"
    return "; is the name spelled right?" if isinstance(error, socket.gaierror) else ""


async def bind(
    address: Address, *, reuse_port: bool = False, ipv6_only: bool = False
) -> list[socket.socket]:
    """Bind every local address of the host name, all on one port.

    Args:
        address: A TCP address; port 0 binds a free port.
        reuse_port: See `listen`; so is the next one.
        ipv6_only: Whether ``[::]`` means IPv6 alone.

    Raises:
        OSError: The address cannot be bound.
    """
    host, port, kind, flags = address.host, address.port, socket.SOCK_STREAM, socket.AI_PASSIVE
    try:  # an IP address needs neither a name server nor a thread
        infos = socket.getaddrinfo(host, port, type=kind, flags=flags | socket.AI_NUMERICHOST)
    except socket.gaierror:
        loop = asyncio.get_running_loop()
        infos = await loop.getaddrinfo(host, port, type=kind, flags=flags)
    if not ipv6_only and any(info[4][0] == "::" for info in infos):
        # A separate socket for IPv4: peers then have IPv4 addresses, not mapped ones.
        infos += socket.getaddrinfo("0.0.0.0", port, type=kind, flags=flags)
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
    """Bind all of `infos` on one port.

    Addresses that this machine does not have, such as IPv6 of "localhost" where IPv6 is disabled,
    are left out if another can be bound.
    """
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, kind, proto, _, sockaddr in infos:
            try:
                sock = socket.socket(family, kind, proto)
            except OSError as exc:  # a family that is disabled
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


def _floods(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether the loop's own servers fail in a flood when no descriptors are left."""
    return isinstance(loop, asyncio.SelectorEventLoop)


def _bind_unix(path: str) -> socket.socket:
    """Bind a unix socket; one that nothing listens on is replaced, as event loops do."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.remove(path)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        sock.bind(path)
    except OSError:
        sock.close()
        raise
    return sock


def _close(sockets: Sequence[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def _refuse_if_used(path: str) -> None:
    """Refuse a unix socket that another server listens on; the event loop would take it over.

    Raises:
        OSError: Another server listens there.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return
        except BlockingIOError:
            pass  # a server listens, and its backlog is full
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _file_at(path: str) -> tuple[int, int] | None:
    """Return device and inode of the file at `path`, or `None` if there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
