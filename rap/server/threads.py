"""The threads in which `def` handlers run, so that they may block.

They are daemons, as those of no executor of the standard library are: a server waits for its calls
until `close_timeout`, and then its process must be able to end though a handler still blocks.
"""

import asyncio
import functools
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Any

__all__ = ["Threads"]

_Job = tuple["Future[Any]", Callable[[], Any]]


class _Jobs:
    """What threads share; they do not keep the pool itself alive."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[_Job | None] = SimpleQueue()
        self.lock = threading.Lock()
        self.unfinished = 0  # waiting and running


class Threads:
    """A pool of threads that keeps the context of the call.

    Args:
        count: Threads at the most; `None` for what executors take: the cores plus 4, at most 32.
    """

    def __init__(self, count: int | None) -> None:
        self._most = count or min(32, (os.cpu_count() or 1) + 4)
        self._started = 0
        self._jobs = _Jobs()
        weakref.finalize(self, _dismiss, self._jobs)

    async def run(
        self,
        func: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        abandoned: Callable[[], None] | None = None,
    ) -> Any:
        """Return what `func` returns; if this is cancelled, the function runs on alone.

        Args:
            func: What to run.
            args: Its arguments.
            kwargs: Its keyword arguments.
            abandoned: Run in the thread after a function that nobody waits for any more.
        """
        call = functools.partial(copy_context().run, _call, func, args, kwargs or {})
        future = self._submit(call)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if abandoned is not None:
                future.add_done_callback(lambda _: abandoned())
            raise

    def close(self) -> None:
        """Drop what waits, and let the threads end; what runs goes on."""
        jobs = self._jobs
        try:
            while job := jobs.queue.get_nowait():
                job[0].cancel()
        except Empty:
            pass
        _dismiss(jobs)

    def _submit(self, call: Callable[[], Any]) -> "Future[Any]":
        """Queue a call, for a thread of its own if there may be one more."""
        jobs = self._jobs
        future: Future[Any] = Future()
        with jobs.lock:
            jobs.unfinished += 1
            is_short = self._started < min(jobs.unfinished, self._most)
        jobs.queue.put((future, call))
        if is_short:
            name = f"rap-handler_{self._started}"
            thread = threading.Thread(target=_work, args=(jobs,), name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # there are too many on this machine, for now
                if not self._started:  # else one that there is will come by
                    future.cancel()
                    raise
            else:
                self._started += 1
        return future


def _work(jobs: _Jobs) -> None:
    """Do what comes, until there is a `None`, which is for all threads."""
    while job := jobs.queue.get():
        future, call = job
        result: Any = None
        error: BaseException | None = None
        wanted = future.set_running_or_notify_cancel()
        if wanted:
            try:
                result = call()
            except BaseException as exc:  # who waits for it is told
                error = exc
        with jobs.lock:  # before anybody hears of it, who may have more to do
            jobs.unfinished -= 1
        if error is not None:
            future.set_exception(error)
        elif wanted:
            future.set_result(result)
        del job, future, call, result, error  # nothing of a call outlives it
    jobs.queue.put(None)


def _dismiss(jobs: _Jobs) -> None:
    jobs.queue.put(None)


def _call(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    try:
        return func(*args, **kwargs)
    except StopIteration as exc:  # which no future takes
        raise RuntimeError("the function raised StopIteration") from exc
