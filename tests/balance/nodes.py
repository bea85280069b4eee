"""Candidates for pickers: a fixed one and one that carries a real load."""

from dataclasses import dataclass

from rap.balance import PeakEwma
from rap.balance.load import ALIKE
from rap.clock import SystemClock


@dataclass(eq=False)
class FixedNode:
    key: str
    weight: float = 1.0
    cost: float = 1.0
    own_calls: int = 0

    @property
    def stats(self) -> "FixedNode":
        return self

    def load(self) -> float:
        return self.cost

    def beats(self, other: "FixedNode") -> bool:
        return self.cost <= other.cost

    def resembles(self, other: "FixedNode") -> bool:
        return (
            1 / ALIKE
            <= self.cost * (other.own_calls + 1) / (other.cost * (self.own_calls + 1))
            <= ALIKE
        )


class Timeline(SystemClock):
    """The present moment of a simulation, in seconds."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now


class LoadedNode:
    def __init__(self, key: str, timeline: Timeline, weight: float = 1.0) -> None:
        self.key = key
        self.weight = weight
        self.calls = 0
        self.stats = self.measure = PeakEwma(clock=timeline)
        self._timeline = timeline

    @property
    def own_calls(self) -> int:
        return self.measure.in_flight

    def load(self) -> float:
        return self.measure.value(self._timeline.now)


def fixed_nodes(*weights: float) -> tuple[FixedNode, ...]:
    return tuple(FixedNode(f"10.0.0.{i}:9000", weight) for i, weight in enumerate(weights, 1))
