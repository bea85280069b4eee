"""How the handlers of calls with several messages run."""

import asyncio
import functools
import inspect
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import aclosing, nullcontext
from typing import Any, Self, TypeVar

from rap.call import RESULT, Encoded, Response, StreamType
from rap.channel import Channel
from rap.errors import Cancelled, ChannelClosed, InvalidArgument
from rap.processor.base import Pipeline, encode_body
from rap.schema.function import split_items
from rap.server.dispatch import CallArguments, ServerStream, encode_response
from rap.server.threads import OneThread, Threads
from rap.transport import EndOfStream
from rap.transport.batching import BATCH_ITEMS, ItemSender, pull_items
from rap.wire.codec import pack, unpack_map
from rap.wire.frames import BATCH, END, MESSAGE
from rap.wire.stream import LOCAL_DONE

__all__ = ["RequestStream", "Streaming"]

T = TypeVar("T")

# Seconds after which a thread that waits for the event loop looks whether that is still there.
_LOOK = 1.0


class Streaming:
    """Serves the calls of functions that are not unary.

    Args:
        pipeline: Processors of the server.
        threads: Where plain generators and the other ``def`` functions run.
    """

    def __init__(self, pipeline: Pipeline, threads: Threads) -> None:
        self._pipeline = pipeline
        self._threads = threads
        self._serve = {
            StreamType.STREAM: self._serve_stream,
            StreamType.CLIENT_STREAM: self._serve_client_stream,
            StreamType.BIDI: self._serve_stream,
            StreamType.CHANNEL: self._serve_channel,
        }

    def serve(self, stream: ServerStream) -> Coroutine[Any, Any, None]:
        """Run the function of a call, and send what it returns."""
        return self._serve[stream.handler.stream_type](stream)

    def with_requests(self, stream: ServerStream, arguments: CallArguments) -> CallArguments:
        """Return the arguments of a function together with its request stream."""
        function = stream.handler.function
        requests = RequestStream(stream, self._pipeline, self._threads)
        given = requests if function.is_async else _PlainRequests(requests)
        return function.join_arguments(*arguments, given)

    async def _serve_client_stream(self, stream: ServerStream) -> None:
        """Run a function with a request stream and send its result; the call ends then."""
        function = stream.handler.function
        arguments = await stream.begin(self._pipeline, self._threads)
        args, kwargs = self.with_requests(stream, arguments)
        if function.is_async:
            result = await stream.handler.func(*args, **(kwargs or {}))
        else:
            result = await self._threads.run(stream.handler.func, args, kwargs)
        body = function.encode_result(result)
        meta, body = await encode_response(stream, self._pipeline, body)
        stream.conn.send_data(stream, MESSAGE | END, meta, body)
        await stream.finish()

    async def _serve_stream(self, stream: ServerStream) -> None:
        """Run a generator function, with or without a request stream, and send its items."""
        handler = stream.handler
        args, kwargs = await stream.begin(self._pipeline, self._threads)
        if handler.reads_stream:
            args, kwargs = self.with_requests(stream, (args, kwargs))
        # A generator that waits for a request must not hold back an item.
        most = 1 if handler.reads_stream else BATCH_ITEMS
        make = functools.partial(handler.func, *args, **(kwargs or {}))
        result: Any
        if handler.function.is_async or handler.inline:
            result = make()
            if inspect.iscoroutine(result):  # asyncio takes generators for coroutines on 3.11
                result = await result
            if not hasattr(result, "__aiter__"):
                plain = _PlainItems(functools.partial(iter, result), most)
                result = _iterate(plain, None if handler.inline else self._threads.one(stream.conn))
        else:
            result = _iterate(_PlainItems(make, most), self._threads.one(stream.conn))
        closing = aclosing(result) if hasattr(result, "aclose") else nullcontext(result)
        async with closing as items:
            if self._pipeline.transforms:
                await self._send_each(stream, items)
            else:
                sender = ItemSender(stream, handler.function.encode_item)
                await sender.send(items, stream.header_meta, stream.last_header_meta)
        if handler.reads_stream:
            await stream.finish()

    async def _serve_channel(self, stream: ServerStream) -> None:
        """Run a channel function and send its result; the call ends when it returns."""
        handler, pipeline = stream.handler, self._pipeline
        function = handler.function
        arguments = await stream.begin_channel(pipeline, self._threads)
        apart = functools.partial(self._threads.decode, stream.conn)
        call = stream.as_call()
        channel = Channel[Any, Any](stream, call, pipeline, function, stream, decode_apart=apart)
        args, kwargs = function.join_arguments(*arguments, channel)
        stream.watch_done(channel.on_peer_done)
        result: Any = None
        try:
            result = await handler.func(*args, **(kwargs or {}))
        except (ChannelClosed, BaseExceptionGroup) as exc:
            if not channel.ended_by(exc):
                raise
        else:
            if stream.conn.peer_has("outcome"):
                await self._send_result(stream, result)
        finally:
            stream.watch_done(None)  # leave no reference cycle
            channel.release()
        if not stream.state & LOCAL_DONE:
            stream.end(*stream.end_response(pipeline))
        await stream.finish()

    async def _send_result(self, stream: ServerStream, result: Any) -> None:
        """Send the value of a channel function, unless it is `None`."""
        body = stream.handler.function.encode_result(result)
        if result is None:
            return
        header = {**stream.begin_response(), RESULT: True}
        if self._pipeline.transforms:
            response = await self._pipeline.pass_response(stream.as_call(), body, header)
            header, body = response.header, encode_body(response)
        await stream.send(body, pack(header))

    async def _send_each(self, stream: ServerStream, items: AsyncIterator[Any]) -> None:
        """Send items one by one, because each passes the processors."""
        call = stream.as_call()
        pipeline = self._pipeline
        function = stream.handler.function
        async for item in items:
            function.encode_item(item)  # checks the declared type
            response = await pipeline.response(Response(call, item, stream.begin_response()))
            meta = pack(response.header) if response.header else b""
            await stream.send(encode_body(response), meta)
        stream.end(*stream.end_response(pipeline))


