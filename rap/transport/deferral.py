"""Calls that wait to be begun, while a client does not take the answers of others.

An answer is complete when it is sent, so a client that asks and does not read would make the
server keep as many answers as it may have calls open.
"""

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from rap.wire.states import CLOSED

if TYPE_CHECKING:
    from rap.transport.connection import Connection

__all__ = ["defer_when_full"]

_TURN = 64  # calls that are begun in one turn of the loop


def defer_when_full(conn: "Connection") -> None:
    """Begin no call of a connection, of a server, while its backlog is full."""
    conn.protocol.backlog.tell = partial(_Deferral, conn)  # few are ever needed


class _Deferral:
    """Takes the place of what begins calls, as long as the backlog of a connection is full.

    Args:
        conn: The connection.
        is_full: Whether it is.
    """

    def __init__(self, conn: "Connection", is_full: bool) -> None:
        self._conn = conn
        self._begin = conn.on_open
        self._waiting: deque[tuple[Any, int, bytes, bytes | memoryview]] = deque()
        self._backlog = conn.protocol.backlog
        self._backlog.tell = self._on_change
        self._on_change(is_full)

    def _on_change(self, is_full: bool) -> None:
        if is_full:
            self._conn.on_open = self._put
        else:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _put(self, stream: Any, flags: int, meta: bytes, body: bytes | memoryview) -> None:
        self._waiting.append((stream, flags, meta, body))

    def _go_on(self) -> None:
        """Begin what waits, in the order in which it came."""
        assert self._begin is not None
        for _ in range(_TURN):
            if not self._waiting or self._backlog.is_full:
                break
            stream, flags, meta, body = self._waiting.popleft()
            if stream.state != CLOSED:  # else its client has given it up meanwhile
                self._begin(stream, flags, meta, body)
        if self._backlog.is_full:
            return
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._go_on)
        else:
            self._conn.on_open = self._begin
