"""Pickers that use weights or turns, but not load."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

from rap.balance.picker import Candidate

__all__ = ["RoundRobin", "SmoothWeighted", "WeightedRandom"]

C = TypeVar("C", bound=Candidate)


class RoundRobin:
    """Picks the candidates in turn, without regard to weights.

    Args:
        rng: Random numbers for the first turn, so that clients do not pick in step.
    """

    def __init__(self, rng: Random) -> None:
        self._turn = rng.randrange(1 << 30)

    def pick(self, candidates: Sequence[C], affinity: str | None = None) -> C:
        """Return one of `candidates`; `affinity` is ignored."""
        self._turn += 1
        return candidates[self._turn % len(candidates)]


class SmoothWeighted:
    """Picks in exact proportion to weights, spread evenly (nginx's smooth weighted round robin).

    At each pick the balance of each node grows by its weight. The node with the highest balance is
    picked, and the sum of all weights is subtracted from its balance. Weights of 5, 1 and 1 give
    a a b a c a a instead of five calls to one node in a row.

    Args:
        rng: Random numbers for the first balances, so that clients do not pick in step.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._balances: dict[str, float] = {}
        self._candidates: Sequence[Candidate] | None = None

    def pick(self, candidates: Sequence[C], affinity: str | None = None) -> C:
        """Return one of `candidates`; `affinity` is ignored."""
        if candidates is not self._candidates:
            self._carry_over(candidates)
        balances = self._balances
        total = 0.0
        picked, best = candidates[0], float("-inf")
        for candidate in candidates:
            weight = candidate.weight
            total += weight
            balances[candidate.key] = balance = balances[candidate.key] + weight
            if balance > best:
                picked, best = candidate, balance
        balances[picked.key] -= total
        return picked

    def _carry_over(self, candidates: Sequence[C]) -> None:
        """Keep the balances of nodes that stay, so that a change of the set keeps all shares."""
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
        rng: Random numbers; only `random` is used.
    """

    def __init__(self, rng: Random) -> None:
        self._random = rng.random

    def pick(self, candidates: Sequence[C], affinity: str | None = None) -> C:
        """Return one of `candidates`; `affinity` is ignored."""
        weights = [candidate.weight for candidate in candidates]
        left = self._random() * sum(weights)
        for candidate, weight in zip(candidates, weights, strict=True):
            left -= weight
            if left < 0.0:
                return candidate
        return candidates[-1]  # only after a rounding error
