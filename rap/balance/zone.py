"""Zones: calls stay in the client's own zone as far as all nodes remain equally loaded.

This is Envoy's zone aware routing. There every proxy is told how the callers are spread over the
zones; a client here knows only the servers, and takes callers to be spread *evenly* over the zones
that have servers. With Z named zones, of which zone z has the share c_z of the whole capacity
(weights, slow start applied), the callers of each zone make 1/Z of the calls. So

- own zone: ``min(1, c_own * Z)`` of the calls, all of them where it has at least its even share;
- the others: what is left, in proportion to what their own callers leave free, ``c_z - 1/Z`` where
  that is more than 0.

If the callers are spread so, every zone gets exactly its share c_z, and no call crosses a border
that need not. Nodes without a zone have no callers of their own: they are free for all.

With fewer than 6 nodes, in panic, or without a node in the own zone, zones do not count.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from random import Random
from typing import Any, Protocol, TypeVar

from rap.balance.picker import Candidate, Picker, needs_all, wants_reports

__all__ = ["ZoneAware", "ZonedCandidate", "zone_shares"]

MIN_NODES = 6
"""Envoy's default: with fewer, a zone is a node or two, and each that comes or goes moves much."""

C = TypeVar("C", bound=Candidate)


class ZonedCandidate(Candidate, Protocol):
    """A candidate that says where it is."""

    @property
    def zone(self) -> str:
        """Name of its failure domain; empty when unknown."""
        ...


def zone_shares(capacities: Mapping[str, float], own: str) -> dict[str, float]:
    """Return which share of the calls of zone `own` each zone gets; zones without any are left out.

    Args:
        capacities: Sum of the weights of each zone's nodes, more than 0; the empty name stands for
            nodes without a zone.
        own: One of these zones, not the empty name.
    """
    even = 1.0 / sum(zone != "" for zone in capacities)
    total = sum(capacities.values())
    parts = {zone: capacity / total for zone, capacity in capacities.items()}
    local = parts[own] / even
    free = {zone: part - even * (zone != "") for zone, part in parts.items()}
    room = sum(part for part in free.values() if part > 0.0)
    if local >= 1.0 or room <= 0.0:  # the latter only by rounding
        return {own: 1.0}
    rest = {zone: (1.0 - local) * part / room for zone, part in free.items() if part > 0.0}
    return {own: local, **rest}


class ZoneAware:
    """Draws the zone of a call, and lets a picker of that zone choose.

    Calls with an affinity key, and candidates that `plan` was not told of (a retry leaves some
    out), go to a picker of all.

    Args:
        make: Makes a picker: one for each zone, for what one has learned of its candidates is of
            no use with others.
        zone: Where this client is.
        rng: Source of chance; only `random` is used.
    """

    def __init__(self, make: Callable[[], Picker], zone: str, rng: Random) -> None:
        self._make = make
        self._zone = zone
        self._random = rng.random
        self._everywhere = make()
        self.needs_all = needs_all(self._everywhere)
        self.wants_reports = wants_reports(self._everywhere)
        self._pickers: dict[str, Picker] = {}
        self._groups: dict[str, tuple[Any, ...]] = {}
        self._planned: Sequence[Any] | None = None
        self._routes: list[tuple[float, tuple[Any, ...], Picker]] = []

    def plan(self, candidates: Sequence[ZonedCandidate], panic: bool) -> None:
        """Work out the shares of the zones; to be called when nodes or weights have changed.

        Args:
            candidates: What `pick` will be called with: the same object.
            panic: So few nodes are healthy that all of them are candidates.
        """
        self._planned = None
        groups: dict[str, list[ZonedCandidate]] = {}
        for candidate in candidates:
            groups.setdefault(candidate.zone, []).append(candidate)
        if panic or len(candidates) < MIN_NODES or self._zone not in groups:
            return
        capacities = {zone: sum(it.weight for it in group) for zone, group in groups.items()}
        shares = zone_shares(capacities, self._zone)
        self._pickers = {zone: self._pickers.get(zone) or self._make() for zone in shares}
        self._groups = {zone: self._group(zone, groups[zone]) for zone in shares}
        self._routes = [
            (end, self._groups[zone], self._pickers[zone])
            for zone, end in zip(shares, accumulate(shares.values()), strict=True)
        ]
        self._planned = candidates

    def _group(self, zone: str, group: Sequence[ZonedCandidate]) -> tuple[Any, ...]:
        """Return the group as a tuple: the same object as long as it has not changed."""
        new, old = tuple(group), self._groups.get(zone)
        return old if old is not None and old == new else new

    def pick(self, candidates: Sequence[C], affinity: str | None = None) -> C:
        """Return one of `candidates`."""
        if candidates is not self._planned or affinity is not None:
            return self._everywhere.pick(candidates, affinity)
        routes = self._routes
        group: tuple[C, ...]
        _, group, picker = routes[0]
        if len(routes) > 1:
            draw = self._random()
            for end, group, picker in routes:  # noqa: B007  # the last one, whatever was rounded
                if draw < end:
                    break
        return picker.pick(group)
