"""Items of a remote generator for callers without an event loop."""

from collections import deque
from typing import Any, Self

from rap.client.iterate import RemoteIterator
from rap.client.loop_thread import LoopThread

__all__ = ["SyncIterator"]


class SyncIterator:
    """A plain iterator; nothing is sent before the first item is asked for.

    Breaking out and dropping it ends the remote generator, as `close` and ``with`` do at once.
    One thread may iterate at a time.

    Args:
        client: Kept alive, for one that is dropped is closed.
        thread: Where the call lives.
        remote: What to iterate.
    """

    def __init__(self, client: object, thread: LoopThread, remote: RemoteIterator) -> None:
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
