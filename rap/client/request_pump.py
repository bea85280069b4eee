"""The sending half of a call with a request stream: its items, and the task that sends them."""

import asyncio
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Coroutine,
    Iterable,
    Sequence,
)
from contextlib import nullcontext
from itertools import chain
from typing import Any, Self

from rap.call import Call, Request
from rap.client.attempt import decode_response, explain_end
from rap.client.call import Invoker
from rap.client.method import Method
from rap.client.retry import RetryState
from rap.client.session import Session
from rap.client.waiting import WaitForReady
from rap.errors import CallError, Code, DeadlineExceeded, InvalidArgument
from rap.processor.base import Pipeline, encode_body
from rap.tasks import start_task
from rap.transport import EndOfStream, Stream
from rap.transport.batching import ItemSender
from rap.wire.codec import pack
from rap.wire.frames import BATCH, END, MESSAGE
from rap.wire.stream import CLOSED

__all__ = ["RequestPump", "client_stream"]

_RESPONSE = MESSAGE | END
_NOTHING = object()


class RequestPump:
    """Sends the items of one request stream, in a task that belongs to the call.

    An attempt that fails before an item was sent may be followed by another one. The pump then
    keeps the item that it waits for.

    Args:
        method: What is called.
        call: The call.
        pipeline: The processors of the client.
        source: An asynchronous or plain iterable of the items. It is closed when the call ends.

    Attributes:
        sent: Whether an item was sent, or the end.
        stopped: Whether the call needs no more items.
        error: What the source has raised; the call has ended for it.

    Raises:
        InvalidArgument: The source is not iterable.
    """

    def __init__(self, method: Method, call: Call, pipeline: Pipeline, source: Any) -> None:
        function = method.function
        assert function is not None
        if not isinstance(source, AsyncIterable | Iterable) or isinstance(source, str | bytes):
            raise InvalidArgument(
                f"{method.name}(): {function.stream_parameter!r} must be an iterable of items,"
                f" got {type(source).__name__}"
            )
        self.sent = False
        self.error: BaseException | None = None
        self._call = call
        self._pipeline = pipeline
        self._encode = function.encode_request_item
        self._name = function.name
        self._sender: ItemSender | None = None  # if no processor sees the items
        self._count = 0  # items that were encoded, otherwise
        self._source: AsyncIterable[Any] | Iterable[Any] = source
        self._items: Any = None  # the iterator, from when it was made
        self._stream: Stream | None = None
        self._resumed: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self.stopped = False

    def attach(self, stream: Stream) -> None:
        """Send the items on the stream of an attempt.

        Raises:
            BaseException: The source has raised it between two attempts.
        """
        if self.error is not None:
            stream.reset(Code.CANCELLED, "the client's iterator has raised")
            raise self.error
        self._stream = stream
        if self._task is None:
            self._task = start_task(self._run())
        elif self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)

    def detach(self) -> None:
        """Send nothing more on the stream of an attempt that has failed."""
        self._stream = None

    def cancel(self) -> None:
        """Stop sending, and let the source be closed."""
        self.stopped = True
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        """Stop sending; return when the source is closed.

        Raises:
            Exception: The source has raised it when it was closed.
        """
        task = self._task
        if task is not None and not task.done():
            self.cancel()
            await asyncio.wait([task])
        await self._close()  # if the task did not begin
        if task is not None and not task.cancelled():
            await task  # raises what closing the source has raised

    async def _run(self) -> None:
        try:
            source = self._source
            if isinstance(source, AsyncIterable):
                self._items = aiter(source)
                first = await anext(self._items, _NOTHING)
            else:
                self._items = iter(source)
                first = next(self._items, _NOTHING)
            while self._stream is None:
                self._resumed = asyncio.get_running_loop().create_future()
                await self._resumed
            self.sent = True
            await self._send(self._stream, first)
        except InvalidArgument as exc:
            self._fail(self._with_number(exc))
        except asyncio.CancelledError as exc:
            if self.stopped:
                raise
            self._fail(exc)  # the source has raised it
        except BaseException as exc:  # the call raises whatever the source has raised
            self._fail(exc)
        finally:
            await self._close()

    async def _send(self, stream: Stream, first: Any) -> None:
        """Send the first item, unless there is none, and those after it; then the end."""
        items: AsyncIterable[Any] | Iterable[Any]
        if isinstance(self._items, AsyncIterator):
            items = _Items(first, self._items, self)
        else:
            items = () if first is _NOTHING else chain((first,), self._items)
        if not self._pipeline.transforms:
            self._sender = ItemSender(stream, self._encode)
            await self._sender.send(items)
            return
        if isinstance(items, AsyncIterable):
            async for item in items:
                if self.stopped:  # the source has ignored that it was cancelled
                    return
                await self._send_one(stream, item)
        else:
            for item in items:
                await self._send_one(stream, item)
        stream.end(self._pipeline.send_end(self._call))

    async def _send_one(self, stream: Stream, item: Any) -> None:
        """Send an item by itself, after the processors have seen it."""
        self._encode(item)  # checks the declared type
        self._count += 1
        request = await self._pipeline.request(Request(self._call, item))
        meta = pack(request.header) if request.header else b""
        await stream.send(encode_body(request), meta)

    def _with_number(self, error: InvalidArgument) -> InvalidArgument:
        """Return the error of an item with the number of the item."""
        text, refused = str(error), f"{self._name}(): item of "
        if not text.startswith(refused):
            return error
        number = 1 + (self._count if self._sender is None else self._sender.count)
        numbered = f"{self._name}(): item {number} of {text.removeprefix(refused)}"
        return InvalidArgument(numbered).with_traceback(error.__traceback__)

    def _fail(self, error: BaseException) -> None:
        """End the call for an error of the source, unless it has ended otherwise."""
        stream = self._stream
        if stream is None:
            self.error = error
        elif stream.error is None and stream.state & CLOSED != CLOSED and not stream.ended:
            self.error = error
            stream.reset(Code.CANCELLED, f"the client's iterator raised {type(error).__name__}")
        elif self.stopped and error is not stream.error:
            raise error  # the source was closed, and `stop` raises this

    async def _close(self) -> None:
        items: Any = self._source if self._items is None else self._items
        self._source = self._items = ()
        if hasattr(items, "aclose"):
            await items.aclose()
        elif hasattr(items, "close"):
            items.close()


