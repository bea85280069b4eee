"""How generator and channel handlers are served: items out in batches, messages both ways."""

import asyncio
import functools
import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING, Any

from rap.call import Request
from rap.channel import Channel
from rap.errors import Code
from rap.schema.function import decode_any
from rap.server.inbound_call import ServerStream
from rap.server.threads import Threads
from rap.wire.codec import batch_header
from rap.wire.frames import BATCH, END, MESSAGE
from rap.wire.stream import CLOSED

if TYPE_CHECKING:
    from rap.server.dispatch import Dispatcher

__all__ = ["serve_channel", "serve_stream"]

_BATCH_ITEMS = 64
_BATCH_BYTES = 32 * 1024  # from which on a batch is full
_LARGE_ITEM = 8 * 1024  # bytes from which an item travels alone
# Items, or bytes, after which a generator that never waits lets others run.
_TURN_ITEMS = 256
_TURN_BYTES = 64 * 1024
_PULL_SECONDS = 0.01  # a plain generator gives what it has after this long


class _Batch:
    """Items on their way out: sent when 64 or 32 KiB are there, or the loop's turn ends."""

    def __init__(self, stream: ServerStream) -> None:
        self.parts: list[bytes] = []
        self._stream = stream
        self._scheduled = False
        self._items = self._bytes = 0  # sent since others ran
        self._call_soon = asyncio.get_running_loop().call_soon

    def schedule(self) -> None:
        """Send the batch when the loop's turn ends."""
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._at_turn_end)

    def send(self, flags: int = MESSAGE | BATCH) -> None:
        """Send what is there."""
        parts = self.parts
        body = batch_header(len(parts)) + b"".join(parts)
        self._items += len(parts)
        self._bytes += len(body)
        parts.clear()
        self._stream.conn.protocol.send_data(self._stream, flags, b"", body)

    async def send_full(self) -> None:
        """Send a full batch; wait while the client does not read."""
        self.send()
        stream = self._stream
        if stream.outbox is not None or stream.conn.paused:
            self._items = self._bytes = 0
            await stream.writable()
        elif self._items >= _TURN_ITEMS or self._bytes >= _TURN_BYTES:
            self._items = self._bytes = 0
            await asyncio.sleep(0)

    def finish(self) -> None:
        """Send the rest and the end."""
        if self.parts:
            self.send(MESSAGE | BATCH | END)
        else:
            self._stream.end()

    def _at_turn_end(self) -> None:
        self._scheduled = False
        if self.parts:
            self.send()
        self._items = self._bytes = 0


async def serve_stream(dispatcher: "Dispatcher", stream: ServerStream) -> None:
    """Run a generator function and send what it yields."""
    handler = stream.handler
    args, kwargs = await dispatcher.arguments(stream)
    stream.began = True
    result = handler.func(*args, **(kwargs or {}))
    if inspect.iscoroutine(result):  # asyncio takes generators for coroutines on 3.11
        result = await result
    if not hasattr(result, "__aiter__"):
        result = _iterate(iter(result), None if handler.inline else dispatcher.threads)
    closing = aclosing(result) if hasattr(result, "aclose") else nullcontext(result)
    async with closing as items:
        if dispatcher.pipeline.transforms:
            await _send_each(dispatcher, stream, items)
        else:
            await _send_batches(stream, items, handler.function.encode_item)


async def _send_batches(
    stream: ServerStream, items: AsyncIterator[Any], encode: Callable[[Any], bytes]
) -> None:
    batch = _Batch(stream)
    parts = batch.parts
    room = stream.conn.protocol.peer.max_message // _LARGE_ITEM - 1
    most = max(1, min(_BATCH_ITEMS, room))
    size = 0
    try:
        async for item in items:
            data = encode(item)  # at once: the generator may change the item later
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
            batch.send()  # what was yielded before the error arrives
        if stream.outbox is not None:
            await stream.writable()
        raise
    except asyncio.CancelledError:
        parts.clear()
        raise
    batch.finish()


async def _send_each(
    dispatcher: "Dispatcher", stream: ServerStream, items: AsyncIterator[Any]
) -> None:
    call = stream.as_call()
    function = stream.handler.function
    async for item in items:
        function.encode_item(item)  # the check of the declared type
        meta, body = await dispatcher.outbound(call, item)
        await stream.send(body, meta)
    stream.end(dispatcher.pipeline.send_end(call))


async def _iterate(source: Iterator[Any], threads: Threads | None) -> AsyncIterator[Any]:
    """Yield what a plain iterator gives, running it in a thread unless `threads` is `None`."""
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
    """Close an iterator that has nothing to close."""


async def serve_channel(dispatcher: "Dispatcher", stream: ServerStream) -> None:
    """Run a channel function; when it returns, the call is over."""
    call = stream.as_call()
    if dispatcher.pipeline.transforms:
        opening = decode_any(stream.body) if stream.body else None
        await dispatcher.pipeline.request(Request(call, opening, call.header))
    channel = Channel(stream, call, dispatcher.pipeline)
    stream.began = True
    await stream.handler.func(channel)
    stream.end(dispatcher.pipeline.send_end(call))
    if stream.outbox is not None:
        await stream.writable()
    if stream.state != CLOSED:
        stream.discard = True
        stream.conn.reset(stream, Code.OK)  # nobody reads what the client may still send
