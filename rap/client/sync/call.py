"""A started call of the client without asyncio."""

from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

from rap.address import Peer
from rap.call import Header
from rap.client.sync.items import ThreadItems
from rap.client.sync.loop_thread import LoopThread
from rap.client.unary_call import UnaryCall

__all__ = ["SyncCall"]

T_co = TypeVar("T_co", covariant=True)


class SyncCall(Generic[T_co]):
    """A unary or client-streaming call that was started; `result` waits for it.

    A plain request stream is iterated while a thread waits in `result`.

    Args:
        client: Kept alive, because a client that is dropped closes itself.
        thread: Runs the call.
        begin: Starts the call, in that thread.
        items: The plain request stream, if there is one.

    Raises:
        InvalidArgument: The arguments do not fit the function.
    """

    def __init__(
        self,
        client: object,
        thread: LoopThread,
        begin: Coroutine[Any, Any, UnaryCall[T_co]],
        items: ThreadItems | None,
    ) -> None:
        self._client = client
        self._thread = thread
        self._items = items
        self._call = thread.run(begin)

    def result(self) -> T_co:
        """Return the result; block until it has arrived. It may be called more than once.

        Raises:
            CallError: The call failed, or was cancelled.
        """
        try:
            return self._thread.run(self._wait(), self._items)
        finally:
            if self._items is not None:
                self._items.close()

    def cancel(self) -> bool:
        """Cancel the call; return `False` if it has ended already."""

        async def cancel() -> bool:
            return self._call.cancel()

        return self._thread.run(cancel())

    def done(self) -> bool:
        """Return whether the call has ended: with a result, by an error, or cancelled."""
        return self._call.done()

    @property
    def header(self) -> Header:
        """The header of the answer; empty until the answer or an error has arrived."""
        return self._call.header

    @property
    def trailer(self) -> Header:
        """The trailer of the answer; empty until the answer or an error has arrived."""
        return self._call.trailer

    @property
    def peer(self) -> Peer | None:
        """The server of the last attempt; `None` before the first."""
        return self._call.peer

    @property
    def attempts(self) -> int:
        """The number of attempts, from 1."""
        return self._call.attempts

    async def _wait(self) -> T_co:
        return await self._call
