"""Frames as bytes: the header, kinds and flags, and the control frames (PROTOCOL.md §2, §3).

Open and Data, the frames of the hot path, are written by `sender.py` and parsed by `protocol.py`
in place. A `Frame` is the readable form for tests and tools.
"""

import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from rap.wire.codec import pack, unpack_header, unpack_small

__all__ = [
    "ACK",
    "BATCH",
    "CREDIT",
    "DATA",
    "DONE",
    "END",
    "GOAWAY",
    "HEADER",
    "HEADER_SIZE",
    "HELLO",
    "KIND_NAMES",
    "LOAD",
    "MAX_HELLO",
    "MAX_META",
    "MAX_STREAM_ID",
    "MESSAGE",
    "MORE",
    "OPEN",
    "PING",
    "REFUSED",
    "RESET",
    "UNSERVED",
    "Frame",
    "credit_frame",
    "go_away_frame",
    "parse_frames",
    "ping_frame",
    "read_go_away",
    "read_reset",
    "reset_body",
    "reset_frame",
]

# Length of meta and body, kind, flags, stream id, length of meta.
HEADER = struct.Struct(">IBBIH")
HEADER_SIZE = HEADER.size
MAX_META = 2**16 - 1
MAX_HELLO = 2**14  # bytes; its content is kept as long as the connection
MAX_STREAM_ID = 2**31 - 1

DATA, OPEN, RESET, CREDIT, PING, GOAWAY, HELLO, LOAD, DONE = range(9)
KIND_NAMES = ("DATA", "OPEN", "RESET", "CREDIT", "PING", "GOAWAY", "HELLO", "LOAD", "DONE")

# Flags of Open and Data.
MESSAGE = 1  # a body is present
MORE = 2  # the body goes on in the stream's next Data
END = 4  # the sender is done
BATCH = 8  # the body is an array of messages
# Flag of Reset: no handler began.
UNSERVED = 1
# Flag of a Reset that is never sent: an event by which this side refused what the peer sent.
REFUSED = 2
# Flag of Ping: this is the answer.
ACK = 1

_COUNT = struct.Struct(">I")
# A Reset or GoAway that is too large keeps so much: bytes of the message, bytes of a text of the
# details, entries of the details.
_MAX_TEXT = 4096
_MAX_DETAIL = 256
_MAX_DETAILS = 16


class Frame(NamedTuple):
    """One complete frame."""

    kind: int
    flags: int
    stream_id: int
    meta: bytes = b""
    body: bytes = b""

    def encode(self) -> bytes:
        """Return the frame as bytes."""
        length = len(self.meta) + len(self.body)
        header = HEADER.pack(length, self.kind, self.flags, self.stream_id, len(self.meta))
        return header + self.meta + self.body


def parse_frames(data: bytes) -> list[Frame]:
    """Return the complete frames at the start of `data`, unchecked; for tests and tools."""
    frames: list[Frame] = []
    pos = 0
    while len(data) - pos >= HEADER_SIZE:
        length, kind, flags, stream_id, meta_size = HEADER.unpack_from(data, pos)
        start = pos + HEADER_SIZE
        pos = start + length
        if pos > len(data):
            break
        split = start + meta_size
        frames.append(Frame(kind, flags, stream_id, data[start:split], data[split:pos]))
    return frames


def reset_frame(
    stream_id: int,
    code: int,
    message: str,
    details: Mapping[str, Any],
    flags: int = 0,
    limit: int = MAX_META,
) -> bytes:
    """Return a Reset, which ends a stream in both directions.

    It never fails, and its body has at most `limit` bytes: a long message is cut, and details that
    are large or cannot be sent are left out.
    """
    body = reset_body(code, message, details, limit)
    return Frame(RESET, flags, stream_id, b"", body).encode()


def reset_body(code: int, message: str, details: Mapping[str, Any], limit: int = MAX_META) -> bytes:
    """Return the body of a Reset; see `reset_frame`."""
    try:
        body = pack([code, message, dict(details)])
    except ValueError:
        body = b""
    if not 0 < len(body) <= limit:
        body = pack([code, _short(message, _MAX_TEXT), _small_details(details)])
    return body


def read_reset(body: bytes) -> tuple[int, str, dict[str, Any]]:
    """Return code, message and details of a Reset.

    Raises:
        ValueError: It is not an array of these.
    """
    match unpack_header(body):
        case [int(code), str(message), dict(details), *_]:
            return code, message, details
    raise ValueError("a Reset must be [code, message, details]")


def credit_frame(stream_id: int, count: int) -> bytes:
    """Return a Credit of `count` bytes; stream 0 is the connection."""
    return Frame(CREDIT, 0, stream_id, b"", _COUNT.pack(count)).encode()


def ping_frame(token: bytes, *, ack: bool = False) -> bytes:
    """Return a Ping with its 8 opaque bytes."""
    return Frame(PING, ACK if ack else 0, 0, b"", token).encode()


def go_away_frame(last_stream_id: int, code: int, message: str) -> bytes:
    """Return a GoAway; `MAX_STREAM_ID` announces a drain."""
    return Frame(GOAWAY, 0, last_stream_id, b"", pack([code, _short(message, _MAX_TEXT)])).encode()


def read_go_away(body: bytes) -> tuple[int, str]:
    """Return code and message of a GoAway.

    Raises:
        ValueError: It is not an array of these.
    """
    match unpack_small(body):
        case [int(code), str(message), *_]:
            return code, message
    raise ValueError("a GoAway must be [code, message]")


def _short(text: str, most: int) -> str:
    """Return `text` cut to `most` bytes of UTF-8, without surrogates."""
    return text[:most].encode("utf-8", "replace")[:most].decode("utf-8", "ignore")


def _small_details(details: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of `details`, and the start of its texts."""
    kept = {
        _short(key, _MAX_DETAIL): _short(value, _MAX_DETAIL) if isinstance(value, str) else value
        for key, value in details.items()
        if isinstance(key, str) and isinstance(value, str | bool | float | None)
    }
    return dict(list(kept.items())[:_MAX_DETAILS])
