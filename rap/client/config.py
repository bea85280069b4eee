"""Every option of a client: one frozen value, checked once, passed whole."""

from dataclasses import dataclass, field

from rap.client.token import TokenSource, check_token
from rap.clock import check_timeout
from rap.wire.limits import DEFAULT_LIMITS

__all__ = ["ClientConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """Options of a `Client`; times in seconds, sizes in bytes.

    Args:
        timeout: Deadline of unary calls that name none; `None`: no deadline. Generators and
            channels have none unless given.
        connect_timeout: For a server to answer a dial, for `connect` to find one, and for a call
            without a deadline to find one.
        stall_timeout: For which calls that nobody reads may keep all credit of a connection; then
            the one that has waited longest fails.
        ping_fail_cnt: Pings in a row without an answer that end a connection.
        ping_sleep_time: Of silence on an idle connection before a ping; 1 with calls open.
        max_connections: To one server. A further one is dialled when the calls open on the others
            have reached what the server takes per connection.
        max_in_flight: Unary calls waiting for an answer of one server.
        max_waiting: Calls that may wait for a place under `max_in_flight`; the next one fails.
        max_attempts: Of one call; see `idempotent` in `Client.register`.
        retry_budget: Attempts beyond the first that calls of ten seconds may have between them: a
            share of these calls, and ten a second more; 0: none that would cost a server anything.
        slow_start: Over which a new server's share grows to its weight; 0: it has it at once.
        zone: Where the client is, to prefer servers of the same zone; empty: zones do not count.
        subset: Servers to connect to, of a service that has more; each client takes others; `None`:
            all, as also with a picker for which all clients must agree.
        max_message: Of one message; a larger answer fails its call.
        max_frame: Of one frame; a larger one ends the connection.
        stream_window: That may be under way on one call before its reader takes some.
        connection_window: The same for all calls of a connection.
        max_unfinished: Of answers of which only parts have come, on one connection; one more part
            fails its call. At least `max_message`; `None`: eight times that.
        max_pings: A second that a server may send on one connection, ten times as many at once;
            beyond it is cut.
        token: What says who this client is, to servers that verify it; or a function, plain or
            ``async``, that returns it for each new connection.
    """

    timeout: float | None = 9
    connect_timeout: float = 9
    stall_timeout: float = 10
    ping_fail_cnt: int = 2
    ping_sleep_time: float = 30
    max_connections: int = 4
    max_in_flight: int = 1024
    max_waiting: int = 1024
    max_attempts: int = 4
    retry_budget: float = 0.2
    slow_start: float = 30
    zone: str = ""
    subset: int | None = 100
    max_message: int = DEFAULT_LIMITS.max_message
    max_frame: int = DEFAULT_LIMITS.max_frame
    stream_window: int = DEFAULT_LIMITS.stream_window
    connection_window: int = DEFAULT_LIMITS.connection_window
    max_unfinished: int | None = None
    max_pings: int = 10
    token: TokenSource | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check every value; each error names its option."""
        check_timeout("timeout", self.timeout)
        check_token(self.token)
        if not isinstance(self.zone, str):
            raise ValueError(f"zone must be a string, got {self.zone!r}")
        for name in ("connect_timeout", "stall_timeout", "ping_sleep_time"):
            value = getattr(self, name)
            if value is None:
                raise ValueError(f"{name} must be a number of seconds, got None")
            check_timeout(name, value)
        for name in (
            "ping_fail_cnt",
            "max_connections",
            "max_in_flight",
            "max_attempts",
            "max_pings",
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        subset = self.subset
        whole = isinstance(subset, int) and not isinstance(subset, bool)
        if subset is not None and not (whole and subset >= 2):
            raise ValueError(f"subset must be an integer of at least 2, or None, got {subset!r}")
        for name in ("max_waiting", "slow_start", "retry_budget"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise ValueError(f"{name} must be 0 or more, got {value!r}")