class _Items:
    """The first item and the rest of an asynchronous iterator.

    An asynchronous generator would do the same, but it would run twice for each item.

    Args:
        first: The first item, or `_NOTHING`.
        rest: The iterator, from which the first item was taken.
        pump: The iteration ends with it, even if the iterator ignores that it was cancelled.
    """

    def __init__(self, first: Any, rest: AsyncIterator[Any], pump: RequestPump) -> None:
        self._first = first
        self._next = rest.__anext__
        self._pump = pump
        self._began = False

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[Any]:
        if self._began and not self._pump.stopped:
            return self._next()
        return self._begin()

    async def _begin(self) -> Any:
        if self._pump.stopped:
            raise asyncio.CancelledError
        self._began = True
        if self._first is _NOTHING:
            raise StopAsyncIteration
        first, self._first = self._first, None
        return first


def client_stream(
    invoker: Invoker,
    method: Method,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    session: Session | None = None,
    header: dict[str, Any] | None = None,
    timeout: float | None = None,
    affinity: str | None = None,
    wait_for_ready: WaitForReady = None,
    priority: str | None = None,
) -> tuple[Call, Coroutine[Any, Any, Any]]:
    """Return a client-streaming call, and the coroutine that makes it and returns its result.

    Args:
        invoker: Makes the attempts.
        method: What to call.
        args: Positional arguments; the request stream is among them.
        kwargs: Keyword arguments, or among these.
        session: Session of the call; `None`: the one the caller is in, if any.
        header: Sent with the call: a mapping of names to msgpack values.
        timeout: Seconds; `None`: the limit of the method.
        affinity: Key whose calls should keep to one server.
        wait_for_ready: How long the call waits for a server; `None`: as the client does.
        priority: How important the call is; `None`: as `Invoker.priority` says.

    Raises:
        InvalidArgument: The arguments do not fit the function.
    """
    function = method.function
    assert function is not None
    others, named, source = function.split_arguments(args, kwargs)
    body = method.encode(others, named)
    limit = method.timeout if timeout is None else timeout
    call, session = invoker.start_call(
        method, method.stream_type, session, header, limit, affinity, wait_for_ready, priority
    )
    pump = RequestPump(method, call, invoker.pipeline, source)
    return call, _call(invoker, method, call, session, body, pump)


async def _call(
    invoker: Invoker,
    method: Method,
    call: Call,
    session: Session | None,
    body: bytes,
    pump: RequestPump,
) -> Any:
    left_out = invoker.untraced(call)
    try:
        with nullcontext() if left_out else invoker.pipeline.scope(call):
            raw = await _call_with_retries(invoker, method, call, session, body, pump)
    finally:
        await pump.stop()
    return method.decode(raw)


async def _call_with_retries(
    invoker: Invoker,
    method: Method,
    call: Call,
    session: Session | None,
    body: bytes,
    pump: RequestPump,
) -> bytes | memoryview:
    """Return the raw response; make further attempts only while no item was sent."""
    state = RetryState()
    while True:
        stream = await invoker.open_stream(method, call, session, body, state)
        stats = stream.node.stats
        stats.stream_started()
        try:
            pump.attach(stream)
            return await _answer(invoker, method, call, stream, pump)
        except CallError as exc:
            pump.detach()
            if pump.sent or stream.error is not exc:
                invoker.note_refusal(call, stream, exc)
                if isinstance(exc, DeadlineExceeded) or stream.error is exc:
                    explain_end(exc, call, stream, invoker.monotonic())
                raise
            error = exc
        finally:
            stream.reset(Code.CANCELLED, "the client needs the call no more")
            stats.stream_ended()
            invoker.cluster.release()
        pick, started = (stream.node, stream.conn), stream.started
        await invoker.prepare_retry(method, call, session, pick, state, error, started)


async def _answer(
    invoker: Invoker, method: Method, call: Call, stream: Stream, pump: RequestPump
) -> bytes | memoryview:
    """Return the raw response that arrives on the stream of an attempt."""
    try:
        flags, meta, raw = await stream.recv()
    except EndOfStream:
        if pump.error is not None:
            raise pump.error from None
        call.set_answer(stream.end_meta)
        raise CallError("the server ended the call without a response") from None
    except CallError:
        call.set_answer(stream.end_meta)
        raise
    call.set_answer(meta)
    if flags & (_RESPONSE | BATCH) != _RESPONSE:
        raise InvalidArgument(f"{method.path} answers with items; declare that it returns them")
    if invoker.pipeline.transforms:
        try:
            return await decode_response(invoker.pipeline, call, meta, raw)
        except CallError:
            if not _is_proof(invoker.pipeline, call, raw):
                raise
        raise CallError("the server ended the call without a response")
    return raw


def _is_proof(pipeline: Pipeline, call: Call, raw: bytes | memoryview) -> bool:
    """Return whether a body is the end of items, as a bidirectional function sends it."""
    try:
        pipeline.receive_end(call, raw)
    except CallError:
        return False
    return pipeline.proves_ends
