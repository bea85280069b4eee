"""What a connection does about frames that are neither Open nor Data."""

from typing import TYPE_CHECKING, Any

from rap.errors import Code, Unavailable, decode_error
from rap.wire.frames import (
    GOAWAY,
    HELLO,
    MAX_STREAM_ID,
    PING,
    RESET,
    UNSERVED,
    read_go_away,
    read_reset,
)

if TYPE_CHECKING:
    from rap.transport.connection import Connection

__all__ = ["on_rare"]


def on_rare(
    conn: "Connection", kind: int, stream: Any, flags: int, body: bytes | memoryview
) -> None:
    """Act on an event of the protocol.

    Args:
        conn: Where it came.
        kind: RESET, PING, GOAWAY or HELLO.
        stream: The stream of a Reset.
        flags: Of the frame; the last stream id of a GoAway.
        body: Of the frame.
    """
    if kind == RESET:
        _on_reset(conn, stream, flags, bytes(body))
    elif kind == PING:
        conn.sweep.keepalive.answered(conn.clock.monotonic())
    elif kind == GOAWAY:
        _on_go_away(conn, flags, bytes(body))
    elif kind == HELLO:
        conn.greeted()


def _on_reset(conn: "Connection", stream: Any, flags: int, body: bytes) -> None:
    try:
        code, message, details = read_reset(body)
    except ValueError as exc:
        code, message, details = Code.UNKNOWN, f"a malformed Reset: {exc}", {}
    if code == Code.OK:
        stream.on_stopped()
        return
    if stream.see_error is not None:
        code, message, details = stream.see_error((code, message, details))
    unserved = bool(flags & UNSERVED)
    stream.fail(decode_error(code, message, details, conn.exception_types, unserved=unserved))


def _on_go_away(conn: "Connection", last_id: int, body: bytes) -> None:
    """Open nothing new; what lies above the last id was never served."""
    try:
        code, message = read_go_away(body)
    except ValueError as exc:
        code, message = Code.UNKNOWN, str(exc)
    conn.left(code, message)
    if not conn.is_server and last_id < MAX_STREAM_ID:
        for stream in [each for each in conn.streams.values() if each.id > last_id]:
            conn.protocol.forget(stream)
            text = f"{conn.peer} closed before it served the call"
            stream.fail(Unavailable(text, remote=True, unserved=True))
    conn.changed()
