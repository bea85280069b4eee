"""Plain iterables of a calling thread, as the items of a call that the client's thread makes.

The iterable runs in the calling thread, while that waits for the answer or for the next item. So it
may block, and it need not be safe to use from another thread.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, NamedTuple

from rap.schema.function import Function

__all__ = ["ThreadItems", "lend_items"]


class _Pulled(NamedTuple):
    """Some items of the iterable.

    Args:
        items: The items, in order.
        error: What ended the iterable, or `None`.
        ended: Whether it has no more.
    """

    items: list[Any]
    error: BaseException | None
    ended: bool


class ThreadItems:
    """The items of a plain iterable, for one call.

    Args:
        source: The iterable.
        ahead: How many items may be taken before the first of them is sent.
    """

    def __init__(self, source: Iterable[Any], ahead: int) -> None:
        self._source = source
        self._ahead = ahead
        self._iterator: Iterator[Any] | None = None
        # What the client's thread wants: items, or nothing more of the calling thread.
        self._wanted: SimpleQueue[asyncio.Future[_Pulled] | None] = SimpleQueue()

    async def iterate(self) -> AsyncGenerator[Any, None]:
        """Yield the items, in the client's thread."""
        loop = asyncio.get_running_loop()
        ended = False
        while not ended:
            wanted: asyncio.Future[_Pulled] = loop.create_future()
            self._wanted.put(wanted)
            items, error, ended = await wanted
            for item in items:
                yield item
            if error is not None:
                raise error

    def serve(self, call: "Future[Any]") -> None:
        """In the calling thread, provide items until `call` is done."""
        call.add_done_callback(lambda _: self._wanted.put(None))
        try:
            while (wanted := self._wanted.get()) is not None:
                self._provide(wanted)
        except BaseException:  # KeyboardInterrupt, or an exception of a signal handler
            call.cancel()
            while self._wanted.get() is not None:
                pass
            raise

    def close(self) -> None:
        """In the calling thread, close the iterable: the call has ended."""
        close = getattr(self._source if self._iterator is None else self._iterator, "close", None)
        self._source = ()
        self._iterator = None
        if close is not None:
            close()

    def _provide(self, wanted: "asyncio.Future[_Pulled]") -> None:
        pulled = self._pull()

        def hand_over() -> None:
            if not wanted.done():
                wanted.set_result(pulled)

        with suppress(RuntimeError):  # the loop was closed
            wanted.get_loop().call_soon_threadsafe(hand_over)

    def _pull(self) -> _Pulled:
        """Return the next items of the iterable."""
        from rap.transport.batching import pull_items  # few calls have such an iterable

        items: list[Any] = []
        try:
            if self._iterator is None:
                self._iterator = iter(self._source)
            return _Pulled(items, None, pull_items(self._iterator, items, self._ahead))
        except Exception as exc:  # of the user's iterable; the call raises it
            return _Pulled(items, exc, True)


def lend_items(
    function: Function | None, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Sequence[Any], dict[str, Any], ThreadItems | None]:
    """Return arguments in which an asynchronous iterator stands for a plain request stream.

    Args:
        function: The function that is called; `None` if only its name is known.
        args: Positional arguments.
        kwargs: Keyword arguments.

    Raises:
        InvalidArgument: The request stream is missing.
    """
    if function is None or function.stream_parameter is None:
        return args, kwargs, None
    others, named, source = function.split_arguments(args, kwargs)
    if isinstance(source, str | bytes | AsyncIterable) or not isinstance(source, Iterable):
        return args, kwargs, None
    from rap.transport.batching import BATCH_ITEMS  # as above

    # An item of a bidirectional call may be wanted before the next one can be made.
    ahead = 1 if function.stream_type.server_streams else BATCH_ITEMS
    items = ThreadItems(source, ahead)
    given, rest = function.join_arguments(others, named, items.iterate())
    return given, dict(rest or {}), items
