"""Who is at the other end of a transport."""

import asyncio
import socket

from rap.address import Peer

__all__ = ["peer_of"]


def peer_of(transport: asyncio.BaseTransport) -> Peer | None:
    """Return who is at the other end, or `None` if that cannot be known any more.

    A TCP peer that has left already has no address. It must not pass for a peer without one, on
    a unix socket: such a peer is local, and may call private functions.
    """
    name = transport.get_extra_info("peername")
    sock = transport.get_extra_info("socket")
    family = getattr(sock, "family", None)
    if family in (socket.AF_INET, socket.AF_INET6) and not isinstance(name, tuple):
        return None
    tls = transport.get_extra_info("ssl_object")
    identity = tls.getpeercert() if tls is not None else None
    return Peer.from_sockname(name, identity or None)
