"""The protocols of candidates and pickers. A picker chooses without I/O."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

__all__ = ["Candidate", "Picker", "needs_all", "spreads_streams", "wants_reports"]


class Compared(Protocol):
    """The load of a node, as compared with that of another one by power of two choices."""

    def beats(self, other: Any) -> bool:
        """Whether one more call is better here than on the other node, of the same weight."""
        ...

    def resembles(self, other: Any) -> bool:
        """Whether the other node is about equally fast, as far as is known."""
        ...


class Candidate(Protocol):
    """A node that can take a call now.

    The candidates of a client also have the latest load report; see
    `rap.balance.prequal.ReportingCandidate`.
    """

    @property
    def key(self) -> str:
        """The stable name of the node: the id of its endpoint."""
        ...

    @property
    def weight(self) -> float:
        """Relative capacity above 0, with slow start applied."""
        ...

    @property
    def own_calls(self) -> int:
        """Number of calls of this client in flight, without streams."""
        ...

    @property
    def stats(self) -> Compared:
        """The load of the node, to compare it with that of another candidate."""
        ...

    def load(self) -> float:
        """Return the load of the node, not divided by its weight; lower is better.

        For the nodes of a client, it is latency times calls in flight; see `PeakEwma`.
        """
        ...


C = TypeVar("C", bound=Candidate)


class Picker(Protocol):
    """Chooses the node of a call. It never waits, and never fails with candidates.

    It may have more attributes; see `needs_all`, `wants_reports` and `spreads_streams`.
    """

    def pick(self, candidates: Sequence[C], affinity: str | None = None) -> C:
        """Return one of `candidates`.

        Args:
            candidates: At least one; the same tuple object until the set or a weight changes.
            affinity: The key whose calls should go to one node, or `None`.
        """
        ...


def needs_all(picker: Picker) -> bool:
    """Whether a picker must see all nodes, because all clients must agree on the node of a key.

    Such a picker has a true attribute `needs_all`. Other pickers may get a subset of the nodes.
    """
    return bool(getattr(picker, "needs_all", False))


def wants_reports(picker: Picker) -> bool:
    """Whether a picker uses the load reports of servers.

    Such a picker has a true attribute `wants_reports`. Each candidate then has the latest `report`,
    and `reported_at` in seconds on the monotonic clock.
    """
    return bool(getattr(picker, "wants_reports", False))


def spreads_streams(picker: Picker) -> bool:
    """Whether streams go to the node with the fewest of them, if it is as good as the picked one.

    Streams stay where they begin, and calls are no measure for them: a hundred streams may be
    silent for an hour. Such a picker has a true attribute `spreads_streams`.
    """
    return bool(getattr(picker, "spreads_streams", False))
