"""Measures the cluster of the demo: each replica, and the sums."""

import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

from rap.cli.demo.fleet import Fleet, Replica
from rap.cli.demo.traffic import Traffic
from rap.client import Client

__all__ = ["ClusterMonitor", "ClusterView", "ReplicaView", "percentile"]

_WINDOW = 1.0  # seconds over which shares and rates are measured


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One replica at one moment.

    Attributes:
        name: Name of the replica.
        weight: Capacity, relative to the others.
        state: What was done to it, or the state of its node in the client.
        share: Share of the answers of the last second, from 0 to 1.
        expected: Its weight as a share of the weights of all live replicas.
        in_flight: Calls that wait for its answer.
        p50: Median duration of its latest calls, in seconds.
        p99: 99th percentile, likewise.
        calls: Calls that it has answered.
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
class ClusterView:
    """The cluster at one moment.

    Attributes:
        elapsed: Seconds since the demo started.
        rows: The replicas in the order of their starts.
        rate: Answered calls per second, over the last second.
        calls: Calls that have ended.
        failed: Calls that have failed.
    """

    elapsed: float
    rows: tuple[ReplicaView, ...]
    rate: float
    calls: int
    failed: int


class ClusterMonitor:
    """Measures the cluster, as its client sees it.

    Args:
        client: The client.
        fleet: The replicas.
        traffic: The calls of the client.
        started: When the demo started, in seconds on the monotonic clock.
    """

    def __init__(self, client: Client, fleet: Fleet, traffic: Traffic, started: float) -> None:
        self._client = client
        self._fleet = fleet
        self._traffic = traffic
        self._started = started
        self._past: deque[tuple[float, Counter[str]]] = deque()

    def measure(self) -> ClusterView:
        """Return the state of the cluster; shares and rates cover the time since earlier calls."""
        now, answered = time.monotonic(), Counter(self._traffic.answered)
        self._past.append((now, answered))
        while len(self._past) > 2 and now - self._past[1][0] >= _WINDOW:
            self._past.popleft()
        then, before = self._past[0]
        recent = answered - before
        expected = self._fleet.expected()
        return ClusterView(
            elapsed=now - self._started,
            rows=tuple(
                self._row(replica, recent, expected) for replica in self._fleet.replicas.values()
            ),
            rate=recent.total() / (now - then) if now > then else 0.0,
            calls=self._traffic.total,
            failed=self._traffic.failed,
        )

    def _row(
        self, replica: Replica, recent: Counter[str], expected: dict[str, float]
    ) -> ReplicaView:
        node = self._client.cluster.nodes.get(replica.address)
        latencies = sorted(self._traffic.latencies.get(replica.name, ()))
        return ReplicaView(
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
    """Return the value below which `fraction` of the ordered values lie; 0 without values."""
    values = list(ordered)
    return values[min(len(values) - 1, int(fraction * len(values)))] if values else 0.0
