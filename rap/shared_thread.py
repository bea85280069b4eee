"""One thread for functions that take long, in which clients take turns.

It is for work that keeps the interpreter busy: two such threads would not be faster than one, and
would take more time from the event loop.
"""

import asyncio
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from time import monotonic
from typing import Any, TypeVar

from rap.turns import Party, Turns

__all__ = ["SharedThread", "resolve"]

R = TypeVar("R")

_IDLE = 5.0  # seconds without a function after which the thread ends


class SharedThread:
    """A thread that runs one function after another; any thread and event loop may use it.

    It starts with the first function, and ends some time after the last one. It is a daemon thread:
    the process can exit while a function runs.

    Args:
        name: Name of the thread.
        levels: Number of parts that each client has; see `Turns`.
    """

    def __init__(self, name: str, levels: int = 1) -> None:
        self._name = name
        self._turns: Turns[_Job] = Turns(levels)
        self._changed = threading.Condition()
        self._has_thread = False
        self._reason: str | None = None  # why it is closed

    async def run(self, client: Party, func: Callable[..., R], *args: Any) -> R:
        """Run a function when it is the client's turn, in the context of the caller.

        If the caller is cancelled, a function that has not begun does not run. One that has begun
        goes on, and the next one waits for it.

        Args:
            client: Who asks for it, in as many parts as there are levels.
            func: The function.
            args: Its arguments.

        Raises:
            RuntimeError: The machine has too many threads for now, or this is closed. After the
                former, the next call tries again to start the thread.
        """
        run: Callable[..., Any] = copy_context().run
        job = _Job(client, functools.partial(run, func, *args))
        self._submit(job)
        try:
            result: R = await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            with self._changed:
                self._turns.remove(client, job)
            raise
        return result

    def close(self, reason: str) -> None:
        """Let the thread end, and what waits for it fail; a function that runs finishes.

        Args:
            reason: The text of the errors.
        """
        with self._changed:
            self._reason = reason
            waiting = self._turns.clear()
            self._changed.notify()
        for job in waiting:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(RuntimeError(reason))

    def _submit(self, job: "_Job") -> None:
        with self._changed:
            if self._reason is not None:
                raise RuntimeError(self._reason)
            if not self._has_thread:  # and nothing waits
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
                self._has_thread = True
            self._turns.add(job.client, job)
            self._changed.notify()

    def _work(self) -> None:
        """Run functions until there are none for some time."""
        while (job := self._next()) is not None:
            began_at = monotonic()
            settle = resolve(job.future, job.call)
            with self._changed:
                self._turns.end(job.client, monotonic() - began_at)
            if settle is not None:
                settle()
            del job, settle  # keep no reference to what has ended

    def _next(self) -> "_Job | None":
        with self._changed:
            while (job := self._turns.next()) is None:
                is_over = self._reason is not None or not self._changed.wait(_IDLE)
                if is_over and not self._turns.waiting:
                    self._has_thread = False
                    return None
            return job


class _Job:
    """A function that waits for the thread, or runs in it.

    Args:
        client: Who asks for it.
        call: The function with its arguments.
    """

    __slots__ = ("call", "client", "future")

    def __init__(self, client: Party, call: Callable[[], Any]) -> None:
        self.future: Future[Any] = Future()
        self.client = client
        self.call = call


def resolve(future: "Future[Any]", call: Callable[[], Any]) -> Callable[[], None] | None:
    """Call a function for a future, and return what tells the future the outcome.

    Args:
        future: The future; the function is not called if it was cancelled.
        call: The function.

    Returns:
        A function, or `None` if the future was cancelled.
    """
    if not future.set_running_or_notify_cancel():
        return None
    try:
        result = call()
    except BaseException as exc:  # raised where the result is awaited
        return functools.partial(future.set_exception, exc)
    return functools.partial(future.set_result, result)
