"""The wire protocol as a pure state machine: bytes in, events out; method calls in, bytes out.

It knows no socket, clock or task. A transport feeds `receive_data`, acts on the events, and writes
what it finds in `out`. PROTOCOL.md has the rules. This module has what arrives: frames, messages
and violations. `sender.py` has what is sent.

Three cases are handled in the loop over the frames of a chunk, without a call: a unary request, the
last message of a stream that we have ended, and a whole message of a stream that goes on. They are
fast paths of `_on_open` and `_on_data`, which handle every case.
"""

from collections.abc import Callable, Mapping
from itertools import repeat
from typing import Any, cast

from rap.errors import Code, RapError, RemoteProtocolError, VersionMismatch
from rap.wire.frames import (
    ACK,
    CREDIT,
    DATA,
    DONE,
    END,
    GOAWAY,
    HEADER,
    HEADER_SIZE,
    HELLO,
    LOAD,
    MAX_HELLO,
    MAX_STREAM_ID,
    MESSAGE,
    MORE,
    OPEN,
    PING,
    REFUSED,
    RESET,
    UNSERVED,
    go_away_frame,
    ping_frame,
    reset_frame,
)
from rap.wire.hello import (
    DEFAULT_LIMITS,
    VERSIONS,
    Limits,
    Versions,
    decode_hello,
    hello_frame,
    read_hello,
)
from rap.wire.sender import S, Sender, ignore
from rap.wire.stream import ASSEMBLING, CLOSED, LOCAL_END, REMOTE_END, State

__all__ = [
    "CONTROL_FRAMES_PER_TURN",
    "IDLE",
    "IDLE_FRAMES",
    "LARGE_REQUEST",
    "Bytes",
    "Event",
    "WireProtocol",
]

# Bytes of a request above which it counts toward `max_requests`.
LARGE_REQUEST = 16 * 1024

Bytes = bytes | memoryview
# Kind, stream (`None` on the connection), flags, meta, body, bytes held until `acknowledge`.
Event = tuple[int, S | None, int, bytes, Bytes, int]

_unpack_header = HEADER.unpack_from
_KIND_AT, _META_AT = 4, slice(10, 12)  # where the header has the kind and the length of meta
_WHOLE_LAST = MESSAGE | END
_PLAIN = MESSAGE | MORE | END
# Bytes of a body that is passed on as a view of its chunk, not copied; unless it is a small part of
# the chunk, because a view keeps the whole chunk alive.
_VIEW_FROM = 4096
_VIEW_SHARE = 8
# Parts of fewer bytes are joined as they arrive: a million objects of a byte each would take far
# more memory than `max_message` allows.
_SMALL_PART = 1024
# What one turn takes from a peer: frames, streams that are opened, and work. The rest of a chunk
# waits for the next turn, so that other connections get theirs. Without a limit of frames, uvloop
# would read eight megabytes of one connection in a turn.
_FRAMES_PER_TURN = 512
_OPENS_PER_TURN = 64
CONTROL_FRAMES_PER_TURN = 32
# Work is counted for the frames that do not take a fast path.
_WORK_PER_TURN = 1024
_OPEN_WORK = _WORK_PER_TURN // _OPENS_PER_TURN
_CONTROL_WORK = _WORK_PER_TURN // CONTROL_FRAMES_PER_TURN
_DATA_WORK = 4
_LONG_META = 256  # bytes of the meta of an Open; one with more takes no fast path
_META_WORK = 8  # for so many bytes
# The kind of an event after so many frames that change nothing. No frame has it.
IDLE = 256
IDLE_FRAMES = 32
_SMALL_CREDIT = 64  # bytes; a receiver gives back half a window, or a message in parts
_LONG_CHUNK = 4096  # bytes; a shorter one can hardly open more streams than that
_TOLD_REQUESTS = 1024 * 1024  # bytes of large requests after which `on_grown` is called
# Calls that a peer may open after our last GoAway: those that were under way when it arrived.
_MAX_REFUSED = 1000


