"""Latency that belongs to a number of calls in flight.

A latency alone says little of the next call: an idle server answers fast because it is idle. Taken
without regard to the calls in flight, it makes a balancer worse than taking turns (Prequal, arXiv
2312.10172), so each sample keeps how many calls were in flight when its call came.
"""

from collections import deque
from math import log
from operator import itemgetter

__all__ = ["LatencyAt"]

KEPT = 128
NEAREST = 8
MAX_AGE = 10.0


class LatencyAt:
    """The last latencies of a server, each with the calls in flight at its beginning.

    Times are seconds on the monotonic clock.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float, float]] = deque(maxlen=KEPT)

    def add(self, now: float, in_flight: int, elapsed: float) -> None:
        """Keep a sample.

        Args:
            now: When the call ended.
            in_flight: How many others were in flight when it came.
            elapsed: Seconds that it took.
        """
        self._samples.append((now, log(in_flight + 1), elapsed))

    def at(self, in_flight: int, now: float) -> float | None:
        """Return the median of the samples that had about as many in flight; `None` without any.

        About as many is a matter of proportion: 2 are as far from 1 as 200 from 100. What is older
        than 10 s does not count.
        """
        near = log(in_flight + 1)
        fresh = [
            (abs(size - near), elapsed)
            for then, size, elapsed in reversed(self._samples)
            if now - then <= MAX_AGE
        ]
        if not fresh:
            return None
        fresh.sort(key=_distance)  # of equals the newest come first
        nearest = sorted(elapsed for _, elapsed in fresh[:NEAREST])
        return nearest[len(nearest) // 2]


_distance = itemgetter(0)
