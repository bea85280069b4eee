"""A peer that writes what it likes to a server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple, cast

from rap.wire.codec import pack
from rap.wire.frames import END, MESSAGE, OPEN, RESET, UNSERVED, Frame, parse_frames
from rap.wire.frames import HELLO as HELLO_KIND
from rap.wire.hello import DEFAULT_LIMITS, hello_frame
from rap.wire.protocol import WireProtocol
from rap.wire.stream import State, StreamState

__all__ = ["HELLO", "Flood", "Raw", "flooding", "opening", "speaking"]

_PATIENCE = 20.0  # seconds
_PIECE = 256 * 1024  # bytes that are written at once
HELLO = hello_frame({"rap": 1, **DEFAULT_LIMITS.to_hello(), "random": b"r" * 16})


class Raw(NamedTuple):
    """Both directions of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def closed(self) -> bytes:
        """Return what still comes until the server closes."""
        data = b""
        async with asyncio.timeout(_PATIENCE):
            try:
                while part := await self.reader.read(65536):
                    data += part
            except ConnectionError:
                pass
        return data

    async def resets(self, count: int) -> list[Frame]:
        """Return the first so many Resets."""
        data = b""
        async with asyncio.timeout(_PATIENCE):
            while True:
                found = [frame for frame in parse_frames(data) if frame.kind == RESET]
                if len(found) >= count:
                    return found
                part = await self.reader.read(65536)
                if not part:
                    raise ConnectionError("the server closed the connection")
                data += part


@asynccontextmanager
async def speaking(port: int, first: bytes = HELLO) -> AsyncIterator[Raw]:
    """Connect and say something first."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(first)
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


class Flood(asyncio.Protocol):
    """A peer that keeps to the credit and to the order of frames, and to no other limit.

    Attributes:
        protocol: What it says and hears.
        resets: Number of calls that the server has reset.
        unserved: Number of those that it had not begun.
        lost: Done when the server has closed the connection.
    """

    def __init__(self) -> None:
        self.protocol: WireProtocol[StreamState] = WireProtocol(
            is_server=False, new_stream=StreamState
        )
        self.resets = 0
        self.unserved = 0
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._goal = 0  # bytes of messages that are kept back
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say Hello."""
        self._transport = cast(asyncio.Transport, transport)
        self._write()

    def data_received(self, data: bytes) -> None:
        """Take credit, and go on."""
        events = self.protocol.receive_data(data)
        while self.protocol.more:
            events += self.protocol.receive_data(b"")
        for event in events:
            if event[0] == HELLO_KIND:  # otherwise its messages would take turns
                told = self.protocol.peer
                self.protocol.set_peer(told.replace(max_unfinished=1 << 50))
            if event[0] == RESET:
                self.resets += 1
                self.unserved += bool(event[2] & UNSERVED)
        self._write()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note it."""
        if not self.lost.done():
            self.lost.set_result(None)

    def call(self, method: str, body: bytes, **header: object) -> None:
        """Open a unary call."""
        meta = pack([f"/default/{method}", 0, {f":{name}": each for name, each in header.items()}])
        self.protocol.open_stream(StreamState(0, 0, 0), MESSAGE | END, meta, body)

    def channel(
        self, method: str, *messages: bytes, header: dict[str, object] | None = None
    ) -> None:
        """Open a channel, and send messages."""
        stream = StreamState(0, 0, 0)
        meta = pack([f"/default/{method}", 0, header or {}])
        self.protocol.open_stream(stream, 0, meta, b"")
        for message in messages:
            self.protocol.send_data(stream, MESSAGE, b"", message)

    def pause_reading(self) -> None:
        """Read nothing more."""
        assert self._transport is not None
        self._transport.pause_reading()

    def send(self, *, keep: int = 0) -> None:
        """Send what was opened, as credit comes, but for `keep` bytes."""
        self._goal = keep
        self._write()

    async def sent(self) -> None:
        """Return when that was sent, or the server has closed the connection."""
        async with asyncio.timeout(_PATIENCE):
            while (  # noqa: ASYNC110  # of anything, not only of what sets events
                not self.lost.done() and self.protocol.write_buffer.size > self._goal
            ):
                await asyncio.sleep(0.01)

    async def ready(self) -> None:
        """Return when the server has said Hello, or has closed the connection."""
        while (  # noqa: ASYNC110
            self.protocol.state is State.OPENING and not self.lost.done()
        ):
            await asyncio.sleep(0.01)

    def abort(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _write(self) -> None:
        protocol, transport = self.protocol, self._transport
        if transport is None or transport.is_closing():
            return
        while protocol.write_buffer.size > self._goal:
            before = protocol.write_buffer.size
            protocol.send_pending(_PIECE)
            if protocol.write_buffer.size == before:
                break
        transport.write(b"".join(protocol.out))
        protocol.clear_output()


@asynccontextmanager
async def flooding(port: int) -> AsyncIterator[Flood]:
    """Connect a `Flood`, and wait for the server's Hello."""
    loop = asyncio.get_running_loop()
    _, flood = await loop.create_connection(Flood, "127.0.0.1", port)
    try:
        async with asyncio.timeout(_PATIENCE):
            await flood.ready()
        yield flood
    finally:
        flood.abort()


def opening(stream: int, body: bytes, method: str = "echo") -> bytes:
    """Return the Open of a unary call."""
    meta = pack([f"/default/{method}", 0])
    return Frame(OPEN, MESSAGE | END, stream, meta, body).encode()
