"""Slow start: a new node gets its share of the calls little by little.

Caches are cold and code is not yet compiled in a process that just started; a full share at once
would be answered slowly, or not at all. The ramp is Envoy's.
"""

from collections.abc import Sequence

__all__ = ["effective_weights", "slow_start"]

WINDOW = 30.0
LEAST = 0.1


def slow_start(weight: float, age: float, window: float = WINDOW) -> float:
    """Return the weight of a node of this age: it grows from a tenth to `weight` in `window`.

    Args:
        weight: Capacity of the warm node.
        age: Seconds since the node was first usable.
        window: Seconds the ramp takes; 0 for none.
    """
    if age >= window:
        return weight
    return weight * max(LEAST, age / window)


def effective_weights(nodes: Sequence[tuple[float, float]], window: float = WINDOW) -> list[float]:
    """Return the weights of a whole set, slow start applied unless every node is new.

    When all are new, as when a client has just started, nobody is warm to take the rest.

    Args:
        nodes: Weight and age, in seconds, of each.
        window: Seconds the ramp takes; 0 for none.
    """
    if all(age < window for _, age in nodes):
        return [weight for weight, _ in nodes]
    return [slow_start(weight, age, window) for weight, age in nodes]
