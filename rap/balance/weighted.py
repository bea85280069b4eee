"""Pickers that look at weights or turns only, never at load."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

from rap.balance.picker import Candidate

__all__ = ["RoundRobin", "SmoothWeighted", "WeightedRandom"]

C = TypeVar("C", bound=Candidate)


class RoundRobin:
    """Picks one after the other, whatever their weights.

    Args:
        rng: Draws where to begin, lest clients that start together walk in step.
    """

    def __init__(self, rng: Random) -> None:
        self._turn = rng.randrange(1 << 30)

    def pick(self, candidates: Sequence[C], affinity: str | None = None) -> C:
        """Return one of `candidates`; `affinity` has no influence."""
        self._turn += 1
        return candidates[self._turn % len(candidates)]


class SmoothWeighted:
    """Picks in exact proportion to weights, spread evenly (nginx's smooth weighted round robin).

    Every node earns its weight at each pick, the richest is picked and pays what all earned.
    With weights 5, 1, 1 that gives a a b a c a a, not five calls to one node in a row.

    Args:
        rng: Draws where in its cycle each node begins, lest clients walk in step.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._balances: dict[str, float] = {}
        self._candidates: Sequence[Candidate] | None = None

    def pick(self, candidates: Sequence[C], affinity: str | None = None) -> C:
        """Return one of `candidates`; `affinity` has no influence."""
        if candidates is not self._candidates:
            self._adopt(candidates)
        balances = self._balances
        total = 0.0
        richest, best = candidates[0], float("-inf")
        for candidate in candidates:
            weight = candidate.weight
            total += weight
            balances[candidate.key] = balance = balances[candidate.key] + weight
            if balance > best:
                richest, best = candidate, balance
        balances[richest.key] -= total
        return richest

    def _adopt(self, candidates: Sequence[C]) -> None:
        """Carry over the balances of those that stay, so a change of the set upsets no shares."""
        if type(candidates) is tuple:  # a list may change under the same identity
            self._candidates = candidates
        old = self._balances
        self._balances = {
            c.key: old[c.key] if c.key in old else -self._rng.random() * c.weight
            for c in candidates
        }


class WeightedRandom:
    """Picks at random in proportion to weights.

    Args:
        rng: Source of chance; only `random` is used.
    """

    def __init__(self, rng: Random) -> None:
        self._random = rng.random

    def pick(self, candidates: Sequence[C], affinity: str | None = None) -> C:
        """Return one of `candidates`; `affinity` has no influence."""
        weights = [candidate.weight for candidate in candidates]
        left = self._random() * sum(weights)
        for candidate, weight in zip(candidates, weights, strict=True):
            left -= weight
            if left < 0.0:
                return candidate
        return candidates[-1]  # rounding ate the last sliver
