"""What a call must pass besides the gate, for functions that have more to pass.

A plain `async` function has no `Entrance` and pays nothing. A `def` function that runs in a thread
has one, and so has each function with a limit on the calls that run at a time.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from math import inf
from typing import Any, NamedTuple, Protocol

from rap.call import StreamType
from rap.clock import Clock
from rap.server.overload.limits import (
    AdaptiveLimit,
    FixedLimit,
    Limit,
    Limited,
    Running,
    Shares,
)
from rap.server.overload.lookout import Lookout
from rap.server.router import Handler

__all__ = ["Entrance", "Entrances", "Overload", "ThreadPool"]

# Share of its time that a call may wait for a thread, by its priority; and more, if its connection
# has less than its equal share of the calls.
_PATIENCE = (0.75, 0.5, 0.25)
_MORE_PATIENCE = 0.25


class Overload(NamedTuple):
    """How overloaded a server is.

    Args:
        waiting: Calls that wait for their turn.
        delay: Seconds that the call that began last has waited; 0 while no call waits.
        waited: Seconds that calls have waited so far.
        limits: Calls that may run at a time, by function, of functions that have a limit.
        refused: Calls that were refused, by reason, function and priority.
    """

    waiting: int = 0
    delay: float = 0.0
    waited: float = 0.0
    limits: Mapping[str, float] = {}
    refused: Mapping[tuple[str, str, str], int] = {}


class ThreadPool(Protocol):
    """The threads that run `def` functions."""

    def expected_wait(self, client: object) -> float:
        """Return the seconds that a function of a client will wait for a thread."""
        ...


class Watched(Limited, Protocol):
    """A call whose function may get a limit."""

    handler: Handler

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The task that runs it; `None`: it has not begun, or has ended."""
        ...

    @property
    def method(self) -> str:
        """The function, as ``/group/name``."""
        ...


class _ThreadQueue:
    """The calls that wait for a thread or run in one.

    Args:
        threads: The threads.
    """

    def __init__(self, threads: ThreadPool) -> None:
        self._threads = threads
        self._shares = Shares()
        self._count = 0

    def refused_wait(self, call: Limited, priority: int, now: float) -> float | None:
        """Return the seconds that a call would wait, if that is too long."""
        wait, time = self._threads.expected_wait(call.conn), call.deadline - now
        most = time * _PATIENCE[priority]
        if wait <= most:
            return None
        if wait <= most + time * _MORE_PATIENCE:
            # So many calls may wait, and its connection may have an equal share of them.
            if self._shares.has_room(call.conn, self._count * most / wait):
                return None
        return wait

    def enter(self, call: Limited, task: asyncio.Task[None]) -> None:
        """Count a call until its task ends."""
        self._count += 1
        self._shares.add(call.conn)
        task.add_done_callback(partial(self._leave, call.conn))

    def _leave(self, conn: object, _: asyncio.Task[None]) -> None:
        self._count -= 1
        self._shares.remove(conn)


class Entrance:
    """What the calls of one function must pass.

    Args:
        limits: How many may run at a time, each of several limits.
        queue: Of the threads, if it runs there; `None`: it runs on the event loop.
        adaptive: The one of the limits that ends when it is not needed any more.
        forget: Called then.
    """

    __slots__ = ("_adaptive", "_forget", "_limits", "_queue")

    def __init__(
        self,
        limits: Iterable[Limit],
        queue: "_ThreadQueue | None",
        adaptive: AdaptiveLimit | None,
        forget: Callable[[], object],
    ) -> None:
        self._limits = tuple(limits)
        self._queue = queue
        self._adaptive = adaptive
        self._forget = forget

    def refusal(self, call: Limited, priority: int, now: float) -> tuple[str, float] | None:
        """Return why a call must not begin, and the seconds that it would have to wait.

        Args:
            call: The call.
            priority: Index in `rap.call.PRIORITIES`.
            now: Seconds on the monotonic clock.
        """
        if self._queue is not None:
            wait = self._queue.refused_wait(call, priority, now)
            if wait is not None:
                return "threads", wait
        for limit in self._limits:
            if limit.refuses(call, priority, now):
                return limit.reason, limit.retry_after
        return None

    def enter(self, call: Limited, task: asyncio.Task[None], now: float) -> None:
        """Count a call that has begun until its task ends."""
        if self._queue is not None:
            self._queue.enter(call, task)
        for limit in self._limits:
            limit.enter(call, task, now)
        if self._adaptive is not None and not self._adaptive.is_needed:
            self._forget()


