"""How long many things took: least, mean and quantiles of times that were measured."""

import math
from collections import Counter
from collections.abc import Iterable

__all__ = ["MILLISECONDS", "Histogram", "Times"]

MILLISECONDS = 1000.0  # in a second

_SHORTEST = 1e-9  # seconds
_STEPS = 100  # of a histogram for each factor of e, so that one is about 1 %


class Times:
    """Times in seconds, kept one by one.

    Args:
        times: The first ones.
    """

    def __init__(self, times: Iterable[float] = ()) -> None:
        self._times = list(times)
        self._sorted = False

    def __len__(self) -> int:
        return len(self._times)

    def add(self, seconds: float) -> None:
        """Add one."""
        self._times.append(seconds)
        self._sorted = False

    def milliseconds(self, *quantiles: float) -> dict[str, float]:
        """Return least, mean, quantiles such as ``p99`` and largest; nothing if there are none."""
        if not self._times:
            return {}
        found = {"min": self._times_at(0.0), "avg": sum(self._times) / len(self._times)}
        for each in quantiles:
            found[f"p{each * 100:g}"] = self._times_at(each)
        found["max"] = self._times_at(1.0)
        return {name: round(seconds * MILLISECONDS, 3) for name, seconds in found.items()}

    def _times_at(self, quantile: float) -> float:
        """Return the least time that is not less than a share of all (nearest rank)."""
        if not self._sorted:
            self._times.sort()
            self._sorted = True
        return self._times[max(0, math.ceil(quantile * len(self._times)) - 1)]


class Histogram:
    """Any number of times in bounded memory; quantiles are right to about one percent.

    Attributes:
        count: How many there were.
    """

    def __init__(self) -> None:
        self.count = 0
        self._counts: Counter[int] = Counter()
        self._sum = 0.0
        self._least = math.inf
        self._most = 0.0

    def add(self, seconds: float) -> None:
        """Add one."""
        self.count += 1
        self._sum += seconds
        self._least = min(self._least, seconds)
        self._most = max(self._most, seconds)
        self._counts[round(math.log(max(seconds, _SHORTEST)) * _STEPS)] += 1

    def milliseconds(self, *quantiles: float) -> dict[str, float]:
        """Return least, mean, quantiles such as ``p99`` and largest; nothing if there are none."""
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
