"""Liveness of one connection: ping on silence, give up on no answer.

Pure bookkeeping: the connection calls `check` from its one timer and does what it says. Any byte
read, and any progress of our writes, is life (gRFC A8).
"""

from dataclasses import dataclass
from enum import Enum

from rap.deadline import check_timeout

__all__ = ["Keepalive", "KeepaliveOptions", "Move"]

_MOST_LEAST = 30.0  # seconds; a peer that could forbid pings could hide its death


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepaliveOptions:
    """When to ping.

    Args:
        idle: Seconds of silence before a ping when no call is open.
        busy: The same with calls open.
        timeout: Seconds an answer may take.
        failures: Pings in a row without an answer that end the connection.
    """

    idle: float = 30.0
    busy: float = 1.0
    timeout: float = 2.5
    failures: int = 2

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("idle", "busy", "timeout"):
            if check_timeout(f"keepalive {name}", getattr(self, name)) is None:
                raise ValueError(f"keepalive {name} must be a number of seconds, got None")
        failures = self.failures
        if isinstance(failures, bool) or not isinstance(failures, int) or failures < 1:
            raise ValueError(f"keepalive failures must be an integer from 1 on, got {failures!r}")


class Move(Enum):
    """What `check` wants done."""

    NOTHING = "nothing"
    PING = "ping"
    GIVE_UP = "give up"


class Keepalive:
    """State of the pings of one connection."""

    __slots__ = ("least", "missed", "options", "pinged_at", "round_trip", "silent_since")

    def __init__(self, options: KeepaliveOptions, now: float) -> None:
        self.options = options
        self.silent_since = now
        self.pinged_at: float | None = None
        self.missed = 0
        self.round_trip: float | None = None  # seconds, of the last answered ping
        self.least = 0.0  # seconds between two pings that the peer asks for

    def heed(self, milliseconds: object) -> None:
        """Send pings no faster than the peer's Hello says it takes; nonsense is not heeded."""
        if isinstance(milliseconds, int) and milliseconds > 0:
            self.least = min(milliseconds / 1000, _MOST_LEAST)

    def answered(self, now: float) -> None:
        """Take the answer to a ping."""
        if self.pinged_at is not None:
            self.round_trip = now - self.pinged_at
            self.pinged_at = None
        self.missed = 0

    def check(self, now: float, *, heard: bool, busy: bool) -> tuple[Move, float]:
        """Return what to do now, and when to ask again.

        Args:
            now: Seconds on the monotonic clock.
            heard: Whether the peer gave a sign of life since the last check.
            busy: Whether calls are open.
        """
        options = self.options
        if heard:
            self.silent_since = now
            self.pinged_at = None
            self.missed = 0
        if self.pinged_at is None:
            due = self.silent_since + max(options.busy if busy else options.idle, self.least)
            if now < due:
                return Move.NOTHING, due
        elif now < self.pinged_at + max(options.timeout, self.least):
            return Move.NOTHING, self.pinged_at + max(options.timeout, self.least)
        else:
            self.missed += 1
            if self.missed >= options.failures:
                return Move.GIVE_UP, now
        self.pinged_at = now
        return Move.PING, now + max(options.timeout, self.least)
