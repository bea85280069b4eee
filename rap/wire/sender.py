"""The sending half of a connection: stream ids, fragments, the peer's credit (PROTOCOL.md §6).

A small message that fits its credit goes straight to `out`. Any other is checked, and waits in the
`outbox` of its stream if it has to; `send_pending` sends fragments of waiting messages round
robin, so a large one never blocks a small one, and never beyond the credit. Opens leave in the
order of their ids: while one waits, later ones queue behind it.
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
from rap.wire.limits import Limits, PeerLimits, no_room
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

__all__ = ["BULK", "Backlog", "Granter", "Sender"]


S = TypeVar("S", bound=StreamState)

# Credit with which the peer can send any frame: one with the largest meta fits.
_AMPLE = 64 * 1024


def nothing() -> None:
    """Do nothing: nobody asked to be told."""


class Granter(Generic[S]):
    """Credit that the peer has of us, and the streams it belongs to.

    Args:
        limits: What this side accepts.
    """

    __slots__ = tuple(
        (
            "_starved_below _stream_step backlog limits out recv_credit streams unfinished "
            "ungranted wake"
        ).split()
    )

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.streams: dict[int, S] = {}
        self.out: list[bytes | memoryview] = []
        # Bytes that may come before we must have granted more.
        window = self.recv_credit = limits.connection_window
        self.ungranted = 0  # taken or dropped, not yet given back
        self.backlog = Backlog(limits.max_backlog)
        self.unfinished = 0  # bytes of messages of which parts have come
        # What a transport sets: asks it to write when the loop's turn ends; may be called again
        # before it has.
        self.wake: Callable[[], object] = nothing
        self._stream_step = limits.stream_window // 2
        self._starved_below = max(window // 32, min(limits.stream_window // 4, _AMPLE))

    @property
    def starved(self) -> bool:
        """Whether what user code has not taken keeps the peer from sending anything large."""
        return self.recv_credit < self._starved_below

    def acknowledge(self, stream: S, size: int) -> None:
        """Say that user code took a message of `size` bytes, so the peer may send as many."""
        if not stream.held:
            return
        stream.held -= size
        stream.ungranted += size
        self.ungranted += size
        if stream.ungranted >= self._stream_step:
            self.grant_stream(stream)
            self.wake()
        if self.ungranted >= self.recv_credit:
            self.grant_connection()
            self.wake()

    def drop_stream(self, stream: S) -> None:
        """Drop a stream that has ended; what it held is given back to the connection."""
        self.streams.pop(stream.id, None)
        stream.state = CLOSED
        if stream.outbox is not None:
            self.backlog.remove(sum(len(each.body) for each in stream.outbox))
            stream.outbox = None
        if stream.parts is not None:
            self.unfinished -= stream.parts_size
            stream.parts = None
        if stream.held:
            self.ungranted += stream.held
            stream.held = 0
            if self.ungranted >= self.recv_credit:
                self.grant_connection()

    def grant_stream(self, stream: S) -> None:
        """Give back what was taken of a stream, if its peer will send more on it."""
        if not stream.state & REMOTE_END:
            stream.used -= stream.ungranted
            self.out.append(credit_frame(stream.id, stream.ungranted))
        stream.ungranted = 0

    def grant_connection(self) -> None:
        """Give back what was taken.

        It is due when it is as much as the peer has left: half the window, or half of what
        readers that stall have left of it. A fixed step would never be reached again once they
        hold more than the rest of the window.
        """
        if self.ungranted:
            self.recv_credit += self.ungranted
            self.out.append(credit_frame(0, self.ungranted))
            self.ungranted = 0


def _nobody(is_full: bool) -> None:
    """Tell nobody."""


class Backlog:
    """Bytes of messages that wait for credit or for the transport.

    Args:
        most: From more than that on it is full, until half of it is left.

    Attributes:
        tell: Called with `True` when it gets full and with `False` when it no longer is; it must
            only take note, for it is called from the middle of things.
    """

    __slots__ = ("_most", "is_full", "size", "tell")

    def __init__(self, most: int) -> None:
        self._most = most
        self.size = 0
        self.is_full = False
        self.tell: Callable[[bool], object] = _nobody

    def add(self, size: int) -> None:
        """Say that so many bytes have to wait."""
        self.size += size
        if self.size > self._most and not self.is_full:
            self.is_full = True
            self.tell(True)

    def remove(self, size: int) -> None:
        """Say that so many bytes were sent, or are of no use any more."""
        self.size -= size
        if self.is_full and self.size <= self._most // 2:
            self.is_full = False
            self.tell(False)


_pack_header = HEADER.pack
# A fragment is not worth a frame below this, unless it is the whole rest.
_LEAST_FRAGMENT = 1024
# Frames from here on are handed to the transport as they are, for joining would copy them.
_BULKY = 32 * 1024
# Bytes of large frames that are written together, while small ones behind them wait.
BULK = 384 * 1024
_WHOLE_LAST = MESSAGE | END
# Pieces in `out`, two or three a frame, that are written at once: else both ends work in turns.
_FLUSH_PIECES = 48
_NONE: deque[Any] = deque(maxlen=0)  # shared, and always empty


class Sender(Granter[S]):
    """State of everything this side sends.

    Args:
        limits: See `Granter`.
        new_stream: Makes the record of a stream the peer opened, from id, send credit and state.
    """

    __slots__ = tuple(
        "_is_paused _largest _max_meta _max_streams _quick _quick_open _ready _unsent answering "
        "bulk flush new_stream next_id peer send_credit".split()
    )

    def __init__(self, limits: Limits, new_stream: Callable[[int, int, int], S]) -> None:
        super().__init__(limits)
        self.peer = PeerLimits()
        self.answering = False  # the peer spoke last
        self.bulk = 0  # bytes of large frames in `out`
        self.new_stream = new_stream
        self.next_id = 1
        self.send_credit = self.peer.connection_window
        # What a transport sets: asks it to write now, for there is enough.
        self.flush: Callable[[], object] = nothing
        # Streams with credit and an outbox, and whose Open waits, by id: made with the first.
        self._ready: deque[S] = _NONE
        self._unsent: deque[S] = _NONE
        self._is_paused = False
        self._use_limits()

    @property
    def waiting(self) -> bool:
        """Whether `send_pending` may have something to send."""
        return bool(self._ready)

    def set_peer(self, peer: PeerLimits) -> None:
        """Take over what the peer's Hello said; windows may only grow."""
        grown = max(0, peer.stream_window - self.peer.stream_window)
        for stream in self.streams.values():
            stream.send_credit += grown
            self._make_ready(stream)
        self.send_credit += max(0, peer.connection_window - self.peer.connection_window)
        self.peer = peer
        self._use_limits()

    def pause(self) -> None:
        """Queue every message from now on: the transport's write buffer is full."""
        self._is_paused = True
        self._use_limits()

    def resume(self) -> None:
        """Send messages at once again; `send_pending` sends what waits."""
        self._is_paused = False
        self._use_limits()

    def open_stream(self, stream: S, flags: int, meta: bytes, body: bytes) -> None:
        """Open `stream`, giving it the next id, with its first message if `flags` has MESSAGE.

        Raises:
            ResourceExhausted: The peer's limits forbid it; nothing was sent.
        """
        size = HEADER_SIZE + len(meta) + len(body)
        if size > self._quick_open:
            self._check_size(meta, body)
        if len(self.streams) >= self._max_streams or self.next_id > MAX_STREAM_ID:
            raise no_room(len(self.streams), self._max_streams, self.next_id > MAX_STREAM_ID)
        stream.id = stream_id = self.next_id
        self.next_id = stream_id + 2
        self.streams[stream_id] = stream
        stream.state = 0
        stream.send_credit = self.peer.stream_window
        self._send(stream, OPEN, flags, meta, body, size)

    def send_response(self, stream: S, body: bytes) -> None:
        """Send the one message of a unary call and END; the common case of `send_data`.

        Raises:
            ResourceExhausted: The message is larger than the peer takes.
        """
        length = len(body)
        size = length + HEADER_SIZE
        if (
            stream.state == REMOTE_END
            and size <= self._quick
            and size <= self.send_credit
            and size <= stream.send_credit
        ):
            self.send_credit -= size
            out = self.out
            out.append(_pack_header(length, DATA, _WHOLE_LAST, stream.id, 0))
            out.append(body)
            streams = self.streams
            del streams[stream.id]
            stream.state = CLOSED
            pieces = len(out)
            if not streams or pieces >= _FLUSH_PIECES:
                self.flush()  # at once also where no other answer is to come
            elif pieces == 2:
                self.wake()
        else:
            self.send_data(stream, _WHOLE_LAST, b"", body)
            self.wake()

    def open_unary(self, stream: S, meta: bytes, body: bytes) -> None:
        """Open a unary or generator call; the common case of `open_stream`.

        Raises:
            ResourceExhausted: The peer's limits forbid it; nothing was sent.
        """
        meta_size = len(meta)
        length = meta_size + len(body)
        credit = self.send_credit - length - HEADER_SIZE
        streams = self.streams
        if length >= self._quick_open or credit < 0 or len(streams) >= self._max_streams:
            self.open_stream(stream, _WHOLE_LAST, meta, body)
            self.wake()
            return
        self.send_credit = credit
        stream.id = stream_id = self.next_id
        self.next_id = stream_id + 2
        stream.state = LOCAL_END
        alone = not streams
        streams[stream_id] = stream
        out = self.out
        out.append(_pack_header(length, OPEN, _WHOLE_LAST, stream_id, meta_size))
        out.append(meta)
        out.append(body)
        pieces = len(out)
        if alone or pieces >= _FLUSH_PIECES:
            self.flush()  # at once also where no other call keeps the loop busy
        elif pieces == 3:
            self.wake()

    def send_data(self, stream: S, flags: int, meta: bytes, body: bytes) -> bool:
        """Send one message, or END; return whether it went out at once.

        On a stream that is closed already nothing happens: its call has ended.

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
            size <= self._quick
            and size <= stream.send_credit
            and size <= self.send_credit
            and not state & QUEUED
        ):
            self.send_credit -= size
            stream.send_credit -= size
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
                self.flush()  # at once also the first word after the peer's, on a lone stream
            elif first:
                self.wake()
            return True
        self.wake()
        if size > self._quick:
            self._check_size(meta, body)
        return self._send(stream, DATA, flags, meta, body, size)

    def reset_stream(
        self,
        stream: S,
        code: Code,
        message: str = "",
        details: Mapping[str, Any] | None = None,
        flags: int = 0,
    ) -> None:
        """End a stream in both directions; nothing happens if it has ended.

        Details that cannot be sent, or are too large for a frame of the peer, are left out.
        """
        if self.streams.get(stream.id) is stream:
            known = not is_unsent(stream)
            self.drop_stream(stream)
            if known:
                limit = self.peer.max_frame
                self.out.append(reset_frame(stream.id, code, message, details or {}, flags, limit))

    def send_pending(self, budget: int) -> list[S]:
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
            budget -= self._send_fragment(stream, outbox, overhead, least)
            ready.rotate(-1)
            if stream.outbox is None:
                freed.append(stream)
        unsent = self._unsent
        if unsent:
            while unsent and not is_unsent(unsent[0]):
                unsent.popleft()
            self._use_limits()
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
            self._make_ready(stream)
        if total > MAX_STREAM_ID:
            raise ValueError(f"credit of stream {stream_id} grew to {total}, over {MAX_STREAM_ID}")

    def _use_limits(self) -> None:
        """Work out what the peer's limits and our own mean for single messages."""
        peer = self.peer
        # Largest frame, header included.
        self._largest = min(self.limits.fragment, peer.max_frame) + HEADER_SIZE
        # The first frame of a message has all its meta and some of its body, if it has one. It
        # must fit the credit that is always left when everything was taken (PROTOCOL.md §6.3).
        most = min(MAX_META, peer.max_frame, peer.stream_window // 4)
        self._max_meta = most - HEADER_SIZE - _LEAST_FRAGMENT
        # Largest message that goes out without a closer look, header included.
        quick = min(self._largest, self._max_meta, peer.max_message, _BULKY)
        self._quick = 0 if self._is_paused else quick
        self._quick_open = 0 if self._unsent else self._quick
        self._max_streams = peer.max_streams

    def _check_size(self, meta: bytes, body: bytes) -> None:
        most = self.peer.max_message
        if len(meta) > self._max_meta:
            what = f"the header has {len(meta)} bytes; the limit is {self._max_meta}"
            raise ResourceExhausted(what, details={"limit": "max_meta"})
        if len(body) > most:
            what = f"the message has {len(body)} bytes; the receiver's max_message is {most}"
            raise ResourceExhausted(what, details={"limit": "max_message"})

    def _send(self, stream: S, kind: int, flags: int, meta: bytes, body: bytes, size: int) -> bool:
        """Send a message at once if that is allowed, else queue it; past `BULK` also large ones."""
        if (
            size <= self._largest
            and size <= stream.send_credit
            and size <= self.send_credit
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
            if self._unsent is _NONE:
                self._unsent = deque()
            self._unsent.append(stream)
            self._quick_open = 0
        if flags & END:
            stream.state |= ENDING
        stream.outbox.append(Outgoing(kind, flags, meta, body))
        self.backlog.add(len(body))
        self._make_ready(stream)
        return False

    def _make_ready(self, stream: S) -> None:
        """Let `send_pending` look at a stream that has something to send."""
        if stream.outbox is not None and not stream.is_ready:
            stream.is_ready = True
            if self._ready is _NONE:
                self._ready = deque()
            self._ready.append(stream)

    def _send_fragment(self, stream: S, outbox: deque[Outgoing], overhead: int, least: int) -> int:
        """Send the next piece of the first waiting message; return its size."""
        message = outbox[0]
        room = min(stream.send_credit, self.send_credit, max(self._largest, least)) - overhead
        kind, flags, meta = message.kind, message.flags, message.meta
        piece: bytes | memoryview = message.body
        if room < len(piece):
            whole = memoryview(piece)
            piece, message.body = whole[:room], whole[room:]
            message.kind, message.meta = DATA, b""
            flags = (flags & ~END) | MORE
        else:
            outbox.popleft()
            if not outbox:
                stream.outbox = None
                stream.state &= ~QUEUED
        self.backlog.remove(len(piece))
        size = overhead + len(piece)
        if size <= _BULKY:
            self.bulk += size
        self._emit(stream, kind, flags, meta, piece, size)
        return size

    def _emit(
        self, stream: S, kind: int, flags: int, meta: bytes, body: bytes | memoryview, size: int
    ) -> None:
        """Write one frame, and pay for it."""
        self.send_credit -= size
        stream.send_credit -= size
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
