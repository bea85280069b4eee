"""The end of a connection that is refused: its client reads why.

A kernel that has bytes for a socket that will not be read any more answers with a reset, and a
reset may destroy what the client has not read yet, such as the GoAway that says why it is refused.
So this side ends its direction only, reads what the client has sent, and closes then.
"""

import asyncio
from typing import Protocol

__all__ = ["Farewell"]

_CHUNK = 4096  # bytes


class _Ended(Protocol):
    """A connection that is refused."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that it has ended."""
        ...


class Farewell(asyncio.BufferedProtocol):
    """Drops what a refused client sends, until it closes the connection.

    Args:
        conn: The connection.
        transport: Its transport, which was given everything that the client is told.

    Attributes:
        heard: Whether the client has said something. Its Hello is all that it says before it has
            read something, so from then on the connection can be closed without a reset.
    """

    def __init__(self, conn: _Ended, transport: asyncio.Transport) -> None:
        self.heard = False
        self._conn = conn
        self._chunk = bytearray(_CHUNK)
        transport.set_protocol(self)
        if transport.can_write_eof():  # not with TLS
            transport.write_eof()

    def get_buffer(self, sizehint: int) -> bytearray:
        """Return the place for the next chunk."""
        return self._chunk

    def buffer_updated(self, nbytes: int) -> None:
        """Drop a chunk."""
        self.heard = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on to the connection."""
        self._conn.connection_lost(exc)