class WireProtocol(Sender[S]):
    """One connection, seen from one side.

    It extends `Sender`, because both halves work on the same streams, windows and output. With two
    objects, each chunk that arrives would cost a call to update the receive window: 1.1 % of the
    instructions of a unary call.

    Args:
        is_server: The peer opens streams, not we.
        new_stream: Makes the record of a stream that the peer opened: (id, send window, state).
        limits: What this side accepts.
        hello: What our Hello says besides versions and limits.
        versions: Versions of the protocol that this side speaks.
        wake: See `Sender`; so are the next two.

    Attributes:
        state: Life of the connection.
        error: The peer's violation of the protocol.
        peer_hello: What the peer's Hello says besides versions and limits.
        version: Version of the protocol that both sides use; 0 before the peer's Hello.
        last_id: Highest stream id that the peer has opened.
        refuse_above: Stream id of our last GoAway: streams above it are not served.
        partial: Beginning of a frame; if there is `more`, everything that waits for the next turn.
        more: `receive_data` is to be called again, with no bytes, in the next turn.
    """

    __slots__ = (
        "_decoded_hello",
        "_idle_frames",
        "_is_server",
        "_max_length",
        "_max_open",
        "_max_peer_streams",
        "_max_untold",
        "_need",
        "_new_requests",
        "_new_stream",
        "_pings",
        "_refused",
        "_requests",
        "_versions",
        "error",
        "last_id",
        "more",
        "partial",
        "peer_hello",
        "refuse_above",
        "state",
        "version",
    )

    def __init__(
        self,
        *,
        is_server: bool,
        new_stream: Callable[[int, int, int], S],
        limits: Limits = DEFAULT_LIMITS,
        hello: Mapping[str, Any] | None = None,
        versions: Versions = VERSIONS,
        wake: Callable[[], object] = ignore,
        flush: Callable[[], object] = ignore,
        on_write_buffer: Callable[[bool], object] = ignore,
        on_grown: Callable[[], object] = ignore,
    ) -> None:
        super().__init__(
            limits, wake=wake, flush=flush, on_write_buffer=on_write_buffer, on_grown=on_grown
        )
        self.state = State.OPENING
        self.error: RapError | None = None
        self.peer_hello: dict[str, Any] = {}
        self.version = 0
        self.last_id = 0
        self.refuse_above = MAX_STREAM_ID
        self.partial: bytearray | memoryview | None = None
        self.more = False
        self._is_server = is_server
        self._versions = versions
        self._new_stream = new_stream
        self._need = HEADER_SIZE  # bytes of the frame whose beginning is `partial`
        self._idle_frames = 0
        self._pings = 0  # without an answer
        self._decoded_hello: dict[str, Any] | None = None
        self._requests = 0  # bytes of large requests of open calls, or more
        self._new_requests = 0  # bytes of those that `on_grown` was not called for
        self._refused = 0  # calls above `refuse_above`
        self._max_peer_streams = limits.max_streams if is_server else 0
        self._max_untold = self._max_peer_streams  # open streams beyond which `on_grown` is called
        # Frames up to this size cannot exceed a limit of a message or a stream.
        window = limits.stream_window - HEADER_SIZE
        self._max_length = min(limits.max_frame, limits.max_message, window)
        self._max_open = min(self._max_length, LARGE_REQUEST)
        content = {**versions.to_hello(), **limits.to_hello(), **(hello or {})}
        self.out.append(hello_frame(content))

    def receive_data(self, data: bytes) -> list[Event[S]]:
        """Take bytes from the peer; return the events.

        It never raises: a violation queues a GoAway and sets `error`, and later bytes are ignored.
        If there is `more` than one turn takes, call it again in the next turn, with no bytes.
        """
        events: list[Event[S]] = []
        if self.error is None:
            self.answering = True
            pos = 0 if self.partial is None else self._complete(data, events)
            if self.error is None and (pos < len(data) or not pos):
                self._parse(data, pos, events)
        return events

    def tell_growth(self, held: int, streams: int) -> None:
        """Call `on_grown` when `held` grows by so many bytes, or so many more streams are open."""
        self.watch_growth(held)
        self._max_untold = min(len(self.streams) + streams, self._max_peer_streams)

    def _check_unread(self) -> None:
        """Look whether more is unread: what was received, or only what is not credited yet."""
        self._low_window = self.recv_window - self._step
        if self.held > self._max_held:
            self._on_grown()

    def use_hello(self, content: dict[str, Any]) -> None:
        """Take the content of the peer's Hello from who has decoded it before it arrives here."""
        self._decoded_hello = content

    def ping(self, token: bytes) -> None:
        """Queue a Ping with 8 bytes; its answer is the event with flag ACK and the same bytes."""
        self._pings += 1
        self.out.append(ping_frame(token))

    def send_load(self, frame: bytes) -> None:
        """Queue a load report, or a request for one."""
        self.out.append(frame)
        self._wake()

    def go_away(self, last_stream_id: int, code: Code = Code.OK, message: str = "") -> None:
        """Queue a GoAway: `MAX_STREAM_ID` announces a drain, less refuses streams above it.

        What was refused stays refused: a later GoAway never has a higher id.
        """
        self.refuse_above = min(self.refuse_above, last_stream_id)
        self.out.append(go_away_frame(self.refuse_above, code, message))

    def close(self) -> None:
        """Drop what is queued: the connection has ended."""
        self.state = State.CLOSED
        self.out.clear()

    def _complete(self, data: bytes, events: list[Event[S]]) -> int:
        """Complete the partial frame, and copy no more; return how much of `data` it took."""
        pos = 0
        if self.more:
            self._continue(data, events)
            return len(data)
        while self.partial is not None and pos < len(data) and self.error is None:
            rest = cast(bytearray, self.partial)
            end = pos + self._need - len(rest)
            rest += memoryview(data)[pos:end]
            pos = min(end, len(data))
            if len(rest) < self._need:
                break
            self.partial = None
            # A large body is passed on as a view; everything else is small, and must be bytes.
            is_large = len(rest) > _VIEW_FROM + HEADER_SIZE and rest[_KIND_AT] == DATA
            as_it_is = is_large and not any(rest[_META_AT])
            frame = rest if as_it_is else bytes(rest)
            self._parse(frame, 0, events)  # type: ignore[arg-type]  # a bytearray reads like bytes
            if self.more:  # the turn is over, before this frame
                self.partial = memoryview(bytes(self.partial or b"") + data[pos:])
                return len(data)
        return pos

    def _continue(self, data: bytes, events: list[Event[S]]) -> None:
        """Continue where the last turn ended."""
        waiting = cast(memoryview, self.partial)
        self.partial, self.more = None, False
        if data:  # the transport had read it before it paused
            self._parse(bytes(waiting) + data, 0, events)
        else:
            whole = cast(bytes, waiting.obj)
            self._parse(whole, len(whole) - len(waiting), events)

    def _parse(self, data: bytes, pos: int, events: list[Event[S]]) -> None:
        """Read frames from `pos` on; the rest of the last one waits for more."""
        size = len(data)
        begin = pos
        if self.state is State.OPENING and size - pos >= HEADER_SIZE:
            if data[pos + _KIND_AT] != HELLO:
                hint = _other_protocol(data[pos : pos + HEADER_SIZE], self._is_server)
                self._violate(f"the first frame must be a Hello{hint}")
                return
            length = _unpack_header(data, pos)[0]
            if length > MAX_HELLO:
                text = f"a Hello of {length} bytes; the limit is {MAX_HELLO}"
                self._violate(text, Code.RESOURCE_EXHAUSTED)
                return
        add = events.append
        streams = self.streams
        max_length, max_open = self._max_length, self._max_open
        new_stream = self._new_stream
        window = self.peer.stream_window
        max_streams = self._max_untold
        if size > _LONG_CHUNK:
            max_streams = min(max_streams, len(streams) + _OPENS_PER_TURN)
        window_left = self.limits.stream_window - HEADER_SIZE
        work = 0  # for frames that take no fast path
        uncounted = kept = 0  # bytes that take no credit, and that are not credited at once
        need = HEADER_SIZE  # bytes of the frame that is left; 0: the turn is over
        for _ in repeat(None, _FRAMES_PER_TURN):
            if size - pos < HEADER_SIZE:
                break
            length, kind, flags, stream_id, meta_size = _unpack_header(data, pos)
            if length > max_length and length > self.limits.max_frame:
                self._violate(
                    f"a frame of {length} bytes; max_frame is {self.limits.max_frame}",
                    Code.RESOURCE_EXHAUSTED,
                )
                break
            start = pos + HEADER_SIZE
            stop = start + length
            if stop > size:
                need = stop - pos
                break
            pos = stop
            if meta_size:
                if meta_size > length:
                    self._violate(f"meta of {meta_size} bytes in a frame of {length}")
                    break
                meta = data[start : start + meta_size]
                start += meta_size
            else:
                meta = b""
            body: Bytes
            if length < _VIEW_FROM or length * _VIEW_SHARE < size:
                body = data[start:stop]
            else:
                body = memoryview(data)[start:stop]
            if kind == DATA:
                stream = streams.get(stream_id)
                if stream is None:
                    if not self._is_late(stream_id):
                        break
                elif flags == _WHOLE_LAST and stream.state == LOCAL_END and length <= max_length:
                    # A unary response, or the last message of a stream that we have ended.
                    del streams[stream_id]
                    stream.state = CLOSED
                    if stream.held:
                        kept -= stream.held
                        stream.held = 0
                        self.unread_parts.pop(stream, None)
                    add((DATA, stream, flags, meta, body, 0))
                    continue
                elif (
                    flags & _PLAIN == MESSAGE
                    and stream.state < REMOTE_END
                    and length <= max_length
                    and stream.used + length < window_left
                ):
                    # A whole message of a stream that goes on; the fast path of `_on_data`.
                    cost = length + HEADER_SIZE
                    stream.used += cost
                    stream.held += cost
                    kept += cost
                    add((DATA, stream, flags, meta, body, cost))
                    continue
                else:
                    cost = length + HEADER_SIZE
                    kept += cost - self._on_data(stream, flags, meta, body, cost, add)
                    if self.error is not None:
                        break
                work += _DATA_WORK
                if not (length or flags & END):
                    self._count_idle(add)
            elif kind == OPEN:
                if (
                    flags == _WHOLE_LAST
                    and self.last_id < stream_id <= self.refuse_above
                    and stream_id & 1
                    and len(streams) < max_streams
                    and length <= max_open
                    and meta_size <= _LONG_META
                ):
                    # A unary or generator call in one frame; the fast path of `_on_open`.
                    self.last_id = stream_id
                    stream = new_stream(stream_id, window, REMOTE_END)
                    streams[stream_id] = stream
                    add((OPEN, stream, flags, meta, body, 0))
                    continue
                cost = length + HEADER_SIZE
                if len(streams) >= max_streams < self._max_peer_streams:
                    pos, need = stop - cost, 0
                    if len(streams) >= self._max_untold:
                        self._max_untold = self._max_peer_streams  # until `tell_growth`
                        self._on_grown()
                    break
                kept += cost - self._on_open(stream_id, flags, meta, body, cost, add)
                if self.error is not None:
                    break
                work += _OPEN_WORK + meta_size // _LONG_META * _META_WORK
            else:
                uncounted += length + HEADER_SIZE
                self._on_control(kind, stream_id, flags, body, events)
                if self.error is not None:
                    break
                window = self.peer.stream_window  # it may have been the Hello
                work += _CONTROL_WORK
            if work >= _WORK_PER_TURN:
                need = 0
                break
        else:
            need = 0
        used = pos - begin - uncounted
        if used:
            self.recv_window -= used
            self.consumed += used - kept
            if self.recv_window < 0:
                self._violate(f"the connection's credit is exceeded by {-self.recv_window} bytes")
            elif self.consumed >= self.recv_window:
                self.grant_connection()
            elif self.recv_window < self._low_window:
                self._check_unread()
        if pos < size and self.error is None:
            rest = memoryview(data)[pos:]
            self.partial = bytearray(rest) if need else rest
            self.more = not need
            self._need = need

    def _on_open(
        self,
        stream_id: int,
        flags: int,
        meta: bytes,
        body: Bytes,
        cost: int,
        add: Callable[[Event[S]], None],
    ) -> int:
        """Handle an Open."""
        in_order = self.last_id < stream_id <= MAX_STREAM_ID and stream_id & 1
        if not self._is_server or not in_order:
            self._violate(f"Open of stream {stream_id} after {self.last_id}")
            return 0
        self.last_id = stream_id
        if stream_id > self.refuse_above:
            # Our GoAway has told the peer that it is not served.
            self._refused += 1
            if self._refused > _MAX_REFUSED:
                self._violate(f"{self._refused} calls were opened after GoAway")
            return cost
        if len(self.streams) >= self.limits.max_streams:
            message = f"more than {self.limits.max_streams} calls open on one connection"
            details = {"limit": "max_streams"}
            self.out.append(
                reset_frame(stream_id, Code.RESOURCE_EXHAUSTED, message, details, UNSERVED)
            )
            return cost
        if cost > self.limits.stream_window:
            self._violate(f"stream {stream_id}: an Open of {cost} bytes, over its credit")
            return 0
        stream = self._new_stream(stream_id, self.peer.stream_window, 0)
        stream.used = cost
        self.streams[stream_id] = stream
        if flags & MORE or len(body) > self.limits.max_message:
            self._assemble(stream, OPEN, meta)
            return self._on_part(stream, flags, meta, body, cost, add)
        return self._finish(stream, OPEN, flags, meta, body, cost, add)

    def _has_room(self, stream: S, size: int) -> bool:
        """Count a large request; return `False` if those of open calls have too many bytes.

        The end of a call is not noted here, so they are counted again when it may be too much.
        """
        most = self.limits.most_requests
        if self._requests + size > most:
            self._requests = sum(each.request_size for each in self.streams.values())
            if self._requests + size > most:
                return False
        self._requests += size
        self._new_requests += size
        stream.request_size = size
        if self._new_requests > _TOLD_REQUESTS:
            self._new_requests = 0
            self._on_grown()
        return True

    def _on_data(
        self,
        stream: S,
        flags: int,
        meta: bytes,
        body: Bytes,
        cost: int,
        add: Callable[[Event[S]], None],
    ) -> int:
        """Handle Data of an open stream."""
        if stream.state & REMOTE_END:
            self._violate(f"stream {stream.id}: Data after END")
            return 0
        stream.used += cost
        excess = stream.used - self.limits.stream_window
        if excess > 0:
            self._violate(f"stream {stream.id}: credit exceeded by {excess} bytes")
            return 0
        if flags & MORE or stream.state & ASSEMBLING:
            return self._on_part(stream, flags, meta, body, cost, add)
        if len(body) > self.limits.max_message:
            self._refuse_message(stream, len(body), add)
            return cost
        return self._finish(stream, DATA, flags, meta, body, cost, add)

    def _is_late(self, stream_id: int) -> bool:
        """Whether Data of an unknown stream belongs to one that has ended."""
        newest = self.last_id if self._is_server else self.next_id - 2
        if stream_id & 1 and 0 < stream_id <= newest:
            return True
        self._violate(f"Data on stream {stream_id}, which was never opened")
        return False

    def _on_part(
        self,
        stream: S,
        flags: int,
        meta: bytes,
        body: Bytes,
        cost: int,
        add: Callable[[Event[S]], None],
    ) -> int:
        """Collect a part of a message. Every part but the last is credited on arrival.

        Otherwise a message larger than the window could never arrive.
        """
        parts = stream.parts
        if parts is None:
            parts = self._assemble(stream, DATA, meta)
        if len(body) >= _SMALL_PART:
            if isinstance(body, memoryview):
                excess = len(cast(bytes, body.obj)) - len(body)
                if excess > len(body):
                    body = bytes(body)  # otherwise it would keep the whole chunk alive
                else:
                    stream.parts_excess += excess
                    self.excess += excess
            parts.append(body)
        elif parts and isinstance(parts[-1], bytearray):
            parts[-1] += body
        else:
            parts.append(bytearray(body))
        stream.parts_size += len(body)
        self.unfinished += len(body)
        if stream.parts_size > self.limits.max_message:
            self._refuse_message(stream, stream.parts_size, add)
            return cost
        if self.held > self._max_held:
            self._on_grown()
        if self.unfinished > self.limits.most_unfinished:
            text = f"{self.unfinished} bytes of unfinished messages on one connection; "
            text += f"the limit is {self.limits.most_unfinished}"
            self._refuse(stream, text, {"limit": "max_unfinished"}, add)
            return cost
        if flags & MORE:
            stream.parts_cost += cost
            self._credit_back(stream, cost)
            return cost
        if not flags & MESSAGE:
            self._violate(f"stream {stream.id}: a message broke off")
            return 0
        whole = b"".join(parts)
        kind, meta = stream.parts_kind, stream.parts_meta
        self.unfinished -= stream.parts_size
        self.excess -= stream.parts_excess
        stream.parts, stream.parts_kind = None, DATA
        stream.state &= ~ASSEMBLING
        return self._finish(stream, kind, flags, meta, whole, cost, add, stream.parts_cost)

    def _assemble(self, stream: S, kind: int, meta: bytes) -> list[bytes | bytearray | memoryview]:
        """Start to collect a message."""
        stream.parts, stream.parts_size, stream.parts_cost, stream.parts_excess = [], 0, 0, 0
        stream.parts_kind, stream.parts_meta = kind, meta
        stream.state |= ASSEMBLING
        return stream.parts

    def _finish(
        self,
        stream: S,
        kind: int,
        flags: int,
        meta: bytes,
        body: Bytes,
        cost: int,
        add: Callable[[Event[S]], None],
        credited: int = 0,
    ) -> int:
        """Pass on a whole message.

        What was credited for its parts is held again, until user code takes the message: otherwise
        a stalled reader would pile up large messages that take nothing of the window.
        """
        freed = 0
        if kind == OPEN and len(body) > LARGE_REQUEST and not self._has_room(stream, len(body)):
            most = self.limits.most_requests
            text = f"the requests of open calls have too many bytes; the limit is {most}"
            details = {"limit": "max_requests"}
            self.reset_stream(stream, Code.RESOURCE_EXHAUSTED, text, details, UNSERVED)
            return cost
        if flags & END:
            stream.state |= REMOTE_END
        if stream.state & CLOSED == CLOSED:
            del self.streams[stream.id]
            stream.state = CLOSED
            freed = cost + stream.held
            stream.held = cost = 0
            if self.unread_parts:
                self.unread_parts.pop(stream, None)
        elif kind == OPEN or not flags & MESSAGE:
            self._credit_back(stream, cost)
            freed, cost = cost, 0
        else:
            freed = -credited
            stream.consumed -= credited
            cost += credited
            stream.held += cost
            if credited:
                self.unread_parts[stream] = stream.held
        add((kind, stream, flags, meta, body, cost))
        return freed

    def _credit_back(self, stream: S, cost: int) -> None:
        """Count as consumed what no user code will take."""
        stream.consumed += cost
        if stream.consumed >= self._stream_step:
            self.grant_stream(stream)

    def _refuse_message(self, stream: S, size: int, add: Callable[[Event[S]], None]) -> None:
        """Reset a stream whose message is too large."""
        message = f"a message of {size} bytes or more; max_message is {self.limits.max_message}"
        self._refuse(stream, message, {"limit": "max_message"}, add)

    def _refuse(
        self, stream: S, message: str, details: dict[str, str], add: Callable[[Event[S]], None]
    ) -> None:
        """Reset a stream that exceeds a limit; report it to this side, if it knows the stream."""
        if stream.parts_kind == OPEN:
            self.reset_stream(stream, Code.RESOURCE_EXHAUSTED, message, details, UNSERVED)
            return
        self.reset_stream(stream, Code.RESOURCE_EXHAUSTED, message, details)
        reset = reset_frame(stream.id, Code.RESOURCE_EXHAUSTED, message, details)
        add((RESET, stream, REFUSED, b"", reset[HEADER_SIZE:], 0))

    def _on_control(
        self, kind: int, stream_id: int, flags: int, body: Bytes, events: list[Event[S]]
    ) -> None:
        """Handle a control frame; unknown kinds are ignored (§7).

        A peer may send any number of frames that change nothing, and they cost it no credit. They
        are counted, so that the transport can limit their rate.
        """
        add = events.append
        is_idle = False
        if kind == RESET:
            stream = self.streams.get(stream_id)
            if stream is not None:
                self.drop_stream(stream)
                if events and events[-1][1] is stream and events[-1][0] == OPEN:
                    events.pop()  # opened and cancelled in one chunk: it need not be served
                if stream.parts_kind != OPEN:  # otherwise this side does not know it yet
                    add((RESET, stream, flags & UNSERVED, b"", body, 0))
            else:
                is_idle = True
        elif kind == CREDIT:
            is_idle = self._on_credit(stream_id, body)
        elif kind == PING:
            if len(body) != 8:
                self._violate(f"a Ping has 8 bytes, got {len(body)}")
            else:
                if flags & ACK:
                    is_idle = not self._pings
                    self._pings -= not is_idle
                else:
                    self.out.append(ping_frame(bytes(body), ack=True))
                add((PING, None, flags, b"", body, 0))
        elif kind == GOAWAY:
            is_idle = True
            add((GOAWAY, None, stream_id, b"", body, 0))
        elif kind == HELLO:
            self._on_hello(body, add)
        elif kind == LOAD:
            is_idle = not self._is_server  # a server counts it like a Ping
            add((LOAD, None, flags, b"", body, 0))
        elif kind == DONE and self._is_server:
            stream = self.streams.get(stream_id)
            is_idle = True  # one of each call is useful, and paid for by it
            if stream is not None:
                add((DONE, stream, 0, b"", b"", 0))
        else:
            is_idle = True
        if is_idle:
            self._count_idle(add)

    def _count_idle(self, add: Callable[[Event[S]], None]) -> None:
        """Count a frame that changes nothing."""
        self._idle_frames += 1
        if not self._idle_frames % IDLE_FRAMES:
            add((IDLE, None, 0, b"", b"", 0))

    def _on_credit(self, stream_id: int, body: Bytes) -> bool:
        """Handle a Credit; return whether it changes nothing that matters."""
        count = int.from_bytes(body, "big")
        if len(body) != 4 or not 0 < count <= MAX_STREAM_ID:
            self._violate(f"a Credit has 4 bytes, 1 to {MAX_STREAM_ID}, got {bytes(body[:8])!r}")
            return False
        # A receiver gives back what it was sent: there was less credit than at the start.
        if stream_id:
            stream = self.streams.get(stream_id)
            is_full = stream is None or stream.send_window >= self.peer.stream_window
        else:
            is_full = self.send_window >= self.peer.connection_window
        try:
            self.add_credit(stream_id, count)
        except ValueError as exc:
            self._violate(str(exc))
        return is_full or count < _SMALL_CREDIT

    def _on_hello(self, body: Bytes, add: Callable[[Event[S]], None]) -> None:
        if self.state is not State.OPENING:
            self._violate("a second Hello")
            return
        try:
            content, self._decoded_hello = self._decoded_hello, None
            if content is None:
                content = decode_hello(bytes(body))
            theirs = Versions.of_hello(content)
            version = self._versions.common(theirs)
            if version is None:  # another version may have other limits
                self._part(theirs)
                return
            limits, content = read_hello(content)
        except ValueError as exc:
            self._violate(str(exc))
            return
        self.version = version
        self.set_peer(limits)
        self.peer_hello = content
        self.state = State.OPEN
        add((HELLO, None, 0, b"", body, 0))

    def _part(self, theirs: Versions) -> None:
        """End the connection with a peer that speaks no version of this side."""
        ours = self._versions
        client, server = (theirs, ours) if self._is_server else (ours, theirs)
        older = "client" if client.high < server.low else "server"
        message = (
            f"no version of the wire protocol in common: the client speaks {client}, the server"
            f" {server}; upgrade rap on the {older}"
        )
        self._end(VersionMismatch(message, unserved=True), Code.FAILED_PRECONDITION)

    def _violate(self, message: str, code: Code = Code.INTERNAL) -> None:
        if self.error is None:
            self._end(RemoteProtocolError(message), code)

    def _end(self, error: RapError, code: Code) -> None:
        self.error = error
        self.state = State.CLOSING
        self.go_away(self.last_id, code, str(error))


_WRONG_PORT = ": is this the right port?"


def _other_protocol(first: bytes, is_server: bool) -> str:
    """Return what to say of a peer whose first bytes, as long as a header, are not of a Hello.

    Args:
        first: The bytes.
        is_server: Whether this side is the server.
    """
    if first.startswith(b"\x16\x03"):
        other = "the peer speaks TLS: give the server ssl_crt_path, or the client no TLS options"
    elif b"HTTP/" in first or b" /" in first:  # a status line or a request line
        other = "the peer speaks HTTP"
        other += ": HTTP clients call through rap.gateway" if is_server else _WRONG_PORT
    elif first.startswith((b"-ERR", b"-NOAUTH", b"-DENIED", b"*1\r\n", b"*2\r\n", b"*3\r\n")):
        other = f"the peer speaks the protocol of Redis{_WRONG_PORT}"
    else:
        other = f"the peer does not speak rap{_WRONG_PORT}"
    return f"; {other}"
