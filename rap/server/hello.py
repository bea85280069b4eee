"""Reads the Hello of a connection, and nothing after it, before the connection is served."""

import asyncio
from typing import TYPE_CHECKING, Any

from rap.errors import ConnectionClosed
from rap.wire.frames import HEADER, HEADER_SIZE, HELLO, MAX_HELLO, parse_frames, read_hello

if TYPE_CHECKING:
    from rap.transport import Connection

__all__ = ["HelloReader"]


class HelloReader(asyncio.Protocol):
    """Reads in the place of a connection that is held back, until it is decided whether to serve.

    Args:
        conn: The connection.
    """

    def __init__(self, conn: "Connection") -> None:
        self._conn = conn
        self._data = bytearray()
        self._size: int | None = None  # of the Hello, with its header
        self._done: asyncio.Future[None] = conn.new_future()

    async def read(self) -> dict[str, Any] | None:
        """Return what the Hello says; `None` if the connection has ended or it says nothing."""
        assert self._conn.held is not None
        self._conn.held.hand_to(self)
        await self._done
        if self._conn.closed:
            return None
        try:
            frame = parse_frames(bytes(self._data[: self._size]))[0]
            return read_hello(frame.body) if frame.kind == HELLO else None
        except ValueError:
            return None

    def hand_over(self) -> None:
        """Put the connection in its place, and give it what was read."""
        if not self._conn.closed:
            self._conn.transport.set_protocol(self._conn)
            if self._conn.held is not None:
                self._conn.held.release()
            self._conn.data_received(bytes(self._data))

    def data_received(self, data: bytes) -> None:
        """Keep it; stop reading when the Hello is there."""
        self._data += data
        if self._size is None and len(self._data) >= HEADER_SIZE:
            self._size = HEADER_SIZE + int(HEADER.unpack_from(self._data)[0])
            if self._size > HEADER_SIZE + MAX_HELLO:
                text = f"{self._conn.peer}: a Hello of {self._size} bytes, {MAX_HELLO} at most"
                self._conn.abort(ConnectionClosed(text))
        if self._size is not None and len(self._data) >= self._size:
            self._conn.transport.pause_reading()
            self._settle()

    def pause_writing(self) -> None:
        """Tell the connection."""
        self._conn.pause_writing()

    def resume_writing(self) -> None:
        """Tell the connection."""
        self._conn.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the connection."""
        self._conn.connection_lost(exc)
        self._settle()

    def _settle(self) -> None:
        if not self._done.done():
            self._done.set_result(None)
