"""What differs between two snapshots of a service."""

from dataclasses import dataclass

from rap.registry.base import Endpoint, Snapshot

__all__ = ["Change", "diff"]


@dataclass(frozen=True, slots=True)
class Change:
    """The step from one snapshot to the next; false when there is none.

    Args:
        added: Endpoints that only the new snapshot has.
        updated: Endpoints of both whose weight, state or anything else differs, as they are now.
        removed: Endpoints that only the old snapshot had.
    """

    added: tuple[Endpoint, ...] = ()
    updated: tuple[Endpoint, ...] = ()
    removed: tuple[Endpoint, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.updated or self.removed)


def diff(old: Snapshot, new: Snapshot) -> Change:
    """Return what turns `old` into `new`, each part in the order of its snapshot."""
    return Change(
        added=tuple(endpoint for key, endpoint in new.items() if key not in old),
        updated=tuple(
            endpoint for key, endpoint in new.items() if key in old and old[key] != endpoint
        ),
        removed=tuple(endpoint for key, endpoint in old.items() if key not in new),
    )
