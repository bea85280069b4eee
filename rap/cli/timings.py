"""Minimum, mean, quantiles and maximum of measured durations."""

import math
from collections import Counter
from collections.abc import Iterable

__all__ = ["MILLISECONDS", "Durations", "Histogram"]

MILLISECONDS = 1000.0  # per second

_SHORTEST = 1e-9  # seconds
_STEPS = 100  # buckets for each factor of e, so that one bucket is about 1 %


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
