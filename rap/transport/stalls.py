"""Readers that stall: since when the oldest message of a stream has waited to be taken."""

from collections.abc import Iterable
from typing import Any

__all__ = ["Stalls"]


class Stalls:
    """What the sweep saw waiting when it last looked.

    Noting the time of every message would burden the hot path; the sweep comes by about once a
    second, and sees whether the oldest message is still the same.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[Any, tuple[object, float]] = {}  # stream → oldest message, since when

    def look(self, streams: Iterable[Any], now: float) -> None:
        """Note which streams have messages that nobody has taken."""
        before = self._waiting
        self._waiting = {}
        for stream in streams:
            oldest = stream.inbox[0] if stream.inbox else None
            seen = before.get(stream)
            self._waiting[stream] = (
                seen if seen is not None and seen[0] is oldest else (oldest, now)
            )

    def longest_first(self) -> list[Any]:
        """Return the streams that wait, the one that has waited longest first."""
        return sorted(self._waiting, key=lambda stream: self._waiting[stream][1])
