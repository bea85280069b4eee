"""What ties a key to one connection: the random numbers that both Hellos carry.

Neither side chooses it alone, so what was sealed under keys derived from it on one connection is
worthless on every other, even if one side's whole half of the conversation is sent again.
"""

import dataclasses
import os
from typing import TYPE_CHECKING

from rap.address import Peer

if TYPE_CHECKING:
    from rap.transport.connection import Connection

__all__ = ["bind", "bound_peer", "new_random"]

_SIZE = 16  # bytes; with less, two connections could have the same by chance
_MOST = 64  # a binding is kept as long as the connection


def new_random() -> bytes:
    """Return the random number of one side of one connection."""
    return os.urandom(_SIZE)


def bind(client: object, server: object) -> bytes:
    """Return the binding of a connection; nothing if a side's number is missing, short or long.

    Args:
        client: What the client's Hello has as ``random``.
        server: What the server's Hello has.
    """
    binding = b""
    for number in (client, server):
        if not isinstance(number, bytes) or not _SIZE <= len(number) <= _MOST:
            return b""
        binding += len(number).to_bytes(4, "big") + number  # no other pair gives the same
    return binding


def bound_peer(conn: "Connection", own: bytes) -> Peer:
    """Return the peer of a connection as it is once its Hello has come.

    Args:
        conn: The connection.
        own: The random number of this side.
    """
    theirs = conn.protocol.peer_hello.get("random")
    binding = bind(theirs, own) if conn.is_server else bind(own, theirs)
    return dataclasses.replace(conn.peer, binding=binding, state=conn.state)
