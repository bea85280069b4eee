"""The sending half of a connection: stream ids, credit, fragments (PROTOCOL.md §4, §6).

A message that fits its credit and one frame goes straight to `out`. Any other waits in the
`outbox` of its stream; `pump` sends fragments of waiting messages round robin, so a large one
never blocks a small one, and never beyond the credit.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from rap.errors import Code, LocalProtocolError, ResourceExhausted
from rap.wire.frames import (
    DATA,
    END,
    HEADER,
    HEADER_SIZE,
    MAX_META,
    MAX_STREAM_ID,
    MESSAGE,
    MORE,
    OPEN,
    credit_frame,
    reset_frame,
)
from rap.wire.limits import Limits, PeerLimits
from rap.wire.states import CLOSED, LOCAL_END, QUEUED, REMOTE_END, Outgoing, StreamState

__all__ = ["Sender"]

S = TypeVar("S", bound=StreamState)

_pack_header = HEADER.pack
# A fragment is not worth a frame below this, unless it is the whole rest.
_LEAST_FRAGMENT = 1024
# Frames from here on are handed to the transport as they are; joining would copy them.
_BULKY = 32 * 1024
_WHOLE_LAST = MESSAGE | END


class Sender(Generic[S]):
    """State of everything this side sends.

    Args:
        limits: What this side accepts.
        new_stream: Makes the record of a stream the peer opened, from id, send credit and state.
    """

    def __init__(self, limits: Limits, new_stream: Callable[[int, int, int], S]) -> None:
        self.limits = limits
        self.peer = PeerLimits()
        self.streams: dict[int, S] = {}
        self.out: list[bytes | memoryview] = []
        self.bulky = False  # `out` has a large frame
        self.new_stream = new_stream
        self.next_id = 1
        self.send_credit = self.peer.connection_window
        # Largest frame that goes out without a look at the rest.
        self._direct = min(limits.fragment, self.peer.max_frame) + HEADER_SIZE
        self._small = min(self._direct - HEADER_SIZE, _BULKY)
        self._max_streams = self.peer.max_streams
        self._ready: deque[S] = deque()
        # Bytes that may come before we must have granted more.
        self.recv_credit = limits.connection_window
        self.ungranted = 0
        self._stream_step = limits.stream_window // 2
        self._connection_step = limits.connection_window // 2

    @property
    def waiting(self) -> bool:
        """Whether `pump` may have something to send."""
        return bool(self._ready)

    @property
    def starved(self) -> bool:
        """Whether what user code has not taken keeps the peer from sending anything large."""
        return self.recv_credit + self.ungranted < self.limits.connection_window // 16

    def set_peer(self, peer: PeerLimits) -> None:
        """Take over what the peer's Hello said; windows may only grow."""
        grown = max(0, peer.stream_window - self.peer.stream_window)
        for stream in self.streams.values():
            stream.send_credit += grown
        self.send_credit += max(0, peer.connection_window - self.peer.connection_window)
        self.peer = peer
        self._direct = min(self.limits.fragment, peer.max_frame) + HEADER_SIZE
        self._small = min(self._direct - HEADER_SIZE, _BULKY)
        self._max_streams = peer.max_streams

    def open_stream(self, stream: S, flags: int, meta: bytes, body: bytes) -> None:
        """Open `stream`, giving it the next id, with its first message if `flags` has MESSAGE.

        Raises:
            ResourceExhausted: The peer's limits forbid it; nothing was sent.
        """
        size = HEADER_SIZE + len(meta) + len(body)
        stream_id = self.next_id
        if size > self._direct:
            self._check_size(meta, body)
        if len(self.streams) >= self.peer.max_streams or stream_id > MAX_STREAM_ID:
            raise ResourceExhausted(
                f"the connection has {len(self.streams)} calls open; the server allows "
                f"{self.peer.max_streams}",
                unserved=True,
            )
        self.next_id = stream_id + 2
        stream.id = stream_id
        self.streams[stream_id] = stream
        if size <= self._direct and size <= self.send_credit:
            self.send_credit -= size
            stream.state = LOCAL_END if flags & END else 0
            stream.send_credit = self.peer.stream_window - size
            if size > _BULKY:
                self.bulky = True
            out = self.out
            out.append(_pack_header(size - HEADER_SIZE, OPEN, flags, stream_id, len(meta)))
            out.append(meta)
            if body:
                out.append(body)
        else:
            stream.send_credit = self.peer.stream_window
            stream.state = 0
            self._enqueue(stream, Outgoing(OPEN, flags, meta, body))

    def answer(self, stream: S, body: bytes) -> None:
        """Send the one message of a unary call and END; the common case of `send_data`.

        Raises:
            ResourceExhausted: The message is larger than the peer takes.
        """
        length = len(body)
        size = length + HEADER_SIZE
        if (
            stream.state == REMOTE_END
            and size <= _BULKY
            and size <= self.send_credit
            and size <= stream.send_credit
        ):
            self.send_credit -= size
            out = self.out
            out.append(_pack_header(length, DATA, _WHOLE_LAST, stream.id, 0))
            out.append(body)
            del self.streams[stream.id]
            stream.state = CLOSED
        else:
            self.send_data(stream, _WHOLE_LAST, b"", body)

    def open_unary(self, stream: S, meta: bytes, body: bytes) -> None:
        """Open a unary or generator call; the common case of `open_stream`.

        Raises:
            ResourceExhausted: The peer's limits forbid it; nothing was sent.
        """
        meta_size = len(meta)
        length = meta_size + len(body)
        credit = self.send_credit - length - HEADER_SIZE
        streams = self.streams
        if length > self._small or credit < 0 or len(streams) >= self._max_streams:
            self.open_stream(stream, _WHOLE_LAST, meta, body)
            return
        self.send_credit = credit
        stream.id = stream_id = self.next_id
        self.next_id = stream_id + 2
        stream.state = LOCAL_END
        streams[stream_id] = stream
        out = self.out
        out.append(_pack_header(length, OPEN, _WHOLE_LAST, stream_id, meta_size))
        out.append(meta)
        out.append(body)

    def send_data(self, stream: S, flags: int, meta: bytes, body: bytes) -> bool:
        """Send one message, or END; return whether it went out at once.

        On a stream that is closed already nothing happens: its call has ended.

        Raises:
            LocalProtocolError: This side has sent END before.
            ResourceExhausted: The message is larger than the peer takes.
        """
        state = stream.state
        if state & LOCAL_END:
            if state & REMOTE_END:
                return True
            raise LocalProtocolError(f"stream {stream.id}: END was sent already")
        size = HEADER_SIZE + len(meta) + len(body)
        if (
            size <= stream.send_credit
            and size <= self.send_credit
            and size <= self._direct
            and not state & QUEUED
        ):
            self.send_credit -= size
            stream.send_credit -= size
            if size > _BULKY:
                self.bulky = True
            out = self.out
            out.append(_pack_header(size - HEADER_SIZE, DATA, flags, stream.id, len(meta)))
            if meta:
                out.append(meta)
            if body:
                out.append(body)
            if flags & END:
                self._end_local(stream)
            return True
        if size > self._direct:
            self._check_size(meta, body)
        self._enqueue(stream, Outgoing(DATA, flags, meta, body))
        return False

    def reset_stream(
        self,
        stream: S,
        code: Code,
        message: str = "",
        details: Mapping[str, Any] | None = None,
        flags: int = 0,
    ) -> None:
        """End a stream in both directions; nothing happens if it has ended."""
        if self.streams.get(stream.id) is stream:
            never_sent = stream.outbox is not None and stream.outbox[0].kind == OPEN
            self.forget(stream)
            if not never_sent:
                self.out.append(reset_frame(stream.id, code, message, details or {}, flags))

    def forget(self, stream: S) -> None:
        """Drop a stream that has ended; what it held is given back to the connection."""
        self.streams.pop(stream.id, None)
        stream.state = CLOSED
        stream.outbox = None
        stream.parts = None
        if stream.held:
            self.ungranted += stream.held
            stream.held = 0
            self._grant_connection()

    def take(self, stream: S, size: int) -> None:
        """Say that user code took a message of `size` bytes, so the peer may send as many."""
        if not stream.held:
            return
        stream.held -= size
        stream.ungranted += size
        self.ungranted += size
        if stream.ungranted >= self._stream_step:
            self._grant_stream(stream)
        if self.ungranted >= self._connection_step:
            self._grant_connection()

    def pump(self, budget: int) -> list[S]:
        """Send up to `budget` bytes of waiting messages; return streams that wait no longer."""
        freed: list[S] = []
        ready = self._ready
        while ready and budget > 0:
            stream = ready[0]
            outbox = stream.outbox
            if outbox is None:
                ready.popleft()
                stream.is_ready = False
                continue
            message = outbox[0]
            overhead = HEADER_SIZE + len(message.meta)
            least = overhead + min(len(message.body), _LEAST_FRAGMENT)
            if stream.send_credit < least:
                ready.popleft()  # its own Credit makes it ready again
                stream.is_ready = False
                continue
            if self.send_credit < least:
                break
            budget -= self._send_fragment(stream, outbox, overhead)
            ready.rotate(-1)
            if stream.outbox is None:
                freed.append(stream)
        return freed

    def add_credit(self, stream_id: int, count: int) -> None:
        """Take over a Credit of the peer.

        Raises:
            ValueError: The sum is more than any window can be.
        """
        if stream_id == 0:
            self.send_credit += count
            total = self.send_credit
        else:
            stream = self.streams.get(stream_id)
            if stream is None:
                return
            stream.send_credit += count
            total = stream.send_credit
            if stream.outbox is not None and not stream.is_ready:
                stream.is_ready = True
                self._ready.append(stream)
        if total > MAX_STREAM_ID:
            raise ValueError(f"credit of stream {stream_id} grew to {total}, over {MAX_STREAM_ID}")

    def _check_size(self, meta: bytes, body: bytes) -> None:
        if len(meta) > min(MAX_META, self.peer.max_frame - HEADER_SIZE):
            raise ResourceExhausted(f"the header takes {len(meta)} bytes, over {MAX_META}")
        if len(body) > self.peer.max_message:
            raise ResourceExhausted(
                f"the message has {len(body)} bytes; the peer's max_message is "
                f"{self.peer.max_message}",
                details={"limit": "max_message"},
            )

    def _enqueue(self, stream: S, message: Outgoing) -> None:
        if stream.outbox is None:
            stream.outbox = deque()
            stream.state |= QUEUED
            if not stream.is_ready:
                stream.is_ready = True
                self._ready.append(stream)
        stream.outbox.append(message)

    def _send_fragment(self, stream: S, outbox: deque[Outgoing], overhead: int) -> int:
        """Send the next piece of the first waiting message; return its size."""
        message = outbox[0]
        room = min(stream.send_credit, self.send_credit, self._direct) - overhead
        flags = message.flags
        piece: bytes | memoryview = message.body
        if room < len(piece):
            whole = memoryview(piece)
            piece, message.body = whole[:room], whole[room:]
            flags = (flags & ~END) | MORE
        else:
            outbox.popleft()
            if not outbox:
                stream.outbox = None
                stream.state &= ~QUEUED
        size = overhead + len(piece)
        stream.send_credit -= size
        self.send_credit -= size
        length = size - HEADER_SIZE
        self.bulky = True
        self.out.append(_pack_header(length, message.kind, flags, stream.id, len(message.meta)))
        if message.meta:
            self.out.append(message.meta)
        if piece:
            self.out.append(piece)
        message.kind = DATA
        message.meta = b""
        if flags & END:
            self._end_local(stream)
        return size

    def _end_local(self, stream: S) -> None:
        stream.state |= LOCAL_END
        if stream.state & REMOTE_END:
            self.forget(stream)

    def _grant_stream(self, stream: S) -> None:
        if not stream.state & REMOTE_END:
            stream.used -= stream.ungranted
            self.out.append(credit_frame(stream.id, stream.ungranted))
        stream.ungranted = 0

    def _grant_connection(self) -> None:
        if self.ungranted >= self._connection_step:
            self.recv_credit += self.ungranted
            self.out.append(credit_frame(0, self.ungranted))
            self.ungranted = 0
