"""How the handlers of calls with several messages run."""

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
from rap.transport.batching import BATCH_ITEMS, send_items

__all__ = ["Streaming"]

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
                await send_items(stream, items, handler.function.encode_item)

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


def _pull(source: Iterator[Any]) -> tuple[list[Any], BaseException | None, bool]:
    """Return the next items, the error that ended the iterator, and whether it has ended."""
    items: list[Any] = []
    stop = time.monotonic() + _PULL_SECONDS
    try:
        for item in source:
            items.append(item)
            if len(items) >= BATCH_ITEMS or time.monotonic() >= stop:
                return items, None, False
    except BaseException as exc:  # the items before it are sent first
        return items, exc, True
    return items, None, True


def _nothing() -> None:
    """Stand in for `close` of an iterator that has none."""
