"""The states of a stream and of a connection (PROTOCOL.md §4).

The state of a stream is two bits, so a common transition costs one operation. Three more bits say
that a message has arrived in part (ASSEMBLING), that a message waits to be sent (QUEUED), and that
END waits with it (ENDING). So one comparison identifies a stream without any of these.

=================== ================ ================= ==============
state               we send END      peer sends END    Reset, either
=================== ================ ================= ==============
OPEN                LOCAL_END        REMOTE_END        CLOSED
LOCAL_END           local error      CLOSED            CLOSED
REMOTE_END          CLOSED           violation         CLOSED
CLOSED              local error      late, ignored     ignored
=================== ================ ================= ==============
"""

from collections import OrderedDict, deque
from enum import Enum
from math import inf

from rap.wire.frames import OPEN

__all__ = [
    "ASSEMBLING",
    "CLOSED",
    "ENDING",
    "LOCAL_DONE",
    "LOCAL_END",
    "QUEUED",
    "REMOTE_END",
    "Outgoing",
    "Share",
    "State",
    "StreamState",
    "held_by",
    "is_unsent",
]

LOCAL_END = 1
REMOTE_END = 2
ASSEMBLING = 4
QUEUED = 8
ENDING = 16
LOCAL_DONE = LOCAL_END | ENDING  # this side may send nothing more
CLOSED = LOCAL_END | REMOTE_END


class State(Enum):
    """Life of a connection."""

    OPENING = "opening"  # the peer's Hello has not arrived
    OPEN = "open"
    CLOSING = "closing"  # the peer violated the protocol; nothing more is read
    CLOSED = "closed"


class Outgoing:
    """A message, or the rest of one, that waits for a send window or for the transport.

    Attributes:
        share: What a large message has its turn in, or waits in; see `rap.wire.turns`.
        counted: Bytes that it counts there; 0 while it waits.
        is_request: It began in an Open.
    """

    __slots__ = ("body", "counted", "flags", "is_request", "kind", "meta", "share")

    def __init__(self, kind: int, flags: int, meta: bytes, body: "bytes | memoryview") -> None:
        self.kind = kind
        self.flags = flags
        self.meta = meta
        self.body = body
        self.share: Share | None = None
        self.counted = 0
        self.is_request = kind == OPEN


class Share:
    """Room for unfinished messages at their receiver, and the streams that wait for it in line."""

    __slots__ = ("_begun", "_line", "_most")

    def __init__(self) -> None:
        self._most = 0
        self._begun = 0
        self._line: OrderedDict[StreamState, None] = OrderedDict()

    def set_most(self, most: int) -> None:
        """Set how many bytes of messages may be unfinished; a single message may have more."""
        self._most = most

    def has_room(self, size: int) -> bool:
        """Return whether a message of `size` bytes may begin, and no other waits for its turn."""
        return not self._line and self._begun + size <= self._most

    def begin(self, message: Outgoing) -> None:
        """Count a message that begins."""
        message.share = self
        message.counted = len(message.body)
        self._begun += message.counted

    def begin_in_turn(self, stream: "StreamState", message: Outgoing) -> bool:
        """Let a message begin if there is room; otherwise its stream is in line."""
        if self.has_room(len(message.body)) or not self._begun:
            self.begin(message)
            return True
        message.share = self
        self._line[stream] = None
        return False

    def end(self, stream: "StreamState", message: Outgoing) -> "list[StreamState]":
        """Forget a message that was sent or dropped; return the streams whose turn it is."""
        message.share = None
        if not message.counted:
            del self._line[stream]
            return []
        self._begun -= message.counted
        called: list[StreamState] = []
        while self._line:
            following = next(iter(self._line))
            assert following.outbox is not None
            message = following.outbox[0]
            if self._begun and self._begun + len(message.body) > self._most:
                break
            del self._line[following]
            self.begin(message)
            called.append(following)
        return called


class StreamState:
    """A stream as the protocol sees it; the streams of the transport extend it.

    One object per stream, in one dict, has the state of all layers, because a second lookup per
    frame is measurable. Attributes that a short call never reads have their defaults on the class.
    The others are set on the instance, where CPython finds them faster.
    """

    deadline = inf  # seconds on the monotonic clock
    # When `on_late` is called, before the deadline. `None`: the call must not be made a second
    # time, not even when its server is suspected to be gone.
    late_at: float | None = None
    # Bytes of Open and Data frames, headers included.
    used = 0  # received and not yet credited to the peer, out of the stream's window
    consumed = 0  # taken by user code, not yet credited
    # A message that has arrived in part: its parts, and kind and meta of its first frame.
    parts: "list[bytes | bytearray | memoryview] | None" = None
    parts_size = 0
    parts_excess = 0  # bytes of the chunks that the parts keep alive, besides their own
    parts_cost = 0  # bytes of its frames, headers included, without the last frame
    parts_kind = 0
    parts_meta = b""
    request_size = 0  # bytes of its request, if it is large
    # Messages that wait to be sent; `is_pending`: the stream is in `Sender.pending`.
    outbox: deque[Outgoing] | None = None
    is_pending = False
    # Credit after which the peer has read the last message that was sent in parts, or more.
    unproven = 0
    done_waits = False  # a Done is to follow the Open, which waits

    def __init__(self, stream_id: int, send_window: int, state: int) -> None:
        self.id = stream_id
        self.state = state
        self.send_window = send_window
        self.held = 0  # bytes received in whole messages, not yet taken by user code


def held_by(stream: StreamState) -> int:
    """Return the bytes of messages of a stream that wait: for the rest, a reader, or the peer."""
    parts = 0 if stream.parts is None else stream.parts_size + stream.parts_excess
    waiting = 0 if stream.outbox is None else sum([len(each.body) for each in stream.outbox])
    return parts + stream.held + waiting


def is_unsent(stream: StreamState) -> bool:
    """Return whether nothing of a stream has been sent, not even its Open."""
    return stream.outbox is not None and stream.outbox[0].kind == OPEN
