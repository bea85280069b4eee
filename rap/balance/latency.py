"""Latency as a function of the number of calls in flight.

A latency alone says little about the next call, because an idle server answers fast. A balancer
that ignores the calls in flight is worse than round robin (Prequal, arXiv 2312.10172). Therefore
each sample has the number of calls in flight at its start.
"""

from collections import deque
from math import log
from operator import itemgetter

__all__ = ["LatencyAt"]

KEPT = 128
NEAREST = 8
MAX_AGE = 10.0


class LatencyAt:
    """The last latencies of a server, each with the number of calls in flight at its start.

    Times are seconds on the monotonic clock.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float, float]] = deque(maxlen=KEPT)

    def add(self, now: float, in_flight: int, elapsed: float) -> None:
        """Keep a sample.

        Args:
            now: When the call ended.
            in_flight: Number of other calls in flight when it started.
            elapsed: Its duration in seconds.
        """
        self._samples.append((now, log(in_flight + 1), elapsed))

    def at(self, in_flight: int, now: float) -> float | None:
        """Return the median latency at about `in_flight` calls; `None` without samples.

        Distance is a ratio: 2 is as far from 1 as 200 from 100. Samples older than 10 s do not
        count.
        """
        near = log(in_flight + 1)
        fresh = [
            (abs(size - near), elapsed)
            for then, size, elapsed in reversed(self._samples)
            if now - then <= MAX_AGE
        ]
        if not fresh:
            return None
        fresh.sort(key=_distance)  # of equal distances, the newest come first
        nearest = sorted(elapsed for _, elapsed in fresh[:NEAREST])
        return nearest[len(nearest) // 2]


_distance = itemgetter(0)
