"""Listen on one address: TCP on every local address its host names, TLS, or a unix socket."""

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Callable

from rap.address import Address
from rap.transport.connection import Connection

__all__ = ["Listener", "listen"]


class Listener:
    """One address that is listened on.

    Args:
        server: The loop's server.
        address: What was bound, with its real port.
    """

    def __init__(self, server: asyncio.Server, address: Address) -> None:
        self.address = address
        self._server = server

    def close(self) -> None:
        """Accept nothing more; connections live on."""
        self._server.close()
        if self.address.scheme == "unix":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.address.path)


async def listen(
    address: Address,
    make: Callable[[], Connection],
    *,
    backlog: int,
    context: ssl.SSLContext | None = None,
    handshake_timeout: float = 5.0,
) -> Listener:
    """Start to listen.

    Args:
        address: Where; port 0 binds a free one.
        make: Makes the driver of each accepted connection.
        backlog: Connections that may wait to be accepted.
        context: TLS context; `None` for plain TCP.
        handshake_timeout: Seconds a client's TLS handshake may take.

    Raises:
        OSError: The address cannot be bound; the message names it.
    """
    loop = asyncio.get_running_loop()
    limit = handshake_timeout if context is not None else None
    try:
        if address.scheme == "unix":
            server = await loop.create_unix_server(
                make, address.path, backlog=backlog, ssl=context, ssl_handshake_timeout=limit
            )
            return Listener(server, address)
        sockets = await _bind(address)
        port = sockets[0].getsockname()[1]
        server = await _serve(sockets, make, backlog, context, limit)
    except OSError as exc:
        raise OSError(exc.errno, f"cannot listen on {address}: {exc.strerror or exc}") from exc
    scheme = "tls" if context is not None else address.scheme
    return Listener(server, Address(scheme, address.host, port))


async def _serve(
    sockets: list[socket.socket],
    make: Callable[[], Connection],
    backlog: int,
    context: ssl.SSLContext | None,
    limit: float | None,
) -> asyncio.Server:
    """Return one server over all sockets that a host name stands for."""
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(
            make, sock=sock, backlog=backlog, ssl=context, ssl_handshake_timeout=limit
        )
        for sock in sockets
    ]
    return servers[0] if len(servers) == 1 else _Servers(servers)  # type: ignore[return-value]  # close() is all we use


class _Servers:
    """Several servers of the loop that close together."""

    def __init__(self, servers: list[asyncio.Server]) -> None:
        self._servers = servers

    def close(self) -> None:
        for server in self._servers:
            server.close()


async def _bind(address: Address) -> list[socket.socket]:
    """Bind every local address of the host name, all with one port.

    Addresses that this machine does not have (IPv6 of "localhost" where it is switched off) are
    left out if another could be bound.
    """
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    port = address.port
    try:
        for family, kind, proto, _, sockaddr in dict.fromkeys(infos):
            sock = socket.socket(family, kind, proto)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sock.bind((sockaddr[0], port, *sockaddr[2:]))
            except OSError as exc:
                sock.close()
                taken = exc.errno == errno.EADDRINUSE and not (sockets and address.port == 0)
                if taken or (not sockets and exc.errno != errno.EADDRNOTAVAIL):
                    raise
                continue
            sock.setblocking(False)
            sockets.append(sock)
            port = port or sock.getsockname()[1]
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    if not sockets:
        raise OSError(errno.EADDRNOTAVAIL, "none of its addresses is local")
    return sockets
