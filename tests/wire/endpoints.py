"""One side of a connection without I/O, and frames as tests write them."""

from collections.abc import Iterable
from typing import Any

from rap.wire.codec import pack
from rap.wire.frames import DATA, END, HELLO, MESSAGE, OPEN, Frame, parse_frames
from rap.wire.hello import DEFAULT_LIMITS, Limits
from rap.wire.protocol import Event, WireProtocol
from rap.wire.stream import StreamState

WHOLE = MESSAGE | END
META = pack(["/g/f", 0])
KIB = 1024
SMALL = Limits(
    max_frame=16 * KIB,
    max_message=256 * KIB,
    max_streams=4,
    stream_window=64 * KIB,
    connection_window=128 * KIB,
    fragment=4 * KIB,
)


class Endpoint:
    """A `WireProtocol` and what it said and heard."""

    def __init__(self, *, is_server: bool, limits: Limits = DEFAULT_LIMITS) -> None:
        self.protocol: WireProtocol[StreamState] = WireProtocol(
            is_server=is_server, new_stream=StreamState, limits=limits
        )
        self.events: list[Event[StreamState]] = []

    def take_bytes(self) -> bytes:
        """Return what is to be written, and forget it."""
        data = b"".join(self.protocol.out)
        self.protocol.out.clear()
        self.protocol.bulk = 0
        return data

    def take_frames(self) -> list[Frame]:
        """Return the frames that are to be written."""
        data = self.take_bytes()
        frames = parse_frames(data)
        assert b"".join(frame.encode() for frame in frames) == data
        return frames

    def receive(self, *frames: Frame) -> list[Event[StreamState]]:
        """Feed frames in one chunk; return the events."""
        return self.feed(b"".join(frame.encode() for frame in frames))

    def feed(self, data: bytes) -> list[Event[StreamState]]:
        events = self.protocol.receive_data(data)
        while self.protocol.more and self.protocol.error is None:
            events += self.protocol.receive_data(b"")
        self.events += events
        return events

    def open(self, flags: int = WHOLE, body: bytes = b"", meta: bytes = META) -> StreamState:
        """Open a stream of our own."""
        stream = StreamState(0, 0, 0)
        self.protocol.open_stream(stream, flags, meta, body)
        return stream

    def violation(self) -> str:
        """Return what the peer did wrong; fail if it did nothing wrong."""
        assert self.protocol.error is not None
        return str(self.protocol.error)


def hello(**changes: Any) -> Frame:
    """Return a Hello that tells the default limits, but for `changes`."""
    content = {"rap": 1, **DEFAULT_LIMITS.to_hello(), **changes}
    return Frame(HELLO, 0, 0, b"", pack(content))


def open_frame(stream_id: int, flags: int = WHOLE, body: bytes = b"\x90") -> Frame:
    return Frame(OPEN, flags, stream_id, META, body)


def data(stream_id: int, body: bytes = b"", flags: int = MESSAGE) -> Frame:
    return Frame(DATA, flags, stream_id, b"", body)


def make(
    *, is_server: bool, limits: Limits = DEFAULT_LIMITS, told: Limits = DEFAULT_LIMITS
) -> Endpoint:
    """Return an endpoint that has had the peer's Hello, with nothing left to write."""
    endpoint = Endpoint(is_server=is_server, limits=limits)
    endpoint.receive(hello(**told.to_hello()))
    endpoint.events.clear()
    endpoint.take_bytes()
    return endpoint


def kinds(frames: Iterable[Frame]) -> list[int]:
    return [frame.kind for frame in frames]
