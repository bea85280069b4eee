"""Pickers by the name of their policy. Packages can add names with entry points."""

import time
from collections.abc import Callable
from random import Random

from rap._lazy import Lazy
from rap.balance.picker import Picker

__all__ = ["ENTRY_POINTS", "picker_from_name"]

ENTRY_POINTS = "rap.balance"
"""The group of entry points: callables that take a `random.Random` and return a picker."""

# Each is imported when it is chosen.
_BUILTIN = {
    "p2c": Lazy("rap.balance.p2c", "PowerOfTwoChoices"),
    "smooth_weighted": Lazy("rap.balance.weighted", "SmoothWeighted"),
    "weighted_random": Lazy("rap.balance.weighted", "WeightedRandom"),
    "round_robin": Lazy("rap.balance.weighted", "RoundRobin"),
    "rendezvous": Lazy("rap.balance.rendezvous", "Rendezvous"),
}


def picker_from_name(
    picker: str | Picker,
    rng: Random,
    zone: str = "",
    now: Callable[[], float] = time.monotonic,
) -> Picker:
    """Return the picker with a name, or the given picker.

    Args:
        picker: A built-in name, the name of an entry point in the group ``rap.balance``, or an
            object with a `pick` method.
        rng: Random numbers for a new picker.
        zone: The zone of the client, if it prefers its zone. The result is then a `ZoneAware`.
        now: Returns seconds on the monotonic clock, for a new picker.

    Raises:
        ValueError: The name is unknown, or its object is not a picker.
    """
    if zone:
        from rap.balance.zone import ZoneAware

        return ZoneAware(lambda: picker_from_name(picker, rng, "", now), zone, rng)
    made = _make(picker, rng, now) if isinstance(picker, str) else picker
    if isinstance(made, type) or not callable(getattr(made, "pick", None)):
        raise ValueError(f"picker must be a name or an object with a pick method, got {made!r}")
    return made


def _make(name: str, rng: Random, now: Callable[[], float]) -> Picker:
    made: Picker
    if name == "prequal":
        from rap.balance.prequal import Prequal

        return Prequal(rng, now)
    if name in _BUILTIN:
        made = _BUILTIN[name].load()(rng)
        return made
    from importlib.metadata import entry_points  # slow to import, and rarely needed

    others = entry_points(group=ENTRY_POINTS)
    for entry in others:
        if entry.name == name:
            made = entry.load()(rng)
            return made
    known = ", ".join([*_BUILTIN, "prequal", *sorted({entry.name for entry in others})])
    raise ValueError(f"picker must be one of {known}, or a Picker object; got {name!r}")
