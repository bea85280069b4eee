"""Which instances whose lease ran out may be removed, and what the others look like.

When few leases run out, their owners have died. When many run out at once, it is rather the
registry or the network that stood still, and removing them would empty the cluster: then none
is removed until it has been silent for long (self-preservation, as in Netflix Eureka).
`scripts/heartbeat.lua` applies the same rule on the clock of Redis, with the numbers below.
"""

from collections.abc import Mapping
from dataclasses import replace

from rap.registry.base import Endpoint, State

__all__ = ["DEAD_AFTER", "EVICT_PERCENT", "SMALL_SERVICE", "as_seen", "to_evict"]

EVICT_PERCENT = 15  # of all registered instances may be removed at once (at least one)
SMALL_SERVICE = 4  # below this many instances the share says nothing: all may go
DEAD_AFTER = 600.0  # seconds of silence past the lease after which an instance goes in any case


def to_evict(expired: Mapping[str, float], total: int) -> list[str]:
    """Return the ids that may be removed now.

    Args:
        expired: Id to seconds since its lease ran out, of those whose lease did.
        total: How many are registered, expired ones included.
    """
    if total < SMALL_SERVICE or len(expired) <= max(1, total * EVICT_PERCENT // 100):
        return list(expired)
    return [key for key, silence in expired.items() if silence >= DEAD_AFTER]


def as_seen(endpoint: Endpoint, remaining: float) -> Endpoint:
    """Return the endpoint as watchers see it with `remaining` seconds on its lease.

    One that said it is leaving stays DRAINING; its lease has nothing to add to that.
    """
    if remaining <= 0 and endpoint.state is State.UP:
        return replace(endpoint, state=State.SUSPECT)
    return endpoint
