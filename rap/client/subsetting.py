"""Which of the listed servers a client connects to: all of them, or a subset of very many."""

from collections.abc import Mapping
from math import inf

from rap.balance import Subset
from rap.client.node import Node
from rap.registry import Snapshot, State

__all__ = ["Subsetting"]

_FAILED = 2  # dials in a row after which a server is lost
_FIRST_PAUSE, _MAX_PAUSE = 1.0, 60.0  # seconds between two replacements; doubled each time


class Subsetting:
    """Decides which servers a client connects to.

    It only decides: the cluster connects, and asks the servers how many clients they have.

    Args:
        subset: Chooses the servers; `None`: all.

    Attributes:
        active: Whether servers were left out by the last choice.
    """

    def __init__(self, subset: Subset | None) -> None:
        self.active = False
        self._subset = subset
        self._replace_at = -inf
        self._pause = _FIRST_PAUSE

    def choose(self, listed: Snapshot, nodes: Mapping[str, Node]) -> Snapshot:
        """Return the servers to connect to.

        A server that drains is not chosen, but stays until it is gone if the client has it.

        Args:
            listed: What the registry lists.
            nodes: What the client has, by id.
        """
        self.active = False
        if self._subset is None:
            return listed
        staying = [key for key, it in listed.items() if it.state is not State.DRAINING]
        chosen = self._subset.choose(staying)
        if len(chosen) == len(staying):
            self._pause = _FIRST_PAUSE
            return listed
        self.active = True
        return {
            key: endpoint
            for key, endpoint in listed.items()
            if key in chosen or (endpoint.state is State.DRAINING and key in nodes)
        }

    def replace_lost(self, nodes: Mapping[str, Node], ready: int, now: float) -> bool:
        """Return whether to choose again, without servers that drain or cannot be reached.

        That is so where more than half of the nodes take no calls: the registry need not know which
        servers this client can reach.

        Args:
            nodes: What the client has, by id.
            ready: How many of them take calls.
            now: Seconds on the monotonic clock.
        """
        if not self.active or 2 * ready >= len(nodes) or now < self._replace_at:
            return False
        lost = [key for key, node in nodes.items() if _is_lost(node)]
        if not lost or self._subset is None:
            return False
        self._replace_at = now + self._pause
        self._pause = min(2 * self._pause, _MAX_PAUSE)
        self._subset.pass_over(lost)
        return True

    def on_connected(self) -> None:
        """Note that a server of the subset was reached: the next replacement may come soon."""
        self._pause = _FIRST_PAUSE

    def judge(self, nodes: Mapping[str, Node], since: float) -> bool:
        """Return whether to choose again, without some servers that have too many clients.

        Args:
            nodes: What the client has, by id.
            since: Load reports that came before are ignored; seconds on the monotonic clock.
        """
        clients = {
            key: node.report.clients
            for key, node in nodes.items()
            if node.report is not None and node.reported_at >= since and not node.leaving
        }
        return self.active and self._subset is not None and self._subset.judge(clients)


def _is_lost(node: Node) -> bool:
    """Whether a node drains, cannot be reached, or has no version of the protocol in common.

    One that rejects this client is not lost: others would reject it, too.
    """
    pool = node.pool
    if pool.incompatible:
        return True
    if node.alive or pool.denial is not None:
        return False
    return pool.draining or pool.failures >= _FAILED
