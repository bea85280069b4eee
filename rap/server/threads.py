"""The threads that run `def` handlers, so that they may block.

They are daemon threads, unlike those of the executors of the standard library: after
`close_timeout` the process must be able to exit, even if a handler still blocks.

A generator runs in one thread and one context from its first to its last item: a context variable,
a lock or a database cursor that it holds over a `yield` belongs to one of them. The thread in which
it begins leaves the pool for it, and another one may take its place. Each step needs a place in the
pool nevertheless, so no more functions run at a time than the pool has threads.
"""

import asyncio
import contextlib
import functools
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Any

from rap.call import current
from rap.errors import ResourceExhausted

__all__ = ["OneThread", "Threads"]

_MAX_KEPT = 1024  # threads that open generators keep; each takes about 30 KB

_Job = tuple["Future[Any]", Callable[[], Any], "OneThread | None"]


class Threads:
    """A pool of threads that run functions in the context of the caller.

    Args:
        count: Maximum number of threads. `None` means as many as `ThreadPoolExecutor` has: the
            number of CPUs plus 4, at most 32.
    """

    def __init__(self, count: int | None) -> None:
        self._jobs = _Jobs(count or min(32, (os.cpu_count() or 1) + 4))
        weakref.finalize(self, self._jobs.dismiss)

    async def run(
        self,
        func: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a function in a thread and return its result. If cancelled, the function goes on.

        Args:
            func: The function.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
        """
        call = functools.partial(copy_context().run, _call, func, args, kwargs or {})
        return await _outcome(self._jobs.submit(call))  # pyright: ignore[reportArgumentType]  # of `Context.run`

    def one(self) -> "OneThread":
        """Return one thread of the pool, for functions that run one after another.

        Raises:
            ResourceExhausted: Too many threads are kept already.
        """
        if self._jobs.kept >= _MAX_KEPT:
            raise ResourceExhausted(
                f"{_MAX_KEPT:,} `def` generators are open, and each keeps a thread: "
                "declare them as `async def`"
            )
        return OneThread(self._jobs)

    def close(self) -> None:
        """Cancel the jobs that wait, and let the threads end; running functions finish."""
        self._jobs.close()


class OneThread:
    """A thread and a context in which functions run one after another, until it is released.

    It is taken from the pool by the first function, unless that function calls `leave`.

    Args:
        jobs: The queue of the pool.
    """

    def __init__(self, jobs: "_Jobs") -> None:
        self._jobs = jobs
        self._context = copy_context()
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._has_begun = False
        self.is_released = False

    async def run(self, func: Callable[[], Any]) -> Any:
        """Run a function in the thread and return its result. If cancelled, the function goes on.

        Args:
            func: The function. It does not run if this is cancelled before it begins.
        """
        call = functools.partial(self._context.run, _call, func, (), {})
        if not self._has_begun:
            self._has_begun = True
            return await _outcome(self._jobs.submit(call, self))
        if self._jobs.is_closed:  # the last function of a generator still runs
            return await _outcome(self._put(call))
        # A thread of the pool waits meanwhile, so this takes a place in the pool.
        return await _outcome(self._jobs.submit(lambda: self._put(call).result()))

    def leave(self) -> None:
        """Release the thread; called by the function that runs in it, which is the last one."""
        self.is_released = True

    def release(self, last: Callable[[], object] | None = None) -> None:
        """Release the thread when the functions that were begun have ended.

        Args:
            last: Runs in the thread after those, unless one of them calls `leave`.
        """
        if not self.is_released:
            if last is not None:
                self._put(functools.partial(self._context.run, last))
            self._queue.put(None)

    def serve(self) -> None:
        """Run the functions; called by the thread."""
        while job := self._queue.get():
            _run(*job)()
            del job
            if self.is_released:
                return
        self.is_released = True

    def _put(self, call: Callable[[], Any]) -> "Future[Any]":
        future: Future[Any] = Future()
        self._queue.put((future, call))
        return future


class _Jobs:
    """The queue that the threads share; it does not keep the pool alive.

    Args:
        max_threads: Maximum number of threads in the pool.

    Attributes:
        kept: Number of threads that have left the pool for a generator.
        is_closed: Whether nothing more is run.
    """

    def __init__(self, max_threads: int) -> None:
        self.kept = 0
        self.is_closed = False
        self._max_threads = max_threads
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._unfinished = 0  # jobs that wait or run
        self._threads = 0  # in the pool
        self._started = 0

    def submit(self, call: Callable[[], Any], one: OneThread | None = None) -> "Future[Any]":
        """Queue a job, and start another thread if all are busy and there may be more.

        Args:
            call: What to run.
            one: What takes the thread out of the pool afterwards, unless it is released.
        """
        future: Future[Any] = Future()
        if self.is_closed:
            future.cancel()
            return future
        with self._lock:
            self._unfinished += 1
        self._queue.put((future, call, one))
        try:
            self._start_if_short()
        except RuntimeError:  # the machine has too many threads for now
            if not self._threads:  # otherwise an existing thread takes the job
                future.cancel()
                raise
        return future

    def close(self) -> None:
        """Cancel the jobs that wait, and let the threads end."""
        self.is_closed = True
        try:
            while job := self._queue.get_nowait():
                job[0].cancel()
        except Empty:
            pass
        self.dismiss()

    def dismiss(self) -> None:
        """Let the threads end after the jobs that wait."""
        self._queue.put(None)

    def _start_if_short(self) -> None:
        with self._lock:
            if self._threads >= min(self._unfinished, self._max_threads):
                return
            self._threads += 1
            name = f"rap-handler_{self._started}"
            self._started += 1
        try:
            threading.Thread(target=self._work, name=name, daemon=True).start()
        except RuntimeError:
            with self._lock:
                self._threads -= 1
                self._started -= 1
            raise

    def _work(self) -> None:
        """Run jobs until a `None` comes, which is put back for the other threads."""
        while job := self._queue.get():
            future, call, one = job
            settle = _run(future, call)
            leaves = one is not None and not one.is_released and not future.cancelled()
            with self._lock:  # before the caller resumes and submits its next job
                self._unfinished -= 1
                if leaves:
                    self._threads -= 1
                    self.kept += 1
            settle()
            del job, future, call, settle  # keep no reference to a finished call
            if one is not None and leaves and not self._keep(one):
                return
            del one
        self._queue.put(None)

    def _keep(self, one: OneThread) -> bool:
        """Work for a generator only; return whether the pool takes the thread back then."""
        with contextlib.suppress(RuntimeError):  # a later job tries again to start a thread
            self._start_if_short()
        one.serve()
        with self._lock:
            self.kept -= 1
            is_needed = self._threads < self._max_threads
            self._threads += is_needed
        return is_needed


async def _outcome(future: "Future[Any]") -> Any:
    """Return the result of a job; the call that runs here is not over before the job has ended."""
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        source = current.get()
        if source is not None:
            source.keep_thread(future)
        raise


def _run(future: "Future[Any]", call: Callable[[], Any]) -> Callable[[], None]:
    """Run a job unless it was cancelled; return the function that tells its future."""
    if not future.set_running_or_notify_cancel():
        return _nothing
    try:
        result = call()
    except BaseException as exc:  # raised where the result is awaited
        return functools.partial(future.set_exception, exc)
    return functools.partial(future.set_result, result)


def _nothing() -> None:
    """Tell no one: the job was cancelled."""


def _call(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    try:
        return func(*args, **kwargs)
    except StopIteration as exc:  # a future cannot hold it
        raise RuntimeError("the function raised StopIteration") from exc
