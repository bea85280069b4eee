"""A connection whose peer is a bare socket, so that a test can send or withhold any byte."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rap.errors import ConnectionClosed
from rap.transport import Connection, ConnectionOptions, Stream
from rap.wire.frames import HELLO, Frame, parse_frames
from tests.fake_clock import FakeClock
from tests.loopback import eventually, within
from tests.transport.pairs import DEFAULTS, LOG, Inbound
from tests.wire.endpoints import hello


class CountingConnection(Connection):
    """A connection that counts the bytes that it has read."""

    received = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.received += len(data)


class Facing:
    """A connection under a fake clock, and the socket at the other end."""

    def __init__(self, conn: CountingConnection, sock: socket.socket, clock: FakeClock) -> None:
        self.conn = conn
        self.sock = sock
        self.clock = clock
        self.inbound: list[Inbound] = []
        self.suspicions: list[bool] = []  # what the connection has told of its peer
        self._buffer = b""
        self._sent = 0
        self._loop = asyncio.get_running_loop()

    def take(self, stream: Stream, flags: int, meta: bytes, body: bytes | memoryview) -> None:
        """Take a stream that the peer opened."""
        self.inbound.append(Inbound(stream, flags, meta, bytes(body)))

    async def send(self, *frames: Frame) -> None:
        """Send frames, and return when the connection has read them."""
        await self.send_bytes(b"".join(frame.encode() for frame in frames))

    async def send_soon(self, *frames: Frame) -> None:
        """Send frames; return when the socket has taken them."""
        data = b"".join(frame.encode() for frame in frames)
        self._sent += len(data)
        await within(self._loop.sock_sendall(self.sock, data))

    async def send_bytes(self, data: bytes) -> None:
        """Send bytes, and return when the connection has read them."""
        self._sent += len(data)
        await within(self._loop.sock_sendall(self.sock, data))
        await self.wait_read()

    async def wait_read(self) -> None:
        """Wait until the connection has read everything that was sent, or has ended."""
        await eventually(self._has_read)

    def _has_read(self) -> bool:
        conn = self.conn
        return conn.closed or (conn.received >= self._sent and not conn.reading_paused)

    async def ended(self, why: str) -> None:
        """Check that the connection has ended, and why."""
        await within(asyncio.shield(self.conn.ended))
        assert why in str(self.conn.error)
        assert self.conn.closed

    async def run_loop(self) -> None:
        """Run the event loop for a few turns."""
        for _ in range(5):
            await asyncio.sleep(0)

    async def receive(self) -> Frame:
        """Return the next frame that the connection sends."""
        while not (frames := parse_frames(self._buffer)):
            data = await within(self._loop.sock_recv(self.sock, 1 << 16))
            if not data:
                raise EOFError
            self._buffer += data
        self._buffer = self._buffer[len(frames[0].encode()) :]
        return frames[0]

    async def receive_some(self) -> None:
        """Receive what has arrived, without looking at it."""
        self._buffer += await within(self._loop.sock_recv(self.sock, 1 << 16))

    async def receive_kind(self, kind: int) -> Frame:
        """Return the next frame of a kind; skip the frames before it."""
        while (frame := await self.receive()).kind != kind:
            pass
        return frame

    def advance(self, seconds: float) -> None:
        """Let time pass, and let the timer of the connection fire."""
        self.clock.advance(seconds)
        self.conn.watchdog.tick()


@asynccontextmanager
async def facing(
    options: ConnectionOptions = DEFAULTS,
    *,
    is_server: bool = True,
    handshake: bool = True,
    suspicious: bool = False,
    small_buffers: bool = False,
) -> AsyncIterator[Facing]:
    """Make a connection and the bare socket that it talks to.

    Args:
        options: Of the connection.
        is_server: Whether it is that of a server.
        handshake: Whether to return after both Hellos.
        suspicious: Whether the connection suspects a silent peer.
        small_buffers: Whether the kernel buffers little.
    """
    loop = asyncio.get_running_loop()
    clock = FakeClock()
    near, far = socket.socketpair()
    if small_buffers:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    near.setblocking(False)
    far.setblocking(False)
    conn = CountingConnection(
        options,
        clock=clock,
        log=LOG,
        new_stream=Stream if is_server else None,
        stream_handler=lambda conn: side.take,
        on_suspect=(lambda conn: side.suspicions.append(conn.suspect)) if suspicious else None,
    )
    side = Facing(conn, near, clock)
    try:
        await loop.connect_accepted_socket(lambda: conn, far)
        if handshake:
            assert (await side.receive()).kind == HELLO
            await side.send(hello())
            await within(conn.wait_handshake())
        yield side
    finally:
        conn.abort(ConnectionClosed("the test is over"))
        await within(asyncio.shield(conn.ended))
        near.close()
