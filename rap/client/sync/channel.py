"""A channel for callers without an event loop: every method waits."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextvars import Token
from typing import Any, Self

from rap.call import Call
from rap.channel import Channel
from rap.client.response_stream import ResponseStream
from rap.client.session import Session, ambient_session
from rap.client.sync.loop_thread import LoopThread
from rap.errors import ChannelClosed

__all__ = ["SyncChannel", "SyncIterator"]


class SyncIterator:
    """A plain iterator; nothing is sent before the first item is asked for.

    Breaking out and dropping it ends the remote generator, as `close` and ``with`` do at once.
    One thread may iterate at a time.

    Args:
        client: Kept alive, for one that is dropped is closed.
        thread: Where the call lives.
        remote: What to iterate.
    """

    def __init__(self, client: object, thread: LoopThread, remote: ResponseStream) -> None:
        self._client = client
        self._thread = thread
        self._remote = remote
        self._ready: deque[Any] = deque()  # one change of thread for all that have arrived

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if not self._ready:
            self._ready.extend(self._thread.run(self._take()))
            if not self._ready:
                raise StopIteration
        return self._ready.popleft()

    def close(self) -> None:
        """End the remote generator; does nothing if it has ended."""
        self._ready.clear()
        self._thread.run(self._remote.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def _take(self) -> list[Any]:
        """Return the next item and those that have arrived with it; nothing at the end."""
        try:
            first = await anext(self._remote)
        except StopAsyncIteration:
            return []
        return [first, *self._remote.take_ready()]


# Opens a channel, runs the function with it, and ends the call as the function ends.
OpenChannel = Callable[[Callable[[Channel], Awaitable[None]]], Coroutine[Any, Any, Any]]


class SyncChannel:
    """A duplex call, for ``with``; calls made inside go over the same connection.

    One thread may read while another writes. Leaving the block normally says that this side is
    done, by an exception resets the call.

    Args:
        client: Kept alive, for one that is dropped is closed.
        thread: Where it lives.
        open_channel: Makes the call.
    """

    __rap_channel__ = True

    def __init__(self, client: object, thread: LoopThread, open_channel: OpenChannel) -> None:
        self._client = client
        self._thread = thread
        self._open_channel = open_channel
        self._channel: Channel | None = None
        self._task: asyncio.Task[Any] | None = None
        self._left: asyncio.Future[None] | None = None
        self._session: Session | None = None
        self._token: Token[Session | None] | None = None

    @property
    def channel(self) -> Channel:
        """The channel as the event loop sees it.

        Raises:
            RuntimeError: The channel was not entered.
        """
        if self._channel is None:
            raise RuntimeError("the channel is not open; use it as `with client.channel(...) as c`")
        return self._channel

    @property
    def call(self) -> Call:
        """The call this channel belongs to: method, header, peer."""
        return self.channel.call

    @property
    def is_close(self) -> bool:
        """Whether nothing more can be read: either side has closed, and all messages are taken."""
        return self.channel.is_close

    @property
    def draining(self) -> bool:
        """Whether the server asked to finish soon: it is about to stop."""
        return self.channel.draining

    def read(self) -> Any:
        """Return the next message, a `Response`.

        Raises:
            ChannelClosed: The peer has closed the channel, or this side has.
            CallError: The peer's function raised, or the connection was lost.
        """
        return self._thread.run(self.channel.read())

    def read_body(self) -> Any:
        """Return the body of the next message; raises as `read`."""
        return self._thread.run(self.channel.read_body())

    def write(self, body: Any) -> None:
        """Send one message; waits while the peer does not read.

        Raises:
            ChannelClosed: The peer has closed the channel, or this side has.
            CallError: The peer's function raised, the connection was lost, or `body` cannot be
                sent.
        """
        self._thread.run(self.channel.write(body))

    def close(self) -> None:
        """Say that this side is done; what the peer still sends is not read."""
        self._thread.run(self.channel.close())

    def set_finish(self, msg: str = "") -> None:
        """Close this side at once; reads raise `ChannelClosed(msg)` from then on."""

        async def finish() -> None:
            self.channel.set_finish(msg)

        self._thread.run(finish())

    def wait_close(self) -> None:
        """Return when the peer has closed the channel, or it was lost."""
        self._thread.run(self.channel.wait_close())

    def loop(self, flag: bool = True) -> bool:
        """Return whether to go on: `flag`, and the channel is open."""
        return bool(flag) and not self.is_close

    def iter_body(self) -> Iterator[Any]:
        """Yield bodies until the peer closes; a `CallError` of the peer is raised."""
        return self._until_closed(self.read_body)

    def iter_response(self) -> Iterator[Any]:
        """Yield messages, header included, until the peer closes."""
        return self._until_closed(self.read)

    def __iter__(self) -> Iterator[Any]:
        return self.iter_body()

    def __enter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError("a channel is entered once; make a new one")
        self._thread.run(self._enter())
        self._token = ambient_session.set(self._session)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        token, self._token = self._token, None
        if token is not None:
            with contextlib.suppress(ValueError):  # left by another thread than entered it
                ambient_session.reset(token)
        self._thread.run(self._leave(error))

    async def _enter(self) -> None:
        """Open the channel in a task that keeps it open until `_leave`."""
        loop = asyncio.get_running_loop()
        self._left = loop.create_future()
        opened: asyncio.Future[Channel] = loop.create_future()
        self._task = task = asyncio.create_task(self._open_channel(self._keep(opened)))
        try:
            await asyncio.wait((opened, task), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not opened.done():
            await task  # raises why it could not be opened
        self._channel = opened.result()

    def _keep(self, opened: "asyncio.Future[Channel]") -> Callable[[Channel], Awaitable[None]]:
        async def keep(channel: Channel) -> None:
            self._session = ambient_session.get()
            opened.set_result(channel)
            assert self._left is not None
            await self._left

        return keep

    async def _leave(self, error: BaseException | None) -> None:
        assert self._task is not None
        assert self._left is not None
        if error is None:
            self._left.set_result(None)
            await self._task
            return
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            self._left.set_exception(error)  # the reset names its type
        else:
            self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.exception()  # the ``with`` raises it

    @staticmethod
    def _until_closed(read: Callable[[], Any]) -> Iterator[Any]:
        while True:
            try:
                message = read()
            except ChannelClosed:
                return
            yield message
