"""The server: it registers functions, listens, and drains."""

import asyncio
import inspect
import logging
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from rap.address import Address
from rap.call import Side
from rap.clock import clock_of, random_of
from rap.errors import RegistrationError
from rap.misuse import HOW_TO_PICKLE, refusing
from rap.options import (
    change_config,
    check_flag,
    checks_options,
    make_config,
    takes_options_of,
)
from rap.processor.base import BaseProcessor, Pipeline, add_processors
from rap.registry.base import State
from rap.server.admin import Admin
from rap.server.authorization import Allow, selects
from rap.server.config import HandlerOptions, ServerConfig
from rap.server.connections import ConnectionManager
from rap.server.dispatch import Dispatcher
from rap.server.hooks import Event, check_events, discard_events, run_event, run_stop_events
from rap.server.load_report import LoadMeter
from rap.server.loop_monitor import LoopMonitor
from rap.server.middleware.chain import Middleware, MiddlewareStack
from rap.server.overload.entrances import Overload
from rap.server.registration import Registration
from rap.server.router import Handler, Router
from rap.server.signals import handle_signals
from rap.server.streaming import Streaming
from rap.server.threads import Threads
from rap.tasks import start_task

if TYPE_CHECKING:
    from rap.server.access_log import AccessLog
    from rap.server.authentication import Authenticator  # many servers have no tokens

__all__ = ["Server"]

_log = logging.getLogger("rap.server")
F = TypeVar("F")


