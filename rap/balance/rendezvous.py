"""Rendezvous hashing: calls with the same affinity key keep to one node.

Each node gets a number from a hash of its key and the affinity key, and the highest number wins. If
a node leaves, only its keys move. All clients agree without communication (Thaler and Ravishankar
1998). The draw ``-weight / ln(h)`` makes shares proportional to weights, and a change
of weight moves no more keys than it must (Schindelhauer and Schomaker 2005).
"""

from collections.abc import Sequence
from hashlib import blake2b
from math import log
from random import Random
from typing import TypeVar

from rap.balance.picker import Candidate
from rap.balance.weighted import WeightedRandom

__all__ = ["Rendezvous", "draw"]

C = TypeVar("C", bound=Candidate)


class Rendezvous:
    """Picks the node of an affinity key; without a key, a random node by weight.

    Args:
        rng: Random numbers for calls without a key.
    """

    needs_all = True

    def __init__(self, rng: Random) -> None:
        self._keyless = WeightedRandom(rng)

    def pick(self, candidates: Sequence[C], affinity: str | None = None) -> C:
        """Return the candidate of `affinity`; the order of the candidates does not matter."""
        if affinity is None:
            return self._keyless.pick(candidates)
        key = affinity.encode("utf-8", "surrogatepass")
        return max(candidates, key=lambda c: c.weight / -log(draw(c.key, key)))


def draw(node: str, key: bytes) -> float:
    """Return a number in the open interval (0, 1); it is the same on each machine."""
    digest = blake2b(node.encode("utf-8", "surrogatepass") + b"\0" + key, digest_size=8).digest()
    # 52 bits and a half: more would round up to 1, whose logarithm is 0.
    return ((int.from_bytes(digest, "big") >> 12) + 0.5) / (1 << 52)
