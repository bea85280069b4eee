"""The service of the interop cases, and the ways in which a client reaches it."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

from rap.channel import Channel
from rap.client.processor import CompressProcessor
from rap.errors import CallError, Code
from rap.processor.base import BaseProcessor
from rap.server import context
from tests.processor.encrypted import KEY, KEY_ID, ClientCrypto, ServerCrypto

__all__ = ["GROUP", "Items", "Log", "Order", "Service", "Status", "processors"]

GROUP = "Service"
Items = AsyncIterable[Any] | Iterable[Any]


@dataclass
class Status:
    """The status that the server shall end a call with."""

    code: int
    message: str


@dataclass
class Order:
    """One request: the sizes of the payloads that it asks for, or the status."""

    sizes: list[int] = field(default_factory=list)
    payload: bytes = b""
    status: Status | None = None


class Log:
    """Records what the handlers of a test did."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.ended = asyncio.Event()
        self.error: BaseException | None = None
        self.running = 0


def _echo_metadata() -> None:
    header = context.call.header
    if "x-initial" in header:
        context.set_header("x-initial", header["x-initial"])
    if "x-trailing" in header:
        context.set_trailer("x-trailing", header["x-trailing"])


def _check(order: Order) -> None:
    if order.status is not None:
        raise CallError(order.status.message, code=Code(order.status.code))


class Service:
    """The functions that the cases call.

    Args:
        log: Records what the handlers do.
    """

    def __init__(self, log: Log) -> None:
        self._log = log

    async def empty(self) -> None:
        """Do nothing."""

    async def unary(self, order: Order) -> bytes:
        """Return a payload of the first size that is ordered."""
        _echo_metadata()
        _check(order)
        return bytes(order.sizes[0]) if order.sizes else b""

    async def collect(self, payloads: AsyncIterator[bytes]) -> int:
        """Return the size of all payloads together."""
        _echo_metadata()
        async with self._noted():
            return sum([len(payload) async for payload in payloads])

    async def produce(self, order: Order) -> AsyncIterator[bytes]:
        """Yield the payloads that are ordered."""
        _echo_metadata()
        async with self._noted():
            for size in order.sizes:
                yield bytes(size)
            _check(order)

    async def converse(self, orders: AsyncIterator[Order]) -> AsyncIterator[bytes]:
        """Yield the payloads of each order as it comes."""
        _echo_metadata()
        async with self._noted():
            async for order in orders:
                _check(order)
                for size in order.sizes:
                    yield bytes(size)

    async def converse_later(self, orders: AsyncIterator[Order]) -> AsyncIterator[bytes]:
        """Yield the payloads of all orders when the last of them has come."""
        for order in [order async for order in orders]:
            for size in order.sizes:
                yield bytes(size)

    async def talk(self, channel: Channel[Order, bytes]) -> int:
        """Write the payloads of each order as it comes; return how many there were."""
        _echo_metadata()
        count = 0
        async with self._noted():
            async for order in channel:
                _check(order)
                for size in order.sizes:
                    await channel.write(bytes(size))
                    count += 1
        return count

    async def sleep(self) -> None:
        """Return never."""
        async with self._noted():
            await asyncio.Event().wait()

    def _noted(self) -> "_Noted":
        return _Noted(self._log)


class _Noted:
    """Notes in a log that a handler runs, and how it ended."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def __aenter__(self) -> None:
        self._log.running += 1
        self._log.began.set()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._log.running -= 1
        self._log.error = error
        self._log.ended.set()


def processors(side: str) -> list[BaseProcessor]:
    """Return processors that compress and encrypt, of a server or a client."""
    if side == "server":
        return [CompressProcessor(), ServerCrypto({KEY_ID: KEY})]
    return [CompressProcessor(), ClientCrypto(KEY_ID, KEY)]
