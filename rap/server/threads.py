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
import logging
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from math import inf
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Protocol, TypeVar

from rap.call import current
from rap.clock import Clock, Pace, SystemClock, Timer, timer_of
from rap.errors import DeadlineExceeded, ResourceExhausted
from rap.shared_thread import SharedThread, resolve
from rap.turns import Party, Turns

__all__ = ["Job", "OneThread", "ThreadUser", "Threads"]

T = TypeVar("T")
R = TypeVar("R")

_log = logging.getLogger("rap.server")
_LONG_WAIT = 1.0  # seconds after which a job that waits for a thread is worth a line in the log
_LOG_PAUSE = 60.0  # seconds between two such lines
# Seconds before its deadline at which a call that still waits fails, at most a tenth of the time
# that it had: the caller then learns the reason before it gives up itself.
_EARLY = 0.05
_NEWEST = 0.1  # weight of the last job in the average time of jobs
_MAX_NAMES = 3  # functions that a text names
_FULL = (
    "all %d threads are busy (running there: %s), and %d calls wait for one, the first for %.1f s; "
    "if these functions call `def` functions of this server, they wait for each other: set "
    "`threads` higher, or declare them with `async def`"
)

_LEVELS = 2  # parts of a client: its network and its connection
_LEAST_KEPT = 16  # of a connection, while there are any
_MAX_KEPT = 1024  # threads that open generators keep; each takes about 30 KB


