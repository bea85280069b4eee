"""Options of a connection, given once, when it is made."""

from __future__ import annotations  # evaluated when an option is used: see `rap.options`

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from rap.clock import check_timeout
from rap.options import Option, check_options
from rap.wire.hello import DEFAULT_LIMITS, Limits

__all__ = ["ConnectionOptions", "KeepaliveOptions"]


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

    Raises:
        ValueError: A value is not allowed; the message names the option.
    """

    limits: Annotated[Limits, Option("What this side accepts.")] = DEFAULT_LIMITS
    keepalive: Annotated[KeepaliveOptions, Option("When the connection pings its peer.")] = field(
        default_factory=KeepaliveOptions
    )
    hello: Annotated[
        Mapping[str, Any], Option("What the Hello of this side says besides version and limits.")
    ] = field(default_factory=dict)
    timeout: Annotated[
        float,
        Option(
            "Seconds for the peer to finish a frame, or to read some of what was written.",
            "seconds",
            above=0,
        ),
    ] = 9.0
    stall_timeout: Annotated[
        float,
        Option(
            "Seconds that unread streams may hold the whole connection window. After that, the "
            "stream that has been unread the longest is reset.",
            "seconds",
            above=0,
        ),
    ] = 10.0
    handshake_timeout: Annotated[
        float, Option("Seconds for the peer's Hello to arrive.", "seconds", above=0)
    ] = 5.0
    idle_timeout: Annotated[
        float | None,
        Option(
            "Seconds without a call after which a server asks the client to leave. `None` means "
            "never.",
            "seconds",
            above=0,
        ),
    ] = None
    max_age: Annotated[
        float | None,
        Option(
            "Seconds after which a server asks the client to leave. Open calls go on. `None` means "
            "never.",
            "seconds",
            above=0,
        ),
    ] = None
    write_buffer: Annotated[
        int,
        Option(
            "Bytes in the transport's buffer above which large messages wait. Small calls wait "
            "behind it, so it bounds their latency.",
            "bytes",
            least=4096,
        ),
    ] = 256 * 1024
    max_cancels: Annotated[
        int,
        Option(
            "Calls per second that the peer may cancel beyond `max_cancel_share`, with a burst of "
            "ten times that.",
            "per second",
            least=1,
        ),
    ] = 100
    max_cancel_share: Annotated[
        float,
        Option(
            "Share of its calls that the peer may cancel at any rate.",
            "share",
            least=0,
            most=0.9,
        ),
    ] = 0.5
    max_pings: Annotated[
        int,
        Option(
            "Pings per second that the peer may send, with a burst of ten times that.",
            "per second",
            least=1,
        ),
    ] = 10

    def __post_init__(self) -> None:
        check_options(self)
