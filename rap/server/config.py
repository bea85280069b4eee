"""The options of a server, one frozen value that is checked once, and of its functions."""

from __future__ import annotations  # evaluated when an option is used: see `rap.options`

import random
from collections.abc import Iterable, Sequence
from typing import Annotated

from rap.address import Address
from rap.call import check_priority
from rap.clock import Clock
from rap.errors import RegistrationError
from rap.options import Option, Options
from rap.processor.base import BaseProcessor
from rap.registry.base import Registry, check_registry_key, check_ttl, check_weight
from rap.server.authentication import Verifier, verify_with
from rap.server.authorization import Allow, allow_rule
from rap.server.hooks import Event
from rap.server.middleware.base import BaseConnMiddleware, BaseMsgMiddleware
from rap.transport import options as common
from rap.wire.codec import MAX_DEPTH, MAX_ELEMENTS
from rap.wire.frames import MAX_META
from rap.wire.hello import BOUNDS, DEFAULT_LIMITS

__all__ = ["HandlerOptions", "ServerConfig", "check_path"]


class _Place(Options, frozen=True, eq=False):
    """The only option that is also given by position."""

    host: Annotated[
        str | Address | Sequence[str | Address],
        Option(
            "Address to listen on, or a list of addresses: `host:port`, `[v6]:port`, "
            "`tcp://`, `tls://` or `unix:///path`. Port 0 selects a free port; "
            "`server.addresses` has the result."
        ),
    ] = "localhost:9000"


