"""A peer that writes what it likes to a server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from rap.wire.codec import pack
from rap.wire.frames import END, MESSAGE, OPEN, RESET, Frame, parse_frames
from rap.wire.hello import DEFAULT_LIMITS, hello_frame

__all__ = ["HELLO", "Raw", "opening", "speaking"]

_PATIENCE = 20.0  # seconds
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


def opening(stream: int, body: bytes, method: str = "echo") -> bytes:
    """Return the Open of a unary call."""
    meta = pack([f"/default/{method}", 0])
    return Frame(OPEN, MESSAGE | END, stream, meta, body).encode()
