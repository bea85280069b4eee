"""All mistakes, in the order of the work: declare, call, connect, find, run."""

from tests.mistakes import (
    calls,
    command_line,
    connections,
    declarations,
    discovery,
    extensions,
    http,
    installation,
    processes,
    testing,
    values,
)
from tests.mistakes.catalogue import MISTAKES

__all__ = ["MISTAKES", "average"]

_AREAS = (
    *(declarations, calls, values, processes, connections, discovery, extensions),
    *(command_line, http, testing, installation),
)


def average() -> float:
    """Return the mean of all ratings."""
    return sum(each.rating for each in MISTAKES) / len(MISTAKES)
