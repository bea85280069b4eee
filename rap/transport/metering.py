"""Count the bytes of connections.

Only connections that are made with a `Traffic` pay for it.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from rap.transport.connection import Connection, writelines_of

__all__ = ["CountedConnection", "Traffic"]


class Traffic:
    """Bytes of the connections that share it, before encryption by TLS.

    Attributes:
        received: Bytes from peers.
        sent: Bytes to peers, counted when they are handed to the transport.
    """

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0


class CountedConnection(Connection):
    """A connection that counts its bytes, chunk by chunk.

    Args:
        traffic: Where the bytes are counted.
        arguments: See `Connection`.
        options: See `Connection`.
    """

    __slots__ = ("_traffic",)

    def __init__(self, traffic: Traffic, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._traffic = traffic

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport, and count what is written to it."""
        counted = _CountedTransport(cast(asyncio.Transport, transport), self._traffic)
        super().connection_made(cast(asyncio.Transport, counted))

    def data_received(self, data: bytes) -> None:
        """Count a chunk and decode it."""
        self._traffic.received += len(data)
        super().data_received(data)


class _CountedTransport:
    """A transport that counts what is written, and delegates to another one."""

    def __init__(self, transport: asyncio.Transport, traffic: Traffic) -> None:
        self._transport = transport
        self._write = transport.write
        self._writelines = writelines_of(transport)
        self._traffic = traffic

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._traffic.sent += len(data)
        self._write(data)

    def writelines(self, pieces: Sequence[bytes | memoryview]) -> None:
        self._traffic.sent += sum(map(len, pieces))
        self._writelines(pieces)
