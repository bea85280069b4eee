"""What the demo shows while it runs, as values: one row a replica, and the sums."""

import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

from rap.cli.demo.fleet import Fleet, Replica
from rap.cli.demo.traffic import Traffic
from rap.client import Client

__all__ = ["Board", "Row", "View", "percentile"]

_WINDOW = 1.0  # seconds that shares and rates look back


@dataclass(frozen=True, slots=True)
class Row:
    """One replica.

    Attributes:
        name: Of the replica.
        weight: Its capacity.
        state: One word.
        share: Fraction of the answers of the last second.
        expected: Fraction that its weight makes of all live replicas.
        in_flight: Calls that wait for its answer.
        p50: Seconds, of its latest calls.
        p99: The same.
        calls: Answered so far.
    """

    name: str
    weight: int
    state: str
    share: float
    expected: float
    in_flight: int
    p50: float
    p99: float
    calls: int


@dataclass(frozen=True, slots=True)
class View:
    """The cluster at one moment.

    Attributes:
        elapsed: Seconds since the demo began.
        rows: One for each replica, in order of their start.
        rate: Calls a second, over the last second.
        calls: Calls that have ended.
        failed: Those of them that failed.
    """

    elapsed: float
    rows: tuple[Row, ...]
    rate: float
    calls: int
    failed: int


class Board:
    """Looks at the cluster from time to time.

    Args:
        client: Whose view of the cluster is shown.
        fleet: The replicas.
        traffic: The calls.
        started: When the demo began, in seconds on the monotonic clock.
    """

    def __init__(self, client: Client, fleet: Fleet, traffic: Traffic, started: float) -> None:
        self._client = client
        self._fleet = fleet
        self._traffic = traffic
        self._started = started
        self._past: deque[tuple[float, Counter[str]]] = deque()

    def look(self) -> View:
        """Return how things stand."""
        now, answered = time.monotonic(), Counter(self._traffic.answered)
        self._past.append((now, answered))
        while len(self._past) > 2 and now - self._past[1][0] >= _WINDOW:
            self._past.popleft()
        then, before = self._past[0]
        recent = answered - before
        expected = self._fleet.expected()
        return View(
            elapsed=now - self._started,
            rows=tuple(
                self._row(replica, recent, expected) for replica in self._fleet.replicas.values()
            ),
            rate=recent.total() / (now - then) if now > then else 0.0,
            calls=self._traffic.total,
            failed=self._traffic.failed,
        )

    def _row(self, replica: Replica, recent: Counter[str], expected: dict[str, float]) -> Row:
        node = self._client.cluster.nodes.get(replica.address)
        latencies = sorted(self._traffic.latencies.get(replica.name, ()))
        return Row(
            name=replica.name,
            weight=replica.weight,
            state=replica.fate or (node.state if node is not None else "unknown"),
            share=recent[replica.name] / max(1, recent.total()),
            expected=expected.get(replica.name, 0.0),
            in_flight=node.stats.in_flight if node is not None else 0,
            p50=percentile(latencies, 0.50),
            p99=percentile(latencies, 0.99),
            calls=self._traffic.answered[replica.name],
        )


def percentile(ordered: Iterable[float], fraction: float) -> float:
    """Return the value below which `fraction` of the ordered values lie; 0 for none."""
    values = list(ordered)
    return values[min(len(values) - 1, int(fraction * len(values)))] if values else 0.0
