"""What Open and Data of the peer mean: messages, their parts, and violations (PROTOCOL.md §4, §6).

Each method handles one frame and returns the bytes to give back to the connection at once.
"""

from collections.abc import Callable
from typing import TypeVar, cast

from rap.errors import Code, RapError, RemoteProtocolError
from rap.wire.frames import (
    DATA,
    END,
    HEADER_SIZE,
    MAX_STREAM_ID,
    MESSAGE,
    MORE,
    OPEN,
    REFUSED,
    RESET,
    UNSERVED,
    go_away_frame,
    reset_frame,
)
from rap.wire.limits import Limits
from rap.wire.sender import Sender
from rap.wire.states import ASSEMBLING, CLOSED, REMOTE_END, State, StreamState

__all__ = ["LARGE_REQUEST", "Bytes", "Event", "Receiver", "S"]

S = TypeVar("S", bound=StreamState)
Bytes = bytes | memoryview
# Kind, stream (`None` on the connection), flags, meta, body, bytes held until `take`.
Event = tuple[int, S | None, int, bytes, Bytes, int]

# Parts below this are joined as they come: a million objects of a byte each would take far more
# memory than `max_message` allows.
_SMALL_PART = 1024
# Bytes of an Open above which it counts what the requests of open calls hold.
LARGE_REQUEST = 16 * 1024
# Calls that a peer may open after our last GoAway: what was under way when it came.
_MOST_REFUSED = 1000


class Receiver(Sender[S]):
    """State of everything the peer sends.

    Args:
        limits: What this side accepts.
        new_stream: Makes the record of a stream the peer opened, from id, send credit and state.
        is_server: The peer opens streams, not we.
    """

    __slots__ = tuple("_is_server _refused _requests error last_id refuse_above state".split())

    def __init__(
        self, limits: Limits, new_stream: Callable[[int, int, int], S], *, is_server: bool
    ) -> None:
        super().__init__(limits, new_stream)
        self.state = State.OPENING
        self.error: RapError | None = None  # what the peer did wrong
        self.last_id = 0  # highest stream id the peer opened
        self.refuse_above = MAX_STREAM_ID  # what our last GoAway said
        self._is_server = is_server
        self._requests = 0  # bytes of large requests of open calls, or more
        self._refused = 0  # calls above it that were opened all the same

    def go_away(self, last_stream_id: int, code: Code = Code.OK, message: str = "") -> None:
        """Queue a GoAway: `MAX_STREAM_ID` announces a drain, less refuses what lies above."""
        self.refuse_above = last_stream_id
        self.out.append(go_away_frame(last_stream_id, code, message))

    def _violate(self, message: str, code: Code = Code.INTERNAL) -> None:
        if self.error is None:
            self.error = RemoteProtocolError(message)
            self.state = State.CLOSING
            self.go_away(self.last_id, code, message)

    def _on_data(
        self,
        stream: S,
        flags: int,
        meta: bytes,
        body: Bytes,
        cost: int,
        add: Callable[[Event[S]], None],
    ) -> int:
        """Handle Data of a live stream."""
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

    def _finish(
        self,
        stream: S,
        kind: int,
        flags: int,
        meta: bytes,
        body: Bytes,
        cost: int,
        add: Callable[[Event[S]], None],
        given: int = 0,
    ) -> int:
        """Hand a whole message on.

        What was `given` back for its parts is held again from now on, until user code takes the
        message: else a reader that stalls would pile up large messages that cost nothing.
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
        elif kind == OPEN or not flags & MESSAGE:
            self._credit_back(stream, cost)
            freed, cost = cost, 0
        else:
            freed = -given
            stream.ungranted -= given
            cost += given
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
        """Collect a part of a message; it is given back on arrival, but not the last one.

        Else a message larger than the window could never arrive.
        """
        parts = stream.parts
        if parts is None:
            parts = self._assemble(stream, DATA, meta)
        if len(body) >= _SMALL_PART:
            if isinstance(body, memoryview) and 2 * len(body) < len(cast(bytes, body.obj)):
                body = bytes(body)  # else it would keep the whole chunk alive
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
        stream.parts, stream.parts_kind = None, DATA
        stream.state &= ~ASSEMBLING
        return self._finish(stream, kind, flags, meta, whole, cost, add, stream.parts_cost)

    def _assemble(self, stream: S, kind: int, meta: bytes) -> list[bytes | bytearray | memoryview]:
        """Begin to collect a message."""
        stream.parts, stream.parts_size, stream.parts_cost = [], 0, 0
        stream.parts_kind, stream.parts_meta = kind, meta
        stream.state |= ASSEMBLING
        return stream.parts

    def _has_room(self, stream: S, size: int) -> bool:
        """Count a large request, unless all of open calls together have too many bytes.

        Who ends a call says nothing here; so what is left is counted when it may be too much.
        """
        most = self.limits.most_requests
        if self._requests + size > most:
            self._requests = sum(each.request_size for each in self.streams.values())
            if self._requests + size > most:
                return False
        self._requests += size
        stream.request_size = size
        return True

    def _credit_back(self, stream: S, cost: int) -> None:
        """Give back to a stream what no user code will take."""
        stream.ungranted += cost
        if stream.ungranted >= self._stream_step:
            self.grant_stream(stream)

    def _refuse_message(self, stream: S, size: int, add: Callable[[Event[S]], None]) -> None:
        """Reset a stream whose message is too large."""
        message = f"a message of {size} bytes or more; max_message is {self.limits.max_message}"
        self._refuse(stream, message, {"limit": "max_message"}, add)

    def _refuse(
        self, stream: S, message: str, details: dict[str, str], add: Callable[[Event[S]], None]
    ) -> None:
        """Reset a stream that takes too much; tell our side, if it knows of the stream."""
        if stream.parts_kind == OPEN:
            self.reset_stream(stream, Code.RESOURCE_EXHAUSTED, message, details, UNSERVED)
            return
        self.reset_stream(stream, Code.RESOURCE_EXHAUSTED, message, details)
        reset = reset_frame(stream.id, Code.RESOURCE_EXHAUSTED, message, details)
        add((RESET, stream, REFUSED, b"", reset[HEADER_SIZE:], 0))

    def _on_open(
        self,
        stream_id: int,
        flags: int,
        meta: bytes,
        body: Bytes,
        cost: int,
        add: Callable[[Event[S]], None],
    ) -> int:
        """Handle Open."""
        in_order = self.last_id < stream_id <= MAX_STREAM_ID and stream_id & 1
        if not self._is_server or not in_order:
            self._violate(f"Open of stream {stream_id} after {self.last_id}")
            return 0
        self.last_id = stream_id
        if stream_id > self.refuse_above:
            # Our GoAway told the peer that it is not served.
            self._refused += 1
            if self._refused > _MOST_REFUSED:
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
        stream = self.new_stream(stream_id, self.peer.stream_window, 0)
        stream.used = cost
        self.streams[stream_id] = stream
        if flags & MORE or len(body) > self.limits.max_message:
            self._assemble(stream, OPEN, meta)
            return self._on_part(stream, flags, meta, body, cost, add)
        return self._finish(stream, OPEN, flags, meta, body, cost, add)
