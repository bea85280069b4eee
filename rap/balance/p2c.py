"""Power of two choices: draw two nodes, take the less loaded one.

Two random choices already avoid most of the queueing that one suffers, and unlike "the least
loaded of all" they do not send every client to the same node on the same old news
(Mitzenmacher 2001; Finagle, Envoy and linkerd2 balance this way).
"""

from collections.abc import Sequence
from itertools import permutations
from random import Random
from typing import Any, TypeVar

from rap.balance.picker import Candidate

__all__ = ["PowerOfTwoChoices"]

C = TypeVar("C", bound=Candidate)

MAX_CACHED = 24
"""Nodes up to which all pairs are kept: 24 make 552."""


class PowerOfTwoChoices:
    """Picks the one with the lower load per weight of two distinct candidates drawn at random.

    Args:
        rng: Source of chance; only `random` is used.
    """

    def __init__(self, rng: Random) -> None:
        self._random = rng.random
        self._candidates: Sequence[Any] | None = None  # whose pairs are kept
        self._pairs: list[tuple[Any, Any]] = []
        self._seen: Sequence[Any] | None = None

    def pick(self, candidates: Sequence[C], affinity: str | None = None) -> C:
        """Return one of `candidates`; `affinity` has no influence."""
        first: C
        second: C
        if candidates is self._candidates:
            pairs = self._pairs
            first, second = pairs[int(self._random() * len(pairs))]
        else:
            n = len(candidates)
            if n == 1:
                return candidates[0]
            self._remember(candidates)
            i, j = divmod(int(self._random() * (n * (n - 1))), n - 1)
            first, second = candidates[i], candidates[j if j < i else j + 1]
        # Cross-multiplied: load / weight without a division by a weight next to 0.
        if first.load() * second.weight <= second.load() * first.weight:
            return first
        return second

    def _remember(self, candidates: Sequence[C]) -> None:
        """Keep all pairs of a tuple that comes twice in a row.

        One draw then decides with one look-up. A tuple that comes once, as when a retry leaves
        a node out, is not worth it and does not displace the others; a list may change.
        """
        if type(candidates) is not tuple or len(candidates) > MAX_CACHED:
            return
        if candidates is self._seen:
            self._candidates = candidates
            self._pairs = list(permutations(candidates, 2))
        self._seen = candidates
