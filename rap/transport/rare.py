"""What a connection does about frames that are neither Open nor Data."""

from typing import TYPE_CHECKING, Any

from rap.errors import Code, ConnectionClosed, Unauthenticated, Unavailable, decode_error
from rap.transport.turns import pause
from rap.wire.frames import (
    ACK,
    GOAWAY,
    HELLO,
    LOAD,
    MAX_STREAM_ID,
    PING,
    REFUSED,
    RESET,
    UNSERVED,
    read_go_away,
    read_reset,
)

if TYPE_CHECKING:
    from rap.transport.connection import Connection

__all__ = ["lost", "on_rare"]

_NEARLY = 0.1  # seconds before its deadline, for the clocks began at different times


def on_rare(
    conn: "Connection", kind: int, stream: Any, flags: int, body: bytes | memoryview
) -> None:
    """Act on an event of the protocol.

    Args:
        conn: Where it came.
        kind: RESET, PING, GOAWAY, HELLO or LOAD.
        stream: The stream of a Reset.
        flags: Of the frame; the last stream id of a GoAway.
        body: Of the frame.
    """
    if kind == RESET:
        _on_reset(conn, stream, flags, bytes(body))
    elif kind == PING:
        _on_ping(conn, flags)
    elif kind == GOAWAY:
        _on_go_away(conn, flags, bytes(body))
    elif kind == HELLO:
        conn.greeted()
    elif kind == LOAD and conn.on_load is not None:
        if conn.is_server and conn.pings.exceeds(conn.clock.monotonic()):
            conn.abort(ConnectionClosed(f"{conn.peer}: too many requests for load reports"))
        else:
            conn.on_load(conn, bytes(body))


def lost(peer: object, error: Exception | None) -> ConnectionClosed:
    """Return what is told of a connection that ended, and not by this side's will."""
    return ConnectionClosed(f"connection to {peer} lost" + (f": {error}" if error else ""))


def _on_ping(conn: "Connection", flags: int) -> None:
    now = conn.clock.monotonic()
    if flags & ACK:
        conn.sweep.keepalive.answered(now)
    elif conn.pings.exceeds(now):
        conn.abort(ConnectionClosed(f"{conn.peer}: too many pings"))


def _on_reset(conn: "Connection", stream: Any, flags: int, body: bytes) -> None:
    try:
        code, message, details = read_reset(body)
    except ValueError as exc:
        code, message, details = Code.UNKNOWN, f"a malformed Reset: {exc}", {}
    if code == Code.OK and not conn.is_server:
        stream.on_stopped()
        return
    if code == Code.OK:
        code = Code.CANCELLED  # only a server may end a call that way; who serves it must stop
    refused = bool(flags & REFUSED)  # by this side
    if stream.see_error is not None and not refused:
        code, message, details = stream.see_error((code, message, details))
    unserved = bool(flags & UNSERVED)
    error = decode_error(code, message, details, conn.exception_types, unserved=unserved)
    error.remote = not refused
    stream.fail(error)
    if conn.is_server and not _was_due(conn, stream, code):
        if conn.cancels.exceeds(conn.clock.monotonic()):
            _on_too_many_cancels(conn)
        if conn.cancels.is_low or conn.cancels.exceeded:
            pause(conn)


def _was_due(conn: "Connection", stream: Any, code: int) -> bool:
    """Whether a call ends at the deadline that its client gave it, as it would without a Reset."""
    left = stream.deadline - conn.clock.monotonic()
    return code == Code.DEADLINE_EXCEEDED and bool(left < _NEARLY)


def _on_too_many_cancels(conn: "Connection") -> None:
    """Serve nothing new of the client: a good one goes on elsewhere. Cut one that stays."""
    text = "too many cancelled calls"
    if conn.protocol.refuse_above == MAX_STREAM_ID:
        conn.go_away(final=True, message=text)
        conn.cancels.renew()
    else:
        conn.abort(ConnectionClosed(f"{conn.peer}: {text}"))


def _denial(text: str) -> Unauthenticated:
    return Unauthenticated(text, remote=True, unserved=True)


def _on_go_away(conn: "Connection", last_id: int, body: bytes) -> None:
    """Open nothing new; what lies above the last id was never served."""
    try:
        code, message = read_go_away(body)
    except ValueError as exc:
        code, message = Code.UNKNOWN, str(exc)
    conn.stop_opening()
    if code != Code.OK and conn.error is None:
        text = f"{conn.peer} refused the connection: {message}"
        denied = code == Code.UNAUTHENTICATED
        conn.error = _denial(text) if denied else ConnectionClosed(text)
        if conn.is_server or not denied:  # else the pool says so
            conn.log.warning("%s", conn.error)
    if not conn.is_server and last_id < MAX_STREAM_ID:
        for stream in [each for each in conn.streams.values() if each.id > last_id]:
            conn.protocol.forget(stream)
            text = f"{conn.peer} closed before it served the call"
            stream.fail(Unavailable(text, remote=True, unserved=True))
    conn.changed()
