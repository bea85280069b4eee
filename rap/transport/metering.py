"""How many bytes go over connections, for who wants to know: others do not pay for it."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from rap.transport.connection import Connection, writelines_of

__all__ = ["CountedConnection", "Traffic"]


class Traffic:
    """Bytes of the connections that share it, inside of TLS.

    Attributes:
        received: From peers.
        sent: To peers, as handed to the transport.
    """

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0


class CountedConnection(Connection):
    """A connection that counts its bytes, a chunk at a time.

    Args:
        traffic: Where it counts.
        arguments: As of `Connection`.
        options: As of `Connection`.
    """

    __slots__ = ("_traffic",)

    def __init__(self, traffic: Traffic, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._traffic = traffic

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport, to write through a counter."""
        counted = _CountedTransport(cast(asyncio.Transport, transport), self._traffic)
        super().connection_made(cast(asyncio.Transport, counted))

    def data_received(self, data: bytes) -> None:
        """Count a chunk, and decode it."""
        self._traffic.received += len(data)
        super().data_received(data)


class _CountedTransport:
    """Stands before a transport; all but writing is done by that."""

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
