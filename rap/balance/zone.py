"""Zone-aware routing: calls stay in the zone of the client while all nodes stay equally loaded.

This is the zone-aware routing of Envoy. An Envoy proxy knows how the callers are spread over the
zones. A client here knows only the servers, and assumes that callers are spread *evenly* over the
zones that have servers. With Z named zones, of which zone z has the share c_z of the whole capacity
(weights, slow start applied), the callers of each zone make 1/Z of the calls. So

- its own zone gets ``min(1, c_own * Z)`` of the calls: all of them if it has its even share;
- the other zones get the rest, in proportion to their free capacity, ``c_z - 1/Z``, where that is
  above 0.

If callers are spread evenly, each zone gets exactly its share c_z, and no call leaves its zone
without need. Nodes without a zone have no callers in their zone, so all their capacity is free.

Zones are ignored with fewer than 6 nodes, in panic, or without a node in the client's zone.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from random import Random
from typing import Any, Protocol, TypeVar

from rap.balance.picker import Candidate, Picker, needs_all, spreads_streams, wants_reports

__all__ = ["ZoneAware", "ZonedCandidate", "zone_shares"]

MIN_NODES = 6
"""The default of Envoy. With fewer nodes, each added or removed node moves too many calls."""

C = TypeVar("C", bound=Candidate)


class ZonedCandidate(Candidate, Protocol):
    """A candidate with a zone."""

    @property
    def zone(self) -> str:
        """The name of its failure domain; empty if unknown."""
        ...


def zone_shares(capacities: Mapping[str, float], own: str) -> dict[str, float]:
    """Return the share of calls from zone `own` for each zone; zones without a share are left out.

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
    """Draws the zone of a call, then uses the picker of that zone.

    Calls with an affinity key, and candidates other than those of `plan`, such as those of a retry,
    use one picker for all zones.

    Args:
        make: Creates a picker. Each zone has its own, because a picker keeps state about its
            candidates.
        zone: The zone of this client.
        rng: Random numbers; only `random` is used.
    """

    def __init__(self, make: Callable[[], Picker], zone: str, rng: Random) -> None:
        self._make = make
        self._zone = zone
        self._random = rng.random
        self._everywhere = make()
        self.needs_all = needs_all(self._everywhere)
        self.wants_reports = wants_reports(self._everywhere)
        self.spreads_streams = spreads_streams(self._everywhere)
        self._pickers: dict[str, Picker] = {}
        self._groups: dict[str, tuple[tuple[Any, ...], list[float]]] = {}
        self._planned: Sequence[Any] | None = None
        self._routes: list[tuple[float, tuple[Any, ...], Picker]] = []

    def plan(self, candidates: Sequence[ZonedCandidate], panic: bool) -> None:
        """Compute the shares of the zones. Call it when nodes or weights have changed.

        Args:
            candidates: The candidates that `pick` will get: the same object.
            panic: Whether all nodes are candidates because too few are healthy.
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
            (end, self._groups[zone][0], self._pickers[zone])
            for zone, end in zip(shares, accumulate(shares.values()), strict=True)
        ]
        self._planned = candidates

    def _group(
        self, zone: str, group: Sequence[ZonedCandidate]
    ) -> tuple[tuple[Any, ...], list[float]]:
        """Return the group and its weights; the tuple is the same object until one changes."""
        new, old = (tuple(group), [each.weight for each in group]), self._groups.get(zone)
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