class ServerConfig(_Place, frozen=True, kw_only=True, eq=False):
    """The options of `Server`.

    Raises:
        ValueError: A value is not allowed; the message names the option.
    """

    service: Annotated[
        str | None,
        Option("Name under which the server registers. It needs `registry`."),
    ] = None
    registry: Annotated[
        str | Registry | None,
        Option(
            "URL of the registry, or a `Registry` object, where the server registers. It needs "
            "`service`.",
            see="discovery.md",
        ),
    ] = None
    registry_key: Annotated[
        str | bytes | None,
        Option(
            "Secret of at least 16 bytes with which the server signs its registration, so that "
            "clients with the same key can tell it from those of others who can write to the "
            "registry.",
            check=check_registry_key,
            see="discovery.md#signed-registrations",
        ),
    ] = None
    weight: Annotated[
        int,
        Option(
            "Capacity of the server relative to the other servers of the service.",
            least=1,
            most=1000,
            check=check_weight,
        ),
    ] = 1
    zone: Annotated[
        str,
        Option(
            "Name of the zone that the server runs in. It is published with the registration, and "
            "clients of the same zone prefer this server.",
            see="discovery.md#zones",
        ),
    ] = ""
    advertise: Annotated[
        str | None,
        Option(
            "Address that the server registers, to which clients connect. `None` means "
            "the address that the server listens on."
        ),
    ] = None
    ssl_crt_path: Annotated[
        str | None,
        Option(
            "PEM file of the server's certificate. If it is set, the server uses TLS on "
            "every TCP address."
        ),
    ] = None
    ssl_key_path: Annotated[
        str | None,
        Option("PEM file of the private key of `ssl_crt_path`."),
    ] = None
    ssl_ca_path: Annotated[
        str | None,
        Option(
            "PEM file of the authorities (CAs) of client certificates. If it is set, "
            "every client must present a certificate of one of these authorities (mutual "
            "TLS)."
        ),
    ] = None
    ssl_crl_path: Annotated[
        str | None,
        Option(
            "PEM file of the revocation lists (CRLs) of the authorities of `ssl_ca_path`: one for "
            "each authority in the chain of a client. The certificates that they list are refused.",
            see="authentication.md#revocation-lists",
        ),
    ] = None
    start_event_list: Annotated[
        Iterable[Event],
        Option(
            "Functions, async functions or coroutines to run before the server listens. If one "
            "fails, the server does not start."
        ),
    ] = ()
    stop_event_list: Annotated[
        Iterable[Event],
        Option(
            "Functions, async functions or coroutines to run after all connections are closed, the "
            "last one first. If one fails, the error is logged and the others run."
        ),
    ] = ()
    middleware_list: Annotated[
        Iterable[BaseConnMiddleware | BaseMsgMiddleware],
        Option(
            "Middleware that admits connections or wraps unary and client-streaming calls. The "
            "first one is the outermost.",
            see="middleware.md",
        ),
    ] = ()
    processor_list: Annotated[Iterable[BaseProcessor], common.PROCESSOR_LIST] = ()
    clock: Annotated[Clock | None, common.CLOCK] = None
    rng: Annotated[random.Random | None, common.RNG] = None
    timeout: Annotated[float, common.TIMEOUT] = 9
    stall_timeout: Annotated[float, common.STALL_TIMEOUT] = 10
    message_timeout: Annotated[float, common.MESSAGE_TIMEOUT] = 30
    min_message_rate: Annotated[float, common.MIN_MESSAGE_RATE] = 128
    handshake_timeout: Annotated[float, common.HANDSHAKE_TIMEOUT] = 5
    keep_alive: Annotated[float | None, common.KEEP_ALIVE] = 1200
    run_timeout: Annotated[
        float | None,
        Option(
            "Seconds that a unary function may run. If you set it, it is a limit: an earlier "
            "deadline of the caller applies, a later one does not. The default applies only to "
            "callers that set no deadline. `None` means that only the deadline of the caller "
            "applies.",
            "seconds",
            above=0,
        ),
    ] = 9
    ping_fail_cnt: Annotated[int, common.PING_FAIL_CNT] = 2
    ping_timeout: Annotated[float, common.PING_TIMEOUT] = 2.5
    ping_busy_time: Annotated[float, common.PING_BUSY_TIME] = 1.0
    ping_sleep_time: Annotated[float, common.PING_SLEEP_TIME] = 30
    backlog: Annotated[
        int,
        Option(
            "Maximum connections that wait in the kernel until the server accepts them.",
            "connections",
            least=1,
        ),
    ] = 1024
    close_timeout: Annotated[
        float,
        Option(
            "Seconds that open calls and sessions have to finish during a drain. After "
            "that, they fail with `Unavailable`.",
            "seconds",
            above=0,
            see="operations.md#draining",
        ),
    ] = 25
    drain_delay: Annotated[
        float | None,
        Option(
            "Seconds that the server waits between publishing DRAINING and closing its "
            "listeners, so that clients notice. `None` means 1 second with a registry and "
            "0 without.",
            "seconds",
            least=0,
            finite=True,
            see="operations.md#draining",
        ),
    ] = None
    max_connection_age: Annotated[float | None, common.MAX_CONNECTION_AGE] = 1800
    max_connection_grace: Annotated[float | None, common.MAX_CONNECTION_GRACE] = 600
    max_message: Annotated[int, common.MAX_MESSAGE] = DEFAULT_LIMITS.max_message
    max_frame: Annotated[int, common.MAX_FRAME] = DEFAULT_LIMITS.max_frame
    max_streams: Annotated[
        int,
        Option(
            "Maximum open calls per connection.",
            "calls",
            *BOUNDS["max_streams"],
        ),
    ] = DEFAULT_LIMITS.max_streams
    stream_window: Annotated[int, common.STREAM_WINDOW] = DEFAULT_LIMITS.stream_window
    connection_window: Annotated[int, common.CONNECTION_WINDOW] = DEFAULT_LIMITS.connection_window
    max_unfinished: Annotated[int | None, common.MAX_UNFINISHED] = None
    max_handshakes: Annotated[
        int,
        Option(
            "Maximum connections that have not sent their Hello yet, including those in a "
            "TLS handshake. If there are more, the oldest of them is closed.",
            "connections",
            least=1,
        ),
    ] = 2048
    max_memory: Annotated[
        int | None,
        Option(
            "Maximum memory that the server holds for its clients together: requests of open "
            "calls and what is decoded from them, messages that have arrived in part or are not "
            "read, and messages that wait to be sent. Beyond it, the calls that hold the most on "
            "the connections that hold the most fail with `ResourceExhausted`. `None` means half "
            "of the memory that the control group (cgroup) of the process allows, or a quarter of "
            "the memory of the machine if that is less; several workers share it.",
            "bytes",
            least=1024 * 1024,
        ),
    ] = None
    max_connections: Annotated[
        int | None,
        Option(
            "Maximum open connections. A client beyond it is told so, and calls other servers. "
            "`None` means as many as the process may open files (`ulimit -n`), without those that "
            "are open at the start and a reserve of an eighth, 64 at least, for the health page, "
            "the registry and other connections.",
            "connections",
            least=1,
        ),
    ] = None
    max_connects: Annotated[
        int,
        Option(
            "New connections per second per client address (IPv6: per /64), with a burst of ten "
            "times that. Excess connections are closed. Clients on the same machine are not "
            "limited.",
            "per second",
            least=1,
        ),
    ] = 200
    max_cancels: Annotated[int, common.MAX_CANCELS] = 100
    max_cancel_share: Annotated[float, common.MAX_CANCEL_SHARE] = 0.5
    max_pings: Annotated[int, common.MAX_PINGS] = 10
    max_requests: Annotated[
        int | None,
        Option(
            "Maximum total size of the large requests (more than 16 KiB each) of all open "
            "calls, per connection. A call that would exceed it fails. `None` means "
            "32 times `max_message`.",
            "bytes",
            least="max_message",
        ),
    ] = None
    max_backlog: Annotated[
        int,
        Option(
            "Maximum total size of the responses that wait to be sent, per connection. "
            "Above it, the server begins no further call of the connection until the "
            "client has read half of them.",
            "bytes",
            *BOUNDS["max_backlog"],
        ),
    ] = DEFAULT_LIMITS.max_backlog
    max_header: Annotated[
        int,
        Option(
            "Maximum size of the header of an incoming message. A larger header fails its call.",
            "bytes",
            least=1024,
            most=MAX_META,
        ),
    ] = MAX_META
    max_depth: Annotated[
        int,
        Option(
            "Maximum depth of nested arrays and maps in the body of an incoming message. A deeper "
            "body fails its call before it is decoded.",
            "levels",
            least=1,
            most=MAX_DEPTH,
        ),
    ] = MAX_DEPTH
    max_elements: Annotated[
        int,
        Option(
            "Maximum number of values in the body of an incoming message. A body with more fails "
            "its call before it is decoded.",
            "values",
            least=1,
            most=MAX_ELEMENTS,
        ),
    ] = MAX_ELEMENTS
    threads: Annotated[
        int | None,
        Option(
            "Number of threads that run `def` functions. `None` means the same number as "
            "in asyncio's default executor.",
            "threads",
            least=1,
            see="blocking.md",
        ),
    ] = None
    block_threshold: Annotated[
        float,
        Option(
            "Seconds that a function may hold the event loop. After that, the server logs its name "
            "and where it is, at most once a minute, and counts it. With 0, nothing watches the "
            "event loop.",
            "seconds",
            least=0,
            finite=True,
        ),
    ] = 0.5
    lease_ttl: Annotated[
        float,
        Option(
            "Seconds that a registration stays valid unless the server renews it.",
            "seconds",
            least=0.1,
            most=86400,
            check=check_ttl,
        ),
    ] = 10
    shed: Annotated[
        bool,
        Option(
            "Whether the server refuses calls with `ResourceExhausted` that would wait longer than "
            "half of their time, because it is asked for more than it can do. Without it, an "
            "overloaded server begins all calls, and most of them too late.",
            see="operations.md#overload",
        ),
    ] = True
    max_concurrency: Annotated[
        int | None,
        Option(
            "Maximum calls of all functions that run at a time; more are refused with "
            "`ResourceExhausted`, except critical ones. `None` means any number, unless the server "
            "is overloaded.",
            "calls",
            least=1,
            see="operations.md#overload",
        ),
    ] = None
    debug: Annotated[
        bool,
        Option("Whether callers get the traceback when a function raises."),
    ] = False
    expose_errors: Annotated[
        bool,
        Option(
            "Whether callers get the type and the text of an exception that a function raises, and "
            "the texts of its errors `UNKNOWN`, `INTERNAL` and `UNAVAILABLE`. If not, they get the "
            "code and the trace id, whatever `debug` says, and the log has the rest.",
            see="security.md",
        ),
    ] = True
    access_log: Annotated[
        bool | None,
        Option(
            "Whether the server logs each call to `rap.server.access` when it has ended. `None` "
            "means that it does so under `rap serve`, and not in a program of your own.",
            see="observability.md#access-log",
        ),
    ] = None
    local: Annotated[str | None, common.LOCAL] = "loopback"
    allow_load: Annotated[
        bool,
        Option(
            "Whether clients on the same machine may import code into the server, with the "
            "private functions `load` and `reload` of the group `registry`.",
            see="functions.md",
        ),
    ] = False
    verify_token: Annotated[
        Verifier | None,
        Option(
            "Token that every client must send, or a function that verifies the token of "
            "a client and returns the identity of the client. `None` means that every "
            "client may connect.",
            see="authentication.md",
        ),
    ] = None
    max_token_failures: Annotated[
        int,
        Option(
            "Number of rejected tokens per client address and minute. After that, until "
            "the minute is over, the server rejects connections of that address without "
            "reading them.",
            "tokens",
            least=1,
        ),
    ] = 10

    @property
    def addresses(self) -> tuple[Address, ...]:
        """`host` as a tuple of addresses."""
        hosts = [self.host] if isinstance(self.host, str | Address) else self.host
        if not isinstance(hosts, Sequence) or isinstance(hosts, bytes) or not hosts:
            raise ValueError(f"host must be an address or a list of addresses, got {self.host!r}")
        return tuple(Address.parse(each, option="host") for each in hosts)

    def __post_init__(self) -> None:
        _ = self.addresses  # checks `host`
        super().__post_init__()
        if self.verify_token is not None:
            verify_with(self.verify_token)


