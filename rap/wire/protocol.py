"""The wire protocol as a pure state machine: bytes in, events out; wishes in, bytes out.

No socket, clock or task: a transport feeds `receive_data`, acts on the events, and writes what
it finds in `out`. The rules are in PROTOCOL.md; the sending half is in `sender.py`.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rap.errors import Code, RapError, RemoteProtocolError
from rap.wire.frames import (
    ACK,
    CREDIT,
    DATA,
    END,
    GOAWAY,
    HEADER,
    HEADER_SIZE,
    HELLO,
    MAX_STREAM_ID,
    MESSAGE,
    MORE,
    OPEN,
    PING,
    RESET,
    UNSERVED,
    go_away_frame,
    hello_frame,
    ping_frame,
    read_hello,
    reset_frame,
)
from rap.wire.limits import DEFAULT_LIMITS, Limits, PeerLimits
from rap.wire.sender import Sender
from rap.wire.states import ASSEMBLING, CLOSED, LOCAL_END, REMOTE_END, State, StreamState

__all__ = ["PROTOCOL_VERSION", "Event", "WireProtocol"]

PROTOCOL_VERSION = 1

S = TypeVar("S", bound=StreamState)
Bytes = bytes | memoryview
# Kind, stream (`None` on the connection), flags, meta, body, bytes held until `take`.
Event = tuple[int, S | None, int, bytes, Bytes, int]

_unpack_header = HEADER.unpack_from
# Bodies from here on are views of the chunk they came in, not copies.
_VIEW_FROM = 4096
_WHOLE_LAST = MESSAGE | END
_KIND_AT = 4  # where the header has the kind


class WireProtocol(Sender[S]):
    """One connection, seen from one side.

    Args:
        is_server: The peer opens streams, not we.
        limits: What this side accepts.
        hello: What our Hello says beside version and limits.
        new_stream: Makes the record of a stream that the peer opened.
    """

    def __init__(
        self,
        *,
        is_server: bool,
        new_stream: Callable[[int, int, int], S],
        limits: Limits = DEFAULT_LIMITS,
        hello: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(limits, new_stream)
        self.state = State.OPENING
        self.error: RapError | None = None
        self.peer_hello: dict[str, Any] = {}
        self.last_id = 0  # highest stream id the peer opened
        self.refuse_above = MAX_STREAM_ID  # what our last GoAway said
        self._is_server = is_server
        self.partial: bytearray | None = None
        self._need = HEADER_SIZE
        # A client takes no Open at all.
        self._most_streams = limits.max_streams if is_server else 0
        self._max_length = min(limits.max_frame, limits.max_message)
        content = {"rap": PROTOCOL_VERSION, **limits.to_hello(), **(hello or {})}
        self.out.append(hello_frame(content))

    def receive_data(self, data: bytes) -> list[Event[S]]:
        """Take bytes from the peer; return what they mean.

        Never raises: a violation queues a GoAway, sets `error`, and what follows is ignored.
        """
        events: list[Event[S]] = []
        rest = self.partial
        if rest is not None:
            rest += data
            if len(rest) < self._need:
                return events
            data = bytes(rest)
            self.partial = None
        if self.error is not None:
            return events
        size = len(data)
        if self.state is State.OPENING and size >= HEADER_SIZE and data[_KIND_AT] != HELLO:
            self._violate("the first frame must be a Hello")
            return events
        add = events.append
        streams = self.streams
        max_length = self._max_length
        new_stream = self.new_stream
        pos = used = freed = 0
        need = HEADER_SIZE
        while size - pos >= HEADER_SIZE:
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
            body = data[start:stop] if stop - start < _VIEW_FROM else memoryview(data)[start:stop]
            if kind == DATA:
                cost = length + HEADER_SIZE
                used += cost
                stream = streams.get(stream_id)
                if stream is None:
                    if not self._is_late(stream_id):
                        break
                    freed += cost
                elif flags == _WHOLE_LAST and stream.state == LOCAL_END and length <= max_length:
                    # The answer of a unary call, or the last message of a stream we ended.
                    del streams[stream_id]
                    stream.state = CLOSED
                    freed += cost
                    if stream.held:
                        freed += stream.held
                        stream.held = 0
                    add((DATA, stream, flags, meta, body, 0))
                else:
                    freed += self._on_data(stream, flags, meta, body, cost, add)
                    if self.error is not None:
                        break
            elif kind == OPEN:
                cost = length + HEADER_SIZE
                used += cost
                if (
                    flags == _WHOLE_LAST
                    and self.last_id < stream_id <= self.refuse_above
                    and stream_id & 1
                    and len(streams) < self._most_streams
                    and length <= max_length
                ):
                    # A unary or generator call that fits one frame; `_on_open` unrolled.
                    self.last_id = stream_id
                    freed += cost
                    stream = streams[stream_id] = new_stream(
                        stream_id, self.peer.stream_window, REMOTE_END
                    )
                    add((OPEN, stream, flags, meta, body, 0))
                    continue
                freed += self._on_open(stream_id, flags, meta, body, cost, add)
                if self.error is not None:
                    break
            else:
                self._on_rare(kind, stream_id, flags, body, add)
                if self.error is not None:
                    break
        if self.error is not None:
            return events
        if pos < size:
            self.partial = bytearray(memoryview(data)[pos:])
            self._need = need
        if used:
            self.recv_credit -= used
            if self.recv_credit < 0:
                self._violate(f"the connection's credit is exceeded by {-self.recv_credit} bytes")
            if freed:
                self.ungranted += freed
                self._grant_connection()
        return events

    def go_away(self, last_stream_id: int, code: Code = Code.OK, message: str = "") -> None:
        """Queue a GoAway: `MAX_STREAM_ID` announces a drain, less refuses what lies above."""
        self.refuse_above = last_stream_id
        self.out.append(go_away_frame(last_stream_id, code, message))

    def ping(self, token: bytes) -> None:
        """Queue a Ping; the event with flag ACK and the same 8 bytes is its answer."""
        self.out.append(ping_frame(token))

    def _violate(self, message: str, code: Code = Code.INTERNAL) -> None:
        if self.error is None:
            self.error = RemoteProtocolError(message)
            self.state = State.CLOSING
            self.go_away(self.last_id, code, message)

    def _is_late(self, stream_id: int) -> bool:
        """Whether Data without a stream belongs to one that has ended."""
        newest = self.last_id if self._is_server else self.next_id - 2
        if stream_id & 1 and 0 < stream_id <= newest:
            return True
        self._violate(f"Data on stream {stream_id}, which was never opened")
        return False

    def _on_data(
        self,
        stream: S,
        flags: int,
        meta: bytes,
        body: Bytes,
        cost: int,
        add: Callable[[Event[S]], None],
    ) -> int:
        """Handle Data of a live stream; return the bytes to give back to the connection."""
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
            return cost + self._refuse_message(stream, len(body), add)
        return self._finish(stream, DATA, flags, meta, body, cost, add)

    def _finish(
        self,
        stream: S,
        kind: int,
        flags: int,
        meta: bytes,
        body: Bytes,
        cost: int,
        add: Callable[[Event[S]], None],
    ) -> int:
        """Hand a whole message on."""
        freed = 0
        if flags & END:
            stream.state |= REMOTE_END
        if stream.state & CLOSED == CLOSED:
            del self.streams[stream.id]
            stream.state = CLOSED
            freed = cost + stream.held
            stream.held = cost = 0
        elif kind == OPEN or not flags & MESSAGE:
            freed, cost = cost, 0
        else:
            stream.held += cost
        add((kind, stream, flags, meta, body, cost))
        return freed

    def _on_part(
        self,
        stream: S,
        flags: int,
        meta: bytes,
        body: Bytes,
        cost: int,
        add: Callable[[Event[S]], None],
    ) -> int:
        """Collect a part of a message; parts are given back on arrival, the last one when taken."""
        if stream.parts is None:
            stream.parts, stream.parts_size = [], 0
            stream.parts_kind, stream.parts_meta = DATA, meta
            stream.state |= ASSEMBLING
        stream.parts.append(body)
        stream.parts_size += len(body)
        if stream.parts_size > self.limits.max_message:
            return cost + self._refuse_message(stream, stream.parts_size, add)
        if flags & MORE:
            stream.ungranted += cost
            if stream.ungranted >= self._stream_step:
                self._grant_stream(stream)
            return cost
        whole = b"".join(stream.parts)
        kind, meta = stream.parts_kind, stream.parts_meta
        stream.parts, stream.parts_kind = None, DATA
        stream.state &= ~ASSEMBLING
        return self._finish(stream, kind, flags, meta, whole, cost, add)

    def _refuse_message(self, stream: S, size: int, add: Callable[[Event[S]], None]) -> int:
        message = f"a message of {size} bytes or more; max_message is {self.limits.max_message}"
        opened = stream.parts_kind != OPEN
        self.reset_stream(
            stream,
            Code.RESOURCE_EXHAUSTED,
            message,
            {"limit": "max_message"},
            0 if opened else UNSERVED,
        )
        if opened:
            reset = reset_frame(stream.id, Code.RESOURCE_EXHAUSTED, message, {}, 0)
            add((RESET, stream, 0, b"", reset[HEADER_SIZE:], 0))
        return 0

    def _on_open(
        self,
        stream_id: int,
        flags: int,
        meta: bytes,
        body: Bytes,
        cost: int,
        add: Callable[[Event[S]], None],
    ) -> int:
        """Handle Open; return the bytes to give back to the connection."""
        if not self._is_server or not stream_id & 1 or stream_id <= self.last_id:
            self._violate(f"Open of stream {stream_id} after {self.last_id}")
            return 0
        self.last_id = stream_id
        if stream_id > self.refuse_above:
            return cost  # our GoAway told the peer that it is not served
        if len(self.streams) >= self.limits.max_streams:
            message = f"more than {self.limits.max_streams} calls open on one connection"
            details = {"limit": "max_streams"}
            self.out.append(
                reset_frame(stream_id, Code.RESOURCE_EXHAUSTED, message, details, UNSERVED)
            )
            return cost
        stream = self.new_stream(stream_id, self.peer.stream_window, 0)
        stream.used = cost
        self.streams[stream_id] = stream
        if flags & MORE:
            stream.parts, stream.parts_size = [], 0
            stream.parts_kind, stream.parts_meta = OPEN, meta
            stream.state = ASSEMBLING
            if cost > self.limits.stream_window:
                self._violate(f"stream {stream_id}: an Open of {cost} bytes, over its credit")
                return 0
            return self._on_part(stream, flags, meta, body, cost, add)
        if len(body) > self.limits.max_message:
            stream.parts_kind = OPEN
            return cost + self._refuse_message(stream, len(body), add)
        if flags & END:
            stream.state = REMOTE_END
        add((OPEN, stream, flags, meta, body, 0))
        return cost

    def _on_rare(
        self, kind: int, stream_id: int, flags: int, body: Bytes, add: Callable[[Event[S]], None]
    ) -> None:
        """Handle what is neither Open nor Data; kinds we do not know are ignored (§7)."""
        if kind == RESET:
            stream = self.streams.get(stream_id)
            if stream is not None:
                self.forget(stream)
                if stream.parts_kind == OPEN:
                    return  # nobody has heard of it yet
                add((RESET, stream, flags, b"", body, 0))
        elif kind == CREDIT:
            self._on_credit(stream_id, body)
        elif kind == PING:
            if len(body) != 8:
                self._violate(f"a Ping has 8 bytes, got {len(body)}")
            elif flags & ACK:
                add((PING, None, flags, b"", body, 0))
            else:
                self.out.append(ping_frame(bytes(body), ack=True))
        elif kind == GOAWAY:
            add((GOAWAY, None, stream_id, b"", body, 0))
        elif kind == HELLO:
            self._on_hello(body, add)

    def _on_credit(self, stream_id: int, body: Bytes) -> None:
        count = int.from_bytes(body, "big")
        if len(body) != 4 or not 0 < count <= MAX_STREAM_ID:
            self._violate(f"a Credit has 4 bytes, 1 to {MAX_STREAM_ID}, got {bytes(body[:8])!r}")
            return
        try:
            self.add_credit(stream_id, count)
        except ValueError as exc:
            self._violate(str(exc))

    def _on_hello(self, body: Bytes, add: Callable[[Event[S]], None]) -> None:
        if self.state is not State.OPENING:
            self._violate("a second Hello")
            return
        try:
            content = read_hello(bytes(body))
            version = content.get("rap")
            if version != PROTOCOL_VERSION:
                raise ValueError(f"protocol version {version!r}; this side speaks 1")
            self.set_peer(PeerLimits.from_hello(content))
        except ValueError as exc:
            self._violate(str(exc))
            return
        self.peer_hello = content
        self.state = State.OPEN
        add((HELLO, None, 0, b"", body, 0))
