"""An event loop in a thread of its own, for callers that have none.

A forked child has the memory of such a loop, but not its thread. The descriptors it inherits are
the parent's: as long as the child holds them the parent cannot hang up. So `abandon` puts the null
device in their place, which the objects that still know the numbers cannot harm.
"""

import asyncio
import contextlib
import os
import selectors
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from rap.errors import Unavailable

__all__ = ["LoopThread"]

T = TypeVar("T")

_JOIN = 5.0  # seconds that closing waits for the thread; what it still does then, it does alone


class LoopThread:
    """Runs coroutines for other threads until it is closed.

    Context variables of the caller are seen by what it runs: sessions and deadlines reach it.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._why: str | None = None  # nothing can be run any more
        started = threading.Event()
        # A daemon: a program that forgets to close must end all the same.
        self._thread = threading.Thread(target=self._main, args=(started,), name=name, daemon=True)
        self._thread.start()
        started.wait()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop."""
        return self._loop

    @property
    def is_here(self) -> bool:
        """Whether the caller is the thread of the loop."""
        return threading.current_thread() is self._thread

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return what the coroutine returns; an interrupt of the wait cancels it.

        Raises:
            RuntimeError: The caller is the loop's own thread and would wait for itself.
            Unavailable: The loop was closed before the coroutine had ended, or is in another
                process.
        """
        if self.is_here:
            coroutine.close()
            raise RuntimeError(f"a blocking call from {self._name!r} would wait for itself")
        future: Future[T] | None = None
        try:
            future = self._submit(coroutine)
            return future.result()
        except CancelledError:
            raise Unavailable(self._why or "the call was cancelled") from None
        except BaseException:  # KeyboardInterrupt, or what a signal handler raises
            if future is not None:
                future.cancel()
            raise

    def close(self, last: Coroutine[Any, Any, object]) -> None:
        """Run `last`, cancel what is left, and end the thread; may be called again."""
        with self._lock:
            closed = self._why is not None or not self._thread.is_alive()
            self._why = self._why or "the client was closed"
        if closed:
            last.close()
            return
        asyncio.run_coroutine_threadsafe(self._end(last), self._loop)
        if not self.is_here:  # the garbage collector may come by in any thread
            self._thread.join(_JOIN)

    def abandon(self) -> None:
        """In a forked child: let go of the parent's descriptors; the loop is of no use here."""
        self._why = "it belongs to the process that this one was forked from"
        null = os.open(os.devnull, os.O_RDWR)
        try:
            for key in list(self._selector.get_map().values()):
                os.dup2(null, key.fd, inheritable=False)
        finally:
            os.close(null)

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        with self._lock:
            if self._why is not None:
                coroutine.close()
                raise Unavailable(self._why)
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def _end(self, last: Coroutine[Any, Any, object]) -> None:
        try:
            await last
        finally:
            self._stop.set()

    def _main(self, started: threading.Event) -> None:
        with asyncio.Runner(loop_factory=self._make_loop) as runner:
            runner.run(self._until_stopped(started))

    def _make_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(self._selector)

    async def _until_stopped(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        started.set()
        with contextlib.suppress(asyncio.CancelledError):
            await self._stop.wait()
