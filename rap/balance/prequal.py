"""Prequal: pick by the load that servers report, not by what this client measures.

A client sees only its own calls; a server knows the calls of all clients. In Prequal (Wydrowski and
others, arXiv 2312.10172) clients probe a few servers at a time for the number of calls in flight
and the latency at that number. Servers with the most calls in flight are hot, the others cold. The
fastest cold server is picked. If all servers are hot, the one with the fewest calls is picked; the
same applies to cold servers while the latency of one is unknown.

There are two differences. Most reports come with answers, and a call probes at most one server,
whose report is old. Of a pool of up to 16 candidates, only those with fresh reports are choices, or
else the three with the newest reports. This keeps many clients from picking one server on the same
outdated information.

A latency is valid only for its number of calls in flight. It is assumed to grow with the calls that
this client has sent since.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from random import Random
from typing import Any, Protocol, TypeVar

from rap.balance.p2c import PowerOfTwoChoices
from rap.balance.picker import Candidate

__all__ = ["Prequal", "ReportedLoad", "ReportingCandidate"]

POOL = 16
CHOICES = 3
HOT = 0.84
"""The quantile of calls in flight from which a candidate is hot."""
MAX_AGE = 1.0
FRESH = 0.1
"""Seconds after which a report is requested again; reports with answers are as frequent."""

C = TypeVar("C", bound=Candidate)


class ReportedLoad(Protocol):
    """The load that a server reports."""

    @property
    def in_flight(self) -> int:
        """Number of calls in flight of all clients."""
        ...

    @property
    def latency(self) -> float | None:
        """Latency in seconds at about that number of calls in flight, if known."""
        ...


class ReportingCandidate(Candidate, Protocol):
    """A candidate with the latest report of its server. Times are on the monotonic clock."""

    report: ReportedLoad | None
    reported_at: float
    own_in_flight: int
    """Number of calls in the report that are from this client."""
    avoid_until: float
    """It is not picked until then: a failed call must not make it look fast."""

    def request_load_report(self) -> None:
        """Request a report, unless the last request is too recent."""
        ...


class Prequal:
    """Picks the fastest candidate that is not hot, among those with the newest reports.

    If no candidate has a report, it uses `PowerOfTwoChoices`.

    Args:
        rng: Random numbers; only `random` is used.
        now: Returns seconds on the monotonic clock of the candidates.
    """

    wants_reports = True
    spreads_streams = True

    def __init__(self, rng: Random, now: Callable[[], float]) -> None:
        self._random = rng.random
        self._now = now
        self._rng = rng
        self._blind = PowerOfTwoChoices(rng)
        self._shuffled_from: Sequence[Any] | None = None
        self._shuffled: list[Any] = []

    def pick(self, candidates: Sequence[C], affinity: str | None = None) -> C:
        """Return one of `candidates`; `affinity` is ignored."""
        pool: Sequence[Any] = candidates
        if len(candidates) > POOL:
            if candidates is not self._shuffled_from or type(candidates) is not tuple:
                self._shuffle(candidates)
            start = int(self._random() * len(candidates))
            pool = self._shuffled[start : start + POOL]
        now = self._now()
        drawn = pool[int(self._random() * len(pool))]
        if now - drawn.reported_at > FRESH:
            drawn.request_load_report()
        oldest = now - MAX_AGE
        known: list[tuple[float, float, int, Any]] = []
        for each in pool:
            if each.reported_at >= oldest and each.avoid_until <= now and each.report is not None:
                calls = each.report.in_flight + each.own_calls - each.own_in_flight
                known.append((each.reported_at, calls / each.weight, calls, each))
        if len(known) < 2:
            return self._blind.pick(candidates)
        hot = sorted([crowd for _, crowd, _, _ in known])[int(HOT * len(known))]
        known.sort(key=_newest, reverse=True)
        fresh = now - FRESH
        choices = [each for each in known if each[0] >= fresh]
        if len(choices) < CHOICES:
            choices = known[:CHOICES]
        by_latency = all(each.report.latency is not None for *_, each in choices)
        best: Any = None
        least = (True, 0.0, 0.0)
        for _, crowd, calls, each in choices:
            latency = _latency(each.report, calls) if by_latency else 0.0
            cost = (True, crowd, latency) if crowd >= hot else (False, latency, crowd)
            if best is None or cost < least:
                best, least = each, cost
        chosen: C = best
        return chosen

    def _shuffle(self, candidates: Sequence[C]) -> None:
        """Shuffle the candidates, because neighbours may have much in common.

        The first ones are repeated at the end, so that a pool can start anywhere.
        """
        shuffled = list(candidates)
        self._rng.shuffle(shuffled)
        self._shuffled = [*shuffled, *shuffled[: POOL - 1]]
        self._shuffled_from = candidates


_newest = itemgetter(0)


def _latency(report: Any, calls: int) -> float:
    """Return the expected latency of a call in seconds.

    Args:
        report: The report of the server.
        calls: Number of calls in flight now, as far as this client knows.
    """
    grown: float = max(calls + 1, 0) / (report.in_flight + 1)
    return float(report.latency) * grown
