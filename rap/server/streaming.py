"""How generator and channel handlers run: items leave in batches, messages go both ways."""

import asyncio
import functools
import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, nullcontext
from typing import Any

from rap.channel import Channel
from rap.processor.base import Pipeline
from rap.server.dispatch import ServerStream, encode_response
from rap.server.threads import Threads
from rap.wire.codec import batch_header
from rap.wire.frames import BATCH, END, MESSAGE

__all__ = ["Streaming"]

_BATCH_ITEMS = 64
_BATCH_BYTES = 32 * 1024  # at which a batch is full
_LARGE_ITEM = 8 * 1024  # bytes at which an item is sent alone
# Items or bytes after which a generator that never waits lets other tasks run.
_TURN_ITEMS = 256
_TURN_BYTES = 64 * 1024
_PULL_SECONDS = 0.01  # a plain generator's items are passed on after this time at the latest


class Streaming:
    """Serves the calls of generator and channel functions.

    Args:
        pipeline: Processors of the server.
        threads: Where plain generators run.
    """

    def __init__(self, pipeline: Pipeline, threads: Threads) -> None:
        self._pipeline = pipeline
        self._threads = threads

    async def serve_stream(self, stream: ServerStream) -> None:
        """Run a generator function and send its items."""
        handler = stream.handler
        args, kwargs = await stream.begin(self._pipeline)
        result = handler.func(*args, **(kwargs or {}))
        if inspect.iscoroutine(result):  # asyncio takes generators for coroutines on 3.11
            result = await result
        if not hasattr(result, "__aiter__"):
            result = _iterate(iter(result), None if handler.inline else self._threads)
        closing = aclosing(result) if hasattr(result, "aclose") else nullcontext(result)
        async with closing as items:
            if self._pipeline.transforms:
                await self._send_each(stream, items)
            else:
                await _send_batches(stream, items, handler.function.encode_item)

    async def serve_channel(self, stream: ServerStream) -> None:
        """Run a channel function; the call ends when it returns."""
        await stream.begin_channel(self._pipeline)
        call = stream.as_call()
        await stream.handler.func(Channel(stream, call, self._pipeline))
        stream.end(self._pipeline.send_end(call))
        if stream.outbox is not None:
            await stream.writable()
        stream.stop_reading()

    async def _send_each(self, stream: ServerStream, items: AsyncIterator[Any]) -> None:
        """Send items one by one, because each passes the processors."""
        call = stream.as_call()
        pipeline = self._pipeline
        function = stream.handler.function
        async for item in items:
            function.encode_item(item)  # checks the declared type
            meta, body = await encode_response(pipeline, call, item)
            await stream.send(body, meta)
        stream.end(pipeline.send_end(call))


async def _send_batches(
    stream: ServerStream, items: AsyncIterator[Any], encode: Callable[[Any], bytes]
) -> None:
    batch = _Batch(stream)
    parts = batch.parts
    room = stream.conn.peer_limits.max_message // _LARGE_ITEM - 1
    most = max(1, min(_BATCH_ITEMS, room))
    size = 0
    try:
        async for item in items:
            data = encode(item)  # at once, because the generator may change the item later
            large = len(data) >= _LARGE_ITEM
            if large and parts:
                batch.send()
            if not parts:
                batch.schedule()
                size = 0
            parts.append(data)
            size += len(data)
            if large or size >= _BATCH_BYTES or len(parts) >= most:
                await batch.send_full()
    except Exception:
        if parts:
            batch.send()  # items yielded before the error still arrive
        if stream.outbox is not None:
            await stream.writable()
        raise
    except asyncio.CancelledError:
        parts.clear()
        raise
    batch.finish()


class _Batch:
    """Items waiting to be sent: until there are 64, or 32 KiB, or the loop's iteration ends."""

    def __init__(self, stream: ServerStream) -> None:
        self.parts: list[bytes] = []
        self._stream = stream
        self._scheduled = False
        self._items = self._bytes = 0  # sent since other tasks last ran
        self._call_soon = asyncio.get_running_loop().call_soon

    def schedule(self) -> None:
        """Send the batch when the loop's iteration ends."""
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._at_turn_end)

    def send(self, flags: int = MESSAGE | BATCH) -> None:
        """Send the items now."""
        parts = self.parts
        body = batch_header(len(parts)) + b"".join(parts)
        self._items += len(parts)
        self._bytes += len(body)
        parts.clear()
        self._stream.conn.send_data(self._stream, flags, b"", body)

    async def send_full(self) -> None:
        """Send a full batch; wait while the client is not reading."""
        self.send()
        stream = self._stream
        if stream.outbox is not None or stream.conn.paused:
            self._items = self._bytes = 0
            await stream.writable()
        elif self._items >= _TURN_ITEMS or self._bytes >= _TURN_BYTES:
            self._items = self._bytes = 0
            await asyncio.sleep(0)

    def finish(self) -> None:
        """Send the remaining items and the end of the stream."""
        if self.parts:
            self.send(MESSAGE | BATCH | END)
        else:
            self._stream.end()

    def _at_turn_end(self) -> None:
        self._scheduled = False
        if self.parts:
            self.send()
        self._items = self._bytes = 0


async def _iterate(source: Iterator[Any], threads: Threads | None) -> AsyncGenerator[Any, None]:
    """Yield the items of a plain iterator, which runs in a thread unless `threads` is `None`."""
    close: Callable[[], None] = getattr(source, "close", _nothing)
    ended = False
    try:
        while not ended:
            if threads is None:
                items, error, ended = _pull(source)
            else:
                pull = functools.partial(_pull, source)
                try:
                    items, error, ended = await threads.run(pull, abandoned=close)
                except asyncio.CancelledError:
                    ended = True
                    raise
            for item in items:
                yield item
            if error is not None:
                raise error
    finally:
        if not ended:
            if threads is None:
                close()
            else:
                await threads.run(close)


def _pull(source: Iterator[Any]) -> tuple[list[Any], Exception | None, bool]:
    """Return the next items, the error that ended the iterator, and whether it has ended."""
    items: list[Any] = []
    stop = time.monotonic() + _PULL_SECONDS
    try:
        for item in source:
            items.append(item)
            if len(items) >= _BATCH_ITEMS or time.monotonic() >= stop:
                return items, None, False
    except Exception as exc:
        return items, exc, True
    return items, None, True


def _nothing() -> None:
    """Stand in for `close` of an iterator that has none."""
