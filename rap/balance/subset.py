"""Subsets: with very many nodes, each client connects to some of them.

Connections cost both ends, and a client that spreads its calls over a thousand nodes learns next
to nothing of each. Rendezvous hashing gives every client a subset of its own: it ranks all nodes
by a hash of the node and of the client, and takes the first ones (gRPC A68). No client need know of
another, and few connections move: when a node leaves, each of its clients takes the next of its
ranking; when one comes, those clients move to it that rank it among their first.
"""

from collections.abc import Collection
from heapq import nlargest
from random import Random

from rap.balance.rendezvous import draw

__all__ = ["Subset"]


class Subset:
    """The nodes that one client connects to.

    Weights play no part: the picker sees to them, and would count them twice.

    Args:
        size: So many nodes; of a set that has no more, all.
        rng: Draws once who this client is, for as long as it lives.
    """

    def __init__(self, size: int, rng: Random) -> None:
        self._size = size
        self._rng = rng
        self._client: bytes | None = None
        self._ranks: dict[str, float] = {}

    def choose(self, keys: Collection[str]) -> Collection[str]:
        """Return the nodes to connect to, of all that there are."""
        if len(keys) <= self._size:
            return keys
        if self._client is None:
            self._client = self._rng.getrandbits(128).to_bytes(16, "big")
        old, client = self._ranks, self._client
        ranks = self._ranks = {k: old[k] if k in old else draw(k, client) for k in keys}
        return set(nlargest(self._size, keys, key=ranks.__getitem__))