class RequestStream:
    """The items of a request stream, as an async iterator for the handler.

    One task reads it at a time. An item of the wrong type raises `InvalidArgument` in its place.

    Args:
        stream: The call.
        pipeline: Processors of the server.
        threads: Where items are decoded that take long.
    """

    def __init__(self, stream: ServerStream, pipeline: Pipeline, threads: Threads) -> None:
        self._stream = stream
        self._pipeline = pipeline
        self._threads = threads
        self._function = stream.handler.function
        self._where = f"{self._function.name}()"
        self._items: deque[Any] = deque()  # decoded
        self._raw: deque[Any] = deque()  # the items of a batch in which one is wrong
        self._count = 0  # items before those
        self._proved = False  # the processors have accepted the end
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return self._items.popleft()
        except IndexError:
            return await self._next()

    async def aclose(self) -> None:
        """Drop the items that were not read, and those that still arrive."""
        self._ended = True
        self._items.clear()
        self._raw.clear()
        self._stream.stop_receiving()
        self._stream.interrupt()

    async def take(self) -> list[Any]:
        """Return the next items: those that have arrived, at least one.

        An empty list is the end.
        """
        try:
            items = [await self.__anext__()]
        except StopAsyncIteration:
            return []
        items += self._items
        self._items.clear()
        return items

    async def _next(self) -> Any:
        if self._raw:
            return self._decode(self._raw.popleft())
        if self._ended:
            raise StopAsyncIteration
        stream = self._stream
        if stream.is_processing:  # a read was cancelled
            self._raw.extend(await stream.join_processing())
            return self._items.popleft() if self._items else self._decode(self._raw.popleft())
        try:
            flags, meta, raw = stream.try_recv() or await stream.recv()
        except EndOfStream:
            if not (self._ended or stream.discard):  # else this side has ended it
                self._on_end(b"")
        else:
            if flags & END and self._pipeline.proves_ends:
                self._on_end(raw)
                raise StopAsyncIteration
            stream.count_items(len(raw))
            if self._pipeline.transforms:
                self._raw.extend(await stream.process(self._pass(flags, meta, raw)))
            elif len(raw) > self._function.slow_message:
                await stream.process(self._take_apart(flags, raw))
            elif flags & BATCH:
                self._take_batch(raw)
            else:
                return self._decode(raw)
            return self._items.popleft() if self._items else self._decode(self._raw.popleft())
        raise StopAsyncIteration

    def _on_end(self, proof: bytes | memoryview) -> None:
        """Let the processors check the end of the requests; they raise to refuse it."""
        if not self._proved:
            self._pipeline.receive_end(self._stream.as_call(), proof)
            self._proved = True
        self._ended = True

    def _take_batch(self, raw: bytes | memoryview) -> None:
        """Keep the items of a batch, decoded unless one of them is wrong."""
        try:
            items = self._function.decode_request_items(raw)
        except InvalidArgument:
            items = []
        self._count += len(items)
        self._items.extend(items)
        if not items:
            self._raw.extend(split_items(raw, self._where))

    async def _take_apart(self, flags: int, raw: bytes | memoryview) -> tuple[()]:
        """Keep the items of a message that a thread decodes; nothing is left for the reader."""
        if flags & BATCH:
            await self._threads.decode(self._stream.conn, self._take_batch, raw)
        else:
            decoding = self._threads.decode(self._stream.conn, self._decode, raw)
            self._items.append(await decoding)
        return ()

    async def _pass(self, flags: int, meta: bytes, raw: bytes | memoryview) -> list[Encoded]:
        """Return the items of a message, each encoded, after the processors have seen them."""
        try:
            header = unpack_map(meta) if meta else {}
        except ValueError as exc:
            text = f"{self._where}: the header of an item is malformed: {exc}"
            raise InvalidArgument(text) from exc
        await self._stream.reserve_inflated(header)
        items: list[Any] = split_items(raw, self._where) if flags & BATCH else [raw]
        call, pipeline, passed = self._stream.as_call(), self._pipeline, []
        for item in items:
            request = await pipeline.pass_request(call, item, {**header})
            passed.append(pipeline.encode_arrived(request))
        return passed

    def _decode(self, raw: bytes | memoryview) -> Any:
        self._count += 1
        try:
            return self._function.decode_request_item(raw)
        except InvalidArgument as exc:
            text = str(exc).replace("(): item of ", f"(): item {self._count} of ", 1)
            raise InvalidArgument(text) from exc


