"""Self-preservation: which instances with an expired lease are evicted, as in Netflix Eureka.

If few leases expire, their owners have died. If many expire at once, the registry or the network
was probably down, and evicting the instances would empty the cluster. Then an instance is evicted
only after a long silence. `scripts/heartbeat.lua` applies the same rule on the clock of Redis, with
the constants below.
"""

from collections.abc import Iterable, Mapping

from rap.registry.base import Endpoint, State

__all__ = ["DEAD_AFTER", "EVICT_PERCENT", "SMALL_SERVICE", "as_seen", "as_snapshot", "to_evict"]

EVICT_PERCENT = 15  # percentage of all instances that may be evicted at once, at least one
SMALL_SERVICE = 4  # with fewer instances a percentage has no meaning, so all may be evicted
DEAD_AFTER = 600.0  # seconds after the end of its lease when an instance is evicted in any case


def to_evict(expired: Mapping[str, float], total: int) -> list[str]:
    """Return the ids of the instances to evict now.

    Args:
        expired: Id to seconds since its lease expired, for instances with an expired lease.
        total: Number of registered instances, including expired ones.
    """
    if total < SMALL_SERVICE or len(expired) <= max(1, total * EVICT_PERCENT // 100):
        return list(expired)
    return [key for key, silence in expired.items() if silence >= DEAD_AFTER]


def as_snapshot(leases: Iterable[tuple[Endpoint, float]]) -> dict[str, Endpoint]:
    """Return what watchers see of registrations.

    Those that are evicted in any case are left out, also before a server does it when it renews its
    lease. If no lease is valid, they stay: perhaps all servers work, and the registry has taken no
    writes for so long.

    Args:
        leases: Endpoints with the seconds that are left on their leases.
    """
    found = list(leases)
    takes_writes = any(remaining > 0 for _, remaining in found)
    return {
        endpoint.id: as_seen(endpoint, remaining)
        for endpoint, remaining in found
        if not takes_writes or remaining > -DEAD_AFTER
    }


def as_seen(endpoint: Endpoint, remaining: float) -> Endpoint:
    """Return the endpoint as watchers see it with `remaining` seconds left on its lease.

    An expired lease turns UP into SUSPECT. A DRAINING endpoint stays DRAINING.
    """
    if remaining <= 0 and endpoint.state is State.UP:
        return endpoint.replace(state=State.SUSPECT)
    return endpoint
