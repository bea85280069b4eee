"""The states of a stream and of a connection (PROTOCOL.md §4).

The state of a stream is two bits, so that the common moves cost one operation:

=================== ================ ================= ==============
state               we send END      peer sends END    Reset, either
=================== ================ ================= ==============
OPEN                LOCAL_END        REMOTE_END        CLOSED
LOCAL_END           our bug          CLOSED            CLOSED
REMOTE_END          CLOSED           violation         CLOSED
CLOSED              our bug          late, ignored     ignored
=================== ================ ================= ==============
"""

from collections import deque
from enum import Enum
from math import inf

__all__ = ["CLOSED", "LOCAL_END", "REMOTE_END", "Outgoing", "State", "StreamState"]

LOCAL_END = 1
REMOTE_END = 2
CLOSED = LOCAL_END | REMOTE_END


class State(Enum):
    """Life of a connection."""

    OPENING = "opening"  # the peer's Hello has not come
    OPEN = "open"
    CLOSING = "closing"  # a violation or a last GoAway was queued; nothing more is read
    CLOSED = "closed"


class Outgoing:
    """A message, or what is left of it, that waits for credit or for the transport."""

    __slots__ = ("body", "flags", "kind", "meta")

    def __init__(self, kind: int, flags: int, meta: bytes, body: "bytes | memoryview") -> None:
        self.kind = kind
        self.flags = flags
        self.meta = meta
        self.body = body


class StreamState:
    """One stream as the protocol sees it; the transport's streams derive from it.

    One object per stream, in one dict, holds what all layers know of the stream: a second
    lookup per frame is measurable. Defaults stand on the class, so that a short call pays only
    for what it sets.
    """

    id = 0
    state = 0
    deadline = inf  # seconds on the monotonic clock
    # Bytes of Open and Data frames, headers included.
    send_credit = 0
    recv_credit = 0
    held = 0  # received in whole messages, not yet taken by user code
    ungranted = 0  # taken, not yet given back to the peer
    # A message that is still arriving: kind, flags and meta of its first frame.
    parts: "list[bytes | memoryview] | None" = None
    parts_size = 0
    parts_kind = 0
    parts_meta = b""
    # Messages that wait for credit; `is_ready`: it stands in the sender's round.
    outbox: deque[Outgoing] | None = None
    is_ready = False

    def __init__(self, stream_id: int, send_credit: int, recv_credit: int) -> None:
        self.id = stream_id
        self.send_credit = send_credit
        self.recv_credit = recv_credit
