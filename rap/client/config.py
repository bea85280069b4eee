"""The options of a client, one frozen value that is checked once, of its stubs, and of calls."""

from __future__ import annotations  # evaluated when an option is used: see `rap.options`

import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from math import inf
from typing import Annotated, Any

from rap.balance import Picker
from rap.call import check_priority
from rap.client.retry import CallRules
from rap.client.target import Hosts
from rap.client.waiting import check_wait_for_ready
from rap.clock import Clock
from rap.errors import Code, Unauthenticated
from rap.options import Option, Options
from rap.processor.base import BaseProcessor
from rap.registry import Registry, Resolver
from rap.registry.base import check_registry_key
from rap.transport import options as common
from rap.transport.tls import check_identities
from rap.wire.hello import DEFAULT_LIMITS

__all__ = ["CallOptions", "ClientConfig", "StubOptions", "Token", "TokenSource", "token_of"]

Token = str | bytes
# What users give: a token, or a function that returns one, plain or ``async``.
TokenSource = Token | Callable[[], Any]

_MAX_TOKEN = 8192  # bytes


def _check_codes(codes: object, option: str) -> None:
    given = list(codes) if isinstance(codes, Collection) and not isinstance(codes, str) else [None]
    if not all(isinstance(code, Code) for code in given):
        raise ValueError(f"{option} must be a list of codes such as Code.ABORTED, got {codes!r}")


def _check_server_name(name: object, option: str) -> None:
    if not isinstance(name, str) or not name or not name.isprintable() or " " in name:
        raise ValueError(f"{option} must be a host name or an IP address, got {name!r}")


def _check_token(source: object, option: str) -> None:
    """Check the option ``token``.

    Raises:
        ValueError: It is not a token, or it is empty or too long.
    """
    if not callable(source):
        _check_value(source, option)


def _check_value(token: object, option: str = "token") -> Token:
    if not isinstance(token, str | bytes):
        kind = type(token).__name__  # its value may be a secret
        raise ValueError(f"{option} must be a string, bytes or a function, got {kind}")
    size = len(token.encode() if isinstance(token, str) else token)
    if not 1 <= size <= _MAX_TOKEN:
        raise ValueError(f"{option} must have 1 to {_MAX_TOKEN} bytes, got {size}")
    return token


class _Place(Options, frozen=True, eq=False):
    """The only option that is also given by position."""

    host_list: Annotated[
        Hosts,
        Option(
            "Address of a server, or a list of addresses: `host:port`, `[v6]:port`, `tcp://`, "
            "`tls://` or `unix:///path`. Without it and without `registry`, the client calls "
            "`localhost:9000`."
        ),
    ] = None


def _check_signatures(value: object, option: str) -> None:
    if value not in ("ignore", "warn", "error"):
        raise ValueError(f"{option} must be 'ignore', 'warn' or 'error', got {value!r}")


