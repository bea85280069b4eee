"""Subsets: with very many nodes, each client connects to some of them.

Connections cost both ends, and a client that spreads its calls over a thousand nodes learns next
to nothing of each. Rendezvous hashing gives every client a subset of its own: it ranks all nodes
by a hash of the node and of the client, and takes the first ones (gRPC A68). No client need know of
another, and few connections move: when a node leaves, each of its clients takes the next of its
ranking; when one comes, those clients move to it that rank it among their first.

By chance some nodes then have many more clients than others. So a client that is told how many
clients its nodes have passes over some of those that have too many: rendezvous hashing with bounded
load. What is above the average goes in all, not from each client the same nodes: each passes a node
over with the chance that makes its clients as many as the others have. It passes over nodes that
cannot be reached, too.
"""

from collections.abc import Collection, Iterable, Mapping
from heapq import nlargest
from random import Random

from rap.balance.rendezvous import draw

__all__ = ["Subset"]

MORE = 1.1  # of the average, and one more: from there on a node has too many clients
FEW = 3  # nodes of which the average says nothing


class Subset:
    """The nodes that one client connects to.

    Weights play no part: the picker sees to them, and would count them twice.

    Args:
        size: So many nodes; of a set that has no more, all.
        rng: Draws who this client is, once, and which nodes it passes over.
    """

    def __init__(self, size: int, rng: Random) -> None:
        self._size = size
        self._rng = rng
        self._client: bytes | None = None
        self._ranks: dict[str, float] = {}
        self._passed: dict[str, None] = {}  # over; longest ago first

    def choose(self, keys: Collection[str]) -> Collection[str]:
        """Return the nodes to connect to, of all that there are."""
        if len(keys) <= self._size:
            return keys
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
        """Choose others from now on; where too few are left, who was passed over first returns."""
        for key in keys:
            self._passed.pop(key, None)
            self._passed[key] = None

    def judge(self, clients: Mapping[str, int]) -> bool:
        """Pass over nodes that have too many clients; return whether there is one.

        Args:
            clients: How many each node has that this client is connected to, all told at about
                the same time.
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