class Entrances:
    """The entrances of all functions of a server.

    Args:
        threads: Where `def` functions run; `None`: their calls are not refused.
        clock: Source of time.
        loop: The event loop of the server.
        running: Returns the calls of the same function that run on the connection of a call.
        max_concurrency: Maximum number of calls of all functions together.
        adapts: Whether functions get limits that they need.
        on_change: Called when an entrance has changed.
    """

    def __init__(
        self,
        threads: ThreadPool | None,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        *,
        running: Callable[[Any], Iterable[Running]],
        max_concurrency: int | None,
        adapts: bool,
        on_change: Callable[[], object],
    ) -> None:
        self._queue = None if threads is None else _ThreadQueue(threads)
        self._clock = clock.monotonic
        self._adapts = adapts
        self._on_change = on_change
        self._of_server: FixedLimit | None = None
        if max_concurrency is not None:
            self._of_server = FixedLimit(max_concurrency, spares_critical=True)
        self._fixed: dict[str, FixedLimit] = {}  # by function
        self._adaptive: dict[str, AdaptiveLimit] = {}
        self._running = running
        self._lookout: Lookout[Watched] = Lookout(clock.monotonic, loop.call_soon, self._watch)

    @property
    def limits(self) -> Mapping[str, float]:
        """How many calls may run at a time, by function; of functions that have a limit."""
        found = {method: limit.most for method, limit in self._adaptive.items()}
        for method, limit in self._fixed.items():
            found[method] = min(limit.most, found.get(method, inf))
        return {method: most for method, most in found.items() if most < inf}

    def of(self, handler: Handler) -> Entrance | None:
        """Return the entrance of a function; `None` if it needs none."""
        method = handler.method
        queue = self._queue if handler.needs_thread else None
        limits: list[Limit] = []
        if self._of_server is not None:
            limits.append(self._of_server)
        if handler.max_concurrency is not None:
            fixed = self._fixed.get(method)
            if fixed is None or fixed.most != handler.max_concurrency:
                fixed = self._fixed[method] = FixedLimit(handler.max_concurrency)
            limits.append(fixed)
        adaptive = self._adaptive.get(method)
        if adaptive is not None:
            limits.append(adaptive)
        if not limits and queue is None:
            return None
        return Entrance(limits, queue, adaptive, partial(self._forget, method))

    def sample(self, call: Watched, now: float) -> None:
        """Notice whether a call that is about to begin takes long."""
        handler = call.handler
        if self._adapts and not handler.needs_thread and handler.stream_type is StreamType.UNARY:
            if handler.method not in self._adaptive:
                self._lookout.add(call, now)

    def expire(self, call: Watched) -> None:
        """Take note of a running call that has expired."""
        if self._adapts and not call.handler.needs_thread and call.handler.has_one_response:
            self._watch(call)

    def _watch(self, call: Watched) -> None:
        """Watch the function of a call."""
        method = call.handler.method
        limit = self._adaptive.get(method)
        if limit is None:
            limit = self._adaptive[method] = AdaptiveLimit(
                self._clock, self._running, self._lookout.usual(method)
            )
            self._on_change()
        limit.watch(call)

    def _forget(self, method: str) -> None:
        """Watch a function no more."""
        if self._adaptive.pop(method, None) is not None:
            self._on_change()
