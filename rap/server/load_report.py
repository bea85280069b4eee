"""How loaded a server is: reports to its registry, and to clients that ask (PROTOCOL.md §3.8).

A client whose Hello asks for reports gets them with responses; its calls are observed. The calls of
other clients are not, and cost nothing.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Protocol

from rap.call import StreamType
from rap.clock import Clock
from rap.errors import DeadlineExceeded
from rap.registry.base import LoadReport
from rap.server.dispatch import ServerStream
from rap.transport import Connection
from rap.transport.connection import StreamHandler
from rap.wire.load_report import ServerLoad, load_frame

__all__ = ["LoadMeter", "LoadReporter", "LoadSource"]

PAUSE = 0.1  # seconds between two unrequested reports to one client
# Seconds, per connection, that a report is reused. Counting the calls of one connection takes
# 0.1 us, so counting takes about 1 % of the time, however many clients ask. With 1,000
# connections a report is at most 10 ms old.
_SAME = 1e-5
_SAMPLE_PAUSE = 0.002  # seconds between two calls whose latency is sampled
_UTIL_PAUSE = 0.5  # minimum seconds over which CPU use is averaged
_UNARY = StreamType.UNARY


class LoadSource(Protocol):
    """The counts that reports are made from; `rap.server.connections` has them."""

    @property
    def connections(self) -> Collection[Connection]:
        """The open connections."""
        ...

    @property
    def open_calls(self) -> int:
        """Number of open calls."""
        ...

    @property
    def calls_opened(self) -> int:
        """Number of calls that clients have opened so far."""
        ...

    @property
    def is_draining(self) -> bool:
        """Whether clients are told to open no new calls here."""
        ...


class LoadMeter:
    """Measures the load that a server reports to its registry.

    Each reading covers the time since the previous one.

    Args:
        source: Connections and calls of the server.
        clock: Source of time.
        cpu: Returns the CPU seconds that this process has used.
    """

    def __init__(
        self, source: LoadSource, clock: Clock, *, cpu: Callable[[], float] = time.process_time
    ) -> None:
        self._source = source
        self._clock = clock
        self._cpu = cpu
        self._previous = (clock.monotonic(), source.calls_opened, cpu())

    def __call__(self) -> LoadReport:
        """Return open calls, calls per second, CPU use (1.0 is one core) and open connections."""
        then, calls_then, cpu_then = self._previous
        now, calls, cpu = self._clock.monotonic(), self._source.calls_opened, self._cpu()
        self._previous = (now, calls, cpu)
        seconds = max(now - then, 1e-3)
        return {
            "in_flight": self._source.open_calls,
            "rps": round((calls - calls_then) / seconds, 1),
            "util": round((cpu - cpu_then) / seconds, 3),
            "conns": len(self._source.connections),
        }


class LoadReporter:
    """Reports the load of a server to the clients that ask for it.

    Args:
        source: Connections and calls of the server.
        clock: Source of time.
        cpu: Returns the CPU seconds that this process has used.

    Attributes:
        now: Returns seconds on the monotonic clock.
        sample_at: When the latency of a call is sampled next.
    """

    def __init__(
        self, source: LoadSource, clock: Clock, *, cpu: Callable[[], float] = time.process_time
    ) -> None:
        self.now = clock.monotonic
        self.sample_at = 0.0
        self._source = source
        self._cpu = cpu
        from rap.balance.latency import LatencyAt  # few clients ask

        self._latency = LatencyAt()
        self._counted_at = self._reported_at = -1.0
        self._in_flight = 0
        self._same = 0.0
        self._frame = b""
        self._util = 0.0
        self._util_from = (self.now(), cpu())

    def subscribe(self, conn: Connection, on_open: StreamHandler) -> StreamHandler:
        """Return a stream handler that calls `on_open`, and reports with responses."""
        return _Subscription(self, conn, on_open).on_open

    def report(self, conn: Connection) -> None:
        """Send a report now, unless the client is not reading."""
        if not (conn.closed or conn.paused):
            conn.send_load_report(self.frame(self.now()))

    def frame(self, now: float) -> bytes:
        """Return the frame of a report; it is reused for a few microseconds."""
        if now - self._reported_at >= self._same:
            self._reported_at = now
            in_flight = self.in_flight(now)
            latency = self._latency.at(in_flight, now)
            self._frame = load_frame(
                ServerLoad(
                    in_flight,
                    None if latency is None else round(latency, 6),
                    self.util(now),
                    self._source.is_draining,
                    len(self._source.connections),
                    self._source.calls_opened,
                )
            )
        return self._frame

    def in_flight(self, now: float) -> int:
        """Return the number of open calls."""
        if now - self._counted_at >= self._same:
            connections = self._source.connections
            self._same = len(connections) * _SAME
            self._counted_at = now
            self._in_flight = sum([len(conn.streams) for conn in connections])
        return self._in_flight

    def util(self, now: float) -> float:
        """Return the CPU use of the process, averaged over at least half a second."""
        then, used_then = self._util_from
        if now - then >= _UTIL_PAUSE:
            used = self._cpu()
            self._util = round((used - used_then) / (now - then), 3)
            self._util_from = (now, used)
        return self._util

    def sample(self, began: float, others: int) -> None:
        """Record the latency of a call that has just ended.

        Args:
            began: When it was opened, in seconds on the monotonic clock.
            others: Calls that were open when it was opened.
        """
        now = self.now()
        self._latency.add(now, others, now - began)


class _Subscription:
    """A connection whose client wants reports; wraps the function that opens its calls."""

    __slots__ = ("_conn", "_due", "_open", "_reporter")

    def __init__(self, reporter: LoadReporter, conn: Connection, on_open: StreamHandler) -> None:
        self._reporter = reporter
        self._conn = conn
        self._open = on_open
        self._due = 0.0

    def on_open(
        self, stream: ServerStream, flags: int, meta: bytes, body: bytes | memoryview
    ) -> None:
        """Open a call; observe its end if a sample or a report is due."""
        reporter = self._reporter
        began = reporter.now()
        if began < reporter.sample_at and began < self._due:
            self._open(stream, flags, meta, body)
            return
        others = reporter.in_flight(began) - 1  # without this call, which is counted already
        self._open(stream, flags, meta, body)
        handler = getattr(stream, "handler", None)
        if handler is None or handler.stream_type is not _UNARY or stream.is_waiting:
            self._report_if_due(reporter.now())
            return
        reporter.sample_at = began + _SAMPLE_PAUSE
        ended = partial(self._on_end, stream, began, max(others, 0))
        if stream.task is None:
            ended()
        else:
            stream.task.add_done_callback(ended)

    def _on_end(
        self, stream: ServerStream, began: float, others: int, _: asyncio.Task[None] | None = None
    ) -> None:
        # A quick error must not make the server look fast. A call past its deadline was slow.
        succeeded = not stream.failed and stream.error is None
        if succeeded or isinstance(stream.error, DeadlineExceeded):
            self._reporter.sample(began, others)
        self._report_if_due(self._reporter.now())

    def _report_if_due(self, now: float) -> None:
        if now >= self._due:
            self._due = now + PAUSE
            self._reporter.report(self._conn)
