"""What a row of the table is: a fault, what is expected, how it is provoked and measured."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

__all__ = ["Measured", "Run", "Scale", "Scenario", "median_ms", "verdict"]


class Scale(NamedTuple):
    """How much is done: in the short form by default, or as much as the figures are for."""

    fuzz_seconds: int = 20
    failovers: int = 3
    sealed_frames: int = 100
    replays: int = 2_000
    cancels: int = 20_000
    quiet_seconds: int = 20
    overload_loads: tuple[float, ...] = (2.0,)
    overload_clients: tuple[int, ...] = (1,)


class Measured(NamedTuple):
    """What came of a row."""

    text: str
    good: bool | None  # `None`: could not be measured here, and the text says why


Run = Callable[[Scale], Awaitable[Measured]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row.

    Args:
        row: Its number.
        fault: What somebody does, or what happens.
        expected: The figure.
        run: Provokes and measures it.
    """

    row: int
    fault: str
    expected: str
    run: Run


def median_ms(seconds: list[float]) -> float:
    """Return the median in milliseconds."""
    return median(seconds) * 1000.0


def verdict(measured: Measured) -> str:
    """Return the last column."""
    return "skipped" if measured.good is None else "pass" if measured.good else "MISS"
