"""Compare pickers in simulated time: ``python -m bench.balancing``.

Clients make calls at random moments. Each client has its own nodes, as a `rap.client.Client` has,
and knows nothing about other clients. A server works on one call at a time, in the order of
arrival, for an exponentially distributed time. Servers report their load as `rap.server` does: with
answers, at most every 100 ms to each client, and on request.

Absolute figures depend on the model. Compare only the pickers with each other.
"""

import argparse
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf
from random import Random
from statistics import fmean
from typing import Any, NamedTuple

from rap.balance import (
    LatencyAt,
    Load,
    PeakEwma,
    Picker,
    PowerOfTwoChoices,
    Prequal,
    RoundRobin,
    SmoothWeighted,
)
from rap.clock import Clock, SystemClock
from rap.errors import Verdict
from rap.wire.load_report import ServerLoad

__all__ = ["POLICIES", "SCENARIOS", "Result", "Scenario", "simulate"]

_WAY = 0.0005  # seconds from one end to the other
_BESIDE = 0.1  # seconds between two reports to a client beside answers
_ASK_PAUSE = 0.2  # seconds between two requests for a report
_WARM_UP = 0.25  # of the time, in which nothing is measured


class Policy(NamedTuple):
    """A picker and its measure of load.

    Args:
        make: Returns the picker of one client, from a random generator and a clock.
        load: Returns the load of one node, as a client measures it.
        knows_speed: Weights follow the true speed of the servers.
    """

    make: Callable[[Random, Callable[[], float]], Picker]
    load: Callable[[Clock], Load] = lambda clock: PeakEwma(clock=clock)
    knows_speed: bool = False


class _CallsInFlight:
    """Load as the number of calls on the node, whatever its latency."""

    __slots__ = ("in_flight", "open_streams")

    def __init__(self) -> None:
        self.in_flight = 0
        self.open_streams = 0

    def started(self, now: float) -> None:
        self.in_flight += 1

    def finished(self, now: float, elapsed: float, ok: bool) -> None:
        self.in_flight -= 1

    def failed(self, now: float, elapsed: float, verdict: Verdict, penalty: float | None) -> None:
        self.in_flight -= 1

    def stream_started(self) -> None:
        self.open_streams += 1

    def stream_answered(self, now: float) -> None:
        self.in_flight += 1

    def stream_ended(self) -> None:
        self.open_streams -= 1

    def value(self, now: float) -> float:
        return self.in_flight + 1.0

    def beats(self, other: "_CallsInFlight") -> bool:
        return self.in_flight <= other.in_flight

    def resembles(self, other: "_CallsInFlight") -> bool:
        return True


