"""Prequal: pick by what servers say of their load, not by what this client saw of it.

A client sees its own calls only; a server knows those of all clients. Prequal (Wydrowski and
others, arXiv 2312.10172) has clients ask a few servers at a time for the calls in flight and for
the latency that belongs to so many, and splits them into hot and cold: hot are those with the most
calls in flight. Of the cold ones the fastest is picked; if all are hot, the one with the fewest
calls. (So it is of cold ones, too, while the latency of one is not known.)

What differs here: most reports come unasked, beside answers, and a call asks at most one server,
whose report is old. Of a pool of up to 16 candidates only those with fresh reports are choices, or
else the three with the newest ones. That keeps many clients from rushing to one server on the same
old news.

A latency is nothing without the calls in flight that it belongs to: it is taken to grow with those
that this client has sent since.
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
"""Quantile of the calls in flight from which on a candidate is hot."""
MAX_AGE = 1.0
FRESH = 0.1
"""Seconds after which a report is asked for anew: as often as they come beside answers."""

C = TypeVar("C", bound=Candidate)


class ReportedLoad(Protocol):
    """What a server says of its load."""

    @property
    def in_flight(self) -> int:
        """Calls of all clients."""
        ...

    @property
    def latency(self) -> float | None:
        """Seconds that calls took which came when about as many were in flight, if known."""
        ...


class ReportingCandidate(Candidate, Protocol):
    """A candidate that has the latest report of its server; times on the monotonic clock."""

    report: ReportedLoad | None
    reported_at: float
    own_in_flight: int
    """How many of the calls that the report counts are this client's."""
    avoid_until: float
    """Not to be picked until then: it failed a call, and must not look fast for that."""

    @property
    def own_calls(self) -> int:
        """How many calls of this client are in flight now."""
        ...

    def request_load_report(self) -> None:
        """Ask for a report; does nothing while that would be too often."""
        ...


class Prequal:
    """Picks, of the candidates with the newest reports, the fastest that is not hot.

    Candidates that do not report are picked from by `PowerOfTwoChoices`, while there are no others.

    Args:
        rng: Source of chance; only `random` is used.
        now: Tells the time, in seconds on the monotonic clock of the candidates.
    """

    wants_reports = True

    def __init__(self, rng: Random, now: Callable[[], float]) -> None:
        self._random = rng.random
        self._now = now
        self._rng = rng
        self._blind = PowerOfTwoChoices(rng)
        self._shuffled_from: Sequence[Any] | None = None
        self._shuffled: list[Any] = []

    def pick(self, candidates: Sequence[C], affinity: str | None = None) -> C:
        """Return one of `candidates`; `affinity` has no influence."""
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
        """Put very many in an order of their own: neighbours may have much in common.

        The first ones stand at the end once more, so that a pool may begin anywhere.
        """
        shuffled = list(candidates)
        self._rng.shuffle(shuffled)
        self._shuffled = [*shuffled, *shuffled[: POOL - 1]]
        self._shuffled_from = candidates


_newest = itemgetter(0)


def _latency(report: Any, calls: int) -> float:
    """Return the seconds to expect of a call.

    Args:
        report: What the server said.
        calls: How many are in flight by now, as far as this client knows.
    """
    grown: float = max(calls + 1, 0) / (report.in_flight + 1)
    return float(report.latency) * grown
