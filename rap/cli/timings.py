"""Minimum, mean, quantiles and maximum of measured durations."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["MILLISECONDS", "Bucket", "Durations", "Histogram"]

MILLISECONDS = 1000.0  # per second

_SHORTEST = 1e-9  # seconds
_STEPS = 100  # buckets for each factor of e, so that one bucket is about 1 %
# Bounds of the buckets that are shown, in each decade: preferred numbers of IEC 60063, and 1-2-5.
_BOUNDS = (
    (
        *(1.0, 1.1, 1.2, 1.3, 1.5, 1.6, 1.8, 2.0, 2.2, 2.4, 2.7, 3.0),
        *(3.3, 3.6, 3.9, 4.3, 4.7, 5.1, 5.6, 6.2, 6.8, 7.5, 8.2, 9.1),
    ),
    (1.0, 1.2, 1.5, 1.8, 2.2, 2.7, 3.3, 3.9, 4.7, 5.6, 6.8, 8.2),
    (1.0, 1.5, 2.2, 3.3, 4.7, 6.8),
    (1.0, 2.0, 5.0),
)


class Bucket(NamedTuple):
    """A range of durations, and how many there were.

    Args:
        low: Least duration, in seconds.
        high: Duration in seconds that is the least of the next bucket.
        number: Number of durations.
    """

    low: float
    high: float
    number: int


class Durations:
    """Durations in seconds, all of which are kept.

    Args:
        times: The first durations.
    """

    def __init__(self, times: Iterable[float] = ()) -> None:
        self._times = list(times)
        self._sorted = False

    def __len__(self) -> int:
        return len(self._times)

    def add(self, seconds: float) -> None:
        """Add a duration."""
        self._times.append(seconds)
        self._sorted = False

    def milliseconds(self, *quantiles: float) -> dict[str, float]:
        """Return minimum, mean, quantiles such as ``p99``, and maximum; empty without durations."""
        if not self._times:
            return {}
        found = {"min": self._quantile(0.0), "avg": sum(self._times) / len(self._times)}
        for each in quantiles:
            found[f"p{each * 100:g}"] = self._quantile(each)
        found["max"] = self._quantile(1.0)
        return {name: round(seconds * MILLISECONDS, 3) for name, seconds in found.items()}

    def _quantile(self, quantile: float) -> float:
        """Return a quantile by the nearest-rank method."""
        if not self._sorted:
            self._times.sort()
            self._sorted = True
        return self._times[max(0, math.ceil(quantile * len(self._times)) - 1)]


class Histogram:
    """Durations in seconds in bounded memory; quantiles are accurate to about one percent.

    Attributes:
        count: Number of durations.
    """

    def __init__(self) -> None:
        self.count = 0
        self._counts: Counter[int] = Counter()
        self._sum = 0.0
        self._least = math.inf
        self._most = 0.0

    def add(self, seconds: float) -> None:
        """Add a duration."""
        self.count += 1
        self._sum += seconds
        self._least = min(self._least, seconds)
        self._most = max(self._most, seconds)
        self._counts[round(math.log(max(seconds, _SHORTEST)) * _STEPS)] += 1

    def milliseconds(self, *quantiles: float) -> dict[str, float]:
        """Return minimum, mean, quantiles such as ``p99``, and maximum; empty without durations."""
        if not self.count:
            return {}
        found = {"min": self._least, "avg": self._sum / self.count}
        wanted = [(each, math.ceil(each * self.count)) for each in sorted(quantiles)]
        seen = 0
        for step in sorted(self._counts):
            seen += self._counts[step]
            while wanted and seen >= wanted[0][1]:
                middle = math.exp(step / _STEPS)
                found[f"p{wanted.pop(0)[0] * 100:g}"] = min(max(middle, self._least), self._most)
        found["max"] = self._most
        return {name: round(seconds * MILLISECONDS, 3) for name, seconds in found.items()}

    def buckets(self, most: int = 12) -> list[Bucket]:
        """Return counts from the shortest to the longest duration; empty without durations.

        Bounds are round numbers in milliseconds, as close together as `most` allows, three in each
        decade at least.

        Args:
            most: Number of buckets, if the durations span less than four decades.
        """
        if not self.count:
            return []
        found: list[Bucket] = []
        for series in _BOUNDS:
            found = self._buckets_of(series)
            if len(found) <= most:
                break
        return found

    def _buckets_of(self, series: tuple[float, ...]) -> list[Bucket]:
        counts: Counter[int] = Counter()
        for step, count in self._counts.items():
            middle = min(max(math.exp(step / _STEPS), self._least), self._most) * MILLISECONDS
            counts[_index(middle, series)] += count
        return [
            Bucket(_bound(at, series), _bound(at + 1, series), counts[at])
            for at in range(min(counts), max(counts) + 1)
        ]


def _index(milliseconds: float, series: tuple[float, ...]) -> int:
    """Return the number of the bucket that has a duration; bucket 0 begins at 1 ms."""
    decade = math.floor(math.log10(max(milliseconds, _SHORTEST)))
    return decade * len(series) + bisect_right(series, milliseconds / 10.0**decade) - 1


def _bound(index: int, series: tuple[float, ...]) -> float:
    """Return the least duration of a bucket, in seconds."""
    decade, place = divmod(index, len(series))
    return series[place] * 10.0**decade / MILLISECONDS