class ClientConfig(_Place, frozen=True, kw_only=True, eq=False):
    """The options of `Client` and `SyncClient`.

    Raises:
        ValueError: A value is not allowed; the message names the option.
    """

    service: Annotated[
        str | None,
        Option("Name of the service to call, which is looked up in `registry`."),
    ] = None
    registry: Annotated[
        str | Registry | Resolver | None,
        Option(
            "URL of the registry, or a `Registry` object, where the client finds the servers of "
            "`service`. Give either `registry` or `host_list`.",
            see="discovery.md",
        ),
    ] = None
    registry_key: Annotated[
        str | bytes | None,
        Option(
            "Secret of at least 16 bytes with which servers sign their registrations. The client "
            "ignores registrations that are not signed with it.",
            check=check_registry_key,
            see="discovery.md#signed-registrations",
        ),
    ] = None
    picker: Annotated[
        str | Picker,
        Option(
            "Load-balancing policy that picks the server of a call: a name, or a `Picker` object.",
            see="discovery.md",
        ),
    ] = "p2c"
    ssl_crt_path: Annotated[
        str | None,
        Option(
            "PEM file of the only server certificate that the client accepts. Its name "
            "and authority are not checked. This option turns on TLS."
        ),
    ] = None
    ssl_ca_path: Annotated[
        str | None,
        Option(
            "PEM file of trusted authorities. The server certificate must chain to one of them and "
            "match the host name. Turns on TLS."
        ),
    ] = None
    ssl_client_crt_path: Annotated[
        str | None,
        Option("PEM file of the certificate that the client presents to servers (mutual TLS)."),
    ] = None
    ssl_client_key_path: Annotated[
        str | None,
        Option("PEM file of the private key of `ssl_client_crt_path`."),
    ] = None
    ssl_crl_path: Annotated[
        str | None,
        Option(
            "PEM file of the revocation lists (CRLs) of the authorities of `ssl_ca_path`: one for "
            "each authority in the chain of a server. The certificates that they list are refused.",
            see="authentication.md#revocation-lists",
        ),
    ] = None
    ssl_server_name: Annotated[
        str | None,
        Option(
            "Name that the certificate of every server must have, instead of the host in its "
            "address. Turns on TLS.",
            check=_check_server_name,
        ),
    ] = None
    ssl_identity: Annotated[
        str | Sequence[str] | None,
        Option(
            "Identity that the certificate of every server must have, or a list of which it must "
            "have one: an alternative name such as `URI:spiffe://prod/calc` or "
            "`DNS:*.calc.internal`, where `*` stands for one label or path segment. Then the host "
            "in the address is not checked. Turns on TLS.",
            check=check_identities,
            see="authentication.md#identities-of-servers",
        ),
    ] = None
    processor_list: Annotated[Iterable[BaseProcessor], common.PROCESSOR_LIST] = ()
    clock: Annotated[Clock | None, common.CLOCK] = None
    rng: Annotated[random.Random | None, common.RNG] = None
    timeout: Annotated[
        float | None,
        Option(
            "Default timeout of a unary call, in seconds. `None` means no deadline. "
            "Generators and channels have no deadline unless the call sets one.",
            "seconds",
            above=0,
        ),
    ] = 9
    connect_timeout: Annotated[
        float,
        Option(
            "Maximum seconds to open a connection. Also the maximum seconds that "
            "`connect`, or a call without a deadline, waits for a server; see `wait_for_ready`.",
            "seconds",
            above=0,
        ),
    ] = 9
    stall_timeout: Annotated[float, common.STALL_TIMEOUT] = 10
    message_timeout: Annotated[float, common.MESSAGE_TIMEOUT] = 30
    min_message_rate: Annotated[float, common.MIN_MESSAGE_RATE] = 128
    ping_fail_cnt: Annotated[int, common.PING_FAIL_CNT] = 2
    ping_timeout: Annotated[float, common.PING_TIMEOUT] = 2.5
    ping_busy_time: Annotated[float, common.PING_BUSY_TIME] = 1.0
    ping_sleep_time: Annotated[float, common.PING_SLEEP_TIME] = 30
    max_connections: Annotated[
        int,
        Option(
            "Maximum connections per server. Another one is opened when every existing one has "
            "reached the server's `max_streams`.",
            "connections",
            least=1,
        ),
    ] = 4
    max_in_flight: Annotated[
        int,
        Option("Maximum unary calls in flight per server.", "calls", least=1),
    ] = 1024
    max_waiting: Annotated[
        int,
        Option(
            "Maximum calls that wait for a server: because none is connected, or because every "
            "one has reached `max_in_flight` or its `max_streams`. The next call fails with "
            "`ResourceExhausted`. A call that waits takes about 4 kB of memory.",
            "calls",
            least=0,
        ),
    ] = 65536
    wait_for_ready: Annotated[
        bool | float | None,
        Option(
            "How long a call waits for a server if none is connected. `True`: until its deadline. "
            "`False`: it fails as soon as every server has refused or could not be reached. A "
            "number: at most so many seconds. `None`: while a server is connected to for the first "
            "time, then for 1 second, or until 5 seconds after a server was last connected.",
            check=check_wait_for_ready,
            see="calls.md#waiting-for-a-server",
        ),
    ] = None
    priority: Annotated[
        str | None,
        Option(
            "Priority of calls: `critical`, `default` or `sheddable`. An overloaded server refuses "
            "the lowest first. `None` means the priority that the server has for the function.",
            check=check_priority,
            see="operations.md#overload",
        ),
    ] = None
    max_attempts: Annotated[
        int,
        Option(
            "Maximum attempts of one call, including the first one. A call is retried "
            "only if that is safe.",
            "attempts",
            least=1,
            see="calls.md#retries",
        ),
    ] = 4
    retry_codes: Annotated[
        Collection[Code] | None,
        Option(
            "Error codes after which a call of an idempotent function is made again although its "
            "handler may have run. `None` means `UNAVAILABLE`. A call that no handler began is "
            "made again whatever its code is.",
            check=_check_codes,
            see="calls.md#retries",
        ),
    ] = None
    retry_pause: Annotated[
        float,
        Option(
            "Maximum pause before the second attempt of a call; it doubles with each further "
            "attempt, up to 20 times as long. The pause is drawn at random, from 0 on. A call that "
            "no handler began is made again without a pause, once.",
            "seconds",
            least=0,
            finite=True,
            see="calls.md#retries",
        ),
    ] = 0.05
    hedge_share: Annotated[
        float,
        Option(
            "Maximum hedged requests of a function, as a share of its calls. With 0, none are "
            "made.",
            "share",
            least=0,
            most=1,
            see="calls.md#hedged-requests",
        ),
    ] = 0.05
    fault_codes: Annotated[
        Collection[Code] | None,
        Option(
            "Error codes that may be the fault of the server that answers with them. A server that "
            "answers with them far more often than the others is ejected. `None` means `UNKNOWN`, "
            "`INTERNAL`, `UNAVAILABLE`, `DATA_LOSS` and `DEADLINE_EXCEEDED`.",
            check=_check_codes,
            see="discovery.md#outlier-detection",
        ),
    ] = None
    eject_after: Annotated[
        int,
        Option(
            "Number of consecutive failures after which a server is ejected: it cannot be reached "
            "or does not answer.",
            "failures",
            least=1,
            see="discovery.md#outlier-detection",
        ),
    ] = 5
    eject_below: Annotated[
        float,
        Option(
            "A server is ejected if it answers less than this share of at least five calls within "
            "30 seconds. With 0, it is not.",
            "share",
            least=0,
            most=1,
            see="discovery.md#outlier-detection",
        ),
    ] = 0.8
    eject_excess: Annotated[
        float,
        Option(
            "A server is ejected if the share of its calls that fail with `fault_codes` exceeds "
            "that of the other servers by more than this. With 1, servers are not compared.",
            "share",
            least=0,
            most=1,
            see="discovery.md#outlier-detection",
        ),
    ] = 0.1
    eject_pause: Annotated[
        float,
        Option(
            "Maximum seconds that the first ejection of a server lasts, and minimum half of that. "
            "Each further one lasts twice as long, at most 300 seconds.",
            "seconds",
            above=0,
            most=300,
            see="discovery.md#outlier-detection",
        ),
    ] = 5
    max_ejected: Annotated[
        float,
        Option(
            "Maximum share of the servers that are ejected at the same time, but at least one "
            "server. With 0, none is ejected.",
            "share",
            least=0,
            most=1,
            see="discovery.md#outlier-detection",
        ),
    ] = 0.1
    retry_budget: Annotated[
        float,
        Option(
            "Maximum retries, hedged requests and copies, as a share of the calls of the last ten "
            "seconds, plus ten per second. With 0, the client makes only retries that do "
            "not use the budget.",
            "share",
            least=0,
            see="calls.md#retries",
        ),
    ] = 0.2
    throttle: Annotated[
        bool,
        Option(
            "Whether calls of a function fail without being sent while servers refuse most of "
            "them because they are overloaded.",
            see="operations.md#what-clients-do",
        ),
    ] = True
    slow_start: Annotated[
        float,
        Option(
            "Seconds over which the share of a new server grows to its full weight. With 0, it has "
            "its full weight at once.",
            "seconds",
            least=0,
        ),
    ] = 30
    zone: Annotated[
        str,
        Option(
            "Name of the zone that the client runs in. The client prefers servers of the same "
            "zone. With an empty name, zones are ignored.",
            see="discovery.md#zones",
        ),
    ] = ""
    subset: Annotated[
        int | None,
        Option(
            "If a service has more servers than this, each client connects to its own "
            "random subset of this size. With `None`, or with a picker that must see all "
            "servers, the client connects to all servers.",
            "servers",
            least=2,
            see="discovery.md#subsetting",
        ),
    ] = 100
    check_signatures: Annotated[
        str,
        Option(
            "What to do if no server of the service has a function as the client declares it: "
            "`warn` logs a warning, `error` also lets `connect` fail, `ignore` does nothing. It "
            "needs a registry.",
            check=_check_signatures,
            see="schema-evolution.md#rolling-updates",
        ),
    ] = "warn"
    max_message: Annotated[int, common.MAX_MESSAGE] = DEFAULT_LIMITS.max_message
    max_frame: Annotated[int, common.MAX_FRAME] = DEFAULT_LIMITS.max_frame
    stream_window: Annotated[int, common.STREAM_WINDOW] = DEFAULT_LIMITS.stream_window
    connection_window: Annotated[int, common.CONNECTION_WINDOW] = DEFAULT_LIMITS.connection_window
    max_unfinished: Annotated[int | None, common.MAX_UNFINISHED] = None
    max_pings: Annotated[int, common.MAX_PINGS] = 10
    token: Annotated[
        TokenSource | None,
        Option(
            "Token that identifies this client to servers that verify it: a string, bytes, or a "
            "function (`def` or `async def`) that returns the token for each new connection.",
            check=_check_token,
            see="authentication.md",
        ),
    ] = None
    token_without_tls: Annotated[
        bool,
        Option(
            "Whether the token is also sent to other machines without TLS, where others may read "
            "it. Otherwise it is sent only over TLS, to a loopback address or to a unix socket.",
            see="authentication.md",
        ),
    ] = False

    @property
    def rules(self) -> CallRules:
        """How the calls of functions are retried, hedged and judged that have no own rules."""
        return CallRules(
            max_attempts=self.max_attempts,
            retry_codes=self.retry_codes,
            retry_pause=self.retry_pause,
            hedge_share=self.hedge_share,
            fault_codes=self.fault_codes,
        )


