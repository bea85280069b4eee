"""The client: it finds servers, keeps connections to them, and makes calls."""

import asyncio
import inspect
import logging
import os
import threading
import warnings
import weakref
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, overload

from rap.address import brief
from rap.balance import picker_from_name, wants_reports
from rap.call import Side, StreamType, current
from rap.channel import Channel
from rap.client.call import Invoker
from rap.client.channel_call import ChannelCall
from rap.client.cluster import Cluster
from rap.client.config import ClientConfig, StubOptions
from rap.client.dialer import Dialer
from rap.client.inject import get_raw_func, inject, recovery
from rap.client.interface import bind
from rap.client.method import Method, MethodCache, merge_arguments
from rap.client.response_stream import ResponseStream
from rap.client.session import Session, ambient_session, innermost_session
from rap.client.stub import (
    Declare,
    StreamStub,
    UnaryStub,
    iterator_call,
    make_stub,
    register_stub,
)
from rap.client.target import DEFAULT_ADDRESS, Hosts, Target, parse_target
from rap.client.typed import ChannelStub
from rap.client.waiting import WaitForReady
from rap.clock import check_call_timeout, clock_of, random_of
from rap.errors import Code, ConnectionClosed, ExceptionTypes, Unimplemented
from rap.misuse import HOW_TO_PICKLE, refusing
from rap.options import change_config, checks_options, make_config, takes_options_of
from rap.processor.base import BaseProcessor, Pipeline, add_processors
from rap.registry.base import FUNCTIONS, Snapshot
from rap.schema.error_fields import fields_of

if TYPE_CHECKING:
    from rap.client.declarations import Declarations  # few clients need it

__all__ = ["Client"]

_CLOSE = "use `async with client`, or await client.close()"

_log = logging.getLogger("rap.client")
P = ParamSpec("P")
R = TypeVar("R")
In = TypeVar("In")
Out = TypeVar("Out")


# The clients of this process; a forked child tells them that they are another process's.
_clients: "weakref.WeakSet[Client]" = weakref.WeakSet()
_kept: list[object] = []  # what a forked child has inherited; collecting it would close it