class Threads:
    """A pool of threads that run functions in the context of the caller.

    Args:
        count: Maximum number of threads. `None` means as many as `ThreadPoolExecutor` has: the
            number of CPUs plus 4, at most 32.
        clock: Source of time of the deadlines.
    """

    def __init__(self, count: int | None, clock: Clock | None = None) -> None:
        self._jobs = _Jobs(count or min(32, (os.cpu_count() or 1) + 4), clock or SystemClock())
        self._decoding = SharedThread("rap decode", _LEVELS)
        self._kept_for: weakref.WeakKeyDictionary[Any, weakref.WeakSet[OneThread]] = (
            weakref.WeakKeyDictionary()
        )
        weakref.finalize(self, self._jobs.dismiss)

    @property
    def limit(self) -> int:
        """Maximum number of threads."""
        return self._jobs.max_threads

    @property
    def busy(self) -> int:
        """Number of threads that run a function."""
        return len(self._jobs.running)

    @property
    def waiting(self) -> int:
        """Number of functions that wait for a thread."""
        return len(self._jobs.waiting)

    @property
    def waited(self) -> float:
        """Seconds that all functions together have waited for a thread."""
        return self._jobs.waited

    def expected_wait(self, client: object) -> float:
        """Return the seconds that a function will wait for a thread; 0 before one has returned.

        Args:
            client: The connection that asks for it.
        """
        return self._jobs.expected_wait(client)

    @property
    def expired(self) -> int:
        """Number of calls whose deadline passed before a thread was free."""
        return self._jobs.expired

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

        Raises:
            DeadlineExceeded: No thread was free before the deadline of the current call.
        """
        run: Callable[..., Any] = copy_context().run
        return await self._jobs.run(functools.partial(run, _call, func, args, kwargs or {}))

    async def decode(self, owner: object, decode: Callable[[T], R], body: T) -> R:
        """Decode a body that takes long, in a thread that has no place in the pool.

        One body is decoded at a time, so that the event loop has to share the interpreter with one
        thread only. Networks take turns, and so do the connections of each.

        Args:
            owner: The connection that the body has come from.
            decode: Decodes it.
            body: The body.
        """
        return await self._decoding.run(_client(owner), decode, body)

    def one(self, owner: object) -> "OneThread":
        """Return one thread of the pool, for functions that run one after another.

        Args:
            owner: The connection of the call. It may keep half of the threads that no other keeps.

        Raises:
            ResourceExhausted: Too many threads are kept already.
        """
        kept = self._kept_for.setdefault(owner, weakref.WeakSet())
        own = sum(not one.is_released for one in kept)
        of_others = max(0, self._jobs.kept - own)
        most = max(_LEAST_KEPT, (_MAX_KEPT - of_others) // 2)
        if self._jobs.kept >= _MAX_KEPT or own >= most:
            raise ResourceExhausted(
                f"{self._jobs.kept:,} `def` generators are open, {own:,} of this client,"
                " and each keeps a thread: declare them as `async def`"
            )
        one = OneThread(self._jobs)
        kept.add(one)
        return one

    def close(self) -> None:
        """Cancel the jobs that wait, and let the threads end; running functions finish."""
        self._jobs.close()
        self._decoding.close("the server has stopped")


class ThreadUser(Protocol):
    """The call that a job is for."""

    @property
    def method(self) -> str:
        """The function that was called."""
        ...

    @property
    def deadline(self) -> float:
        """When the call ends, in seconds on the monotonic clock."""
        ...

    @property
    def conn(self) -> object:
        """The connection of the client; networks take turns, and so do the connections of each."""
        ...

    def set_job(self, job: "Job | None") -> None:
        """Take the job of the call, while there is one."""
        ...


class Job:
    """A function that waits for a thread, or runs in one.

    Args:
        call: The function.
        name: What it is, for texts.
        client: Who asks for it.
        jobs: The other jobs.
        one: What takes the thread out of the pool afterwards, unless it is released.
    """

    __slots__ = (
        "_jobs",
        "call",
        "client",
        "expired",
        "future",
        "is_queued",
        "name",
        "one",
        "queued_at",
        "started_at",
    )

    def __init__(
        self,
        call: Callable[[], Any],
        name: str,
        client: Party,
        jobs: "_Jobs",
        one: "OneThread | None",
    ) -> None:
        self.future: Future[Any] = Future()
        self.call = call
        self.name = name
        self.client = client
        self.queued_at = monotonic()
        self.started_at: float | None = None
        self.expired = False  # cancelled because its deadline was near
        self.is_queued = False  # behind others
        self.one = one
        self._jobs = jobs

    @property
    def waited(self) -> float:
        """Seconds that it has waited for a thread."""
        return (self.started_at or monotonic()) - self.queued_at

    @property
    def where(self) -> str:
        """What it does, for the error of a deadline."""
        waited = f"waited {round(self.waited, 1):g} s for one of {self._jobs.max_threads} threads"
        if self.started_at is None:
            return f"{waited} (running there: {self._jobs.running_names})"
        return "was running" + (f", after it had {waited}" if self.waited >= _EARLY else "")


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
        run: Callable[..., Any] = self._context.run
        call = functools.partial(run, _call, func, (), {})
        if not self._has_begun:
            self._has_begun = True
            return await self._jobs.run(call, self)
        if self._jobs.is_closed:  # the last function of a generator still runs
            return await _outcome(self._put(call))
        # A thread of the pool waits meanwhile, so this takes a place in the pool.
        return await self._jobs.run(lambda: self._put(call).result())

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
            settle = resolve(*job)
            if settle is not None:
                settle()
            del job, settle
            if self.is_released:
                return
        self.is_released = True

    def _put(self, call: Callable[[], Any]) -> "Future[Any]":
        future: Future[Any] = Future()
        self._queue.put((future, call))
        return future


class _Jobs:
    """The jobs that the threads share; it does not keep the pool alive.

    A job goes to a thread through the queue while there are fewer than threads, and otherwise waits
    for its turn. A thread that has ended a job takes the next one of those that wait.

    Args:
        max_threads: Maximum number of threads in the pool.
        clock: Source of time of the deadlines.

    Attributes:
        waiting: Jobs that wait for a thread, the oldest first.
        running: Jobs that run.
        waited: Seconds that all jobs that have ended have waited.
        expired: Number of jobs whose deadline passed before a thread was free.
        kept: Number of threads that have left the pool for a generator.
        is_closed: Whether nothing more is run.
    """

    def __init__(self, max_threads: int, clock: Clock) -> None:
        self.max_threads = max_threads
        self.waiting: dict[Job, None] = {}
        self.running: dict[Job, None] = {}
        self.waited = 0.0
        self.expired = 0
        self.kept = 0
        self.is_closed = False
        self._clock = clock
        self._check_timer: asyncio.TimerHandle | None = None
        self._log_pace = Pace(_LOG_PAUSE, monotonic)
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._turns: Turns[Job] = Turns(_LEVELS)
        self._lock = threading.Lock()
        self._begun = 0  # jobs in the queue, or that run
        self._seconds = 0.0  # that a job runs, on average
        self._threads = 0  # in the pool
        self._started = 0

    def expected_wait(self, client: object) -> float:
        """Return the seconds that a job will wait, if others take as long as recent ones did."""
        with self._lock:
            return self._turns.ahead_of(_client(client)) * self._seconds / self.max_threads

    @property
    def running_names(self) -> str:
        """What the threads run, such as "/default/f (4), /default/g"."""
        names = Counter(job.name for job in list(self.running)).most_common()
        texts = [name if count == 1 else f"{name} ({count})" for name, count in names]
        more = [f"and {len(texts) - _MAX_NAMES} more"] if len(texts) > _MAX_NAMES else []
        return ", ".join(texts[:_MAX_NAMES] + more)

    async def run(self, call: Callable[[], Any], one: OneThread | None = None) -> Any:
        """Run a function in a thread of the pool, and return its result.

        Args:
            call: The function.
            one: What takes the thread out of the pool afterwards, unless it is released.

        Raises:
            DeadlineExceeded: No thread was free before the deadline of the current call.
        """
        user: Any = current.get()
        if not hasattr(user, "set_job"):
            user = None
        name = "a function" if user is None else user.method
        job = Job(call, name, _client(None if user is None else user.conn), self, one)
        self._submit(job)
        expiry = self._on_full(job, user) if job.is_queued else None
        if user is not None:
            user.set_job(job)
        try:
            return await _outcome(job.future)
        except asyncio.CancelledError:
            self.waiting.pop(job, None)
            with self._lock:
                if self._turns.remove(job.client, job):
                    self.waited += job.waited
            if not job.expired or _is_cancelled():
                raise
            self.expired += 1
            text = f"{name}: the deadline of the call is over: it {job.where}"
            raise DeadlineExceeded(text, unserved=True) from None
        finally:
            if expiry is not None:
                expiry.cancel()
            if user is not None:
                user.set_job(None)  # the job refers to the call: leave no reference cycle

    def _submit(self, job: Job) -> None:
        """Queue a job, and start another thread if all are busy and there may be more."""
        if self.is_closed:
            job.future.cancel()
            return
        self.waiting[job] = None
        with self._lock:
            job.is_queued = self._begun >= self.max_threads
            if job.is_queued:
                self._turns.add(job.client, job)
            else:
                self._begun += 1
                self._turns.begin(job.client)
        if not job.is_queued:
            self._queue.put(job)
        try:
            self._start_if_short()
        except RuntimeError:  # the machine has too many threads for now
            if not self._threads:  # otherwise an existing thread takes the job
                self.waiting.pop(job, None)
                job.future.cancel()
                raise

    def _on_full(self, job: Job, user: ThreadUser | None) -> Timer | None:
        """Watch a job that waits; return the timer that ends it shortly before its deadline."""
        loop = asyncio.get_running_loop()
        if self._check_timer is None:
            self._check_timer = loop.call_later(_LONG_WAIT, self._check_waiting, loop)
        left = inf if user is None else user.deadline - self._clock.monotonic()
        if left == inf:
            return None
        later = timer_of(self._clock, loop)
        return later(max(0.0, left - min(_EARLY, left / 10)), _expire, job)

    def _check_waiting(self, loop: asyncio.AbstractEventLoop) -> None:
        """Log that jobs wait for long, at most once a minute."""
        self._check_timer = None
        oldest = next(iter(list(self.waiting)), None)
        if oldest is None:
            return
        self._check_timer = loop.call_later(_LONG_WAIT, self._check_waiting, loop)
        if oldest.waited >= _LONG_WAIT * 0.9 and self._log_pace.allow():
            waiting = len(self.waiting)
            _log.warning(_FULL, self.max_threads, self.running_names, waiting, oldest.waited)

    def close(self) -> None:
        """Cancel the jobs that wait, and let the threads end."""
        self.is_closed = True
        try:
            while job := self._queue.get_nowait():
                job.future.cancel()
        except Empty:
            pass
        with self._lock:
            waiting = self._turns.clear()
        for job in waiting:
            job.future.cancel()
        if self._check_timer is not None:
            self._check_timer.cancel()
        self.dismiss()

    def dismiss(self) -> None:
        """Let the threads end after the jobs that wait."""
        self._queue.put(None)

    def _start_if_short(self) -> None:
        with self._lock:
            if self._threads >= self._begun:  # which is at most `max_threads`
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
        job = self._queue.get()
        while job is not None:
            one = job.one
            job.started_at = monotonic()
            self.running[job] = None
            self.waiting.pop(job, None)
            settle = resolve(job.future, job.call)
            self.running.pop(job, None)
            leaves = one is not None and not one.is_released and not job.future.cancelled()
            with self._lock:  # before the caller resumes and submits its next job
                seconds = monotonic() - job.started_at
                self.waited += job.waited
                if settle is not None:
                    self._learn(seconds)
                self._turns.end(job.client, seconds)
                following = self._turns.next()
                if following is None:
                    self._begun -= 1
                elif leaves:  # another thread takes it
                    self._queue.put(following)
                    following = None
                if leaves:
                    self._threads -= 1
                    self.kept += 1
            if settle is not None:
                settle()
            job = None
            del settle  # keep no reference to a finished call
            if one is not None and leaves and not self._keep(one):
                return
            job = self._queue.get() if following is None else following
            del one, following
        self._queue.put(None)

    def _learn(self, seconds: float) -> None:
        """Add the time of a job to the average."""
        share = _NEWEST if self._seconds else 1.0
        self._seconds += (seconds - self._seconds) * share

    def _keep(self, one: OneThread) -> bool:
        """Work for a generator only; return whether the pool takes the thread back then."""
        with contextlib.suppress(RuntimeError):  # a later job tries again to start a thread
            self._start_if_short()
        one.serve()
        with self._lock:
            self.kept -= 1
            is_needed = self._threads < self.max_threads
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


def _expire(job: Job) -> None:
    job.expired = job.future.cancel()


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _client(conn: object) -> Party:
    """Return who takes turns: the network of a connection, and within it the connection."""
    peer = getattr(conn, "peer", None)
    return ("" if peer is None else peer.network), conn


def _call(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    try:
        return func(*args, **kwargs)
    except StopIteration as exc:  # a future cannot hold it
        raise RuntimeError("the function raised StopIteration") from exc
