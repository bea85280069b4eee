"""One function of each stream type that does the same, and one way to call them all.

Each function doubles numbers. It waits for ever at 0, and raises `ValueError` at a negative number.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any, NamedTuple

from rap.channel import Channel
from rap.client import Client, SyncClient
from rap.server import context

__all__ = ["KINDS", "Log", "Outcome", "Source", "call", "functions", "plain_functions", "sync_call"]

KINDS = ["unary", "generator", "client_streaming", "bidirectional", "channel"]


class Outcome(NamedTuple):
    """The result of a call, and what came with it."""

    numbers: list[int]
    header: dict[str, Any]
    trailer: dict[str, Any]


class Log:
    """Records what the handlers of a test did."""

    def __init__(self) -> None:
        self.sessions: list[str | None] = []
        self.waits = asyncio.Event()
        self.ended = asyncio.Event()

    def begin(self) -> None:
        """Note the session of a call, and set header and trailer of its answer."""
        self.sessions.append(context.session.id if context.session else None)
        context.set_header("color", "blue")
        context.set_trailer("cost", 3)

    async def double(self, number: int) -> int:
        """Return twice the number; see the module for 0 and negative numbers."""
        if number < 0:
            raise ValueError("a negative number")
        if number == 0:
            self.waits.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.ended.set()
        return 2 * number


class Source:
    """Yields some numbers, and tells that it was closed."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = numbers
        self.closed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[int]:
        try:
            for number in self._numbers:
                yield number
        finally:
            self.closed.set()


def functions(log: Log) -> list[Callable[..., Any]]:
    """Return the functions as ``async def``."""

    async def unary(numbers: list[int]) -> list[int]:
        log.begin()
        return [await log.double(number) for number in numbers]

    async def generator(numbers: list[int]) -> AsyncIterator[int]:
        log.begin()
        for number in numbers:
            yield await log.double(number)

    async def client_streaming(numbers: AsyncIterator[int]) -> list[int]:
        log.begin()
        return [await log.double(number) async for number in numbers]

    async def bidirectional(numbers: AsyncIterator[int]) -> AsyncIterator[int]:
        log.begin()
        async for number in numbers:
            yield await log.double(number)

    async def channel(channel: Channel[int, int]) -> None:
        log.begin()
        async for number in channel:
            await channel.write(await log.double(number))

    return [unary, generator, client_streaming, bidirectional, channel]


def plain_functions() -> list[Callable[..., Any]]:
    """Return the functions as ``def``, except that of the channel."""

    def unary(numbers: list[int]) -> list[int]:
        return [2 * number for number in numbers]

    def generator(numbers: list[int]) -> Iterator[int]:
        for number in numbers:
            yield 2 * number

    def client_streaming(numbers: Iterator[int]) -> list[int]:
        return [2 * number for number in numbers]

    def bidirectional(numbers: Iterator[int]) -> Iterator[int]:
        for number in numbers:
            yield 2 * number

    return [unary, generator, client_streaming, bidirectional]


async def call(client: Client, kind: str, numbers: Any, **options: Any) -> Outcome:
    """Call the function of a stream type.

    Args:
        client: Makes the call.
        kind: The stream type, which is the name of the function.
        numbers: What to double; a `Source` if the function takes one.
        options: Options of the call.
    """
    if kind == "channel":
        async with client.channel(kind, **options) as channel:
            async for number in _each(numbers):
                await channel.write(number)
            await channel.end()
            found = [number async for number in channel]
            await channel.result()
        return Outcome(found, channel.header, channel.trailer)
    started = client.register(_declared(kind)).start(numbers, **options)
    if kind in {"generator", "bidirectional"}:
        found = [number async for number in started]
    else:
        found = await started
    return Outcome(found, started.header, started.trailer)


def sync_call(client: SyncClient, kind: str, numbers: list[int], **options: Any) -> Outcome:
    """Call the function of a stream type, without asyncio."""
    if kind == "channel":
        with client.channel(kind, **options) as channel:
            for number in numbers:
                channel.write(number)
            channel.end()
            found = list(channel)
            channel.result()
        return Outcome(found, channel.header, channel.trailer)
    stub: Any = client.register(_declared(kind))
    given = iter(numbers) if kind in {"client_streaming", "bidirectional"} else numbers
    started = stub.start(given, **options)
    found = list(started) if kind in {"generator", "bidirectional"} else started.result()
    return Outcome(found, started.header, started.trailer)


async def _each(numbers: Any) -> AsyncIterator[int]:
    if isinstance(numbers, AsyncIterable):
        async for number in numbers:
            yield number
    else:
        for number in numbers:
            yield number


def _declared(kind: str) -> Any:
    return next(each for each in functions(Log()) if each.__name__ == kind)
