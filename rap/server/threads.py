"""The threads that run `def` handlers, so that they may block.

They are daemon threads, unlike those of the executors of the standard library: after
`close_timeout` the process must be able to exit, even if a handler still blocks.
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
    """The queue that the threads share; it does not keep the pool alive."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[_Job | None] = SimpleQueue()
        self.lock = threading.Lock()
        self.unfinished = 0  # jobs that wait or run


class Threads:
    """A pool of threads that run functions in the context of the caller.

    Args:
        count: Maximum number of threads. `None` means as many as `ThreadPoolExecutor` has: the
            number of CPUs plus 4, at most 32.
    """

    def __init__(self, count: int | None) -> None:
        self._max_threads = count or min(32, (os.cpu_count() or 1) + 4)
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
        """Run a function in a thread and return its result. If cancelled, the function goes on.

        Args:
            func: The function.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
            abandoned: Called in the thread after a function whose caller was cancelled.
        """
        call = functools.partial(copy_context().run, _call, func, args, kwargs or {})
        future = self._submit(call)  # pyright: ignore[reportArgumentType]  # of `Context.run`
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if abandoned is not None:
                future.add_done_callback(lambda _: abandoned())
            raise

    def close(self) -> None:
        """Cancel the jobs that wait, and let the threads end; running functions finish."""
        jobs = self._jobs
        try:
            while job := jobs.queue.get_nowait():
                job[0].cancel()
        except Empty:
            pass
        _dismiss(jobs)

    def _submit(self, call: Callable[[], Any]) -> "Future[Any]":
        """Queue a job, and start another thread if all are busy and there may be more."""
        jobs = self._jobs
        future: Future[Any] = Future()
        with jobs.lock:
            jobs.unfinished += 1
            is_short = self._started < min(jobs.unfinished, self._max_threads)
        jobs.queue.put((future, call))
        if is_short:
            name = f"rap-handler_{self._started}"
            thread = threading.Thread(target=_work, args=(jobs,), name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the machine has too many threads for now
                if not self._started:  # otherwise an existing thread takes the job
                    future.cancel()
                    raise
            else:
                self._started += 1
        return future


def _work(jobs: _Jobs) -> None:
    """Run jobs until a `None` comes, which is put back for the other threads."""
    while job := jobs.queue.get():
        future, call = job
        result: Any = None
        error: BaseException | None = None
        wanted = future.set_running_or_notify_cancel()
        if wanted:
            try:
                result = call()
            except BaseException as exc:  # raised where the result is awaited
                error = exc
        with jobs.lock:  # before the caller resumes and submits its next job
            jobs.unfinished -= 1
        if error is not None:
            future.set_exception(error)
        elif wanted:
            future.set_result(result)
        del job, future, call, result, error  # keep no reference to a finished call
    jobs.queue.put(None)


def _dismiss(jobs: _Jobs) -> None:
    jobs.queue.put(None)


def _call(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    try:
        return func(*args, **kwargs)
    except StopIteration as exc:  # a future cannot hold it
        raise RuntimeError("the function raised StopIteration") from exc
