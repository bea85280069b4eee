"""What a connection is told once, when it is made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rap.clock import check_timeout
from rap.transport.watchdog import KeepaliveOptions
from rap.wire.limits import DEFAULT_LIMITS, Limits

__all__ = ["ConnectionOptions"]

_LEAST_BUFFER = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionOptions:
    """Limits and times of one side's connections.

    Args:
        limits: What this side accepts.
        keepalive: When to ping.
        hello: What our Hello says beside version and limits.
        timeout: Seconds for the peer to finish a frame it began, or to take what we wrote.
        stall_timeout: Seconds for which streams that nobody here reads may keep all credit of the
            connection; then the one that has waited longest is reset.
        handshake_timeout: Seconds for its Hello to come.
        idle_timeout: Seconds without any call after which a server asks the client to leave.
        max_age: Seconds after which a server asks the client to leave; what is open lives on.
        write_buffer: Bytes in the transport's buffer from which on large messages wait. Small
            calls wait behind it, so it is a bound of their latency.
        max_cancels: Calls a second that the peer may cancel, ten times as many at once.
        max_pings: Pings a second that the peer may send, ten times as many at once.
    """

    limits: Limits = DEFAULT_LIMITS
    keepalive: KeepaliveOptions = field(default_factory=KeepaliveOptions)
    hello: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 9.0
    stall_timeout: float = 10.0
    handshake_timeout: float = 5.0
    idle_timeout: float | None = None
    max_age: float | None = None
    write_buffer: int = 256 * 1024
    max_cancels: int = 100
    max_pings: int = 10

    def __post_init__(self) -> None:
        """Check the times and the buffer."""
        for name in ("timeout", "stall_timeout", "handshake_timeout", "idle_timeout", "max_age"):
            limit = check_timeout(name, getattr(self, name))
            if limit is None and name not in ("idle_timeout", "max_age"):
                raise ValueError(f"{name} must be a number of seconds, got None")
        least = {"write_buffer": _LEAST_BUFFER, "max_cancels": 1, "max_pings": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name} must be an integer from {low} on, got {value!r}")
