"""The responses of a call that answers with a stream.

This is an iterator object and not an ``async def … yield``: when a consumer breaks out and drops
it, `__del__` ends the remote generator and leaves the processors' scopes at once, without the help
of an event loop.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from rap.address import Peer
from rap.call import Call, Header
from rap.client.attempt import StreamAttempt, decode_response, explain_end
from rap.client.call import Invoker
from rap.client.method import Method
from rap.client.node import Node
from rap.client.retry import RetryState
from rap.client.session import Session
from rap.errors import CallError, Internal, InvalidArgument
from rap.misuse import refusing
from rap.transport import EndOfStream
from rap.transport.stream import answer_trailer
from rap.wire.frames import BATCH, END

if TYPE_CHECKING:
    from rap.client.request_pump import RequestPump

__all__ = ["ResponseStream"]

T_co = TypeVar("T_co", covariant=True)


class ResponseStream(Generic[T_co]):
    """The items of a remote generator, as an async iterator.

    Nothing is sent before the first `__anext__`. As with a local generator, an error or a cancelled
    `__anext__` ends it: from then on it raises `StopAsyncIteration`.

    Args:
        invoker: Makes the call.
        method: What to call.
        call: The call.
        session: Its session, if any.
        body: The encoded arguments.
        decode_item: Decodes one item.
        decode_items: Decodes a batch of items.
        pump: Sends the requests of a bidirectional call; `None` for a generator.
    """

    _done = True  # until it is made

    def __init__(
        self,
        invoker: Invoker,
        method: Method,
        call: Call,
        session: Session | None,
        body: bytes,
        decode_item: Callable[[Any], T_co],
        decode_items: Callable[[Any], list[T_co]],
        pump: "RequestPump | None" = None,
    ) -> None:
        self._items: deque[T_co] = deque()
        self._invoker = invoker
        self._method = method
        self._call = call
        self._session = session
        self._body = body
        self._decode_item = decode_item
        self._decode_items = decode_items
        self._pump = pump
        self._end_meta: bytes = b""  # of the last frame, if that has items
        self._stream: StreamAttempt | None = None
        self._node: Node | None = None
        self._scope: AbstractContextManager[Any] | None = None
        self._loop = invoker.cluster.loop
        self._running = False
        self._done = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T_co:
        try:
            return self._items.popleft()
        except IndexError:
            return await self._next()

    async def aclose(self) -> None:
        """End the remote generator; nothing happens if it has ended."""
        self._finish()
        if self._pump is not None:
            await self._pump.stop()

    def cancel(self) -> bool:
        """End the call at once; return `False` if it has ended already.

        A task that waits for an item sees the end of the iteration.
        """
        is_open = not self._done
        self._finish()
        return is_open

    def done(self) -> bool:
        """Return whether the call has ended."""
        return self._done

    @property
    def header(self) -> Header:
        """The header of the answer; empty until the first item, the end or an error has arrived."""
        stream = self._stream
        return {} if stream is None else stream.answer_header

    @property
    def trailer(self) -> Header:
        """The trailer of the answer; empty until the end or an error has arrived."""
        stream = self._stream
        if stream is None:
            return {}
        return answer_trailer(self._end_meta) if self._end_meta else stream.answer_trailer

    @property
    def method(self) -> str:
        """Name of the function, ``/group/name``."""
        return self._call.method

    @property
    def trace_id(self) -> str:
        """Trace id of the call, as 32 hex digits; empty without a trace."""
        from rap.processor.tracing.context import trace_id  # few programs need it

        return trace_id(self._call)

    @property
    def peer(self) -> Peer | None:
        """The server of the last attempt; `None` before the first."""
        return self._call.peer

    @property
    def attempts(self) -> int:
        """The number of attempts, from 1."""
        return self._call.attempt

    def take_ready(self) -> list[Any]:
        """Return the items that have arrived already."""
        items = list(self._items)
        self._items.clear()
        return items

    def move(self, session: Session | None) -> None:
        """Make the call in another session.

        Raises:
            RuntimeError: The call has begun.
            CallError: It is the session of another client.
        """
        if self._scope is not None or self._done:
            raise RuntimeError(f"{self._method.path} has begun; its session is settled")
        if session is not None:
            session.check_client(self._invoker.identity)
        self._session = session
        self._call.header.pop("session_id", None)
        if session is not None:
            self._call.header["session_id"] = session.id

    async def _next(self) -> T_co:
        if self._done:
            raise StopAsyncIteration
        if self._running:
            raise RuntimeError(f"{self._method.path}: another task is waiting for its next item")
        self._running = True
        pipeline = self._invoker.pipeline
        proof = proof_meta = b""
        try:
            stream = self._stream
            if stream is None:
                flags, meta, raw = await self._first()
            else:
                flags, meta, raw = stream.try_recv() or await stream.recv()
            if pipeline.transforms:
                if flags & END and pipeline.proves_ends:
                    proof, proof_meta = bytes(raw), meta
                    raise EndOfStream
                batch = flags & BATCH
                raw = await decode_response(pipeline, self._call, meta, raw, batch=batch)
            if flags & END:
                self._end_meta = meta
            if flags & BATCH:
                self._items.extend(self._decode_items(raw))
                if not self._items:
                    raise Internal(f"{self._method.path}: an empty batch")
                return self._items.popleft()
            if flags & END:
                raise self._one_response()
            return self._decode_item(raw)
        except EndOfStream:
            if self._done:  # this side has ended the call
                raise StopAsyncIteration from None
            try:
                if self._pump is not None and self._pump.error is not None:
                    raise self._pump.error from None
                content = await self._check_end(proof_meta, proof)
                if proof and self._stream is not None:
                    self._stream.on_proven_end(proof_meta, content)
            except BaseException as exc:  # the end of the call; raised again
                self._finish(exc)
                raise
            self._finish()
            raise StopAsyncIteration from None
        except BaseException as exc:  # the end of the call; raised again
            if self._done and isinstance(exc, CallError):  # it waited for a server
                raise StopAsyncIteration from None
            if isinstance(exc, CallError) and (stream := self._stream) is not None:
                explain_end(exc, self._call, stream, self._invoker.monotonic())
            self._finish(exc)
            raise
        finally:
            self._running = False
            if self._done and self._pump is not None:
                await self._pump.stop()

    async def _check_end(self, meta: bytes, proof: bytes) -> Any:
        """Return what the processors find in the end of the items.

        Raises:
            CallError: They refuse it.
            InvalidArgument: It is the one response of a function that has no items.
        """
        pipeline = self._invoker.pipeline
        try:
            return pipeline.receive_end(self._call, proof)
        except CallError:
            if not proof:
                raise
            try:
                await decode_response(pipeline, self._call, meta, proof)
            except CallError:
                pass
            else:
                raise self._one_response() from None
            raise

    def _one_response(self) -> InvalidArgument:
        """Return the error for a function that answers with one response."""
        text = "is not a generator; call it instead"
        if self._pump is not None:
            text = "is a client-streaming function; declare that it returns its result"
        return InvalidArgument(f"{self._method.path} {text}")

    async def _first(self) -> Any:
        """Open the stream and return its first message; make further attempts as for any call."""
        invoker = self._invoker
        left_out = invoker.untraced(self._call)
        scope = nullcontext() if left_out else invoker.pipeline.scope(self._call)
        scope.__enter__()
        self._scope = scope
        method, call, session, state = self._method, self._call, self._session, RetryState()
        pump = self._pump
        compared = method if session is None and call.affinity is None else None
        while True:
            attempt = await invoker.open_stream(method, call, session, self._body, state)
            node, self._stream = attempt.node, attempt
            if self._done:  # it was ended in the meantime
                attempt.reset()
                raise EndOfStream
            stats = node.stats
            stats.stream_started()
            try:
                if pump is not None:
                    pump.attach(attempt)
                message = await attempt.recv()
            except CallError as error:
                stats.stream_answered(invoker.monotonic())
                stats.stream_ended()
                node.record_result(attempt.started, error, compared, call.deadline)
                if pump is not None:
                    pump.detach()
                    if pump.sent or attempt.error is not error:
                        invoker.note_refusal(call, attempt, error)
                        raise
                pick, started = (node, attempt.conn), attempt.started
                await invoker.prepare_retry(method, call, session, pick, state, error, started)
            except BaseException as error:  # the end of the call; raised again
                empty = isinstance(error, EndOfStream) and not self._done
                stats.stream_answered(invoker.monotonic())
                stats.stream_ended()
                node.record_result(attempt.started, None if empty else error)
                raise
            else:
                stats.stream_answered(invoker.monotonic())
                node.record_result(attempt.started, None, compared)
                if method.rescue is not None:
                    now = invoker.monotonic()
                    method.rescue.add(now - attempt.started, now)
                self._node = node
                return message

    if not TYPE_CHECKING:
        __await__ = refusing("{0.method} answers with items: use `async for`, not `await`")
        __iter__ = refusing("{0.method} answers with items: use `async for`, not `for`")

    def _finish(self, error: BaseException | None = None) -> None:
        if self._done:
            return
        self._done = True
        self._items.clear()
        stream, node = self._stream, self._node
        if self._pump is not None:
            self._pump.cancel()
        if stream is not None:
            stream.reset()
        if node is not None:
            node.stats.stream_ended()
        self._invoker.cluster.release()
        scope, self._scope = self._scope, None
        if scope is not None:
            if error is None:
                scope.__exit__(None, None, None)
            else:
                scope.__exit__(type(error), error, error.__traceback__)

    def __del__(self) -> None:
        if self._done or self._loop.is_closed():
            return
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = not self._loop.is_running()
        if here:
            self._finish()
        else:  # the garbage collector runs in another thread
            self._loop.call_soon_threadsafe(self._finish)