class Server:
    """Serves functions to clients.

    Args:
        host: Address to listen on, or a list of addresses: `host:port`, `[v6]:port`, `tcp://`,
            `tls://` or `unix:///path`. Port 0 selects a free port; `server.addresses` has the
            result. Default 'localhost:9000'.
        service: Name under which the server registers. It needs `registry`. Default None.
        registry: URL of the registry, or a `Registry` object, where the server registers. It needs
            `service`. Default None.
        registry_key: Secret of at least 16 bytes with which the server signs its registration, so
            that clients with the same key can tell it from those of others who can write to the
            registry. Default None.
        weight: Capacity of the server relative to the other servers of the service. Default 1, 1 to
            1,000.
        zone: Name of the zone that the server runs in. It is published with the registration, and
            clients of the same zone prefer this server. Default ''.
        advertise: Address that the server registers, to which clients connect. `None` means the
            address that the server listens on. Default None.
        ssl_crt_path: PEM file of the server's certificate. If it is set, the server uses TLS on
            every TCP address. Default None.
        ssl_key_path: PEM file of the private key of `ssl_crt_path`. Default None.
        ssl_ca_path: PEM file of the authorities (CAs) of client certificates. If it is set, every
            client must present a certificate of one of these authorities (mutual TLS). Default
            None.
        ssl_crl_path: PEM file of the revocation lists (CRLs) of the authorities of `ssl_ca_path`:
            one for each authority in the chain of a client. The certificates that they list are
            refused. Default None.
        start_event_list: Functions, async functions or coroutines to run before the server listens.
            If one fails, the server does not start. Default ().
        stop_event_list: Functions, async functions or coroutines to run after all connections are
            closed, the last one first. If one fails, the error is logged and the others run.
            Default ().
        middleware_list: Middleware that admits connections or wraps unary and client-streaming
            calls. The first one is the outermost. Default ().
        processor_list: Processors of messages. Outgoing messages pass through them in this order,
            incoming messages in the reverse order. Default ().
        clock: Source of time, for tests. `None` means the clock of this machine. Default None.
        rng: Source of randomness, for tests. `None` means the random generator of the process.
            Default None.
        timeout: Seconds for the peer to finish sending a frame, or to read some of what was
            written. After that, the connection is closed. Default 9 seconds, more than 0.
        stall_timeout: Seconds that unread streams may hold the whole connection window. After that,
            the stream that has been unread the longest is reset. Default 10 seconds, more than 0.
        message_timeout: Seconds that a message may stay unfinished without a further part of it, or
            with parts that bring less than `min_message_rate`. After that, its call fails. A
            message that waits for its turn behind others may take longer. Default 30 seconds, more
            than 0.
        min_message_rate: Bytes per second that the further parts of an unfinished message have to
            bring on average. A call whose message comes more slowly fails after `message_timeout`.
            0 means that any part is enough. Default 128 bytes per second, at least 0.
        handshake_timeout: Seconds for a new connection to send its Hello. After that, it is closed.
            Default 5 seconds, more than 0.
        keep_alive: Seconds without a call after which the server sends GoAway on a connection.
            `None` means never. Default 1,200 seconds, more than 0.
        run_timeout: Seconds that a unary function may run. If you set it, it is a limit: an earlier
            deadline of the caller applies, a later one does not. The default applies only to
            callers that set no deadline. `None` means that only the deadline of the caller applies.
            Default 9 seconds, more than 0.
        ping_fail_cnt: Number of consecutive pings without an answer after which a connection is
            closed. Each ping waits `ping_timeout` for its answer. Default 2 pings, at least 1.
        ping_timeout: Seconds that a ping waits for its answer. Default 2.5 seconds, more than 0.
        ping_busy_time: Seconds without traffic before a ping is sent while calls are open. A client
            pings at most as often as the server accepts. Default 1.0 seconds, more than 0.
        ping_sleep_time: Seconds without traffic on an idle connection before a ping is sent. While
            calls are open, `ping_busy_time` applies. Default 30 seconds, more than 0.
        backlog: Maximum connections that wait in the kernel until the server accepts them. Default
            1,024 connections, at least 1.
        close_timeout: Seconds that open calls and sessions have to finish during a drain. After
            that, they fail with `Unavailable`. Default 25 seconds, more than 0.
        drain_delay: Seconds that the server waits between publishing DRAINING and closing its
            listeners, so that clients notice. `None` means 1 second with a registry and 0 without.
            Default None, at least 0.
        max_connection_age: Age of a connection in seconds (±10 %) at which the server sends GoAway.
            Open calls continue for `max_connection_grace`. `None` means never. Default 1,800
            seconds, more than 0.
        max_connection_grace: Seconds for which an idle or old connection may stay after the server
            has asked the client to leave. Then the server ends it, and calls that are still open
            fail with `Unavailable`. `None` means that the client decides. Default 600 seconds, at
            least 0.
        max_message: Maximum size of one incoming message. A larger message fails its call with
            `ResourceExhausted`. Default 16,777,216 bytes, 1,024 to 2,147,483,648.
        max_frame: Maximum size of one frame. A larger frame ends the connection. Default 1,048,576
            bytes, 16,384 to 67,108,864.
        max_streams: Maximum open calls per connection. Default 16,384 calls, 1 to 1,048,576.
        stream_window: Receive window of a stream: the bytes that the peer may send on one call
            before your code reads some. Default 1,048,576 bytes, 65,536 to 1,073,741,824.
        connection_window: Receive window of a connection: like `stream_window`, but for all calls
            of the connection together. It must be at least `stream_window`. Default 8,388,608
            bytes, 65,536 to 1,073,741,824.
        max_unfinished: Maximum total size of partially received messages per connection. The peer
            is told, and lets large messages wait for their turn. A call that nevertheless exceeds
            it fails. `None` means eight times `max_message`. Default None, at least `max_message`.
        max_handshakes: Maximum connections that have not sent their Hello yet, including those in a
            TLS handshake. If there are more, the oldest of them is closed. Default 2,048
            connections, at least 1.
        max_memory: Maximum memory that the server holds for its clients together: requests of open
            calls and what is decoded from them, messages that have arrived in part or are not read,
            and messages that wait to be sent. Beyond it, the calls that hold the most on the
            connections that hold the most fail with `ResourceExhausted`. `None` means half of the
            memory that the control group (cgroup) of the process allows, or a quarter of the memory
            of the machine if that is less; several workers share it. Default None, at least
            1,048,576.
        max_connections: Maximum open connections. A client beyond it is told so, and calls other
            servers. `None` means as many as the process may open files (`ulimit -n`), without those
            that are open at the start and a reserve of an eighth, 64 at least, for the health page,
            the registry and other connections. Default None, at least 1.
        max_connects: New connections per second per client address (IPv6: per /64), with a burst of
            ten times that. Excess connections are closed. Clients on the same machine are not
            limited. Default 200 per second, at least 1.
        max_cancels: Calls per second that a client may cancel on one connection beyond
            `max_cancel_share`, with a burst of ten times that. When half of the burst is used, new
            calls of the connection wait. When all of it is used, the client is asked to leave, and
            then the connection is closed. Default 100 per second, at least 1.
        max_cancel_share: Share of the calls of a connection that a client may cancel at any rate:
            0.5 is one cancelled call for each call that is served. Default 0.5, 0 to 0.9.
        max_pings: Pings per second that the peer may send on one connection, with a burst of ten
            times that. After more, the connection is closed. Default 10 per second, at least 1.
        max_requests: Maximum total size of the large requests (more than 16 KiB each) of all open
            calls, per connection. A call that would exceed it fails. `None` means 32 times
            `max_message`. Default None, at least `max_message`.
        max_backlog: Maximum total size of the responses that wait to be sent, per connection. Above
            it, the server begins no further call of the connection until the client has read half
            of them. Default 67,108,864 bytes, 1,048,576 to 1,099,511,627,776.
        max_header: Maximum size of the header of an incoming message. A larger header fails its
            call. Default 65,535 bytes, 1,024 to 65,535.
        max_depth: Maximum depth of nested arrays and maps in the body of an incoming message. A
            deeper body fails its call before it is decoded. Default 32 levels, 1 to 32.
        max_elements: Maximum number of values in the body of an incoming message. A body with more
            fails its call before it is decoded. Default 100,000 values, 1 to 100,000.
        threads: Number of threads that run `def` functions. `None` means the same number as in
            asyncio's default executor. Default None, at least 1.
        block_threshold: Seconds that a function may hold the event loop. After that, the server
            logs its name and where it is, at most once a minute, and counts it. With 0, nothing
            watches the event loop. Default 0.5 seconds, at least 0.
        lease_ttl: Seconds that a registration stays valid unless the server renews it. Default 10
            seconds, 0.1 to 86,400.
        shed: Whether the server refuses calls with `ResourceExhausted` that would wait longer than
            half of their time, because it is asked for more than it can do. Without it, an
            overloaded server begins all calls, and most of them too late. Default True.
        max_concurrency: Maximum calls of all functions that run at a time; more are refused with
            `ResourceExhausted`, except critical ones. `None` means any number, unless the server is
            overloaded. Default None, at least 1.
        debug: Whether callers get the traceback when a function raises. Default False.
        expose_errors: Whether callers get the type and the text of an exception that a function
            raises, and the texts of its errors `UNKNOWN`, `INTERNAL` and `UNAVAILABLE`. If not,
            they get the code and the trace id, whatever `debug` says, and the log has the rest.
            Default True.
        access_log: Whether the server logs each call to `rap.server.access` when it has ended.
            `None` means that it does so under `rap serve`, and not in a program of your own.
            Default None.
        local: Which clients count as being on the server's machine, so that they may call private
            functions: `loopback` for those on a loopback address or a unix socket, `unix` for those
            on a unix socket, `None` for none. Behind a sidecar or a proxy on the same machine, all
            clients are on a loopback address. Default 'loopback'.
        allow_load: Whether clients on the same machine may import code into the server, with the
            private functions `load` and `reload` of the group `registry`. Default False.
        verify_token: Token that every client must send, or a function that verifies the token of a
            client and returns the identity of the client. `None` means that every client may
            connect. Default None.
        max_token_failures: Number of rejected tokens per client address and minute. After that,
            until the minute is over, the server rejects connections of that address without reading
            them. Default 10 tokens, at least 1.

    Raises:
        ValueError: An option has a bad value; the message names it.
        TypeError: An option does not exist.
    """

    @takes_options_of(ServerConfig)
    def __init__(
        self, host: str | Address | Sequence[str | Address] = "localhost:9000", **options: Any
    ) -> None:
        config = make_config(Server, ServerConfig, {"host": host, **options})
        self.incarnation = os.urandom(8).hex()
        self._runs = 0
        self._router = Router(config.run_timeout, is_limit="run_timeout" in options)
        Admin(self._router, allow_load=config.allow_load)
        self._configure(config)
        self._start_events = check_events("start_event_list", config.start_event_list)
        self._stop_events = check_events("stop_event_list", config.stop_event_list)
        # Close the coroutine objects of a server that never starts; Python would warn of them.
        weakref.finalize(self, _discard, self._start_events, self._stop_events)
        self._middlewares = MiddlewareStack(self._register_private, config.service or "", _log)
        self._middlewares.load("middleware_list", config.middleware_list)
        self._processors: list[BaseProcessor] = []
        self._add_processors("processor_list", config.processor_list)
        self._dispatcher: Dispatcher | None = None
        self._closing: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()  # set when the server is told to stop
        self._takes_signals = False
        self._logs_calls: bool | None = None  # as the option says

    def _configure(self, config: ServerConfig) -> None:
        """Make what depends on options."""
        self.config = config
        self._clock = clock_of(config.clock)
        self._rng = random_of(config.rng)
        self._connections = ConnectionManager(
            config,
            self._clock,
            self._rng,
            _log,
            hello={"service": config.service or "", "incarnation": self.incarnation},
        )
        self._registration = Registration(
            config.registry,
            config.service,
            weight=config.weight,
            zone=config.zone,
            advertise=config.advertise,
            config=config,
            incarnation=self.incarnation,
            clock=self._clock,
            rng=self._rng,
        )
        self._loop_monitor = LoopMonitor(config.block_threshold, _log)

    @contextmanager
    def overridden(self, **options: Any) -> Iterator[Self]:
        """Have other options in a block, at whose end the server is not running; for tests.

        Functions, processors, middleware and events stay as they are. `rap.testing` uses it to
        serve inside the process.

        Args:
            options: Options of the constructor. `run_timeout`, `allow_load` and the lists of
                middleware, processors and events keep their values from the constructor.

        Raises:
            ValueError: An option has a bad value; the message names it.
            TypeError: An option does not exist.
            RuntimeError: The server is running.
        """
        self._check_stopped("before")
        config, traffic = self.config, self._connections.traffic
        parts = self._clock, self._rng, self._connections, self._registration, self._loop_monitor
        self._configure(change_config(Server, config, options))
        if traffic is not None:
            self._connections.count_traffic()
        try:
            yield self
        finally:
            self._check_stopped("at the end of")
            self.config = config
            self._clock, self._rng, self._connections, self._registration, self._loop_monitor = (
                parts
            )

    def replica(self, **options: Any) -> "Server":
        """Return another server with the same functions, processors, middleware and events.

        They are shared, so a function that is registered with one is known to all. `rap.testing`
        uses it to run several instances of a service inside the process.

        Args:
            options: Options of the constructor that differ; see `overridden`.

        Raises:
            ValueError: An option has a bad value; the message names it.
            TypeError: An option does not exist.
        """
        config = change_config(Server, self.config, options)
        other: Server = object.__new__(type(self))
        vars(other).update(vars(self))
        other.incarnation = os.urandom(8).hex()
        other._runs = 1  # functions of processors and middleware are registered already
        other._configure(config)
        other._start_events, other._stop_events = [*self._start_events], [*self._stop_events]
        other._processors = [*self._processors]
        other._middlewares = self._middlewares.shared_with(other._register_private)
        other._dispatcher = other._closing = None
        other._stop = asyncio.Event()
        other._takes_signals = False
        return other

    def __repr__(self) -> str:
        if not hasattr(self, "_stop"):
            return f"<{type(self).__name__} not constructed>"
        service = self.config.service
        where = self._connections.place
        what = f"service={service!r} {where}" if service else where
        functions = _count(sum(not each.is_private for each in self.handlers), "function")
        connections = _count(len(self._connections.connections), "connection")
        return f"<{type(self).__name__} {what} {self._state}, {functions}, {connections}>"

    @property
    def handlers(self) -> list[Handler]:
        """The registered functions."""
        return list(self._router)

    @property
    def middlewares(self) -> tuple[Middleware, ...]:
        """The loaded middleware, the outermost first."""
        return tuple(self._middlewares)

    @property
    def processors(self) -> tuple[BaseProcessor, ...]:
        """The loaded processors, in the order in which outbound messages pass them."""
        return tuple(self._processors)

    @property
    def addresses(self) -> list[Address]:
        """The addresses that the server listens on, with real ports."""
        return self._connections.addresses

    @property
    def is_serving(self) -> bool:
        """Whether the server accepts new calls: started, not draining, not out of rotation."""
        return (
            self._dispatcher is not None
            and self._closing is None
            and not self._connections.is_draining
        )

    @property
    def connection_manager(self) -> ConnectionManager:
        """The listeners and connections of the server."""
        return self._connections

    @property
    def overload_state(self) -> Overload:
        """Which calls wait, and which were refused because there are too many."""
        return Overload() if self._dispatcher is None else self._dispatcher.overload_state

    @property
    def threads(self) -> Threads | None:
        """Where `def` functions run; `None` before the start."""
        return None if self._dispatcher is None else self._dispatcher.threads

    @property
    def loop_monitor(self) -> LoopMonitor:
        """What notices that a function holds the event loop."""
        return self._loop_monitor

    @property
    def registration(self) -> Registration:
        """The entry of the server in its registry."""
        return self._registration

    @overload
    def register(
        self,
        func: F,
        name: str | None = None,
        group: str | None = None,
        is_private: bool = False,
        doc: str | None = None,
        *,
        idempotent: bool = False,
        run_timeout: float | None = None,
        inline: bool = False,
        allow: Allow | None = None,
        priority: str | None = None,
        max_concurrency: int | None = None,
    ) -> F: ...

    @overload
    def register(
        self,
        func: None = None,
        name: str | None = None,
        group: str | None = None,
        is_private: bool = False,
        doc: str | None = None,
        *,
        idempotent: bool = False,
        run_timeout: float | None = None,
        inline: bool = False,
        allow: Allow | None = None,
        priority: str | None = None,
        max_concurrency: int | None = None,
    ) -> Callable[[F], F]: ...

    @checks_options(HandlerOptions)
    def register(
        self,
        func: Any = None,
        name: str | None = None,
        group: str | None = None,
        is_private: bool = False,
        doc: str | None = None,
        *,
        idempotent: bool = False,
        run_timeout: float | None = None,
        inline: bool = False,
        allow: Allow | None = None,
        priority: str | None = None,
        max_concurrency: int | None = None,
    ) -> Any:
        """Let clients call a function.

        Call it with the function, or use it as a decorator: ``@server.register``, or with options
        ``@server.register(group="math")``. For an object or a class it registers the public
        methods; their group is the name of the class unless `group` is given.

        Args:
            func: The function, object or class.
            name: Name that clients use. `None` means the name of the function. Default None.
            group: Group of the function. `None` means `default`, or for the methods of an object or
                a class, the name of the class. Default None.
            is_private: Whether only clients on the same machine may call the function; see
                `Server(local=)`. Default False.
            doc: Description of the function, for listings. `None` means its docstring. Default
                None.
            idempotent: Whether calling twice has the same effect as calling once. Descriptions tell
                clients, which may then declare it so, too. Default False.
            run_timeout: Seconds that the function may run; a caller that allows more time does not
                get it. `None` means the server's `run_timeout` for unary functions, and no limit
                for all others. Default None, more than 0.
            inline: Whether a `def` runs on the event loop instead of in a thread. Use it only for
                functions that never block. Default False.
            allow: Names of the clients that may call the function, or a function that takes the
                `Call` and returns whether its client may. `None` means all clients. Default None.
            priority: Priority of the calls whose client names none: `'critical'`, `'default'` or
                `'sheddable'`. An overloaded server begins critical calls first, and refuses
                sheddable calls first. `None` means `'default'`. Default None.
            max_concurrency: Maximum calls of the function that run at a time; more are refused with
                `ResourceExhausted`. `None` means any number, unless the server is overloaded.
                Default None, at least 1.

        Raises:
            ValueError: An option has a bad value; the message names it.
            RegistrationError: Type hints are missing, values of a type cannot be sent, or the name
                is taken.
        """
        options: dict[str, Any] = {
            "is_private": is_private,
            "doc": doc,
            "idempotent": idempotent,
            "run_timeout": run_timeout,
            "inline": inline,
            "allow": allow,
            "priority": priority,
            "max_concurrency": max_concurrency,
        }
        if func is None:
            return lambda each: self.register(each, name, group, **options)
        if callable(func) and not inspect.isclass(func):
            self._router.register(func, name, group, **options)
        elif name is not None:
            raise RegistrationError(f"name={name!r} is for one function, got {func!r}")
        else:
            self._router.register_methods(func, group, **options)
        return func

    @checks_options(HandlerOptions)
    def allow_group(self, group: str, allow: Allow) -> None:
        """Let only some clients call a group, in addition to the rules of its functions.

        Args:
            group: Name of the group; it also applies to functions registered later.
            allow: As for `register`.

        Raises:
            RegistrationError: `group` is not the name of a group, or `allow` is neither a function
                nor a collection of names.
        """
        self._router.allow_group(group, allow)

    def explain_unknown(self, explain: Callable[[str], str]) -> None:
        """Let a function say why there is no function of a name, such as fakes in a test.

        Args:
            explain: Called for each call of a function that is not registered, with its
                ``/group/name``. It returns the text of the error that the caller gets.
        """
        self._router.explain_unknown(explain)

    def load_start_event(self, event_list: Iterable[Event]) -> None:
        """Add events to run before the server listens.

        Raises:
            TypeError: An object is not an event.
            RuntimeError: The server has been started.
        """
        self._check_new("load_start_event")
        self._start_events += check_events("load_start_event", event_list)

    def load_stop_event(self, event_list: Iterable[Event]) -> None:
        """Add events to run after all connections are closed.

        Raises:
            TypeError: An object is not an event.
        """
        self._stop_events += check_events("load_stop_event", event_list)

    def load_middleware(self, middleware_list: Iterable[Middleware]) -> None:
        """Add middleware inside the middleware that is loaded already.

        Raises:
            TypeError: An object is not middleware.
            ValueError: An object is already loaded, by this server or another.
            RuntimeError: The server has been started.
        """
        self._check_new("load_middleware")
        self._middlewares.load("load_middleware", middleware_list)

    def load_processor(self, processor_list: Iterable[BaseProcessor]) -> None:
        """Add processors after the processors that are loaded already.

        Raises:
            TypeError: An object is not a `BaseProcessor`, or is for clients only.
            ValueError: An object is already loaded.
            RuntimeError: The server has been started.
        """
        self._check_new("load_processor")
        self._add_processors("load_processor", processor_list)

    async def create_server(self) -> Self:
        """Run the start events, listen, and register; return when clients can call.

        Raises:
            OSError: An address cannot be bound.
            RuntimeError: The server is started, or is stopping. It may be started again when it
                has stopped, in another event loop too.
        """
        if self._dispatcher is not None:
            self._reset()
        self._runs += 1
        limits = self._connections.message_limits
        pipeline = Pipeline(self._processors, Side.SERVER, limits.check_of_bodies())
        threads = Threads(self.config.threads, self._clock)
        access = self._access_log()
        self._dispatcher = Dispatcher(
            self._router,
            pipeline,
            self._clock,
            threads,
            streaming=Streaming(pipeline, threads),
            middleware=self._middlewares.message_chain(threads, self._clock),
            debug=self.config.debug,
            expose_errors=self.config.expose_errors,
            shed=self.config.shed,
            max_concurrency=self.config.max_concurrency,
            around=None if access is None else access.around,
            log=_log,
        )
        try:
            admission = self._middlewares.admission(self._authenticator())
            for event in self._start_events:
                await run_event(event)
            for processor in self._processors:
                await run_event(processor.start_event_handle)
                self._register_functions(processor)
            await self._middlewares.start()
            self._loop_monitor.start()
            load = LoadMeter(self._connections, self._clock)
            self._connections.announce(pipeline.abilities)
            addresses = await self._connections.listen(
                self._dispatcher, admission, None if access is None else access.subscribe
            )
            await self._registration.register(
                addresses,
                load,
                draining=self._connections.is_draining,
                functions=self._router,
            )
        except BaseException:  # raised again
            _discard(self._start_events, self._stop_events)
            self._closing = start_task(self._abort_start(), name="rap server abort")
            await asyncio.shield(self._closing)
            raise
        if _log.isEnabledFor(logging.INFO):
            _log.info("listening on %s", ", ".join(map(str, addresses)))
        return self

    def enable_access_log(self, enabled: bool = True) -> None:
        """Log every call, or none, whatever the option `access_log` says.

        Raises:
            ValueError: `enabled` is not a bool.
            RuntimeError: The server has been started.
        """
        check_flag("enabled", enabled)
        self._check_new("enable_access_log")
        self._logs_calls = enabled

    def _access_log(self) -> "AccessLog | None":
        if not (self.config.access_log if self._logs_calls is None else self._logs_calls):
            return None
        from rap.server.access_log import AccessLog  # many servers have none
        from rap.server.middleware.access import AccessMsgMiddleware

        if not AccessLog.is_enabled():
            return None
        has_middleware = any(isinstance(each, AccessMsgMiddleware) for each in self._middlewares)
        return AccessLog(self._clock, has_middleware=has_middleware)

    def _authenticator(self) -> "Authenticator | None":
        config = self.config
        if config.verify_token is None:
            return None
        from rap.server.authentication import make_authenticator

        return make_authenticator(
            config.verify_token,
            max_failures=config.max_token_failures,
            handshake_timeout=config.handshake_timeout,
            clock=self._clock,
            log=_log,
        )

    async def serve_forever(self, started: Callable[[], object] | None = None) -> None:
        """Serve until SIGTERM or SIGINT, then drain and return.

        It starts the server unless it is started. A second signal closes all connections at once;
        stop events still run. A third signal kills the process. SIGHUP reloads the certificates.
        The server also drains when this is cancelled, or when `await_closed` is called. Signals are
        handled only in the main thread, from the beginning: a signal during a start event ends the
        start, and one that comes after that drains.

        Args:
            started: Called when clients can call.

        Raises:
            OSError: An address cannot be bound.
        """
        if self._is_stopped:
            self._reset()
        self._takes_signals = True
        with handle_signals(self._stop.set, self._connections.stop_at_once, self._on_hangup):
            try:
                if self._dispatcher is None and not await self._start_unless_stopped():
                    return
                if started is not None:
                    started()
                await self._stop.wait()
            finally:
                await self.__aexit__()

    async def set_serving(self, serving: bool) -> None:
        """Take the server out of rotation without stopping it, or put it back.

        Out of rotation, connected clients are told to open no new calls here, and the registry says
        DRAINING. Before the start, and in start events, this sets how the server begins.

        Raises:
            ValueError: `serving` is not a bool.
            RuntimeError: The server is stopping, and cannot be put back.
        """
        check_flag("serving", serving)
        if self._closing is not None:
            if serving:
                raise RuntimeError("the server is stopping; it cannot be put back into rotation")
            return
        self._connections.set_draining(not serving)
        await self._registration.set_state(State.UP if serving else State.DRAINING)

    def reload_certificates(self) -> None:
        """Read certificate, key, authorities and revocation lists again, for new handshakes.

        No TLS session that began before can be resumed. Open connections stay; to end those of a
        client whose certificate or authority was withdrawn, call `revoke`.

        Raises:
            ValueError: A file cannot be used; the server keeps what it has.
        """
        self._connections.reload_certificates()

    def revoke(self, identity: Any) -> int:
        """End the connections of an identity now, and return how many there were.

        Their open calls fail with `Unauthenticated`, and their handlers are cancelled. To keep the
        client from coming back, withdraw its token or certificate first: `verify_token` is asked
        again for tokens that are being verified. This concerns the connections of this process.

        Args:
            identity: A name, as in `allow` rules; or an identity that `verify_token` returned; or a
                function that takes a `Peer` and returns whether its connections are to end.

        Raises:
            ValueError: The identity is `None`, which would be that of all clients without one, or
                the name is malformed.
        """
        return self._connections.dismiss(selects(identity), "the identity was revoked")

    async def await_closed(self) -> None:
        """Drain and stop; open calls have `close_timeout` seconds to finish.

        You may call it again, and from several tasks. Cancelling one of them does not stop the
        drain.
        """
        if self._dispatcher is None:
            _discard(self._start_events, self._stop_events)
            return
        self._stop.set()
        if self._closing is None:
            self._closing = start_task(self._close(), name="rap server close")
        await asyncio.shield(self._closing)

    async def close(self) -> None:
        """Drain and stop, as `await_closed` does."""
        await self.await_closed()

    async def __aenter__(self) -> Self:
        return await self.create_server()

    if not TYPE_CHECKING:
        __enter__ = __exit__ = refusing("a Server is entered by `async with`, not by `with`")
        __reduce__ = refusing(f"a Server {HOW_TO_PICKLE}")

    async def __aexit__(self, *exc: object) -> None:
        try:
            await self.await_closed()
        except asyncio.CancelledError:  # cancelling the drain means to stop now
            self._connections.stop_at_once()
            await self.await_closed()
            raise

    @property
    def _state(self) -> str:
        if self._dispatcher is None:
            return "not started"
        if self._closing is not None:
            return "stopped" if self._closing.done() else "draining"
        if not self.addresses:
            return "starting"
        return "out of rotation" if self._connections.is_draining else "serving"

    @property
    def _is_stopped(self) -> bool:
        return self._closing is not None and self._closing.done()

    def _reset(self) -> None:
        """Be as before the start."""
        if not self._is_stopped:
            what = "was started already" if self._closing is None else "is stopping"
            raise RuntimeError(f"{self!r} {what}; await its close() before it starts again")
        for event in (*self._start_events, *self._stop_events):
            if inspect.iscoroutine(event):
                text = "is a coroutine object, which runs once: give the function instead"
                raise RuntimeError(f"the server cannot start again: event {event!r} {text}")
        self._dispatcher = self._closing = None
        self._stop = asyncio.Event()
        self._takes_signals = False
        self.incarnation = os.urandom(8).hex()
        self._connections.reset(self.incarnation)
        self._registration.reset(self.incarnation)

    async def _start_unless_stopped(self) -> bool:
        """Start the server; return whether it was started before a signal came."""
        start = start_task(self.create_server())
        stop = start_task(self._stop.wait())
        try:
            await asyncio.wait([start, stop], return_when=asyncio.FIRST_COMPLETED)
            if not start.done() and not self.addresses:
                start.cancel()
            # If it listens, clients may have called already: it drains when it is registered.
            await asyncio.wait([start])
        finally:
            stop.cancel()
            if not start.done():  # this was cancelled
                start.cancel()
                await asyncio.wait([start])
        if start.cancelled():
            return False
        start.result()
        return True

    def _check_stopped(self, when: str) -> None:
        if self._dispatcher is not None and not self._is_stopped:
            raise RuntimeError(
                f"the server runs already: close it {when} overridden() or a TestClient, or use its"
                f" replica(): {self!r}"
            )

    def _check_new(self, method: str) -> None:
        if self._dispatcher is not None and not self._is_stopped:
            raise RuntimeError(f"{method}: {self!r} was started; call it before the server starts")

    def _add_processors(self, option: str, processors: Iterable[BaseProcessor]) -> None:
        for added in add_processors(option, self._processors, processors, Side.SERVER):
            self._register_functions(added)

    def _register_functions(self, processor: BaseProcessor) -> None:
        for func, name, group in processor.take_private_functions():
            self._register_private(func, name, group)

    def _register_private(self, func: Any, name: str | None, group: str | None) -> None:
        """Register a function of a processor or middleware, which may do so at each start."""
        if self._runs > 1:
            handler = self._router.make(func, name, group, is_private=True)
            if self._router.find(handler.method) is not None:
                self._router.replace(handler)
                return
        self.register(func, name, group, is_private=True)

    async def _abort_start(self) -> None:
        """Clean up after a failed start; the stop events do not run."""
        assert self._dispatcher is not None
        self._connections.close_listeners()
        await self._registration.deregister()
        await self._connections.close_connections(0.0)
        await self._dispatcher.close()
        self._loop_monitor.stop()
        await self._middlewares.stop()

    def _on_hangup(self) -> None:
        try:
            self.reload_certificates()
        except ValueError as exc:
            _log.error("the certificates were not reloaded: %s", exc)

    async def _close(self) -> None:
        """Drain and stop, in the order that `docs/operations.md` describes."""
        assert self._dispatcher is not None
        again = "; a second signal ends it at once" if self._takes_signals else ""
        calls, timeout = self._connections.describe_calls(), self.config.close_timeout
        text = "draining %s: %s; for up to %g s (option close_timeout)%s"
        _log.info(text, self._connections.place, calls, timeout, again)
        delay = self.config.drain_delay
        if self._registration.is_registered:
            await self._registration.set_state(State.DRAINING)
            delay = 1.0 if delay is None else delay
        if delay:
            await self._connections.delay_drain(delay)
        self._connections.close_listeners()
        self._connections.set_draining(True)
        await self._connections.close_connections(self.config.close_timeout)
        await self._dispatcher.close()
        self._loop_monitor.stop()
        await self._registration.deregister()
        await self._middlewares.stop()
        stops = [processor.stop_event_handle for processor in reversed(self._processors)]
        await run_stop_events([*stops, *reversed(self._stop_events)], _log)
        _log.info("stopped")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _discard(*lists: list[Event]) -> None:
    for events in lists:
        discard_events(events)