class _PlainRequests:
    """A request stream as a plain iterator, for a handler that runs in a thread.

    Args:
        requests: The request stream.
    """

    def __init__(self, requests: RequestStream) -> None:
        self._requests = requests
        self._items: deque[Any] = deque()
        self._loop = asyncio.get_running_loop()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if not self._items:
            self._items.extend(self._run(self._requests.take()))
            if not self._items:
                raise StopIteration
        return self._items.popleft()

    def close(self) -> None:
        """Drop the items that were not read, and those that still arrive."""
        self._items.clear()
        self._run(self._requests.aclose())

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the event loop of the server and return its result.

        Raises:
            Cancelled: The loop is closed. A thread may outlive it.
        """
        running: Future[T] | None = None
        while not self._loop.is_closed():
            try:
                running = running or asyncio.run_coroutine_threadsafe(coroutine, self._loop)
            except RuntimeError:  # it was closed just now
                break
            try:
                return running.result(_LOOK)
            except TimeoutError:
                if running.done():
                    return running.result()
        coroutine.close()
        raise Cancelled("the server has stopped")


class _PlainItems:
    """The items of a plain iterator, some at a time.

    Args:
        make: Makes the iterator; called with the first items.
        most: Number of items that it may make before they are passed on.

    Attributes:
        other: What `make` has returned if it is not a plain iterable.
    """

    def __init__(self, make: Callable[[], Any], most: int) -> None:
        self.other: Any = None
        self._make = make
        self._most = most
        self._iterator: Iterator[Any] | None = None

    def pull(self) -> tuple[list[Any], BaseException | None, bool]:
        """Return the next items, the error that ended the iterator, and whether it has ended."""
        items: list[Any] = []
        try:
            if self._iterator is None:
                result = self._make()
                if inspect.iscoroutine(result) or hasattr(result, "__aiter__"):
                    self.other = result
                    return items, None, True
                self._iterator = iter(result)
            return items, None, pull_items(self._iterator, items, self._most)
        except BaseException as exc:  # the items before it are sent first
            return items, exc, True

    def close(self) -> None:
        """Close the iterator, if it can be closed."""
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()


async def _iterate(source: _PlainItems, thread: OneThread | None) -> AsyncGenerator[Any, None]:
    """Yield the items of a plain iterator.

    Args:
        source: The items.
        thread: Where the iterator runs; `None` means here.
    """

    def pull() -> tuple[list[Any], BaseException | None, bool]:
        pulled = source.pull()
        if pulled[2] and thread is not None:
            thread.leave()
        return pulled

    ended = False
    try:
        while not ended:
            items, error, ended = source.pull() if thread is None else await thread.run(pull)
            for item in items:
                yield item
            if error is not None:
                raise error
    except asyncio.CancelledError:
        if thread is not None:  # it may be busy with the next items
            ended = True
            thread.release(source.close)
        raise
    finally:
        if not ended:
            if thread is None:
                source.close()
            else:
                try:
                    await thread.run(source.close)
                finally:
                    thread.release()
    if source.other is not None:
        other = await source.other if inspect.iscoroutine(source.other) else source.other
        async with aclosing(other):
            async for item in other:
                yield item
