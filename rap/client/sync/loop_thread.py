"""An event loop in a background thread, for callers without an event loop.

A forked child inherits the memory of such a loop, but not its thread. It also inherits the sockets:
as long as the child holds them, the parent cannot close a connection. So `abandon` replaces them
with the null device; objects that still use their numbers then do no harm.
"""

import asyncio
import contextlib
import os
import selectors
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from rap.client.sync.items import ThreadItems
from rap.errors import DeadlineExceeded, Unavailable

__all__ = ["LoopThread"]

T = TypeVar("T")

_BLOCKS_LOOP = (
    "this thread runs an event loop, which a blocking call holds: there, use a Client and `await`"
)
_JOIN = 5.0  # seconds that `close` waits for the thread; after that it ends by itself


class LoopThread:
    """A thread that runs coroutines for other threads until it is closed.

    The coroutines see the context variables of the caller, so sessions and deadlines apply to them.

    Args:
        name: Name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._why: str | None = None  # why it runs nothing any more
        started = threading.Event()
        # A daemon thread, so that a program that does not close the client can exit.
        self._thread = threading.Thread(target=self._main, args=(started,), name=name, daemon=True)
        self._thread.start()
        started.wait()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop."""
        return self._loop

    @property
    def is_here(self) -> bool:
        """Whether the caller is this thread."""
        return threading.current_thread() is self._thread

    def run(self, coroutine: Coroutine[Any, Any, T], items: ThreadItems | None = None) -> T:
        """Run a coroutine and return its result; an exception such as Ctrl-C cancels it.

        Args:
            coroutine: What to run.
            items: Items that it takes from the calling thread meanwhile.

        Raises:
            RuntimeError: The caller is this thread, which would wait for itself.
            Unavailable: The loop was closed before the coroutine ended, or belongs to another
                process.
        """
        if self.is_here:
            coroutine.close()
            raise RuntimeError(f"a blocking call from {self._name!r} would wait for itself")
        future: Future[T] | None = None
        try:
            future = self._submit(coroutine)
            if items is not None:
                items.serve(future)
            return future.result()
        except (Unavailable, DeadlineExceeded) as exc:
            if _runs_loop():
                exc.restate(f"{exc.message}; {_BLOCKS_LOOP}")
            raise
        except CancelledError:
            raise Unavailable(self._why or "the call was cancelled") from None
        except BaseException:  # KeyboardInterrupt, or an exception of a signal handler
            if future is not None:
                future.cancel()
            raise

    def close(self, last: Coroutine[Any, Any, object]) -> None:
        """Run `last`, cancel all tasks, and end the thread. It may be called again."""
        with self._lock:
            closed = self._why is not None or not self._thread.is_alive()
            self._why = self._why or "the client was closed"
        if closed:
            last.close()
            return
        asyncio.run_coroutine_threadsafe(self._end(last), self._loop)
        if not self.is_here:  # the garbage collector may run in any thread
            self._thread.join(_JOIN)

    def abandon(self) -> None:
        """Release the descriptors of the parent process; called in a forked child."""
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


def _runs_loop() -> bool:
    """Return whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
