"""How long many things took: least, mean and quantiles of times that were measured."""

import math
from collections.abc import Iterable

__all__ = ["MILLISECONDS", "Times"]

MILLISECONDS = 1000.0  # in a second


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
