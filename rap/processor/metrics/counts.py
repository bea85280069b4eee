"""Calls and messages of one side, counted as plain numbers, to be read when somebody asks.

The counters of a client library for metrics lock and check themselves at each step, which is more
than a call costs. Here a count is an attribute that grows. An interpreter with a global lock
changes threads at calls and at jumps back, never inside of ``x.y += 1``, so event loops in several
threads may share these.
"""

import time
from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

from rap.call import Call, Side, StreamType
from rap.errors import Code
from rap.processor.base import outcome
from rap.processor.tracing.context import sampled_trace_id

__all__ = [
    "MAX_METHODS",
    "SECONDS",
    "UNKNOWN_METHOD",
    "CountedCall",
    "Counts",
    "Exemplar",
    "Series",
]

# Bounds of the histograms, in seconds: a call over loopback takes 100 us, a default timeout is 9 s.
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # fmt: skip # noqa: E501
UNKNOWN_METHOD = "unknown"
MAX_METHODS = 1000  # names that a client tells apart; a gateway takes them from others

_OK = int(Code.OK)
_now = time.perf_counter


class Exemplar(NamedTuple):
    """One call that stands for others like it.

    Args:
        trace_id: Where it is told in full.
        seconds: It took.
        ended: In seconds since the epoch.
    """

    trace_id: str
    seconds: float
    ended: float


class Series:
    """What is counted of one function.

    Args:
        method: Its name, or `UNKNOWN_METHOD`.
        stream_type: Of its calls.

    Attributes:
        started: Calls that began.
        ended: Calls that ended, by the number of their code.
        retries: Attempts beyond the first.
        seconds: That all calls took together.
        buckets: Calls by how long they took; the last one is for those above all bounds.
        exemplars: The last traced call of each bucket.
        sent: Messages to the peer.
        received: Messages of the peer.
    """

    __slots__ = (
        "buckets",
        "ended",
        "exemplars",
        "method",
        "received",
        "retries",
        "seconds",
        "sent",
        "started",
        "stream_type",
    )

    def __init__(self, method: str, stream_type: StreamType) -> None:
        self.method = method
        self.stream_type = stream_type
        self.started = 0
        self.ended = [0] * len(Code)
        self.retries = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(SECONDS) + 1)
        self.exemplars: dict[int, Exemplar] = {}
        self.sent = 0
        self.received = 0


class Counts:
    """The counts of one side.

    Args:
        side: Which end counts.

    Attributes:
        by_method: The series last used of each name that may have its own.
    """

    def __init__(self, side: Side) -> None:
        self.side = side
        self.by_method: dict[str, Series] = {}
        self._known: set[str] = set()
        self._all: dict[tuple[str, StreamType], Series] = {}

    def __iter__(self) -> Iterator[Series]:
        return iter(list(self._all.values()))

    def begin(self, call: Call) -> Series | None:
        """Return the series of a call that begins; `None` if its name may be an invention.

        A call that gets to the scope of a server has a handler there; what a client calls is
        known when a server has not denied it.
        """
        if self.side is Side.SERVER:
            self._known.add(call.method)
        return self.of(call) if call.method in self._known else None

    def late(self, call: Call, code: Code) -> Series:
        """Return the series of a call that has ended, and began without."""
        if code is not Code.NOT_FOUND:
            self.learn(call)
        return self.of(call)

    def learn(self, call: Call) -> None:
        """A server has a function of the name that was called."""
        if len(self._known) < MAX_METHODS:
            self._known.add(call.method)

    def of(self, call: Call) -> Series:
        """Return the series of a call, which may be that of unknown names."""
        method = call.method if call.method in self._known else UNKNOWN_METHOD
        series = self._all.get((method, call.stream_type))
        if series is None:
            series = self._all.setdefault(
                (method, call.stream_type), Series(method, call.stream_type)
            )
        if method is call.method:
            self.by_method[method] = series
        return series


class CountedCall:
    """The scope of one call.

    Args:
        counts: Of its side.
        call: The call.
    """

    __slots__ = ("_began", "_call", "_counts", "_series")

    def __init__(self, counts: Counts, call: Call) -> None:
        self._counts = counts
        self._call = call

    def __enter__(self) -> None:
        call = self._call
        series = self._counts.by_method.get(call.method)
        if series is None or series.stream_type is not call.stream_type:
            series = self._counts.begin(call)
        if series is not None:
            series.started += 1
        self._series = series
        self._began = _now()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        elapsed = _now() - self._began
        call, series = self._call, self._series
        if error is None and series is not None:
            series.ended[_OK] += 1
        else:
            series = self._ended(outcome(error))
        series.seconds += elapsed
        bucket = bisect_left(SECONDS, elapsed)
        series.buckets[bucket] += 1
        if call.attempt > 1:
            series.retries += call.attempt - 1
        if call.header or call.state:
            trace_id = sampled_trace_id(call)
            if trace_id:
                series.exemplars[bucket] = Exemplar(trace_id, elapsed, time.time())

    def _ended(self, code: Code) -> Series:
        series = self._series
        if series is None:  # counted now, for now it is clear under which name
            series = self._counts.late(self._call, code)
            series.started += 1
        series.ended[code] += 1
        return series
