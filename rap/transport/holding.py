"""A connection that waits: nothing of it is read and nothing written until it is let go."""

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rap.transport.connection import Connection

__all__ = ["Holding"]


class Holding(asyncio.Protocol):
    """Stands in for a new connection at its transport; to be made in its `on_made`.

    Not even our Hello is sent, so a client that is turned away learns it while it dials.

    Args:
        conn: The connection.
    """

    def __init__(self, conn: "Connection") -> None:
        self._conn = conn
        self._early = b""  # uvloop begins to read when `connection_made` has returned
        conn.held = self
        conn.transport.set_protocol(self)
        conn.transport.pause_reading()

    def hand_to(self, protocol: asyncio.Protocol) -> None:
        """Let another protocol read in the place of the connection, which stays held."""
        transport = self._conn.transport
        transport.set_protocol(protocol)
        early, self._early = self._early, b""
        if early:
            protocol.data_received(early)
        transport.resume_reading()

    def release(self) -> None:
        """Let the connection say Hello, and read unless another protocol does."""
        conn = self._conn
        conn.held = None
        if not conn.closed:
            conn.protocol.flush()
            if conn.transport.get_protocol() is self:
                self.hand_to(conn)
            else:
                conn.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Keep what the transport had read already, and stop it."""
        self._early += data
        self._conn.transport.pause_reading()

    def pause_writing(self) -> None:
        """Tell the connection."""
        self._conn.pause_writing()

    def resume_writing(self) -> None:
        """Tell the connection."""
        self._conn.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the connection."""
        self._conn.connection_lost(exc)