POLICIES = {
    "round robin": Policy(lambda rng, _: RoundRobin(rng)),
    "weighted round robin": Policy(lambda rng, _: SmoothWeighted(rng), knows_speed=True),
    "p2c, least loaded": Policy(lambda rng, _: PowerOfTwoChoices(rng), lambda _: _CallsInFlight()),
    "p2c, peak EWMA": Policy(lambda rng, _: PowerOfTwoChoices(rng)),
    "prequal": Policy(Prequal),
}


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A cluster and its calls.

    Args:
        servers: Number of servers.
        clients: Number of clients.
        load: Load of the servers, as a share of their capacity.
        slow: Share of the servers that take twice as long.
        antagonised: Share of the servers that take three times as long; others each second.
        mean: Seconds that a call takes a server on average.
        seconds: Of simulated time.
    """

    servers: int = 20
    clients: int = 10
    load: float = 0.9
    slow: float = 0.0
    antagonised: float = 0.0
    mean: float = 0.010
    seconds: float = 20.0


SCENARIOS = {
    "half the servers twice as slow, load 0.93": Scenario(load=0.93, slow=0.5),
    "a tenth of the servers antagonised, load 0.7": Scenario(load=0.7, antagonised=0.1),
    "the same, 100 clients that call seldom": Scenario(clients=100, load=0.7, antagonised=0.1),
}


class Result(NamedTuple):
    """The result of a simulation, in seconds and calls.

    Args:
        mean: Mean duration of a call.
        p99: 99th percentile of the duration.
        fullest: Mean of the calls in flight at the fullest server.
        asked: Requests for a report, for each call.
    """

    mean: float
    p99: float
    fullest: float
    asked: float


class _Server:
    def __init__(self, number: int, mean: float) -> None:
        self.number = number
        self.mean = mean
        self.factor = 1.0
        self.waiting: deque[tuple[_Node, float, float, int]] = deque()
        self.latency = LatencyAt()

    def report(self, now: float) -> ServerLoad:
        in_flight = len(self.waiting)
        return ServerLoad(in_flight, self.latency.at(in_flight, now))


class _Node:
    """A server as one client sees it."""

    def __init__(self, server: _Server, cluster: "_Cluster", load: Load, weight: float) -> None:
        self.key = str(server.number)
        self.weight = weight
        self.server = server
        self.stats = load
        self.report: ServerLoad | None = None
        self.reported_at = -inf
        self.own_in_flight = 0
        self.avoid_until = 0.0
        self.told_at = self.asked_at = -inf
        self._cluster = cluster

    @property
    def own_calls(self) -> int:
        return self.stats.in_flight

    def load(self) -> float:
        return self.stats.value(self._cluster.now)

    def request_load_report(self) -> None:
        now = self._cluster.now
        if now - self.asked_at >= _ASK_PAUSE:
            self.asked_at = now
            self._cluster.asked += 1
            self._cluster.after(_WAY, self._cluster.on_request, self)

    def take_report(self, report: ServerLoad) -> None:
        self.report, self.reported_at = report, self._cluster.now
        self.own_in_flight = self.own_calls


class _Cluster(SystemClock):
    def __init__(self, policy: Policy, scenario: Scenario, seed: int) -> None:
        self.now = 0.0
        self.asked = 0
        self.times: list[float] = []
        self.fullest: list[int] = []
        self._scenario = scenario
        self._rng = rng = Random(seed)
        self._warm = scenario.seconds * _WARM_UP
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        slow = round(scenario.servers * scenario.slow)
        means = [scenario.mean * (2.0 if i < slow else 1.0) for i in range(scenario.servers)]
        self._servers = [_Server(number, mean) for number, mean in enumerate(means)]
        self._rate = scenario.load * sum(1.0 / mean for mean in means)
        self._clients: list[tuple[Picker, Sequence[_Node]]] = []
        for _ in range(scenario.clients):
            picker = policy.make(Random(rng.random()), lambda: self.now)
            nodes = tuple(
                _Node(
                    server,
                    self,
                    policy.load(self),
                    scenario.mean / server.mean * 2.0 if policy.knows_speed else 1.0,
                )
                for server in self._servers
            )
            self._clients.append((picker, nodes))

    def monotonic(self) -> float:
        return self.now

    def run(self) -> Result:
        self.after(0.0, self._arrive)
        self.after(self._warm, self._look)
        if self._scenario.antagonised:
            self.after(0.0, self._antagonise)
        while self.now < self._scenario.seconds:
            self.now, _, act, arguments = heappop(self._events)
            act(*arguments)
        self.times.sort()
        p99 = self.times[int(len(self.times) * 0.99)]
        calls = self._rate * self._scenario.seconds
        return Result(fmean(self.times), p99, fmean(self.fullest), self.asked / calls)

    def after(self, delay: float, act: Callable[..., None], *arguments: Any) -> None:
        self._number += 1
        heappush(self._events, (self.now + delay, self._number, act, arguments))

    def on_request(self, node: _Node) -> None:
        self.after(_WAY, node.take_report, node.server.report(self.now))

    def _arrive(self) -> None:
        """A client makes a call."""
        self.after(self._rng.expovariate(self._rate), self._arrive)
        picker, nodes = self._clients[int(self._rng.random() * len(self._clients))]
        node = picker.pick(nodes)
        node.stats.started(self.now)
        self.after(_WAY, self._come, node, self.now)

    def _come(self, node: _Node, began: float) -> None:
        """The call arrives at its server."""
        server = node.server
        server.waiting.append((node, began, self.now, len(server.waiting)))
        if len(server.waiting) == 1:
            self._work(server)

    def _work(self, server: _Server) -> None:
        self.after(self._rng.expovariate(1.0 / (server.mean * server.factor)), self._end, server)

    def _end(self, server: _Server) -> None:
        """A server has worked on a call."""
        node, began, came, others = server.waiting.popleft()
        server.latency.add(self.now, others, self.now - came)
        if server.waiting:
            self._work(server)
        self.after(_WAY, self._answer, node, began)
        if self.now - node.told_at >= _BESIDE:
            node.told_at = self.now
            self.after(_WAY, node.take_report, server.report(self.now))

    def _answer(self, node: _Node, began: float) -> None:
        node.stats.finished(self.now, self.now - began, True)
        if began > self._warm:
            self.times.append(self.now - began)

    def _look(self) -> None:
        self.fullest.append(max(len(server.waiting) for server in self._servers))
        self.after(0.05, self._look)

    def _antagonise(self) -> None:
        """Something else takes the processors of some servers, for a second."""
        share = self._scenario.antagonised
        for server in self._servers:
            server.factor = 1.0
        for server in self._rng.sample(self._servers, round(len(self._servers) * share)):
            server.factor = 3.0
        self.after(1.0, self._antagonise)


def simulate(policy: Policy, scenario: Scenario, seed: int) -> Result:
    """Simulate one policy in a scenario, and return the result."""
    return _Cluster(policy, scenario, seed).run()


def main() -> None:
    """Print a table for each scenario: means over the seeds."""
    parser = argparse.ArgumentParser(prog="python -m bench.balancing", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="runs of each (default: 10)")
    options = parser.parse_args()
    for title, scenario in SCENARIOS.items():
        print(f"\n{title}: {scenario.servers} servers, {scenario.clients} clients")
        print(f"{'':<22}{'mean ms':>9}{'p99 ms':>9}{'fullest':>9}{'asked':>9}{'best p99':>10}")
        results = {
            name: [simulate(policy, scenario, seed) for seed in range(options.seeds)]
            for name, policy in POLICIES.items()
        }
        best = [min(each[seed].p99 for each in results.values()) for seed in range(options.seeds)]
        for name, runs in results.items():
            mean, p99, fullest, asked = (fmean(figure) for figure in zip(*runs, strict=True))
            won = sum(run.p99 == least for run, least in zip(runs, best, strict=True))
            print(
                f"{name:<22}{mean * 1000:>9.0f}{p99 * 1000:>9.0f}{fullest:>9.1f}{asked:>9.2f}"
                f"{won:>7}/{options.seeds}",
                flush=True,
            )


if __name__ == "__main__":
    main()
