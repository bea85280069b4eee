"""Open a connection to one address.

A host name may have several addresses, and the first one may swallow packets without an answer. So
they are tried one after the other with a head start of 250 ms each, and the first connection that
is established is used (Happy Eyeballs, RFC 8305). asyncio can do this, but uvloop cannot.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Any

from rap.address import Address
from rap.clock import Clock, timeout_on
from rap.errors import (
    ConnectionClosed,
    RapError,
    Unauthenticated,
    Unavailable,
    VersionMismatch,
)
from rap.tasks import start_task
from rap.transport.connection import Connection
from rap.transport.fork import ParentSocket
from rap.transport.tls import ServerTrust

__all__ = ["dial", "in_turn"]

_TLS_SCHEMES = ("tcp", "tls")
_LOST_TO_PLAIN = (
    " before its Hello; did it stop or refuse this client, or does it speak TLS? Its log says why"
)
_LOST_TO_TLS = (
    " before its Hello; did it stop or refuse this client, or does it want a client certificate?"
    " Its log says why"
)
_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
# X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT and others: no known authority has issued it.
_UNKNOWN_ISSUER = range(18, 22)
# X509_V_ERR_UNABLE_TO_GET_CRL, X509_V_ERR_CRL_HAS_EXPIRED.
_LIST_MISSING_OR_OLD = (3, 12)
# X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH.
_OTHER_NAME = (62, 64)
_ATTEMPT_DELAY = (
    0.25  # seconds of head start of each address (RFC 8305, "Connection Attempt Delay")
)
_TLS_SHUTDOWN_TIMEOUT = 1.0  # seconds for the close_notify of the peer; nothing depends on it

# An entry of getaddrinfo: family, kind, protocol, canonical name, socket address.
_Info = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]


async def dial(
    address: Address,
    make: Callable[[], Connection],
    *,
    timeout: float,
    trust: ServerTrust | None = None,
    check: Callable[[Connection], object] | None = None,
    clock: Clock | None = None,
) -> Connection:
    """Return a connection to a server that has sent its Hello and takes calls.

    Args:
        address: Address of the server. If a host name has several addresses, they are tried in
            turn, each 250 ms after the one before.
        make: Makes the connection.
        timeout: Seconds for name resolution, connection, TLS and Hello together.
        trust: What TLS needs and expects of the server; `None` for plain TCP.
        check: Called when the connection is established, before anything of this side is sent. It
            refuses the server by raising a `RapError`.
        clock: Source of the time of `timeout`; `None`: that of the event loop.

    Raises:
        Unavailable: The server could not be reached; the message has the address and the reason.
        Unauthenticated: The server refused the identity of this client.
        VersionMismatch: The server speaks no version of the protocol that this client speaks.
    """
    if trust is not None and address.scheme not in _TLS_SCHEMES:
        text = (
            f"cannot reach {address}: it has no TLS, which the ssl_ options of this client demand"
        )
        raise Unavailable(text, unserved=True)
    made: list[Connection] = []
    is_ready = False

    def make_one() -> Connection:
        conn = make()
        if trust is not None or check is not None or not address.has_port:
            conn.check_first(check_one)
        made.append(conn)
        return conn

    def check_one(conn: Connection) -> None:
        if not address.has_port:
            conn.name_peer(str(address))
        if trust is not None:
            trust.check(conn.transport.get_extra_info("ssl_object"))
        if check is not None:
            check(conn)

    try:
        async with timeout_on(clock, timeout):
            conn = await _connect(address, make_one, timeout, trust)
            if conn.error is not None:
                raise conn.error
            await conn.wait_handshake()
            if conn.draining:
                raise conn.error or ConnectionClosed("it is draining, and takes no new calls")
            is_ready = True
            return conn
    except Unauthenticated:
        raise
    except VersionMismatch as exc:
        raise VersionMismatch(f"{address}: {exc}", unserved=True) from exc
    except (OSError, RapError) as exc:
        reason = str(exc) or type(exc).__name__
        if isinstance(exc, TimeoutError):
            reason = f"no answer in {timeout} s"
        elif isinstance(exc, ConnectionRefusedError) and address.scheme != "inproc":
            reason = "connection refused"  # of asyncio, the text has the address once more
        elif isinstance(exc, ssl.SSLCertVerificationError):
            reason = _refusal(exc, trust)
        elif isinstance(exc, ssl.SSLError) and exc.reason == "WRONG_VERSION_NUMBER":
            reason = f"it does not speak TLS ({reason})"
        elif isinstance(exc, Unavailable) and reason.startswith("connection to "):  # and lost
            reason += _LOST_TO_PLAIN if trust is None else _LOST_TO_TLS
        reason += _advice(exc, address)
        raise Unavailable(f"cannot reach {address}: {reason}", unserved=True) from exc
    finally:
        for conn in made:
            if not is_ready and conn.transport is not None:
                conn.abort(ConnectionClosed(f"the handshake with {address} failed"))
                # uvloop does not call it for a connection that ends before it was handed out.
                asyncio.get_running_loop().call_soon(conn.connection_lost, None)


def _advice(error: BaseException, address: Address) -> str:
    """Return what to do after an address could not be reached."""
    if address.scheme == "inproc":
        return "; between processes, use host:port or unix://"
    if isinstance(error, TimeoutError):
        return "; does a rap server run there, and does no firewall drop what is sent?"
    if isinstance(error, ssl.SSLCertVerificationError):
        return ""
    if isinstance(error, ssl.SSLError):
        return "; leave out the TLS options here, or give the server ssl_crt_path and ssl_key_path"
    if isinstance(error, socket.gaierror):
        return "; is the host name spelled right?"
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return "; does the server run, and is this its address?"
    return ""


def _refusal(error: ssl.SSLCertVerificationError, trust: ServerTrust | None) -> str:
    if trust is not None and trust.pinned is not None and error.verify_code != _EXPIRED:
        return "its certificate is not the pinned one"
    reason = f"its certificate is refused: {error.verify_message.rstrip('.')}"
    if error.verify_code in _UNKNOWN_ISSUER:
        reason += " (option ssl_ca_path: the authority that issued it)"
    elif error.verify_code in _LIST_MISSING_OR_OLD:
        reason += " (option ssl_crl_path: the lists of all authorities of its chain)"
    elif error.verify_code == _EXPIRED:
        reason += "; renew it"
    elif error.verify_code in _OTHER_NAME:
        reason += " (options ssl_server_name, ssl_identity: whom to expect)"
    return reason


async def _connect(
    address: Address, make: Callable[[], Connection], timeout: float, trust: ServerTrust | None
) -> Connection:
    loop = asyncio.get_running_loop()
    if address.scheme == "unix":
        _, conn = await loop.create_unix_connection(make, address.path)
        return conn
    if address.scheme == "inproc":
        from rap.transport.inproc import connect  # only tests have such addresses

        return await connect(address, make)
    sock = await _open_socket(await _resolve(address.host, address.port))
    try:
        _, conn = await loop.create_connection(
            make,
            sock=sock,
            ssl=None if trust is None else trust.context,
            server_hostname=None if trust is None else trust.server_name or address.host,
            ssl_handshake_timeout=None if trust is None else timeout,
            ssl_shutdown_timeout=None if trust is None else _TLS_SHUTDOWN_TIMEOUT,
        )
    except BaseException:  # raised again
        if not _is_of_uvloop(sock):
            sock.close()
        raise
    if conn.error is not None:  # it was ended as soon as it was there
        _is_of_uvloop(sock)
    return conn


def _is_of_uvloop(sock: socket.socket) -> bool:
    """Return whether uvloop has taken over the descriptor; if so, the socket lets go of it.

    uvloop closes the descriptor, but may not tell the socket. Closing that, too, could close the
    descriptor of another file.
    """
    has_taken = bool(getattr(sock, "_io_refs", 0))
    if has_taken:
        sock.detach()
    return has_taken


async def _resolve(host: str, port: int) -> list[_Info]:
    """Return the addresses of a host name in the order in which they are to be tried."""
    kind = socket.SOCK_STREAM
    try:  # an IP address needs neither a name server nor a thread
        infos = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=kind)
    return in_turn(infos)


def in_turn(infos: Sequence[_Info]) -> list[_Info]:
    """Return addresses with their two families in turn, otherwise in the order of the resolver."""
    first = [info for info in dict.fromkeys(infos) if info[0] == infos[0][0]]
    others = [info for info in dict.fromkeys(infos) if info[0] != infos[0][0]]
    return [each for each in chain(*zip_longest(first, others)) if each is not None]


async def _open_socket(infos: Sequence[_Info]) -> socket.socket:
    """Return a socket that is connected to the first of the addresses that answers.

    Raises:
        OSError: None of them takes the connection.
    """
    if len(infos) == 1:
        return await _connect_socket(infos[0])
    waiting = deque(infos)
    running: set[asyncio.Task[socket.socket]] = set()
    errors: list[OSError] = []
    connected: list[socket.socket] = []
    try:
        while (waiting or running) and not connected:
            if waiting:
                info = waiting.popleft()
                running.add(start_task(_connect_socket(info), name="rap connect"))
            done, running = await asyncio.wait(
                running,
                timeout=_ATTEMPT_DELAY if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                error = task.exception()
                if error is None:
                    connected.append(task.result())
                elif isinstance(error, OSError):
                    errors.append(error)
                else:
                    raise error
        if not connected:
            raise _joined(errors)
        return connected.pop(0)
    finally:
        for task in running:
            task.cancel()
        for result in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(result, socket.socket):
                result.close()
        for sock in connected:  # those that were as fast as the one that is used
            sock.close()


async def _connect_socket(info: _Info) -> socket.socket:
    family, kind, proto, _, address = info
    sock = ParentSocket(family, kind, proto)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:  # raised again
        sock.close()
        raise
    return sock


def _joined(errors: Sequence[OSError]) -> OSError:
    """Return the error of a name none of whose addresses takes the connection."""
    texts = list(dict.fromkeys(str(error) for error in errors))
    is_same = len(texts) == 1 or all(isinstance(it, ConnectionRefusedError) for it in errors)
    return errors[0] if is_same else OSError(f"every address failed: {', '.join(texts)}")
