"""Which of the listed servers a client is to know: all, or of very many a part."""

from collections.abc import Container

from rap.balance import Subset
from rap.registry import Snapshot, State

__all__ = ["part_of"]


def part_of(listed: Snapshot, subset: Subset | None, known: Container[str]) -> Snapshot:
    """Return the part of a snapshot that a client connects to.

    Args:
        listed: What the registry says.
        subset: Chooses the part; `None`: all.
        known: Ids of servers that the client has: one that drains stays until it is gone, but
            counts no more.
    """
    if subset is None:
        return listed
    staying = [key for key, endpoint in listed.items() if endpoint.state is not State.DRAINING]
    chosen = subset.choose(staying)
    if len(chosen) == len(staying):
        return listed
    return {
        key: endpoint
        for key, endpoint in listed.items()
        if key in chosen or (endpoint.state is State.DRAINING and key in known)
    }
