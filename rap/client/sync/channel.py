"""Channels and response streams for code without an event loop: every method blocks."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import Token
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from rap.address import Peer
from rap.call import Call, Header
from rap.channel import Channel, In, Out
from rap.client.channel_call import ChannelCall
from rap.client.response_stream import ResponseStream
from rap.client.session import Session, ambient_session
from rap.client.sync.items import ThreadItems
from rap.client.sync.loop_thread import LoopThread
from rap.errors import ChannelClosed
from rap.tasks import start_task

__all__ = ["SyncChannel", "SyncIterator"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class SyncIterator(Generic[T_co]):
    """An iterator over the items of a remote generator.

    The call is sent when the first item is requested. `close`, or the end of a ``with`` block, ends
    the remote generator at once; dropping the iterator ends it, too. One thread at a time may
    iterate.

    Args:
        client: Kept alive, because a client that is dropped closes itself.
        thread: Runs the call.
        remote: The response stream.
        items: The plain request stream of a bidirectional call, if there is one.
    """

    def __init__(
        self,
        client: object,
        thread: LoopThread,
        remote: ResponseStream[T_co],
        items: ThreadItems | None = None,
    ) -> None:
        self._client = client
        self._thread = thread
        self._remote = remote
        self._items = items
        self._ready: deque[T_co] = deque()  # one switch of threads for all items that have arrived

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T_co:
        if not self._ready:
            try:
                self._ready.extend(self._thread.run(self._take(), self._items))
            finally:
                if self._remote.done() and self._items is not None:
                    self._items.close()
            if not self._ready:
                raise StopIteration
        return self._ready.popleft()

    def cancel(self) -> bool:
        """End the call; return `False` if it has ended already."""
        is_open = not self._remote.done()
        self.close()
        return is_open

    def done(self) -> bool:
        """Return whether the call has ended; items that have arrived may be left."""
        return self._remote.done()

    def close(self) -> None:
        """End the remote generator. If it has ended already, this does nothing."""
        self._ready.clear()
        self._thread.run(self._remote.aclose(), self._items)
        if self._items is not None:
            self._items.close()

    @property
    def header(self) -> Header:
        """The header of the answer; empty until the first item, the end or an error has arrived."""
        return self._remote.header

    @property
    def trailer(self) -> Header:
        """The trailer of the answer; empty until the end or an error has arrived."""
        return self._remote.trailer

    @property
    def peer(self) -> Peer | None:
        """The server of the last attempt; `None` before the first."""
        return self._remote.peer

    @property
    def attempts(self) -> int:
        """The number of attempts, from 1."""
        return self._remote.attempts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def _take(self) -> list[T_co]:
        """Return the next item and those that have arrived with it; an empty list at the end."""
        try:
            first = await anext(self._remote)
        except StopAsyncIteration:
            return []
        return [first, *self._remote.take_ready()]


class SyncChannel(Generic[In, Out]):
    """A duplex call, for ``with``. Calls made in the block use the same connection.

    ``SyncChannel[In, Out]`` is one whose messages have types; see `Channel`.

    One thread may read while another one writes. At the end of the block this side of the channel
    is closed, and the block ends when the server's function has ended. An exception that leaves the
    block resets the call.

    Args:
        client: Kept alive, because a client that is dropped closes itself.
        thread: Runs the call.
        remote: The call.
    """

    __rap_channel__ = True

    if not TYPE_CHECKING:

        def __class_getitem__(cls, types: Any) -> Any:
            """Return the class with types, of which any may be left out."""
            given = types if isinstance(types, tuple) else (types,)
            return super().__class_getitem__((*given, Any, Any)[: max(2, len(given))])

    def __init__(self, client: object, thread: LoopThread, remote: ChannelCall[In, Out]) -> None:
        self._client = client
        self._thread = thread
        self._remote = remote
        self._channel: Channel[In, Out] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._left: asyncio.Future[None] | None = None
        self._session: Session | None = None
        self._token: Token[Session | None] | None = None

    @property
    def channel(self) -> Channel[In, Out]:
        """The asynchronous channel.

        Raises:
            RuntimeError: The channel is not open.
        """
        if self._channel is None:
            raise RuntimeError("the channel is not open; use it as `with client.channel(...) as c`")
        return self._channel

    @property
    def call(self) -> Call:
        """The call of this channel: method, header, peer."""
        return self.channel.call

    @property
    def header(self) -> dict[str, Any]:
        """The header of the answer; empty until the first message has arrived."""
        return self.channel.header

    @property
    def trailer(self) -> dict[str, Any]:
        """The trailer of the answer; empty until the server's function has ended."""
        return self.channel.trailer

    @property
    def is_close(self) -> bool:
        """Whether nothing is left to read: either side has closed, and every message was read."""
        return self.channel.is_close

    @property
    def draining(self) -> bool:
        """Whether the server is about to stop and asked to finish soon."""
        return self.channel.draining

    def read(self) -> Any:
        """Return the next message, a `Response`.

        Raises:
            ChannelClosed: Either side has closed the channel.
            CallError: The peer's function raised, or the connection was lost.
        """
        return self._thread.run(self.channel.read())

    def read_body(self) -> In:
        """Return the body of the next message; it raises the errors of `read`."""
        return self._thread.run(self.channel.read_body())

    def write(self, body: Out) -> None:
        """Send one message; block while the peer does not read.

        Raises:
            ChannelClosed: Either side has closed the channel.
            CallError: The peer's function raised, the connection was lost, or `body` cannot be
                sent.
        """
        self._thread.run(self.channel.write(body))

    def end(self) -> None:
        """Send the end of this side's messages; this side may still read."""
        self._thread.run(self.channel.end())

    def result(self) -> Any:
        """Return the value of the server's function; block until it has returned.

        It ends this side, and messages that were not read are dropped.

        Raises:
            CallError: The server's function raised, or the connection was lost.
        """
        return self._thread.run(self.channel.result())

    def close(self) -> None:
        """Close this side; messages that the peer still sends are discarded."""
        self._thread.run(self.channel.close())

    def set_finish(self, msg: str = "") -> None:
        """Close this side at once; later reads raise `ChannelClosed(msg)`."""

        async def finish() -> None:
            self.channel.set_finish(msg)

        self._thread.run(finish())

    def wait_close(self) -> None:
        """Block until the peer has closed the channel, or the connection was lost."""
        self._thread.run(self.channel.wait_close())

    def loop(self, flag: bool = True) -> bool:
        """Return whether to continue: `flag` is true and the channel is open."""
        return bool(flag) and not self.is_close

    def iter_body(self) -> Iterator[In]:
        """Yield message bodies until the peer closes; raise a `CallError` of the peer."""
        return self._until_closed(self.read_body)

    def iter_response(self) -> Iterator[Any]:
        """Yield messages with their headers until the peer closes."""
        return self._until_closed(self.read)

    def __iter__(self) -> Iterator[In]:
        return self.iter_body()

    def __enter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError("a channel can be entered only once; make a new one")
        self._thread.run(self._enter())
        self._token = ambient_session.set(self._session)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        token, self._token = self._token, None
        if token is not None:
            with contextlib.suppress(ValueError):  # another thread entered the block
                ambient_session.reset(token)
        self._thread.run(self._leave(error))

    async def _enter(self) -> None:
        """Open the channel in a task, which keeps it open until `_leave`."""
        loop = asyncio.get_running_loop()
        self._left = loop.create_future()
        opened: asyncio.Future[Channel[In, Out]] = loop.create_future()
        self._task = task = start_task(self._keep(opened, self._left))
        try:
            await asyncio.wait((opened, task), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not opened.done():
            await task  # raises the reason
        self._channel = opened.result()

    async def _keep(
        self, opened: "asyncio.Future[Channel[In, Out]]", left: "asyncio.Future[None]"
    ) -> None:
        async with self._remote as channel:
            self._session = ambient_session.get()
            opened.set_result(channel)
            await left

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
            self._task.exception()  # the ``with`` block raises the error

    @staticmethod
    def _until_closed(read: Callable[[], T]) -> Iterator[T]:
        while True:
            try:
                message = read()
            except ChannelClosed:
                return
            yield message
