"""What a client sends, read ahead, so that its disconnect is noticed while its call runs."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from rap.tasks import start_task

__all__ = ["Arrivals"]

_LEFT = "http.disconnect"
_AHEAD = 64 * 1024  # bytes that are read although nothing has asked for them
_OVERHEAD = 64  # bytes that a message counts besides its content


class Arrivals:
    """The ASGI messages of one request or WebSocket, in order; an asynchronous context manager.

    A task reads them until the client has disconnected. It stops while it is 64 KiB ahead. So a
    disconnect is noticed whatever the call waits for, unless the client has sent more than that
    and nothing reads it.

    Args:
        receive: Of the ASGI server; nothing else may call it.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._messages: deque[Any] = deque()
        self._size = 0
        self._discards = False
        self._news = asyncio.Event()  # a message has come, or the client has left
        self._room = asyncio.Event()
        self._last: Any = None  # the message that says that the client has disconnected
        self._bound: list[_Bound] = []

    async def __aenter__(self) -> Self:
        self._reader = start_task(self._read(), name="rap gateway arrivals")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._reader.cancel()
        await asyncio.wait([self._reader])
        if not self._reader.cancelled():
            self._reader.result()

    @property
    def left(self) -> bool:
        """Whether the client has disconnected."""
        return self._last is not None

    async def message(self) -> Any:
        """Return the next message; the last one says that the client has disconnected."""
        while not self._messages:
            if self._last is not None:
                return self._last
            self._news.clear()
            await self._news.wait()
        message = self._messages.popleft()
        self._size -= _size_of(message)
        self._room.set()
        return message

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the chunks of the body of a request.

        Raises:
            ClientDisconnect: The client has disconnected.
        """
        more = True
        while more:
            message = await self.message()
            if message["type"] == _LEFT:
                raise ClientDisconnect
            more = message.get("more_body", False)
            if chunk := message.get("body", b""):
                yield chunk

    def discard(self) -> None:
        """Drop what has come and what still comes, except for the disconnect."""
        self._discards = True
        self._messages.clear()
        self._size = 0
        self._room.set()

    @contextmanager
    def bound(self, grace: float = 0.0) -> Iterator[None]:
        """Cancel what runs in the block if the client disconnects.

        Args:
            grace: Seconds that it may go on after that.

        Raises:
            ClientDisconnect: The client has disconnected.
        """
        task = asyncio.current_task()
        assert task is not None
        bound = _Bound(task, grace)
        self._bound.append(bound)
        if self.left:
            bound.on_left()
        try:
            yield
        except asyncio.CancelledError:
            if bound.is_ours():
                raise ClientDisconnect from None
            raise
        finally:
            self._bound.remove(bound)
            bound.end()

    async def _read(self) -> None:
        while True:
            message = await self._receive()
            if message["type"].endswith(".disconnect"):
                break
            if self._discards:
                continue
            self._messages.append(message)
            self._size += _size_of(message)
            self._news.set()
            while self._size >= _AHEAD:
                self._room.clear()
                await self._room.wait()
        self._last = message
        self._news.set()
        for bound in self._bound:
            bound.on_left()


class _Bound:
    """A block that is cancelled when the client disconnects, as by `asyncio.timeout`.

    Args:
        task: Runs the block.
        grace: Seconds that it may go on.
    """

    def __init__(self, task: "asyncio.Task[Any]", grace: float) -> None:
        self._task = task
        self._grace = grace
        self._timer: asyncio.TimerHandle | None = None
        self._before = task.cancelling()
        self._cancelled = False

    def on_left(self) -> None:
        """Cancel the block, now or after the grace."""
        if self._grace:
            self._timer = asyncio.get_running_loop().call_later(self._grace, self._cancel)
        else:
            self._cancel()

    def is_ours(self) -> bool:
        """Whether the cancellation that leaves the block is that of `on_left` alone."""
        if not self._cancelled:
            return False
        self._cancelled = False
        return self._task.uncancel() <= self._before

    def end(self) -> None:
        """Withdraw the cancellation if the block has ended otherwise."""
        if self._timer is not None:
            self._timer.cancel()
        if self._cancelled:
            self._task.uncancel()

    def _cancel(self) -> None:
        self._cancelled = True
        self._task.cancel()


def _size_of(message: Any) -> int:
    """Return the bytes that a message counts; a text at least as many as it has characters."""
    content = message.get("body") or message.get("text") or message.get("bytes") or b""
    return _OVERHEAD + len(content)
