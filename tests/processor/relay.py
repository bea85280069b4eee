"""Somebody on the way between a client and a server: reads, keeps, changes and repeats frames."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

from rap.wire.frames import HEADER_SIZE, Frame, parse_frames

__all__ = ["Edit", "Relay", "relaying", "unchanged"]

# What goes on instead of a frame: frames, or bytes as they are.
Edit = Callable[[Frame], list[Frame | bytes]]


def unchanged(frame: Frame) -> list[Frame | bytes]:
    return [frame]


class Relay:
    """Stands between clients and one server.

    Args:
        port: Of the server, on loopback.
        to_server: What becomes of each frame of a client.
        to_client: What becomes of each frame of the server.

    Attributes:
        address: Where clients connect.
        sent: Bytes of all clients, as they came.
        answered: Bytes of the server.
    """

    def __init__(self, port: int, to_server: Edit, to_client: Edit) -> None:
        self.to_server = to_server
        self.to_client = to_client
        self.sent = b""
        self.answered = b""
        self.onward: list[asyncio.Transport] = []  # to the server, one a connection
        self._port = port
        self._halves: list[_Half] = []
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def frames(self) -> list[Frame]:
        """What clients have sent."""
        return parse_frames(self.sent)

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, "127.0.0.1", 0)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for half in self._halves:
            if half.joining is not None:
                await asyncio.wait([half.joining])
        for half in self._halves:
            half.transport.abort()
        await asyncio.gather(*(half.lost for half in self._halves))

    def pass_on(self, half: "_Half", frame: Frame) -> None:
        """Write what becomes of a frame to the other side."""
        if half.is_client:
            self.sent += frame.encode()
        else:
            self.answered += frame.encode()
        assert half.other is not None
        for new in (self.to_server if half.is_client else self.to_client)(frame):
            half.other.transport.write(new if isinstance(new, bytes) else new.encode())

    async def join(self, client: "_Half") -> None:
        """Connect a client's half to the server."""
        loop = asyncio.get_running_loop()
        server = _Half(self, is_client=False)
        self._halves.append(server)
        await loop.create_connection(lambda: server, "127.0.0.1", self._port)
        self.onward.append(server.transport)
        client.other, server.other = server, client
        for half in (client, server):  # what came before they knew each other
            half.data_received(b"")

    def _accept(self) -> "_Half":
        half = _Half(self, is_client=True)
        self._halves.append(half)
        return half


class _Half(asyncio.Protocol):
    """One connection of a relay, of a client or to the server."""

    transport: asyncio.Transport

    def __init__(self, relay: Relay, *, is_client: bool) -> None:
        self.is_client = is_client
        self.other: _Half | None = None
        self.joining: asyncio.Task[None] | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._relay = relay
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.is_client:
            self.joining = asyncio.create_task(self._relay.join(self))

    def data_received(self, data: bytes) -> None:
        self._rest += data
        if self.other is None:
            return
        for frame in parse_frames(self._rest):
            self._rest = self._rest[HEADER_SIZE + len(frame.meta) + len(frame.body) :]
            self._relay.pass_on(self, frame)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        if self.other is not None:
            self.other.transport.close()


@asynccontextmanager
async def relaying(
    port: int, *, to_server: Edit = unchanged, to_client: Edit = unchanged
) -> AsyncIterator[Relay]:
    """Stand before a server."""
    relay = Relay(port, to_server, to_client)
    await relay.start()
    try:
        yield relay
    finally:
        await relay.close()
