"""Which nodes a call may go to now: connected, not draining, healthy unless too few are."""

from collections.abc import Iterable
from typing import NamedTuple

from rap.balance import effective_weights, is_panic, median_ewma
from rap.client.node import Node
from rap.registry import State

__all__ = ["Ready", "ready_nodes"]


class Ready(NamedTuple):
    """Where calls may go.

    Args:
        nodes: Those that may be picked.
        changing: That soon changes by itself: the weight of one still grows, or an ejected one
            waits for its probe.
        panic: So few are healthy that health is ignored.
    """

    nodes: tuple[Node, ...]
    changing: bool
    panic: bool


def ready_nodes(nodes: Iterable[Node], now: float, slow_start: float) -> Ready:
    """Return the nodes that may be picked, and set their weights.

    Args:
        nodes: All nodes.
        now: Seconds on the monotonic clock.
        slow_start: Seconds over which a newcomer's weight grows.
    """
    connected = [node for node in nodes if node.pool.conn is not None]
    serving = [node for node in connected if node.endpoint.state is not State.DRAINING]
    healthy = [node for node in serving if node.breaker.available(now)]
    ejected = len(serving) - len(healthy)
    panic = is_panic(len(healthy), len(serving))
    if panic:
        healthy = serving
    newcomers = [node for node in healthy if node.since is None]
    if newcomers:
        prior = median_ewma(node.stats for node in healthy)
        for node in newcomers:
            node.since = now
            node.stats.prior = prior
    ages = [(float(n.endpoint.weight), now - (n.since or now)) for n in healthy]
    for node, weight in zip(healthy, effective_weights(ages, slow_start), strict=True):
        node.weight = weight
    changing = ejected > 0 or any(age < slow_start for _, age in ages)
    return Ready(tuple(healthy), changing, panic)
