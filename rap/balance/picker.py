"""Balancing is a pure choice among candidates: what a picker sees, and what it is."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

__all__ = ["Candidate", "Picker", "needs_all", "wants_reports"]


class Candidate(Protocol):
    """One node that can take a call now."""

    @property
    def key(self) -> str:
        """Stable name of the node: the id of its endpoint."""
        ...

    @property
    def weight(self) -> float:
        """Effective relative capacity, more than 0; slow start already applied."""
        ...

    def load(self) -> float:
        """Return how loaded the node is, before division by weight; lower is better."""
        ...


C = TypeVar("C", bound=Candidate)


class Picker(Protocol):
    """Chooses the node of a call. Never awaits, never fails on a non-empty sequence.

    It may have two more attributes: see `needs_all` and `wants_reports`.
    """

    def pick(self, candidates: Sequence[C], affinity: str | None = None) -> C:
        """Return one of `candidates`.

        Args:
            candidates: At least one; the same tuple object as long as the set has not changed.
            affinity: Key whose calls should keep to one node, or `None`.
        """
        ...


def needs_all(picker: Picker) -> bool:
    """Whether a picker must see every node, as where all clients agree on the node of a key.

    Such a one has an attribute `needs_all` that is true; others may be given a part of the nodes.
    """
    return bool(getattr(picker, "needs_all", False))


def wants_reports(picker: Picker) -> bool:
    """Whether a picker looks at what servers report of their load.

    Such a one has an attribute `wants_reports` that is true, and finds the latest on each
    candidate: `report`, and `reported_at` in seconds on the monotonic clock.
    """
    return bool(getattr(picker, "wants_reports", False))
