"""Slow start: the weight of a new node grows gradually.

A process that has just started has cold caches. With its full share of calls at once, it would
answer slowly or not at all. The ramp is that of Envoy.
"""

from collections.abc import Sequence

__all__ = ["effective_weights", "slow_start"]

WINDOW = 30.0
LEAST = 0.1


def slow_start(weight: float, age: float, window: float = WINDOW) -> float:
    """Return the weight of a node by its age; it grows from a tenth to `weight` in `window`.

    Args:
        weight: The full weight.
        age: Seconds since the node was first usable.
        window: Duration of the ramp in seconds; 0 for none.
    """
    if age >= window:
        return weight
    return weight * max(LEAST, age / window)


def effective_weights(nodes: Sequence[tuple[float, float]], window: float = WINDOW) -> list[float]:
    """Return the weights of all nodes, with slow start unless all nodes are new.

    If all nodes are new, as after the start of a client, no other node can take their share.

    Args:
        nodes: Weight and age in seconds of each node.
        window: Duration of the ramp in seconds; 0 for none.
    """
    if all(age < window for _, age in nodes):
        return [weight for weight, _ in nodes]
    return [slow_start(weight, age, window) for weight, age in nodes]
