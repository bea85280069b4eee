"""Power of two choices: draw two nodes at random and pick the less loaded one.

Two random choices avoid most of the queueing of a single one. Picking the least loaded of all nodes
would send all clients to the same node on the same outdated information
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
"""Maximum number of nodes whose pairs are kept; 24 nodes have 552 pairs."""


class PowerOfTwoChoices:
    """Picks the one with the lower load per weight of two distinct candidates drawn at random.

    Args:
        rng: Random numbers; only `random` is used.
    """

    def __init__(self, rng: Random) -> None:
        self._random = rng.random
        self._candidates: Sequence[Any] | None = None  # the candidates of `_pairs`
        self._pairs: list[tuple[Any, Any]] = []
        self._seen: Sequence[Any] | None = None

    def pick(self, candidates: Sequence[C], affinity: str | None = None) -> C:
        """Return one of `candidates`; `affinity` is ignored."""
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
        # Cross-multiplied, which compares load / weight without a division by a weight near 0.
        if first.load() * second.weight <= second.load() * first.weight:
            return first
        return second

    def _remember(self, candidates: Sequence[C]) -> None:
        """Keep all pairs of a tuple that is passed twice in a row.

        A pick then takes one random number and one lookup. A tuple that is passed once, such as
        that of a retry without a node, does not replace the kept one. A list may change.
        """
        if type(candidates) is not tuple or len(candidates) > MAX_CACHED:
            return
        if candidates is self._seen:
            self._candidates = candidates
            self._pairs = list(permutations(candidates, 2))
        self._seen = candidates