def _check_name(name: object, option: str) -> None:
    """Check the option ``name`` of a stub; `register` also takes the function in its place."""
    if not isinstance(name, str) and not callable(name):
        raise TypeError(f"{option} must be a string, got {name!r}")


def _check_group(group: object, option: str) -> None:
    if not isinstance(group, str):
        raise TypeError(f"{option} must be a string, got {group!r}")


def _check_hedge(hedge: object, option: str) -> None:
    if hedge is False:
        return
    if not isinstance(hedge, int | float) or not 0 < hedge < inf:
        text = f"{option} must be True, a number of seconds above 0, or None"
        raise ValueError(f"{text}, got {hedge!r}")


class StubOptions(Options, frozen=True, kw_only=True):
    """The options of `Client.register`, `bind` and `inject`."""

    name: Annotated[
        str,
        Option(
            "Name of the function on the server. An empty name means the name of the declared "
            "function.",
            check=_check_name,
        ),
    ] = ""
    group: Annotated[
        str | None,
        Option(
            "Group of the function on the server. `None` means `default`, or with `bind` the group "
            "that `interface` names, or else the name of the class.",
            check=_check_group,
        ),
    ] = None
    enable_type_check: Annotated[
        bool,
        Option("Whether arguments are checked against the type hints before they are sent."),
    ] = True
    timeout: Annotated[
        float | None,
        Option(
            "Seconds that a call may take. `None` means the client's `timeout` for unary "
            "functions, and no deadline for all others.",
            "seconds",
            above=0,
        ),
    ] = None
    idempotent: Annotated[
        bool,
        Option(
            "Whether calling twice has the same effect as calling once. If so, a call whose "
            "connection is lost is retried on another server.",
            see="calls.md#retries",
        ),
    ] = False
    hedge: Annotated[
        bool | float | None,
        Option(
            "Seconds without an answer after which the call is also sent to a second server; the "
            "first answer counts. `True` means the 95th to 99th percentile of the function's "
            "latency. It needs `idempotent` and a unary function; with `bind`, it applies to the "
            "unary functions.",
            "seconds",
            above=0,
            finite=True,
            check=_check_hedge,
            see="calls.md#hedged-requests",
        ),
    ] = None
    priority: Annotated[
        str | None,
        Option(
            "Priority of its calls: `critical`, `default` or `sheddable`. `None` means the "
            "`priority` of the client.",
            check=check_priority,
            see="operations.md#overload",
        ),
    ] = None
    wait_for_ready: Annotated[
        bool | float | None,
        Option(
            "How long its calls wait for a server if none is connected: `True`, `False` or a "
            "number of seconds. `None` means the `wait_for_ready` of the client.",
            check=check_wait_for_ready,
            see="calls.md#waiting-for-a-server",
        ),
    ] = None
    max_attempts: Annotated[
        int | None,
        Option(
            "Maximum attempts of one call. `None` means the `max_attempts` of the client.",
            "attempts",
            least=1,
            see="calls.md#retries",
        ),
    ] = None
    retry_codes: Annotated[
        Collection[Code] | None,
        Option(
            "Error codes after which a call is made again, if the function is idempotent. `None` "
            "means the `retry_codes` of the client.",
            check=_check_codes,
            see="calls.md#retries",
        ),
    ] = None
    retry_pause: Annotated[
        float | None,
        Option(
            "Maximum pause before the second attempt. `None` means the `retry_pause` of the "
            "client.",
            "seconds",
            least=0,
            finite=True,
            see="calls.md#retries",
        ),
    ] = None
    hedge_share: Annotated[
        float | None,
        Option(
            "Maximum hedged requests as a share of the calls. `None` means the `hedge_share` of "
            "the client.",
            "share",
            least=0,
            most=1,
            see="calls.md#hedged-requests",
        ),
    ] = None
    fault_codes: Annotated[
        Collection[Code] | None,
        Option(
            "Error codes that may be the fault of the server. `None` means the `fault_codes` of "
            "the client; with an empty list, calls of the function eject no server.",
            check=_check_codes,
            see="discovery.md#outlier-detection",
        ),
    ] = None


