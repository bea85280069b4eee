"""Fairness: what a peer sends at once beyond the share of a turn waits until others had theirs."""

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rap.transport.connection import Connection

__all__ = ["on_unfinished", "pause"]

# Seconds between two turns of a client that cancels much; and of one that was asked to leave for
# it, which may have many more calls open to cancel, but has none begun.
_PAUSE = 0.05
_PAUSE_AFTER = 0.005


def on_unfinished(conn: "Connection") -> None:
    """Watch over a frame that has begun to come, or take what is left in a later turn."""
    protocol = conn.protocol
    if not protocol.more:
        conn.sweep.on_partial(protocol.partial)
    else:
        pause(conn)


def pause(conn: "Connection") -> None:
    """Let others have their turn; a client that cancels much has to wait for longer."""
    if conn.waits_for_turn or conn.closed:
        return
    conn.waits_for_turn = True
    conn.transport.pause_reading()
    loop = asyncio.get_running_loop()
    cancels = conn.cancels
    if cancels.exceeded or cancels.is_low:
        loop.call_later(_PAUSE_AFTER if cancels.exceeded else _PAUSE, _go_on, conn)
    else:
        loop.call_soon(_go_on, conn)


def _go_on(conn: "Connection") -> None:
    conn.waits_for_turn = False
    if conn.closed or conn.transport.is_closing():
        return
    if conn.protocol.more:
        conn.data_received(b"")
    if not (conn.waits_for_turn or conn.transport.is_closing()):
        conn.transport.resume_reading()