class Client:
    """Calls functions of servers.

    Args:
        host_list: Address of a server, or a list of addresses: `host:port`, `[v6]:port`, `tcp://`,
            `tls://` or `unix:///path`. Without it and without `registry`, the client calls
            `localhost:9000`. Default None.
        service: Name of the service to call, which is looked up in `registry`. Default None.
        registry: URL of the registry, or a `Registry` object, where the client finds the servers of
            `service`. Give either `registry` or `host_list`. Default None.
        registry_key: Secret of at least 16 bytes with which servers sign their registrations. The
            client ignores registrations that are not signed with it. Default None.
        picker: Load-balancing policy that picks the server of a call: a name, or a `Picker` object.
            Default 'p2c'.
        ssl_crt_path: PEM file of the only server certificate that the client accepts. Its name and
            authority are not checked. This option turns on TLS. Default None.
        ssl_ca_path: PEM file of trusted authorities. The server certificate must chain to one of
            them and match the host name. Turns on TLS. Default None.
        ssl_client_crt_path: PEM file of the certificate that the client presents to servers (mutual
            TLS). Default None.
        ssl_client_key_path: PEM file of the private key of `ssl_client_crt_path`. Default None.
        ssl_crl_path: PEM file of the revocation lists (CRLs) of the authorities of `ssl_ca_path`:
            one for each authority in the chain of a server. The certificates that they list are
            refused. Default None.
        ssl_server_name: Name that the certificate of every server must have, instead of the host in
            its address. Turns on TLS. Default None.
        ssl_identity: Identity that the certificate of every server must have, or a list of which it
            must have one: an alternative name such as `URI:spiffe://prod/calc` or
            `DNS:*.calc.internal`, where `*` stands for one label or path segment. Then the host in
            the address is not checked. Turns on TLS. Default None.
        processor_list: Processors of messages. Outgoing messages pass through them in this order,
            incoming messages in the reverse order. Default ().
        clock: Source of time, for tests. `None` means the clock of this machine. Default None.
        rng: Source of randomness, for tests. `None` means the random generator of the process.
            Default None.
        timeout: Default timeout of a unary call, in seconds. `None` means no deadline. Generators
            and channels have no deadline unless the call sets one. Default 9 seconds, more than 0.
        connect_timeout: Maximum seconds to open a connection. Also the maximum seconds that
            `connect`, or a call without a deadline, waits for a server; see `wait_for_ready`.
            Default 9 seconds, more than 0.
        stall_timeout: Seconds that unread streams may hold the whole connection window. After that,
            the stream that has been unread the longest is reset. Default 10 seconds, more than 0.
        message_timeout: Seconds that a message may stay unfinished without a further part of it, or
            with parts that bring less than `min_message_rate`. After that, its call fails. A
            message that waits for its turn behind others may take longer. Default 30 seconds, more
            than 0.
        min_message_rate: Bytes per second that the further parts of an unfinished message have to
            bring on average. A call whose message comes more slowly fails after `message_timeout`.
            0 means that any part is enough. Default 128 bytes per second, at least 0.
        ping_fail_cnt: Number of consecutive pings without an answer after which a connection is
            closed. Each ping waits `ping_timeout` for its answer. Default 2 pings, at least 1.
        ping_timeout: Seconds that a ping waits for its answer. Default 2.5 seconds, more than 0.
        ping_busy_time: Seconds without traffic before a ping is sent while calls are open. A client
            pings at most as often as the server accepts. Default 1.0 seconds, more than 0.
        ping_sleep_time: Seconds without traffic on an idle connection before a ping is sent. While
            calls are open, `ping_busy_time` applies. Default 30 seconds, more than 0.
        max_connections: Maximum connections per server. Another one is opened when every existing
            one has reached the server's `max_streams`. Default 4 connections, at least 1.
        max_in_flight: Maximum unary calls in flight per server. Default 1,024 calls, at least 1.
        max_waiting: Maximum calls that wait for a server: because none is connected, or because
            every one has reached `max_in_flight` or its `max_streams`. The next call fails with
            `ResourceExhausted`. A call that waits takes about 4 kB of memory. Default 65,536 calls,
            at least 0.
        wait_for_ready: How long a call waits for a server if none is connected. `True`: until its
            deadline. `False`: it fails as soon as every server has refused or could not be reached.
            A number: at most so many seconds. `None`: while a server is connected to for the first
            time, then for 1 second, or until 5 seconds after a server was last connected. Default
            None.
        priority: Priority of calls: `critical`, `default` or `sheddable`. An overloaded server
            refuses the lowest first. `None` means the priority that the server has for the
            function. Default None.
        max_attempts: Maximum attempts of one call, including the first one. A call is retried only
            if that is safe. Default 4 attempts, at least 1.
        retry_codes: Error codes after which a call of an idempotent function is made again although
            its handler may have run. `None` means `UNAVAILABLE`. A call that no handler began is
            made again whatever its code is. Default None.
        retry_pause: Maximum pause before the second attempt of a call; it doubles with each further
            attempt, up to 20 times as long. The pause is drawn at random, from 0 on. A call that no
            handler began is made again without a pause, once. Default 0.05 seconds, at least 0.
        hedge_share: Maximum hedged requests of a function, as a share of its calls. With 0, none
            are made. Default 0.05, 0 to 1.
        fault_codes: Error codes that may be the fault of the server that answers with them. A
            server that answers with them far more often than the others is ejected. `None` means
            `UNKNOWN`, `INTERNAL`, `UNAVAILABLE`, `DATA_LOSS` and `DEADLINE_EXCEEDED`. Default None.
        eject_after: Number of consecutive failures after which a server is ejected: it cannot be
            reached or does not answer. Default 5 failures, at least 1.
        eject_below: A server is ejected if it answers less than this share of at least five calls
            within 30 seconds. With 0, it is not. Default 0.8, 0 to 1.
        eject_excess: A server is ejected if the share of its calls that fail with `fault_codes`
            exceeds that of the other servers by more than this. With 1, servers are not compared.
            Default 0.1, 0 to 1.
        eject_pause: Maximum seconds that the first ejection of a server lasts, and minimum half of
            that. Each further one lasts twice as long, at most 300 seconds. Default 5 seconds, more
            than 0.
        max_ejected: Maximum share of the servers that are ejected at the same time, but at least
            one server. With 0, none is ejected. Default 0.1, 0 to 1.
        retry_budget: Maximum retries, hedged requests and copies, as a share of the calls of the
            last ten seconds, plus ten per second. With 0, the client makes only retries that do not
            use the budget. Default 0.2, at least 0.
        throttle: Whether calls of a function fail without being sent while servers refuse most of
            them because they are overloaded. Default True.
        slow_start: Seconds over which the share of a new server grows to its full weight. With 0,
            it has its full weight at once. Default 30 seconds, at least 0.
        zone: Name of the zone that the client runs in. The client prefers servers of the same zone.
            With an empty name, zones are ignored. Default ''.
        subset: If a service has more servers than this, each client connects to its own random
            subset of this size. With `None`, or with a picker that must see all servers, the client
            connects to all servers. Default 100 servers, at least 2.
        check_signatures: What to do if no server of the service has a function as the client
            declares it: `warn` logs a warning, `error` also lets `connect` fail, `ignore` does
            nothing. It needs a registry. Default 'warn'.
        max_message: Maximum size of one incoming message. A larger message fails its call with
            `ResourceExhausted`. Default 16,777,216 bytes, 1,024 to 2,147,483,648.
        max_frame: Maximum size of one frame. A larger frame ends the connection. Default 1,048,576
            bytes, 16,384 to 67,108,864.
        stream_window: Receive window of a stream: the bytes that the peer may send on one call
            before your code reads some. Default 1,048,576 bytes, 65,536 to 1,073,741,824.
        connection_window: Receive window of a connection: like `stream_window`, but for all calls
            of the connection together. It must be at least `stream_window`. Default 8,388,608
            bytes, 65,536 to 1,073,741,824.
        max_unfinished: Maximum total size of partially received messages per connection. The peer
            is told, and lets large messages wait for their turn. A call that nevertheless exceeds
            it fails. `None` means eight times `max_message`. Default None, at least `max_message`.
        max_pings: Pings per second that the peer may send on one connection, with a burst of ten
            times that. After more, the connection is closed. Default 10 per second, at least 1.
        token: Token that identifies this client to servers that verify it: a string, bytes, or a
            function (`def` or `async def`) that returns the token for each new connection. Default
            None.
        token_without_tls: Whether the token is also sent to other machines without TLS, where
            others may read it. Otherwise it is sent only over TLS, to a loopback address or to a
            unix socket. Default False.

    Raises:
        ValueError: An option has a bad value; the message names it.
        TypeError: An option does not exist.
    """

    _cluster: Cluster | None = None  # until it is made
    _declarations: "Declarations | None" = None  # likewise

    @takes_options_of(ClientConfig)
    def __init__(self, host_list: Hosts = None, **options: Any) -> None:
        config = make_config(Client, ClientConfig, {"host_list": host_list, **options})
        self._types = ExceptionTypes(fields_of)
        self._configure(config)
        self.stub_monotonic = self._clock.monotonic
        self.connected: Invoker | None = None  # makes the calls; `None` while it is not connected
        self._processors: list[BaseProcessor] = []
        add_processors("processor_list", self._processors, config.processor_list, Side.CLIENT)
        self.identity = object()  # tells its sessions from those of other clients
        self._closed = False
        self._opened = False  # at least once
        self._any_thread = False
        self._inherited = False  # it was connected in the process that this one was forked from
        self._lock = threading.Lock()
        _clients.add(self)
        self.methods = MethodCache(self.config)

    def _configure(self, config: ClientConfig) -> None:
        """Make what depends on options."""
        self.config = config
        self._clock = clock_of(config.clock)
        self._rng = random_of(config.rng)
        self._picker = picker_from_name(
            config.picker, self._rng, config.zone, self._clock.monotonic
        )
        self.dialer = Dialer(
            self.config,
            self._clock,
            self._types,
            reports=wants_reports(self._picker),
        )
        self.target = self._make_target()
        self.monotonic = self._clock.monotonic

    @contextmanager
    def overridden(self, **options: Any) -> Iterator[Self]:
        """Have other options in a block, at whose end the client is not connected; for tests.

        Stubs, processors and exception types stay as they are. `rap.testing` uses it to call
        servers inside the process.

        Args:
            options: Options of the constructor. `processor_list` and the defaults of declared
                functions, such as `timeout`, keep their values from the constructor.

        Raises:
            ValueError: An option has a bad value; the message names it.
            TypeError: An option does not exist.
            RuntimeError: The client is connected.
        """
        self._check_unconnected("before")
        config, closed = self.config, self._closed
        parts = self._clock, self._rng, self._picker, self.target, self.dialer, self._opened
        self._configure(change_config(Client, config, options))
        self._closed = self._opened = False
        try:
            yield self
        finally:
            self._check_unconnected("at the end of")
            self.config, self._closed = config, closed
            self._clock, self._rng, self._picker, self.target, self.dialer, self._opened = parts
            self.monotonic = self._clock.monotonic

    def _check_unconnected(self, when: str) -> None:
        """Let go of an event loop that has ended.

        Raises:
            RuntimeError: The client is connected.
        """
        invoker = self.connected
        if invoker is not None and invoker.loop.is_closed():
            self.on_loop_end()
        elif invoker is not None:
            raise RuntimeError(f"close the client {when} overridden(): {self!r}")

    def load_processor(self, processor_list: Iterable[BaseProcessor]) -> None:
        """Add processors. Call it before `connect`.

        Raises:
            TypeError: A processor is not a `BaseProcessor`, or is for servers only.
            ValueError: A processor is loaded already.
            RuntimeError: The client is connected.
        """
        if self.connected is not None:
            raise RuntimeError(f"load_processor: {self!r} is connected; load before connect()")
        add_processors("load_processor", self._processors, processor_list, Side.CLIENT)

    def load_exception(self, exceptions: Iterable[type[Exception]]) -> None:
        """Let errors of servers arrive as these exception types.

        What the constructor of a class derived from `CallError` takes, such as ``sku: str``,
        arrives as the same attributes; it is checked by the type hints. Any other class must
        accept a single message.

        Raises:
            TypeError: An entry is not an exception class, or cannot be made of what arrives: a
                parameter of its constructor has no type hint, or one of a type that cannot be sent.
        """
        self._types.load(exceptions)

    @overload
    def register(
        self, name: Callable[Concatenate[Channel[In, Out], P], Coroutine[Any, Any, R]], /
    ) -> ChannelStub[P, R, In, Out]: ...

    @overload
    def register(self, name: Callable[P, Coroutine[Any, Any, R]], /) -> UnaryStub[P, R]: ...

    @overload
    def register(self, name: Callable[P, AsyncIterator[R]], /) -> StreamStub[P, R]: ...

    @overload
    def register(
        self,
        name: str = "",
        group: str | None = None,
        enable_type_check: bool = True,
        *,
        timeout: float | None = None,
        idempotent: bool = False,
        hedge: bool | float | None = None,
        priority: str | None = None,
        wait_for_ready: WaitForReady = None,
        max_attempts: int | None = None,
        retry_codes: Collection[Code] | None = None,
        retry_pause: float | None = None,
        hedge_share: float | None = None,
        fault_codes: Collection[Code] | None = None,
    ) -> Declare: ...

    @checks_options(StubOptions)
    def register(
        self,
        name: Any = "",
        group: str | None = None,
        enable_type_check: bool = True,
        **options: Any,
    ) -> Any:
        """Make an ``async def`` the stub of a server's function.

        It is a decorator, used as ``@client.register`` or with options as
        ``@client.register(timeout=3)``.

        Args:
            name: Name of the function on the server. An empty name means the name of the declared
                function. Default ''.
            group: Group of the function on the server. `None` means `default`, or with `bind` the
                group that `interface` names, or else the name of the class. Default None.
            enable_type_check: Whether arguments are checked against the type hints before they are
                sent. Default True.
            timeout: Seconds that a call may take. `None` means the client's `timeout` for unary
                functions, and no deadline for all others. Default None, more than 0.
            idempotent: Whether calling twice has the same effect as calling once. If so, a call
                whose connection is lost is retried on another server. Default False.
            hedge: Seconds without an answer after which the call is also sent to a second server;
                the first answer counts. `True` means the 95th to 99th percentile of the function's
                latency. It needs `idempotent` and a unary function; with `bind`, it applies to the
                unary functions. Default None, more than 0.
            priority: Priority of its calls: `critical`, `default` or `sheddable`. `None` means the
                `priority` of the client. Default None.
            wait_for_ready: How long its calls wait for a server if none is connected: `True`,
                `False` or a number of seconds. `None` means the `wait_for_ready` of the client.
                Default None.
            max_attempts: Maximum attempts of one call. `None` means the `max_attempts` of the
                client. Default None, at least 1.
            retry_codes: Error codes after which a call is made again, if the function is
                idempotent. `None` means the `retry_codes` of the client. Default None.
            retry_pause: Maximum pause before the second attempt. `None` means the `retry_pause` of
                the client. Default None, at least 0.
            hedge_share: Maximum hedged requests as a share of the calls. `None` means the
                `hedge_share` of the client. Default None, 0 to 1.
            fault_codes: Error codes that may be the fault of the server. `None` means the
                `fault_codes` of the client; with an empty list, calls of the function eject no
                server. Default None.

        Raises:
            TypeError: The function is not an ``async def``, or `name` is not a string.
            ValueError: An option has a bad value; the message names it.
            RegistrationError: Type hints are missing, or values of a type cannot be sent.
        """
        return register_stub(self, name, group, enable_type_check, options)

    def stub_of(self, method: Method, declared: Callable[..., Any]) -> Callable[..., Any]:
        """Return the stub of a declared function, for `bind`."""
        return make_stub(self, method, declared)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.describe()}>"

    def describe(self) -> str:
        """Return what the client calls and its state, in a few words."""
        if not hasattr(self, "methods"):
            return "not constructed"
        service, hosts = self.target.service, self.config.host_list or DEFAULT_ADDRESS
        what = f"service={service!r}" if service else brief(hosts)
        if self._closed:
            return f"{what} closed"
        if self.connected is None:
            return f"{what} not connected"
        ready = len(self.connected.cluster.ready)
        if not ready:
            return f"{what} connecting"
        return f"{what} connected, {ready} server{'s' if ready != 1 else ''} ready"

    bind = bind
    inject = inject
    recovery = staticmethod(recovery)
    get_raw_func = staticmethod(get_raw_func)

    # Connections.

    @property
    def invoker(self) -> Invoker:
        """What makes the calls. The first call connects the client.

        Raises:
            RuntimeError: The client was closed, or belongs to another event loop or process.
        """
        invoker = self.connected
        if invoker is None or not (self._any_thread or invoker.is_here()):
            invoker = self._open()
        return invoker

    @property
    def cluster(self) -> Cluster:
        """The servers that the client knows."""
        return self.invoker.cluster

    async def connect(self) -> None:
        """Connect to the servers; return when one is ready and each of them was tried.

        A server that does not answer delays it by at most 0.2 s after the first connection, so that
        calls and streams that you start next are spread over all servers.

        You need not call it, because the first call connects; but it fails early. You may call it
        again, after a failure, and after the client was closed, in another event loop too.

        Raises:
            Unavailable: No server answered within `connect_timeout`. The client goes on trying.
            Unimplemented: With ``check_signatures="error"``: no server has a function as the client
                declares it.
            RuntimeError: The client is connected in another event loop.
        """
        await self.open()
        await self.invoker.cluster.connect()
        if self.config.check_signatures == "error" and self.target.service:
            wrong = self.check_declarations(self.invoker.cluster.listed)
            if wrong:
                raise Unimplemented("; ".join(wrong), unserved=True)

    def check_declarations(self, listed: Snapshot) -> list[str]:
        """Return which declared functions no server has registered so; log what is new.

        Args:
            listed: The servers of the service.
        """
        if not self.methods.declared or not any(FUNCTIONS in it.metadata for it in listed.values()):
            return []
        if self._declarations is None:
            from rap.client.declarations import Declarations  # it takes a few milliseconds

            self._declarations = Declarations(self.target.service)
        return self._declarations.check(self.methods.declared.values(), listed.values())

    async def open(self) -> None:
        """Begin to connect, in the event loop of the caller; see `connect`."""
        self._closed = self._inherited = False
        if self.connected is None:
            self._open()

    def use_from_any_thread(self) -> None:
        """Check no more who makes calls, because they are handed to the client's event loop."""
        self._any_thread = True

    def _open(self) -> Invoker:
        """Begin to connect; return what makes the calls of the running event loop.

        Raises:
            RuntimeError: See `invoker`.
        """
        if self._closed:
            raise RuntimeError(f"the client was closed; connect() it to use it again: {self!r}")
        if self._inherited:
            raise RuntimeError(
                "the client belongs to the process that this one was forked from; connect() it to"
                " use it here too, or make it after the fork"
            )
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                f"{self!r} is not connected, and no event loop runs here; call it inside"
                f" `async with client`, or use a SyncClient"
            ) from None
        with self._lock:
            if self.connected is not None:
                owner = self.connected.loop
                if owner is loop:
                    return self.connected
                if not owner.is_closed():
                    raise RuntimeError(
                        "the client belongs to another event loop; use it there, make another one"
                        " for this loop, or use a SyncClient, which all threads may share"
                    )
                self.on_loop_end()
            if self._opened:
                self._renew()
            self._opened = True
            cluster = self._cluster = Cluster(
                self.target.service,
                self.target.resolver,
                self._picker,
                self.dialer.dial,
                self.config,
                self._clock,
                self._rng,
            )
            cluster.notify_on_loop_end(weakref.WeakMethod(self.on_loop_end))
            if self.target.service and self.config.check_signatures != "ignore":
                cluster.notify_on_listed(_checker(weakref.ref(self)))
            pipeline = Pipeline(self._processors, Side.CLIENT)
            self.dialer.announce(pipeline.abilities)
            invoker = self.connected = Invoker(
                cluster,
                pipeline,
                self._clock,
                self._rng,
                self.config,
                self,
                stubs_keep_time=self.stub_monotonic == self._clock.monotonic,
            )
            copy_context().run(_start_outside_calls, cluster)
        return invoker

    def _renew(self) -> None:
        """Replace what belonged to the connections of an earlier event loop."""
        config = self.config
        if self.target.owned:
            self.target = self._make_target()
        if isinstance(config.picker, str):
            self._picker = picker_from_name(
                config.picker, self._rng, config.zone, self._clock.monotonic
            )

    def _make_target(self) -> Target:
        config = self.config
        hosts, tls_options = config.host_list, self.dialer.tls.options
        return parse_target(
            hosts, config.service, config.registry, tls_options, config.registry_key, self._clock
        )

    def on_loop_end(self) -> None:
        """Let go of the connections: their event loop has ended before the client was closed."""
        what = repr(self)
        self.connected = self._cluster = None
        text = f"unclosed client {what}: it was not closed before its event loop ended; {_CLOSE}"
        warnings.warn(text, ResourceWarning, stacklevel=2, source=self)

    def __del__(self) -> None:
        cluster = self._cluster
        if cluster is not None and not self._closed:
            text = f"unclosed client {self!r}: it was never closed; {_CLOSE}"
            self._cluster = None
            cluster.let_go()
            warnings.warn(text, ResourceWarning, stacklevel=2, source=self)

    def reload_certificates(self) -> None:
        """Read the files of all options of TLS again, and use them for new connections.

        You need not call it: before a connection is opened, the client looks whether a file has
        changed. It reports a file that cannot be used.

        Raises:
            ValueError: A file cannot be used; the client keeps what it has.
        """
        self.dialer.tls.reload()
        self.dialer.tls.log_reload()

    async def await_close(self) -> None:
        """Close every connection; open calls fail. You may call it again.

        Raises:
            RuntimeError: The client is connected in another event loop.
        """
        cluster = self._cluster
        if cluster is not None and cluster.loop is not asyncio.get_running_loop():
            if not cluster.loop.is_closed():
                raise RuntimeError("the client belongs to another event loop; close it there")
            cluster = self._cluster = None
        self._closed = True
        self.connected = None
        if cluster is not None:
            await cluster.close()
            self._cluster = None
        if self.target.owned:
            await self.target.resolver.aclose()

    async def close(self) -> None:
        """Close the client, as `await_close` does."""
        await self.await_close()

    async def __aenter__(self) -> Self:
        try:
            await self.connect()
        except BaseException:  # raised again
            await self.await_close()
            raise
        return self

    if not TYPE_CHECKING:
        __enter__ = __exit__ = refusing(
            "a Client is entered by `async with`, not by `with`; without asyncio, use a SyncClient"
        )
        __reduce__ = refusing(f"a Client {HOW_TO_PICKLE}")

    async def __aexit__(self, *exc: object) -> None:
        await self.await_close()

    def disown(self) -> None:
        """Mark every connection as lost and leave its socket alone; called in a forked child."""
        cluster = self._cluster
        self._lock = threading.Lock()
        if cluster is None:
            return
        _kept.append((cluster, self.connected))
        self.connected = self._cluster = None
        self._inherited = True
        error = ConnectionClosed(
            "the connection belongs to the process that this one was forked from"
        )
        for node in cluster.nodes.values():
            for conn in node.pool.connections:
                conn.disown(error)

    def succeed(self, client: "Client") -> None:
        """Take the place of a client of the parent process, before `connect`.

        This client takes over its processors and exception types. It takes over its identity, too:
        a call in a session of that client then fails instead of leaving the session.
        """
        self._processors = list(client._processors)
        self._types.include(client._types)
        self.identity = client.identity

    # Calls.

    @property
    def session(self) -> Session:
        """A new session, to enter by ``async with``."""
        return Session(self)

    async def raw_call(
        self,
        name: str,
        *args: Any,
        group: str | None = None,
        session: Session | None = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call a function by its name.

        Args:
            name: Name of the function.
            args: Positional arguments of the function.
            group: Group of the function. `None` means `default`, or the group of a stub. Default
                None.
            session: Session of the call. `None` means the one that the caller is in, if any.
                Default None.
            header: Header that is sent with the call: a dict of names to msgpack values. Default
                None.
            timeout: Seconds that the call may take. With 0 or less, it fails with
                `DeadlineExceeded` at once. `None` means the `timeout` of the stub, or for unary
                calls that of the client. Default None.
            affinity: Key whose calls go to the same server, with `picker="rendezvous"`. Default
                None.
            wait_for_ready: How long the call waits for a server if none is connected: `True`,
                `False` or a number of seconds. `None` means the `wait_for_ready` of the client.
                Default None.
            priority: Priority of the call: `critical`, `default` or `sheddable`. `None` means that
                of the stub or the client, but no higher one than that of the call that is being
                served. Default None.
            arg_param: Positional arguments of the function as a list, instead of one by one.
                Default None.
            kwarg_param: More keyword arguments of the function as a dict. Their names may be those
                of options. Default None.
            kwargs: Keyword arguments of the function.

        Raises:
            CallError: The call failed.
        """
        method = self.methods.for_name(name, group)
        arguments = merge_arguments(args, arg_param, kwargs, kwarg_param)
        limit = method.timeout if check_call_timeout(timeout) is None else timeout
        return await self.invoker.unary(
            method, *arguments, session, header, limit, affinity, wait_for_ready, priority
        )

    @overload
    async def call(
        self,
        func: Callable[..., Coroutine[Any, Any, R]],
        *args: Any,
        group: str | None = None,
        session: Session | None = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> R: ...
    @overload
    async def call(
        self,
        func: Callable[..., R],
        *args: Any,
        group: str | None = None,
        session: Session | None = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> R: ...
    async def call(
        self,
        func: Callable[..., Any],
        *args: Any,
        group: str | None = None,
        session: Session | None = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call the server's function that has the name and hints of a local one.

        Args:
            func: Declares the function; it is never run.
            args: As in `raw_call`, and so are the other arguments.

        Raises:
            CallError: The call failed.
            TypeError: It is a generator or channel function.
        """
        method = self.methods.for_function(func, group)
        if method.stream_type.server_streams:
            raise TypeError(
                f"call is for unary functions, {method.name} is a {method.stream_type.value}"
            )
        arguments = merge_arguments(args, arg_param, kwargs, kwarg_param)
        limit = method.timeout if check_call_timeout(timeout) is None else timeout
        if method.stream_type is StreamType.CLIENT_STREAM:
            from rap.client.request_pump import client_stream  # few clients send request streams

            _, running = client_stream(
                self.invoker,
                method,
                *arguments,
                session,
                header,
                limit,
                affinity,
                wait_for_ready,
                priority,
            )
            return await running
        return await self.invoker.unary(
            method, *arguments, session, header, limit, affinity, wait_for_ready, priority
        )

    @overload
    def iterator_call(
        self,
        func: Callable[..., AsyncIterator[R] | Iterator[R]],
        *args: Any,
        group: str | None = None,
        session: Session | None = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> ResponseStream[R]: ...
    @overload
    def iterator_call(
        self,
        func: str,
        *args: Any,
        group: str | None = None,
        session: Session | None = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> ResponseStream[Any]: ...
    def iterator_call(
        self,
        func: Callable[..., Any] | str,
        *args: Any,
        group: str | None = None,
        session: Session | None = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> ResponseStream[Any]:
        """Return an async iterator over the items that a server's generator yields.

        Args:
            func: A function that declares the generator, or its name.
            args: As in `raw_call`, and so are the other arguments.

        Raises:
            TypeError: The function is not a generator.
        """
        if isinstance(func, str):
            method = self.methods.for_name(func, group, StreamType.STREAM)
        else:
            method = self.methods.for_function(func, group)
        if method.stream_type not in (StreamType.STREAM, StreamType.BIDI):
            raise TypeError(
                f"iterator_call is for generators, {method.name} is {method.stream_type.value}"
            )
        check_call_timeout(timeout)
        arguments = merge_arguments(args, arg_param, kwargs, kwarg_param)
        return iterator_call(
            self.invoker,
            method,
            *arguments,
            session=session,
            header=header,
            timeout=timeout,
            affinity=affinity,
            wait_for_ready=wait_for_ready,
            priority=priority,
        )

    @overload
    def channel(
        self,
        func: ChannelStub[..., Any, In, Out],
        /,
        *args: Any,
        group: str | None = None,
        session: Session | None = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> ChannelCall[In, Out]: ...
    @overload
    def channel(
        self,
        func: Callable[Concatenate[Channel[In, Out], ...], Coroutine[Any, Any, Any]],
        /,
        *args: Any,
        group: str | None = None,
        session: Session | None = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> ChannelCall[In, Out]: ...
    @overload
    def channel(
        self,
        func: Callable[..., Coroutine[Any, Any, Any]] | str,
        /,
        *args: Any,
        group: str | None = None,
        session: Session | None = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> ChannelCall[Any, Any]: ...
    def channel(
        self,
        func: Any,
        /,
        *args: Any,
        group: str | None = None,
        session: Session | None = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> ChannelCall[Any, Any]:
        """Return a call of a channel function, for ``async with``; the block gets its `Channel`.

        Args:
            func: Name of the function, or a function that declares it; that is not run.
            args: Positional arguments, without the channel.
            group: As in `raw_call`, and so are the other arguments.

        Raises:
            TypeError: `func` is not a channel function.
            InvalidArgument: The arguments do not fit the function.
        """
        if isinstance(func, str):
            method = self.methods.for_name(func, group, StreamType.CHANNEL)
        else:
            method = self.methods.for_function(func, group)
        if method.stream_type is not StreamType.CHANNEL:
            raise TypeError(f"channel is for channels, {method.name} is {method.stream_type.value}")
        check_call_timeout(timeout)
        arguments = merge_arguments(args, arg_param, kwargs, kwarg_param)
        return ChannelCall(
            self,
            self.invoker,
            method,
            *arguments,
            session=session,
            header=header,
            timeout=timeout,
            affinity=affinity,
            wait_for_ready=wait_for_ready,
            priority=priority,
        )

    async def execute(self, target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Make the call that `Session.execute` was given, in the session of this context.

        Raises:
            TypeError: `target` is neither a function, nor a name, nor a pending call.
        """
        if isinstance(target, str):
            return await self.raw_call(target, arg_param=args, kwarg_param=kwargs)
        if isinstance(target, ResponseStream):
            if args or kwargs:
                raise TypeError("a pending call has its arguments already")
            target.move(innermost_session(self.invoker.identity))
            return target
        if not callable(target) or inspect.isclass(target):
            raise TypeError(f"execute takes a pending call, a function or a name, got {target!r}")
        if getattr(target, "__rap_given__", None) is not None:
            pending: Any = target(*args, **kwargs)
            return await pending if inspect.iscoroutine(pending) else pending
        func: Any = target
        stream_type = self.methods.for_function(func, None).stream_type
        if stream_type in (StreamType.STREAM, StreamType.BIDI):
            return self.iterator_call(func, arg_param=args, kwarg_param=kwargs)
        if stream_type is StreamType.CHANNEL and hasattr(target, "__rap_method__"):
            return await func(*args, **kwargs)
        return await self.call(func, arg_param=args, kwarg_param=kwargs)


def _checker(client: "weakref.ref[Client]") -> Callable[[Snapshot], object]:
    """Return what checks the declarations of a client against the servers of a snapshot."""

    def check(listed: Snapshot) -> None:
        found = client()
        if found is not None:
            found.check_declarations(listed)

    return check


def _start_outside_calls(cluster: Cluster) -> None:
    """Start a cluster in a context that is neither in a call nor in a session."""
    current.set(None)
    ambient_session.set(None)
    cluster.start()


def _after_fork() -> None:
    for client in list(_clients):
        client.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