class CallOptions(Options, frozen=True, kw_only=True):
    """The options of `Client.raw_call`, `call`, `iterator_call` and `channel`.

    They are on the path of each call, so they are checked where they are used.
    """

    group: Annotated[
        str | None,
        Option("Group of the function. `None` means `default`, or the group of a stub."),
    ] = None
    session: Annotated[
        Any,
        Option("Session of the call. `None` means the one that the caller is in, if any."),
    ] = None
    header: Annotated[
        dict[str, Any] | None,
        Option("Header that is sent with the call: a dict of names to msgpack values."),
    ] = None
    timeout: Annotated[
        float | None,
        Option(
            "Seconds that the call may take. With 0 or less, it fails with `DeadlineExceeded` at "
            "once. `None` means the `timeout` of the stub, or for unary calls that of the client.",
            "seconds",
        ),
    ] = None
    affinity: Annotated[
        str | None,
        Option('Key whose calls go to the same server, with `picker="rendezvous"`.'),
    ] = None
    wait_for_ready: Annotated[
        bool | float | None,
        Option(
            "How long the call waits for a server if none is connected: `True`, `False` or a "
            "number of seconds. `None` means the `wait_for_ready` of the client.",
            check=check_wait_for_ready,
            see="calls.md#waiting-for-a-server",
        ),
    ] = None
    priority: Annotated[
        str | None,
        Option(
            "Priority of the call: `critical`, `default` or `sheddable`. `None` means that of the "
            "stub or the client, but no higher one than that of the call that is being served.",
            check=check_priority,
            see="operations.md#overload",
        ),
    ] = None
    arg_param: Annotated[
        Sequence[Any] | None,
        Option("Positional arguments of the function as a list, instead of one by one."),
    ] = None
    kwarg_param: Annotated[
        dict[str, Any] | None,
        Option(
            "More keyword arguments of the function as a dict. Their names may be those of options."
        ),
    ] = None


async def token_of(source: TokenSource) -> Token:
    """Return the token for one connection.

    Raises:
        Unauthenticated: The function that makes it failed, or returned something else.
    """
    if isinstance(source, str | bytes):
        return source
    try:
        token = source()
        if isinstance(token, Awaitable):
            token = await token
        return _check_value(token)
    except Exception as exc:  # the user's function
        raise Unauthenticated(f"token() gave no token: {exc!r}", unserved=True) from exc
