"""Every option of a server: one frozen value, checked once, passed whole."""

from dataclasses import dataclass, field
from math import inf

from rap.address import Address
from rap.clock import check_timeout
from rap.options import check_flag
from rap.registry.base import check_ttl
from rap.server.authentication import Verifier, verify_with
from rap.wire.codec import MAX_DEPTH, MAX_ELEMENTS
from rap.wire.frames import MAX_META
from rap.wire.limits import DEFAULT_LIMITS

__all__ = ["ServerConfig"]

_TIMES = (
    "timeout",
    "stall_timeout",
    "handshake_timeout",
    "keep_alive",
    "run_timeout",
    "ping_sleep_time",
    "close_timeout",
    "max_connection_age",
)

_COUNTS = (
    "ping_fail_cnt",
    "backlog",
    "max_token_failures",
    "max_handshakes",
    "max_connects",
    "max_cancels",
    "max_pings",
)

_BOUNDS = {
    "max_header": (1024, MAX_META),
    "max_depth": (1, MAX_DEPTH),
    "max_elements": (1, MAX_ELEMENTS),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Options of a `Server`; times in seconds, sizes in bytes.

    Args:
        addresses: Where to listen.
        timeout: For a peer to finish a frame it began or to take what was written.
        stall_timeout: For which calls that no function reads may keep all credit of a connection;
            then the one that has waited longest fails.
        handshake_timeout: For a new connection to say Hello.
        keep_alive: Without any call, after which a connection is asked to leave; `None`: never.
        run_timeout: Of a unary handler; the caller's deadline counts if it is nearer.
        ping_fail_cnt: Pings in a row without an answer that end a connection.
        ping_sleep_time: Of silence on an idle connection before a ping; 1 with calls open.
        backlog: Connections that may wait to be accepted.
        close_timeout: For open calls and sessions to finish in a drain.
        drain_delay: Between publishing DRAINING and closing the listeners, so that clients have
            noticed; `None`: 1 with a registry, 0 without.
        max_connection_age: After which a connection is asked to leave, +-10 %; what is open on
            it lives on. `None`: never.
        max_message: Of one message; a larger one resets its call.
        max_frame: Of one frame; a larger one ends the connection.
        max_streams: Calls open at once on one connection.
        stream_window: That may be under way on one call before its reader takes some.
        connection_window: The same for all calls of a connection.
        max_unfinished: Of messages of which only parts have come, on one connection; one more part
            fails its call. At least `max_message`; `None`: eight times that.
        max_handshakes: Connections that have not said Hello yet, or are in a TLS handshake; the
            oldest is cut for one more.
        max_connects: A second from one address (of IPv6, one network of 64 bits), ten times as many
            at once; beyond it they are cut. Peers on this machine have no such limit.
        max_cancels: Calls a second that a client may cancel on one connection, ten times as many
            at once; beyond it is slowed down, asked to leave and at last cut.
        max_pings: A second on one connection, ten times as many at once; beyond it is cut.
        max_requests: Of requests larger than 16 KiB whose calls are open, on one connection; one
            more fails its call. At least `max_message`; `None`: sixteen times that.
        max_backlog: Of answers that wait to be sent on one connection, 1 MiB to 1 TiB; beyond it no
            further call of that client is begun until it has taken half of them.
        max_header: Bytes of the header of a message as it arrives, 1,024 to 65,535; a larger one
            fails its call.
        max_depth: Arrays and maps of a body inside each other as it arrives, 1 to 32.
        max_elements: Values of a body as it arrives, 1 to 100,000.
        threads: In which `def` handlers run; `None`: as many as the executor of asyncio has.
        lease_ttl: That a registration stands without a heartbeat, 0.1 to 86,400.
        debug: Tracebacks of handlers go to the caller.
        allow_load: Clients on this machine may import code into the server: private functions
            ``load`` and ``reload`` of the group ``registry``.
        verify_token: The token that clients must have, or a function that verifies theirs and
            returns who they are; see `rap.server.authentication`. `None`: all may connect.
        max_token_failures: Refused tokens of one address in a minute; from then on until the
            minute is over its connections are refused without asking.
    """

    addresses: tuple[Address, ...]
    timeout: float = 9
    stall_timeout: float = 10
    handshake_timeout: float = 5
    keep_alive: float | None = 1200
    run_timeout: float | None = 9
    ping_fail_cnt: int = 2
    ping_sleep_time: float = 30
    backlog: int = 1024
    close_timeout: float = 25
    drain_delay: float | None = None
    max_connection_age: float | None = 1800
    max_message: int = DEFAULT_LIMITS.max_message
    max_frame: int = DEFAULT_LIMITS.max_frame
    max_streams: int = DEFAULT_LIMITS.max_streams
    stream_window: int = DEFAULT_LIMITS.stream_window
    connection_window: int = DEFAULT_LIMITS.connection_window
    max_unfinished: int | None = None
    max_handshakes: int = 2048
    max_connects: int = 200
    max_cancels: int = 100
    max_pings: int = 10
    max_requests: int | None = None
    max_backlog: int = DEFAULT_LIMITS.max_backlog
    max_header: int = MAX_META
    max_depth: int = MAX_DEPTH
    max_elements: int = MAX_ELEMENTS
    threads: int | None = None
    lease_ttl: float = 10
    debug: bool = False
    allow_load: bool = False
    verify_token: Verifier | None = field(default=None, repr=False)
    max_token_failures: int = 10

    def __post_init__(self) -> None:
        """Check every value; each error names its option."""
        optional = {"keep_alive", "run_timeout", "max_connection_age"}
        for name in _TIMES:
            value = getattr(self, name)
            if value is None and name not in optional:
                raise ValueError(f"{name} must be a number of seconds, got None")
            check_timeout(name, value)
        check_flag("debug", self.debug)
        check_flag("allow_load", self.allow_load)
        check_ttl(self.lease_ttl, option="lease_ttl")
        if self.verify_token is not None:
            verify_with(self.verify_token)
        for name in _COUNTS:
            _check_count(name, getattr(self, name))
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name} must be an integer from {low} to {high}, got {value!r}")
        if self.threads is not None:
            _check_count("threads", self.threads)
        delay = self.drain_delay
        if delay is not None and (
            isinstance(delay, bool) or not isinstance(delay, int | float) or not 0 <= delay < inf
        ):
            raise ValueError(f"drain_delay must be 0 seconds or more, got {delay!r}")


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
