"""Which nodes a call may go to now: connected, not draining, healthy unless too few are."""

from collections.abc import Iterable

from rap.balance import effective_weights, is_panic, median_ewma
from rap.client.node import Node
from rap.registry import State

__all__ = ["ready_nodes"]


def ready_nodes(
    nodes: Iterable[Node], now: float, slow_start: float
) -> tuple[tuple[Node, ...], bool]:
    """Return the nodes that may be picked, their weights set, and whether that soon changes.

    It does by itself while a node's weight still grows, or an ejected one waits for its probe.

    Args:
        nodes: All nodes.
        now: Seconds on the monotonic clock.
        slow_start: Seconds over which a newcomer's weight grows.
    """
    connected = [node for node in nodes if node.pool.conn is not None]
    serving = [node for node in connected if node.endpoint.state is not State.DRAINING]
    healthy = [node for node in serving if node.breaker.available(now)]
    ejected = len(serving) - len(healthy)
    if is_panic(len(healthy), len(serving)):
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
    return tuple(healthy), ejected > 0 or any(age < slow_start for _, age in ages)
