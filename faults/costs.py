"""Row 34: the time and memory that the dearest known inputs take, per byte, at each entry point."""

import asyncio

from faults.scenario import Measured, Scale, Scenario
from fuzz.costs import memory_of, microseconds_of
from fuzz.entries import ENTRIES, dear_bodies

__all__ = ["SCENARIOS"]

_MOST = 1.0  # microseconds for a byte
_MEMORY = 150.0  # bytes for a byte
_SCALE = 4  # bodies have a fourth of the values that are allowed, so that a minute is enough


async def costs(scale: Scale) -> Measured:
    """Decode what is cheap to send."""
    return await asyncio.to_thread(_measure)  # some entry points run an event loop


def _measure() -> Measured:
    slowest, largest, count = (0.0, ""), (0.0, ""), 0
    bodies = dear_bodies(_SCALE)
    for name, entry in ENTRIES.items():
        if entry.most > _MOST:  # a byte stands for more than itself
            continue
        function, close = entry.make()
        for what, body in bodies.items():
            count += 1
            place = f"{what} in {name}"
            slowest = max(slowest, (microseconds_of(function, body, slowest[0]), place))
            largest = max(largest, (memory_of(function, body), place))
        close()
    text = (
        f"{count} inputs, at most {slowest[0]:.2f} us per byte ({slowest[1]}) and"
        f" {largest[0]:.0f} bytes per byte ({largest[1]})"
    )
    return Measured(text, slowest[0] <= _MOST and largest[0] <= _MEMORY)


SCENARIOS = (
    Scenario(34, "inputs that are expensive to decode", "<= 1 us and 150 bytes per byte", costs),
)
