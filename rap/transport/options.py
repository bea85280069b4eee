"""Options of a connection, given once, when it is made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rap.clock import check_timeout
from rap.wire.limits import DEFAULT_LIMITS, Limits

__all__ = ["ConnectionOptions", "KeepaliveOptions"]

_MIN_BUFFER = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepaliveOptions:
    """When a connection pings its peer.

    Args:
        idle: Seconds of silence before a ping when no call is open.
        busy: Seconds of silence before a ping when calls are open.
        timeout: Seconds to wait for the answer.
        failures: Unanswered pings in a row after which the connection is closed.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionOptions:
    """Limits and times of the connections of one side.

    Args:
        limits: What this side accepts.
        keepalive: When to ping.
        hello: What our Hello says besides version and limits.
        timeout: Seconds for the peer to finish a frame, or to read some of what was written.
        stall_timeout: Seconds that unread streams may hold the whole connection window. After
            that, the stream unread the longest is reset.
        handshake_timeout: Seconds for the peer's Hello to arrive.
        idle_timeout: Seconds without a call after which a server asks the client to leave;
            `None`: never.
        max_age: Seconds after which a server asks the client to leave; open calls go on. `None`:
            never.
        write_buffer: Bytes in the transport's buffer above which large messages wait. Small calls
            wait behind it, so it bounds their latency.
        max_cancels: Calls per second that the peer may cancel, with a burst of ten times that.
        max_pings: Pings per second that the peer may send, with a burst of ten times that.
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
        """Check the times and the bounds."""
        for name in ("timeout", "stall_timeout", "handshake_timeout", "idle_timeout", "max_age"):
            limit = check_timeout(name, getattr(self, name))
            if limit is None and name not in ("idle_timeout", "max_age"):
                raise ValueError(f"{name} must be a number of seconds, got None")
        least = {"write_buffer": _MIN_BUFFER, "max_cancels": 1, "max_pings": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name} must be an integer from {low} on, got {value!r}")