def check_path(value: object, option: str) -> None:
    """Check a name or a group.

    Raises:
        RegistrationError: It cannot be part of the full name of a function.
    """
    if not isinstance(value, str) or not value or "/" in value or len(value) > 255:
        raise RegistrationError(f"{option} must be 1 to 255 characters without '/', got {value!r}")


def _check_doc(value: object, option: str) -> None:
    if not isinstance(value, str):
        raise RegistrationError(f"{option} must be a string, got {value!r}")


class HandlerOptions(Options, frozen=True, kw_only=True):
    """The options of `Server.register`."""

    name: Annotated[
        str | None,
        Option(
            "Name that clients use. `None` means the name of the function.",
            check=check_path,
        ),
    ] = None
    group: Annotated[
        str | None,
        Option(
            "Group of the function. `None` means `default`, or for the methods of an object or a "
            "class, the name of the class.",
            check=check_path,
        ),
    ] = None
    is_private: Annotated[
        bool,
        Option(
            "Whether only clients on the same machine may call the function; see `Server(local=)`."
        ),
    ] = False
    doc: Annotated[
        str | None,
        Option(
            "Description of the function, for listings. `None` means its docstring.",
            check=_check_doc,
        ),
    ] = None
    idempotent: Annotated[
        bool,
        Option(
            "Whether calling twice has the same effect as calling once. Descriptions tell clients, "
            "which may then declare it so, too.",
            see="calls.md#retries",
        ),
    ] = False
    run_timeout: Annotated[
        float | None,
        Option(
            "Seconds that the function may run; a caller that allows more time does not get it. "
            "`None` means the server's `run_timeout` for unary functions, and no limit for all "
            "others.",
            "seconds",
            above=0,
        ),
    ] = None
    inline: Annotated[
        bool,
        Option(
            "Whether a `def` runs on the event loop instead of in a thread. Use it only for "
            "functions that never block.",
            see="blocking.md",
        ),
    ] = False
    allow: Annotated[
        Allow | None,
        Option(
            "Names of the clients that may call the function, or a function that takes the `Call` "
            "and returns whether its client may. `None` means all clients.",
            check=allow_rule,
            see="authentication.md",
        ),
    ] = None
    priority: Annotated[
        str | None,
        Option(
            "Priority of the calls whose client names none: `'critical'`, `'default'` or "
            "`'sheddable'`. An overloaded server begins critical calls first, and refuses "
            "sheddable calls first. `None` means `'default'`.",
            check=check_priority,
            see="operations.md#overload",
        ),
    ] = None
    max_concurrency: Annotated[
        int | None,
        Option(
            "Maximum calls of the function that run at a time; more are refused with "
            "`ResourceExhausted`. `None` means any number, unless the server is overloaded.",
            "calls",
            least=1,
            see="operations.md#overload",
        ),
    ] = None
