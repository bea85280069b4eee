"""Counts of the calls and messages of one side, as plain numbers that collectors read.

A counter of a metrics library takes a lock and validates each step, which costs more than a call.
Here a count is an attribute that is incremented. An interpreter with a global lock switches threads
only at calls and backward jumps, never inside ``x.y += 1``, so event loops in several threads can
share these counts.
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

# Upper bounds of the histogram buckets, in seconds. A call over loopback takes 100 us, and the
# default timeout is 9 s.
SECONDS = (
    *(0.0001, 0.00025, 0.0005),
    *(0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0),
)
UNKNOWN_METHOD = "unknown"
MAX_METHODS = 1000  # method names with their own series on a client; a gateway passes on any name

_OK = int(Code.OK)
_now = time.perf_counter


class Exemplar(NamedTuple):
    """A traced call that is an example for its histogram bucket.

    Args:
        trace_id: The trace that contains it.
        seconds: How long it took.
        ended: Seconds since the epoch at which it ended.
    """

    trace_id: str
    seconds: float
    ended: float


class Series:
    """The counts of one function.

    Args:
        method: The method of the function, or `UNKNOWN_METHOD`.
        stream_type: The stream type of its calls.

    Attributes:
        started: Calls that started.
        ended: Calls that ended, indexed by status code.
        retries: Attempts beyond the first.
        seconds: Total duration of all calls.
        buckets: Calls per histogram bucket; the last bucket is for those above all bounds.
        exemplars: The last traced call of each bucket.
        sent: Messages sent to the peer.
        received: Messages received from the peer.
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
    """The counts of all calls of one side.

    Args:
        side: The side that counts.

    Attributes:
        by_method: The series last used by each known method.
    """

    def __init__(self, side: Side) -> None:
        self.side = side
        self.by_method: dict[str, Series] = {}
        self._known: set[str] = set()
        self._all: dict[tuple[str, StreamType], Series] = {}

    def __iter__(self) -> Iterator[Series]:
        return iter(list(self._all.values()))

    def begin(self, call: Call) -> Series | None:
        """Return the series of a call that starts; `None` if its method may not exist.

        A call that reaches the scope of a server has a handler. The method of a client's call is
        known once a server has answered otherwise than with UNIMPLEMENTED, or NOT_FOUND as older
        servers do.
        """
        if self.side is Side.SERVER:
            self._known.add(call.method)
        return self.of(call) if call.method in self._known else None

    def late(self, call: Call, code: Code) -> Series:
        """Return the series of a call that has ended and had none when it started."""
        if code is not Code.UNIMPLEMENTED and code is not Code.NOT_FOUND:
            self._learn(call)
        return self.of(call)

    def count_sent(self, call: Call, number: int = 1) -> None:
        """Count messages that were sent to the peer."""
        series = self.by_method.get(call.method)
        if series is None or series.stream_type is not call.stream_type:
            series = self.begin(call) or self.of(call)
        series.sent += number

    def count_received(self, call: Call, number: int = 1) -> None:
        """Count messages that came from the peer."""
        series = self.by_method.get(call.method)
        if series is None or series.stream_type is not call.stream_type:
            if self.side is Side.CLIENT:
                self._learn(call)  # a server answers it, so it has the method
            series = self.begin(call) or self.of(call)
        series.received += number

    def of(self, call: Call) -> Series:
        """Return the series of a call, which is the one of unknown methods if its own is."""
        method = call.method if call.method in self._known else UNKNOWN_METHOD
        series = self._all.get((method, call.stream_type))
        if series is None:
            series = self._all.setdefault(
                (method, call.stream_type), Series(method, call.stream_type)
            )
        if method is call.method:
            self.by_method[method] = series
        return series

    def _learn(self, call: Call) -> None:
        """Remember that a server has the method of a call."""
        if len(self._known) < MAX_METHODS:
            self._known.add(call.method)


class CountedCall:
    """The scope of one call, which counts and times it.

    Args:
        counts: The counts of the side.
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
        if series is None:  # only now it is known which series counts it
            series = self._counts.late(self._call, code)
            series.started += 1
        series.ended[code] += 1
        return series
