"""A remote generator as the caller iterates it.

An iterator object, no ``async def … yield``: a consumer that breaks out and drops it ends the
remote generator and leaves the processors' scopes at once, from `__del__`, without a loop's help.
"""

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Self

from rap.client.invoke import Attempt, Invoker
from rap.client.node import Node
from rap.client.plan import Plan
from rap.client.session import Session
from rap.errors import CallError, Internal, InvalidArgument
from rap.message import Call
from rap.transport import EndOfStream, Stream
from rap.wire.frames import BATCH, END

__all__ = ["RemoteIterator"]


class RemoteIterator:
    """Items of a remote generator; nothing is sent before the first `__anext__`.

    Args:
        invoker: Makes the call.
        plan: What to call.
        call: The call.
        session: Its session, if any.
        body: The encoded arguments.
        decode_item: Decodes one item.
        decode_items: Decodes a batch of items.
    """

    def __init__(
        self,
        invoker: Invoker,
        plan: Plan,
        call: Call,
        session: Session | None,
        body: bytes,
        decode_item: Callable[[Any], Any],
        decode_items: Callable[[Any], list[Any]],
    ) -> None:
        self._items: deque[Any] = deque()
        self._invoker = invoker
        self._plan = plan
        self._call = call
        self._session = session
        self._body = body
        self._decode_item = decode_item
        self._decode_items = decode_items
        self._stream: Stream | None = None
        self._node: Node | None = None
        self._scope: AbstractContextManager[Any] | None = None
        self._done = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return self._items.popleft()
        except IndexError:
            return await self._next()

    async def aclose(self) -> None:
        """End the remote generator; does nothing if it has ended."""
        self._finish()

    def __del__(self) -> None:
        self._finish()

    async def _next(self) -> Any:
        if self._done:
            raise StopAsyncIteration
        try:
            if self._stream is None:
                message = await self._first()
            else:
                message = self._stream.try_recv() or await self._stream.recv()
            flags, meta, raw = message
            if self._invoker.pipeline.transforms:
                raw = await self._invoker.inbound(self._call, meta, raw)
            if flags & BATCH:
                self._items.extend(self._decode_items(raw))
                if not self._items:
                    raise Internal(f"{self._plan.method}: an empty batch")
                return self._items.popleft()
            if flags & END:
                raise InvalidArgument(f"{self._plan.method} is not a generator; call it instead")
            return self._decode_item(raw)
        except EndOfStream:
            self._finish()
            raise StopAsyncIteration from None
        except BaseException as exc:
            self._finish(exc)
            raise

    async def _first(self) -> Any:
        """Open the stream, elsewhere if a node refuses it unserved; return its first message."""
        invoker = self._invoker
        self._scope = invoker.pipeline.scope(self._call)
        self._scope.__enter__()
        attempt = Attempt()
        while True:
            node, stream = await invoker.open_stream(
                self._plan, self._call, self._session, self._body, attempt
            )
            started = invoker.monotonic()
            node.stats.started(started)
            failure: BaseException | None = None
            refused: CallError | None = None
            try:
                message = await stream.recv()
            except EndOfStream:
                raise
            except CallError as error:
                failure = refused = error
            except BaseException as error:
                failure = error
                stream.reset()
                raise
            finally:
                node.ended(started, failure)
            if refused is None:
                self._node, self._stream = node, stream
                node.stats.open_streams += 1
                return message
            await invoker.again(self._plan, self._call, self._session, node, attempt, refused)

    def _finish(self, error: BaseException | None = None) -> None:
        if self._done:
            return
        self._done = True
        self._items.clear()
        if self._stream is not None and self._node is not None:
            self._stream.reset()
            self._node.stats.open_streams -= 1
        scope, self._scope = self._scope, None
        if scope is not None:
            if error is None:
                scope.__exit__(None, None, None)
            else:
                scope.__exit__(type(error), error, error.__traceback__)
