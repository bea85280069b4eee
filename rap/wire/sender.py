"""The sending half of a connection: stream ids, fragments, flow control (PROTOCOL.md §6).

A small message that fits the send windows goes straight to `out`. Any other is checked, and may
have to wait in the `outbox` of its stream. `send_pending` sends fragments of waiting messages round
robin, so a large message never blocks a small one, and never exceeds a window. `turns.py` decides
which large messages are sent at the same time. Opens leave in the order of their ids: while one
waits, later ones queue behind it.

The receive windows are here too, because the sender sends the Credits that enlarge them.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, cast

from rap.errors import Code, LocalProtocolError, ResourceExhausted
from rap.wire.frames import (
    DATA,
    DONE,
    END,
    HEADER,
    HEADER_SIZE,
    MAX_META,
    MAX_STREAM_ID,
    MESSAGE,
    MORE,
    OPEN,
    RESET,
    UNSERVED,
    credit_frame,
    reset_frame,
)
from rap.wire.hello import Limits, PeerLimits
from rap.wire.stream import (
    CLOSED,
    ENDING,
    LOCAL_DONE,
    LOCAL_END,
    QUEUED,
    REMOTE_END,
    Outgoing,
    StreamState,
    is_unsent,
)
from rap.wire.turns import MIN_FRAGMENT, Turns

__all__ = ["BULK", "S", "Sender", "WriteBuffer", "ignore"]

BULK = 384 * 1024  # bytes of large frames that are written together, while small ones wait

S = TypeVar("S", bound=StreamState)

_pack_header = HEADER.pack
_WHOLE_LAST = MESSAGE | END
# Bytes of a frame that is handed to the transport as it is, because joining would copy it.
_BULKY = 32 * 1024
# Pieces in `out`, two or three per frame, that are written at once. With more, the two ends would
# work in turns rather than at the same time.
_FLUSH_PIECES = 48
# Bytes of a receive window with which the peer can send any frame, even one with the largest meta.
_AMPLE = 64 * 1024
_NEVER = 1 << 62  # bytes
_NO_STREAMS: deque[Any] = deque(maxlen=0)  # shared, and always empty


def ignore(*_: object) -> None:
    """Do nothing: the default of every callback."""


class Sender(Generic[S]):
    """Open streams, everything this side sends, and the windows of both directions.

    Args:
        limits: What this side accepts.
        wake: Asks the transport to write when the turn of the event loop ends; may be called
            again before it has.
        flush: Asks the transport to write now, because there is enough.
        on_write_buffer: See `WriteBuffer`.
        on_grown: Called when more is held for the peer, as `tell_growth` of the protocol says. It
            is called in the middle of other work, so it must only take note.

    Attributes:
        streams: Open streams by id.
        out: Pieces that the transport has to write, in order.
        bulk: Bytes of large frames in `out`.
        pending: Streams for which `send_pending` may have something to send.
        write_buffer: Bytes of messages that wait.
        peer: Limits of the peer; the protocol's defaults until its Hello has arrived.
        next_id: Id of the next stream that this side opens.
        send_window: Bytes that may be sent on all streams together.
        recv_window: Bytes that the peer may send on all streams together.
        consumed: Bytes that were received and processed, and not yet credited to the peer.
        unfinished: Bytes of messages that have arrived in part.
        excess: Bytes of the chunks that these messages keep alive, besides their own.
        unread_parts: Streams with unread messages that came in parts: bytes to be read until the
            last of them is.
        answering: Something has arrived since the last message was sent.
    """

    __slots__ = (
        "_flush",
        "_is_paused",
        "_low_window",
        "_max_frame",
        "_max_held",
        "_max_meta",
        "_max_quick",
        "_max_quick_open",
        "_max_streams",
        "_on_grown",
        "_starved_below",
        "_step",
        "_stream_step",
        "_turns",
        "_unsent",
        "_wake",
        "answering",
        "bulk",
        "consumed",
        "excess",
        "limits",
        "next_id",
        "out",
        "peer",
        "pending",
        "recv_window",
        "send_window",
        "streams",
        "unfinished",
        "unread_parts",
        "write_buffer",
    )

    def __init__(
        self,
        limits: Limits,
        *,
        wake: Callable[[], object] = ignore,
        flush: Callable[[], object] = ignore,
        on_write_buffer: Callable[[bool], object] = ignore,
        on_grown: Callable[[], object] = ignore,
    ) -> None:
        self.limits = limits
        self.streams: dict[int, S] = {}
        self.out: list[bytes | memoryview] = []
        self.bulk = 0
        self.pending: deque[S] = _NO_STREAMS  # made with the first
        self.write_buffer = WriteBuffer(limits.max_backlog, on_write_buffer)
        self.peer = PeerLimits()
        self.next_id = 1
        self.send_window = self.peer.connection_window
        self.answering = False
        self._wake = wake
        self._flush = flush
        self._on_grown = on_grown
        self._max_held = self._step = _NEVER  # see `watch_growth`
        self._unsent: deque[S] = _NO_STREAMS  # whose Open waits, by id; made with the first
        self._turns: Turns | None = None  # made with the first large message
        self._is_paused = False
        self._use_limits()

        window = self.recv_window = limits.connection_window
        self._low_window = -1  # credit of the peer below which more may be unread
        self.consumed = 0
        self.unfinished = 0
        self.excess = 0
        self.unread_parts: dict[S, int] = {}
        self._stream_step = limits.stream_window // 2
        self._starved_below = max(window // 32, min(limits.stream_window // 4, _AMPLE))

    def open_stream(self, stream: S, flags: int, meta: bytes, body: bytes) -> None:
        """Open `stream`, giving it the next id, with its first message if `flags` has MESSAGE.

        Raises:
            ResourceExhausted: The peer's limits forbid it; nothing was sent.
        """
        size = HEADER_SIZE + len(meta) + len(body)
        if size > self._max_quick_open:
            self._check_size(meta, body)
        if len(self.streams) >= self._max_streams or self.next_id > MAX_STREAM_ID:
            raise self._no_room()
        stream.id = stream_id = self.next_id
        self.next_id = stream_id + 2
        self.streams[stream_id] = stream
        stream.state = 0
        stream.send_window = self.peer.stream_window
        self._send(stream, OPEN, flags, meta, body, size)

    def open_unary(self, stream: S, meta: bytes, body: bytes) -> None:
        """Open a unary or generator call; the fast path of `open_stream`.

        Raises:
            ResourceExhausted: The peer's limits forbid it; nothing was sent.
        """
        meta_size = len(meta)
        length = meta_size + len(body)
        credit = self.send_window - length - HEADER_SIZE
        streams = self.streams
        if length >= self._max_quick_open or credit < 0 or len(streams) >= self._max_streams:
            self.open_stream(stream, _WHOLE_LAST, meta, body)
            self._wake()
            return
        self.send_window = credit
        stream.id = stream_id = self.next_id
        self.next_id = stream_id + 2
        stream.state = LOCAL_END
        is_alone = not streams
        streams[stream_id] = stream
        out = self.out
        out.append(_pack_header(length, OPEN, _WHOLE_LAST, stream_id, meta_size))
        out.append(meta)
        out.append(body)
        pieces = len(out)
        if is_alone or pieces >= _FLUSH_PIECES:
            self._flush()  # at once if no other call keeps the loop busy
        elif pieces == 3:
            self._wake()

    def send_data(self, stream: S, flags: int, meta: bytes, body: bytes) -> bool:
        """Send one message, or END; return whether it went out at once.

        Nothing happens on a closed stream, whose call has ended.

        Raises:
            LocalProtocolError: This side has sent END before.
            ResourceExhausted: The message is larger than the peer takes.
        """
        state = stream.state
        if state & LOCAL_DONE:
            if state & CLOSED == CLOSED:
                return True
            raise LocalProtocolError(f"stream {stream.id}: END was sent already")
        size = HEADER_SIZE + len(meta) + len(body)
        if (
            size <= self._max_quick
            and size <= stream.send_window
            and size <= self.send_window
            and not state & QUEUED
        ):
            self.send_window -= size
            stream.send_window -= size
            out = self.out
            first = not out
            out.append(_pack_header(size - HEADER_SIZE, DATA, flags, stream.id, len(meta)))
            if meta:
                out.append(meta)
            if body:
                out.append(body)
            if flags & END:
                self._end_local(stream)
            if len(out) >= _FLUSH_PIECES or (self.answering and len(self.streams) < 2):
                self.answering = False
                self._flush()  # at once if it may be the reply that the only stream waits for
            elif first:
                self._wake()
            return True
        self._wake()
        if size > self._max_quick:
            self._check_size(meta, body)
        return self._send(stream, DATA, flags, meta, body, size)

    def send_response(self, stream: S, body: bytes) -> None:
        """Send the only message of a unary call and END; the fast path of `send_data`.

        Raises:
            ResourceExhausted: The message is larger than the peer takes.
        """
        length = len(body)
        size = length + HEADER_SIZE
        if (
            stream.state == REMOTE_END
            and size <= self._max_quick
            and size <= self.send_window
            and size <= stream.send_window
        ):
            self.send_window -= size
            out = self.out
            out.append(_pack_header(length, DATA, _WHOLE_LAST, stream.id, 0))
            out.append(body)
            streams = self.streams
            del streams[stream.id]
            stream.state = CLOSED
            pieces = len(out)
            if not streams or pieces >= _FLUSH_PIECES:
                self._flush()  # at once if no other response is to come
            elif pieces == 2:
                self._wake()
        else:
            self.send_data(stream, _WHOLE_LAST, b"", body)
            self._wake()

    def reset_stream(
        self,
        stream: S,
        code: Code,
        message: str = "",
        details: Mapping[str, Any] | None = None,
        flags: int = 0,
    ) -> None:
        """End a stream in both directions; does nothing if it has ended.

        Details that cannot be sent, or are too large for a frame of the peer, are left out.
        """
        if self.streams.get(stream.id) is stream:
            is_known = not is_unsent(stream)  # to the peer
            self.drop_stream(stream)
            if is_known:
                limit = self.peer.max_frame
                self.out.append(reset_frame(stream.id, code, message, details or {}, flags, limit))

    def refuse_stream(self, stream: S, body: bytes) -> None:
        """End a stream on which no handler began by a Reset; the fast path of `reset_stream`.

        Args:
            stream: The stream, which the peer has opened.
            body: Body of the Reset, packed.
        """
        if stream.held or stream.parts is not None:
            self.drop_stream(stream)
        else:
            self.streams.pop(stream.id, None)
            stream.state = CLOSED
        out = self.out
        out.append(_pack_header(len(body), RESET, UNSERVED, stream.id, 0))
        out.append(body)
        pieces = len(out)
        if pieces == 2:
            self._wake()
        elif pieces >= _FLUSH_PIECES:
            self._flush()

    def send_done(self, stream: S) -> None:
        """Tell the server that this side reads nothing more of a stream.

        It overtakes messages that wait, because the server may send without end and read none of
        them. Nothing happens if the server has ended the stream.
        """
        if self.streams.get(stream.id) is not stream or stream.state & REMOTE_END:
            return
        if is_unsent(stream):
            stream.done_waits = True
            return
        out = self.out
        if not out:
            self._wake()
        out.append(_pack_header(0, DONE, 0, stream.id, 0))

    def drop_stream(self, stream: S) -> None:
        """Forget a stream that has ended; what it held is credited to the connection."""
        self.streams.pop(stream.id, None)
        stream.state = CLOSED
        if stream.outbox is not None:
            self.write_buffer.remove(sum(len(each.body) for each in stream.outbox))
            first = stream.outbox[0]
            stream.outbox = None
            if first.share is not None:
                self._end_turn(stream, first)
        if stream.parts is not None:
            self.unfinished -= stream.parts_size
            self.excess -= stream.parts_excess
            stream.parts = None
        if stream.held:
            self.consumed += stream.held
            stream.held = 0
            self.unread_parts.pop(stream, None)
            if self.consumed >= self.recv_window:
                self.grant_connection()

    def pause(self) -> None:
        """Queue every message from now on: the transport's write buffer is full."""
        self._is_paused = True
        self._use_limits()

    def resume(self) -> None:
        """Send messages at once again; `send_pending` sends what waits."""
        self._is_paused = False
        self._use_limits()

    def send_pending(self, budget: int) -> list[S]:
        """Send up to `budget` bytes of waiting messages; return streams that wait no longer."""
        finished: list[S] = []
        pending = self.pending
        while pending and budget > 0:
            stream = pending[0]
            outbox = stream.outbox
            if outbox is None:
                pending.popleft()
                stream.is_pending = False
                continue
            message = outbox[0]
            overhead = HEADER_SIZE + len(message.meta)
            least = overhead + min(len(message.body), MIN_FRAGMENT)
            if stream.send_window < least:
                pending.popleft()  # until its own Credit arrives
                stream.is_pending = False
                continue
            if self.send_window < least:
                break
            size = overhead + len(message.body)
            most = max(self._max_frame, least)
            if size > min(most, stream.send_window, self.send_window):
                turns = self._turns
                if turns is None:
                    turns = self._turns = Turns(self.peer)
                if not turns.may_begin(stream, message):
                    if turns.needs_opening(stream, message):
                        budget -= self._send_fragment(stream, outbox, overhead, least)
                    pending.popleft()  # until its turn, or its own Credit
                    stream.is_pending = False
                    continue
            budget -= self._send_fragment(stream, outbox, overhead, most)
            pending.rotate(-1)
            if stream.outbox is None:
                finished.append(stream)
        unsent = self._unsent
        if unsent:
            while unsent and not is_unsent(unsent[0]):
                unsent.popleft()
            self._use_limits()
        return finished

    def clear_output(self) -> None:
        """Forget `out`: it has been written."""
        self.out.clear()
        self.bulk = 0

    def set_peer(self, peer: PeerLimits) -> None:
        """Apply the limits of the peer's Hello; windows only grow."""
        grown = max(0, peer.stream_window - self.peer.stream_window)
        for stream in self.streams.values():
            stream.send_window += grown
            self._make_pending(stream)
        self.send_window += max(0, peer.connection_window - self.peer.connection_window)
        self.peer = peer
        if self._turns is not None:
            self._turns.set_peer(peer)
        self._use_limits()

    def add_credit(self, stream_id: int, count: int) -> None:
        """Apply a Credit of the peer.

        Raises:
            ValueError: The window would exceed its maximum.
        """
        if stream_id == 0:
            self.send_window += count
            total = self.send_window
        else:
            stream = self.streams.get(stream_id)
            if stream is None:
                return
            stream.send_window += count
            stream.unproven -= count
            total = stream.send_window
            self._make_pending(stream)
        if total > MAX_STREAM_ID:
            raise ValueError(f"credit of stream {stream_id} grew to {total}, over {MAX_STREAM_ID}")

    @property
    def held(self) -> int:
        """Bytes of messages that have arrived in part, that are unread, and that wait to be sent.

        Requests do not count, nor what the transport has.
        """
        unread = self.limits.connection_window - self.recv_window - self.consumed
        return self.unfinished + self.excess + unread + self.write_buffer.size

    def watch_growth(self, step: int) -> None:
        """Call `on_grown` when `held` grows by so many bytes."""
        self._step = step
        self._max_held = self.held + step
        self._low_window = self.recv_window - step

    @property
    def starved(self) -> bool:
        """Whether unread messages keep the peer from sending anything large."""
        return self.recv_window < self._starved_below

    def acknowledge(self, stream: S, size: int) -> None:
        """Count a message of `size` bytes as consumed, so that the peer may send as many."""
        if not stream.held:
            return
        stream.held -= size
        stream.consumed += size
        self.consumed += size
        if stream.consumed >= self._stream_step:
            self.grant_stream(stream)
            self._wake()
        if self.consumed >= self.recv_window:
            self.grant_connection()
            self._wake()
        if self.unread_parts:
            self._on_read(stream, size)

    def grant_stream(self, stream: S) -> None:
        """Credit what was consumed of a stream, if its peer may send more on it."""
        if not stream.state & REMOTE_END:
            stream.used -= stream.consumed
            self.out.append(credit_frame(stream.id, stream.consumed))
        stream.consumed = 0

    def grant_connection(self) -> None:
        """Credit what was consumed on all streams.

        This is due when it is as much as the peer has left: half the window, or half of what
        unread streams have left of it. A fixed step would never be reached again once they hold
        more than the rest of the window.
        """
        if self.consumed:
            self.recv_window += self.consumed
            self._low_window = self.recv_window - self._step
            self.out.append(credit_frame(0, self.consumed))
            self.consumed = 0

    def _use_limits(self) -> None:
        """Derive the limits of single messages from the peer's limits and our own."""
        peer = self.peer
        # Largest frame, header included.
        self._max_frame = min(self.limits.fragment, peer.max_frame) + HEADER_SIZE
        # The first frame of a message has all its meta and some of its body, if it has one. It
        # must fit the credit that is left when everything was consumed (PROTOCOL.md §6.3).
        most = min(MAX_META, peer.max_frame, peer.stream_window // 4)
        self._max_meta = most - HEADER_SIZE - MIN_FRAGMENT
        # Largest message that may take the fast path, header included.
        quick = min(self._max_frame, self._max_meta, peer.max_message, _BULKY)
        self._max_quick = 0 if self._is_paused else quick
        self._max_quick_open = 0 if self._unsent else self._max_quick
        self._max_streams = peer.max_streams

    def _no_room(self) -> ResourceExhausted:
        """Return the error of a call for which there is no stream."""
        if self.next_id > MAX_STREAM_ID:
            return ResourceExhausted("the connection has used up its stream ids", unserved=True)
        calls, most = len(self.streams), self._max_streams
        what = f"the connection has {calls} calls open; the server allows {most}"
        return ResourceExhausted(what, details={"limit": "max_streams"}, unserved=True)

    def _check_size(self, meta: bytes, body: bytes) -> None:
        most = self.peer.max_message
        if len(meta) > self._max_meta:
            what = f"the header has {len(meta)} bytes; the limit is {self._max_meta}"
            raise ResourceExhausted(what, details={"limit": "max_meta"})
        if len(body) > most:
            what = (
                f"the message has {len(body)} bytes; the receiver's max_message is {most}: send it"
                " in parts, or raise that option there"
            )
            raise ResourceExhausted(what, details={"limit": "max_message"})

    def _send(self, stream: S, kind: int, flags: int, meta: bytes, body: bytes, size: int) -> bool:
        """Send a message at once if possible, else queue it; also a large one beyond `BULK`."""
        if (
            size <= self._max_frame
            and size <= stream.send_window
            and size <= self.send_window
            and not stream.state & QUEUED
            and not self._is_paused
            and not (size > _BULKY and self.bulk + size > BULK)
            and not (kind == OPEN and self._unsent)
        ):
            self._emit(stream, kind, flags, meta, body, size)
            return True
        if stream.outbox is None:
            stream.outbox = deque()
            stream.state |= QUEUED
        if kind == OPEN:
            if self._unsent is _NO_STREAMS:
                self._unsent = deque()
            self._unsent.append(stream)
            self._max_quick_open = 0
        if flags & END:
            stream.state |= ENDING
        stream.outbox.append(Outgoing(kind, flags, meta, body))
        self.write_buffer.add(len(body))
        if self.held > self._max_held:
            self._on_grown()
        self._make_pending(stream)
        return False

    def _make_pending(self, stream: S) -> None:
        """Let `send_pending` visit a stream that has something to send."""
        if stream.outbox is not None and not stream.is_pending:
            stream.is_pending = True
            if self.pending is _NO_STREAMS:
                self.pending = deque()
            self.pending.append(stream)

    def _on_read(self, stream: S, size: int) -> None:
        """Credit what was consumed of a stream when the last message that came in parts was read.

        The sender cannot tell otherwise whether it was, because it has had credit for the parts.
        """
        unread = self.unread_parts
        left = unread.get(stream)
        if left is None:
            return
        if left > size:
            unread[stream] = left - size
            return
        del unread[stream]
        if stream.consumed > 0:
            self.grant_stream(stream)
            self._wake()

    def _end_turn(self, stream: S, message: Outgoing) -> None:
        """Let other large messages begin: one was sent, or dropped."""
        assert message.share is not None
        for following in message.share.end(stream, message):
            self._make_pending(cast(S, following))
            self._wake()

    def _send_fragment(self, stream: S, outbox: deque[Outgoing], overhead: int, most: int) -> int:
        """Send the next piece of the first waiting message, a frame of `most` bytes at most.

        Returns:
            The size of the frame.
        """
        message = outbox[0]
        room = min(stream.send_window, self.send_window, most) - overhead
        kind, flags, meta = message.kind, message.flags, message.meta
        piece: bytes | memoryview = message.body
        if room < len(piece):
            whole = memoryview(piece)
            piece, message.body = whole[:room], whole[room:]
            message.kind, message.meta = DATA, b""
            flags = (flags & ~END) | MORE
        else:
            outbox.popleft()
            if message.share is not None:
                self._end_turn(stream, message)
            if isinstance(piece, memoryview) and not message.is_request:
                stream.unproven = self.peer.stream_window - stream.send_window + 1
            if not outbox:
                stream.outbox = None
                stream.state &= ~QUEUED
        self.write_buffer.remove(len(piece))
        size = overhead + len(piece)
        if size <= _BULKY:
            self.bulk += size
        self._emit(stream, kind, flags, meta, piece, size)
        if kind == OPEN and stream.done_waits:
            self.send_done(stream)
        return size

    def _emit(
        self, stream: S, kind: int, flags: int, meta: bytes, body: bytes | memoryview, size: int
    ) -> None:
        """Write one frame, and take it from the send windows."""
        self.send_window -= size
        stream.send_window -= size
        if size > _BULKY:
            self.bulk += size
        out = self.out
        out.append(_pack_header(size - HEADER_SIZE, kind, flags, stream.id, len(meta)))
        if meta:
            out.append(meta)
        if body:
            out.append(body)
        if flags & END:
            self._end_local(stream)

    def _end_local(self, stream: S) -> None:
        stream.state = (stream.state | LOCAL_END) & ~ENDING
        if stream.state & REMOTE_END:
            self.drop_stream(stream)


class WriteBuffer:
    """Counts the bytes of messages that wait to be sent, with a high and a low watermark.

    Args:
        high: Bytes above which it is full. It is full until no more than half of them are left.
        on_change: Called with `True` when it becomes full, and with `False` when it no longer is.
            It is called in the middle of other work, so it must only take note.
    """

    __slots__ = ("_high", "_low", "_on_change", "is_full", "size")

    def __init__(self, high: int, on_change: Callable[[bool], object] = ignore) -> None:
        self.size = 0
        self.is_full = False
        self._high = high
        self._low = high // 2
        self._on_change = on_change

    def add(self, size: int) -> None:
        """Count bytes that have to wait."""
        self.size += size
        if self.size > self._high and not self.is_full:
            self.is_full = True
            self._on_change(True)

    def remove(self, size: int) -> None:
        """Count off bytes that were sent or dropped."""
        self.size -= size
        if self.is_full and self.size <= self._low:
            self.is_full = False
            self._on_change(False)
