"""Subsetting: with very many nodes, each client connects to a subset of them.

Connections cost both ends, and a client that spreads its calls over a thousand nodes measures
little about each. With rendezvous hashing, a client ranks all nodes by a hash of the node and of
the client, and takes the first ones (gRPC A68). Clients need not know each other, and few
connections move. If a node leaves, each of its clients takes the next node of its ranking. If a
node is added, only clients that rank it among the first connect to it.

Some nodes then have many more clients than others by chance. A client that knows the number of
clients of its nodes skips some of those with too many: rendezvous hashing with bounded load. It
skips a node with the probability that brings the node down to the average, so that not all clients
leave at once. It also skips nodes that are unreachable.
"""

from collections.abc import Collection, Iterable, Mapping
from heapq import nlargest
from random import Random

__all__ = ["Subset"]

MORE = 1.1  # times the average, plus one: above it, a node has too many clients
FEW = 3  # with fewer nodes the average has no meaning


class Subset:
    """The nodes that one client connects to.

    It ignores weights, because the picker already uses them.

    Args:
        size: The number of nodes.
        rng: Random numbers for the identity of this client, and for the choice of skipped nodes.
    """

    def __init__(self, size: int, rng: Random) -> None:
        self._size = size
        self._rng = rng
        self._client: bytes | None = None
        self._ranks: dict[str, float] = {}
        self._passed: dict[str, None] = {}  # skipped nodes, oldest first

    def choose(self, keys: Collection[str]) -> Collection[str]:
        """Return the nodes to connect to, from the keys of all nodes."""
        if len(keys) <= self._size:
            return keys
        from rap.balance.rendezvous import draw  # loads hashlib, which few clients need

        if self._client is None:
            self._client = self._rng.getrandbits(128).to_bytes(16, "big")
        old, client = self._ranks, self._client
        ranks = self._ranks = {k: old[k] if k in old else draw(k, client) for k in keys}
        self._passed = passed = {key: None for key in self._passed if key in ranks}
        for key in list(passed)[: max(0, self._size + len(passed) - len(ranks))]:
            del passed[key]
        left = [key for key in keys if key not in passed]
        return set(nlargest(self._size, left, key=ranks.__getitem__))

    def pass_over(self, keys: Iterable[str]) -> None:
        """Skip nodes from now on; if too few are left, those skipped first return."""
        for key in keys:
            self._passed.pop(key, None)
            self._passed[key] = None

    def judge(self, clients: Mapping[str, int]) -> bool:
        """Skip nodes that have too many clients; return whether it skipped one.

        Args:
            clients: Number of clients of each connected node, reported at about the same time.
        """
        if len(clients) < FEW:
            return False
        average = sum(clients.values()) / len(clients)
        passed = [
            key
            for key, count in clients.items()
            if count > average * MORE + 1 and self._rng.random() < 1 - average / count
        ]
        self.pass_over(passed)
        return bool(passed)
