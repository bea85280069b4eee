"""The listeners and connections of a server, and how a drain closes them."""

import asyncio
import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from rap.address import Address, Peer, brief
from rap.clock import Clock
from rap.errors import Code, ConnectionClosed, VersionMismatch
from rap.server.admission import AcceptLimiter, Admission, ConnectionLimit
from rap.server.config import ServerConfig
from rap.server.dispatch import Dispatcher, ServerStream
from rap.server.load_report import LoadReporter
from rap.server.memory import MemoryBudget
from rap.server.message_limits import MessageLimits, OnOpen, stream_hooks
from rap.server.process_limits import default_max_connections, default_max_memory
from rap.tasks import start_task
from rap.transport import Connection, ConnectionOptions, KeepaliveOptions
from rap.transport.connection import StreamHandler, close_all
from rap.transport.listen import Handshake, Listener, listen
from rap.transport.metering import CountedConnection, Traffic
from rap.transport.tls import ServerTls, check_paths
from rap.wire.hello import Limits

__all__ = ["ConnectionManager"]

_MAX_MISMATCHES = 1000  # hosts with a client of another version that are remembered
_DRAIN_REPORT = 5.0  # seconds between two log records on what a drain waits for
_MAX_NAMED = 5  # functions in a text on open calls
_RESUMED = ConnectionClosed("the client resumed a TLS session, and showed no certificate")
_STOPPED = ConnectionClosed("the server was told to stop at once")


class ConnectionManager:
    """The listeners and connections of one server.

    Args:
        config: Options of the server.
        clock: Source of time.
        rng: Source of randomness; it spreads the maximum ages of connections.
        log: Logger of the server.
        hello: Fields of the Hello besides version and limits.

    Attributes:
        hosts: Addresses to listen on.
        message_limits: Limits of inbound messages.
        reuse_port: Whether other processes listen on them too.
        is_draining: Whether clients are told to open no new calls here.
        opened: Number of connections opened so far.
        versions_refused: Number of those whose client speaks no version of the protocol that the
            server speaks.
        accept_limiter: Limits new connections.
        limit: Limits open connections; known once the server listens.
        memory: Limits the memory that is held for clients; `None` until the server listens.
        processes: Number of processes that share the memory of the machine.
        tls: TLS of the addresses that are not unix sockets; `None` without certificate.
        traffic: Counts the bytes of the connections made from now on; `None` if nothing does.

    Raises:
        ValueError: A certificate file cannot be used, or an address needs one.
    """

    def __init__(
        self,
        config: ServerConfig,
        clock: Clock,
        rng: random.Random,
        log: logging.Logger,
        *,
        hello: Mapping[str, Any],
    ) -> None:
        self.hosts = config.addresses
        self.reuse_port = False
        self.is_draining = False
        self.opened = 0
        self.accept_limiter = AcceptLimiter(config.max_handshakes, config.max_connects, clock)
        self.limit = ConnectionLimit(None, "", clock, log)
        self.memory: MemoryBudget | None = None
        self.processes = 1
        self.traffic: Traffic | None = None
        self._config = config
        self._clock = clock
        self._rng = rng
        self._log = log
        # Of new connections, as the options are: each connection takes a copy.
        self._hello = {**hello, "min_ping": math.ceil(1000 / config.max_pings)}
        self.message_limits = MessageLimits(
            config.max_header, config.max_depth, config.max_elements
        )
        self.tls = self._make_tls()
        for address in self.hosts:
            if address.scheme == "tls" and self.tls is None:
                raise ValueError(f"host {address}: tls:// needs ssl_crt_path and ssl_key_path")
        self._options = ConnectionOptions(
            limits=Limits(
                max_frame=config.max_frame,
                max_message=config.max_message,
                max_streams=config.max_streams,
                stream_window=config.stream_window,
                connection_window=config.connection_window,
                max_unfinished=config.max_unfinished,
                max_requests=config.max_requests,
                max_backlog=config.max_backlog,
            ),
            keepalive=KeepaliveOptions(
                idle=config.ping_sleep_time,
                busy=config.ping_busy_time,
                timeout=config.ping_timeout,
                failures=config.ping_fail_cnt,
            ),
            hello=self._hello,
            timeout=config.timeout,
            stall_timeout=config.stall_timeout,
            message_timeout=config.message_timeout,
            min_message_rate=config.min_message_rate,
            handshake_timeout=config.handshake_timeout,
            idle_timeout=config.keep_alive,
            max_cancels=config.max_cancels,
            max_cancel_share=config.max_cancel_share,
            max_pings=config.max_pings,
            max_age=config.max_connection_age,
            grace=config.max_connection_grace,
            local=config.local,
        )
        self._listeners: list[Listener] = []
        self._connections: set[Connection] = set()
        self._calls = 0  # opened on connections that have ended
        self._cancel_pauses = self._cancels_excessive = self._messages_cut = 0  # likewise
        self.versions_refused = 0
        self._mismatches: set[tuple[str, str]] = set()  # that were logged: host and error
        self._dispatcher: Dispatcher | None = None
        self._admission: Admission | None = None
        self._load_reporter: LoadReporter | None = None
        self._on_load = self._on_load_request  # bound once for all connections
        self._empty = asyncio.Event()
        self._stop_now = asyncio.Event()  # set by `stop_at_once`

    @property
    def addresses(self) -> list[Address]:
        """The addresses that the server listens on, with real ports."""
        return [listener.address for listener in self._listeners]

    @property
    def connections(self) -> frozenset[Connection]:
        """The open connections."""
        return frozenset(self._connections)

    @property
    def open_calls(self) -> int:
        """Number of open calls, of every stream type."""
        return sum(len(conn.streams) for conn in self._connections)

    @property
    def calls_opened(self) -> int:
        """Number of calls opened so far, derived from stream ids; counting costs nothing."""
        return self._calls + sum([conn.opened for conn in self._connections])

    @property
    def cancel_pauses(self) -> int:
        """How often new calls of a client waited because it cancels most of its calls."""
        return self._cancel_pauses + sum([conn.cancel_pauses for conn in self._connections])

    @property
    def cancels_excessive(self) -> int:
        """Connections whose client was told to go away because it cancels most of its calls."""
        open_ones = sum([conn.cancels_excessive for conn in self._connections])
        return self._cancels_excessive + open_ones

    @property
    def messages_cut(self) -> int:
        """Calls that were ended because a message did not go on, or came too slowly."""
        return self._messages_cut + sum([conn.messages_cut for conn in self._connections])

    @property
    def tokens_refused(self) -> int | None:
        """Connections rejected for a missing or invalid token; `None` if authentication is off."""
        return None if self._admission is None else self._admission.tokens_refused

    @property
    def place(self) -> str:
        """Where the server listens, or would listen, for messages."""
        return brief(self.addresses or self.hosts)

    def describe_calls(self) -> str:
        """Return how many calls are open, on how many connections, and of which functions."""
        calls, connections = self.open_calls, len(self._connections)
        text = (
            f"{calls} call{'' if calls == 1 else 's'} open"
            f" on {connections} connection{'' if connections == 1 else 's'}"
        )
        streams = (stream for conn in self._connections for stream in conn.streams.values())
        names = Counter(it.method for it in streams if hasattr(it, "handler"))
        found = [f"{name} ({n})" if n > 1 else name for name, n in names.most_common(_MAX_NAMED)]
        if len(names) > _MAX_NAMED:
            found.append(f"and {len(names) - _MAX_NAMED} more functions")
        return f"{text}: {', '.join(found)}" if found else text

    def reset(self, incarnation: str) -> None:
        """Be ready to listen again, in another event loop too, as another run of the server."""
        self._hello["incarnation"] = incarnation
        self._listeners = []
        self._load_reporter = None
        self._empty, self._stop_now = asyncio.Event(), asyncio.Event()
        self.set_draining(False)

    def listen_on(self, hosts: Sequence[Address], *, reuse_port: bool = False) -> None:
        """Replace the addresses to listen on; call it before `listen`.

        Args:
            hosts: The new addresses.
            reuse_port: Whether other processes listen on them too.
        """
        self.hosts = tuple(hosts)
        self.reuse_port = reuse_port

    def share_memory(self, processes: int) -> None:
        """Take only a share of the memory by default: so many processes serve on this machine."""
        self.processes = processes

    def count_traffic(self) -> None:
        """Count the bytes of the connections made from now on."""
        if self.traffic is None:
            self.traffic = Traffic()

    async def listen(
        self,
        dispatcher: Dispatcher,
        admission: Admission | None = None,
        observe: Callable[[OnOpen], OnOpen] | None = None,
    ) -> list[Address]:
        """Listen on every address; return the addresses, with real ports.

        Args:
            dispatcher: Serves the streams.
            admission: Decides which connections are served; `None` means all.
            observe: Wraps the function that takes each call; `None` wraps nothing.

        Raises:
            OSError: An address cannot be bound. Call `close_listeners` then.
        """
        ipv4_ports = {each.port for each in self.hosts if each.host == "0.0.0.0"}
        self._dispatcher = dispatcher
        self._keep_task = dispatcher.keep_task  # bound once for all connections
        self._new_stream, self._on_open = stream_hooks(dispatcher, self.message_limits)
        if observe is not None:
            self._on_open = observe(self._on_open)
        self._admission = admission
        most, reason = self._config.max_connections, "that is its max_connections"
        if most is None:
            most, reason = default_max_connections()
        self.limit = ConnectionLimit(most, reason, self._clock, self._log)
        self.memory = MemoryBudget(
            self._config.max_memory or default_max_memory(self.processes),
            self._connections,
            asyncio.get_running_loop(),
            self._log,
        )
        self._on_grown = self.memory.note  # bound once for all connections
        bound = []
        for address in self.hosts:
            listener = await listen(
                address,
                self.new_connection,
                backlog=self._config.backlog,
                tls=self.tls if address.has_port else None,
                handshake_timeout=self._config.handshake_timeout,
                reuse_port=self.reuse_port,
                ipv6_only=address.port in ipv4_ports,
                on_handshake=self._on_handshake,
                on_failed=self.accept_limiter.release,
            )
            self._listeners.append(listener)
            bound.append(listener.address)
        return bound

    def new_connection(self) -> Connection:
        """Return the protocol of a connection that was just accepted."""
        assert self._dispatcher is not None
        make = Connection if self.traffic is None else partial(CountedConnection, self.traffic)
        return make(
            self._options,
            clock=self._clock,
            log=self._log,
            new_stream=self._new_stream,
            stream_handler=self._stream_handler,
            keep_task=self._keep_task,
            on_load=self._on_load,
            on_made=self._on_made,
            on_change=self.accept_limiter.release,
            on_lost=self._on_lost,
            on_grown=self._on_grown,
            age_factor=self._rng.uniform(0.9, 1.1),
        )

    def announce(self, abilities: Iterable[str]) -> None:
        """Let the Hello of future connections name these abilities."""
        self._hello["abilities"] = sorted(abilities)

    def set_draining(self, draining: bool) -> None:
        """Tell connected and future clients whether to open new calls here."""
        self.is_draining = draining
        if not draining:
            self._hello.pop("draining", None)
        else:
            self._hello["draining"] = True
            for conn in self._connections:
                conn.go_away(message="draining")
                conn.watchdog.on_busy()

    async def delay_drain(self, seconds: float) -> None:
        """Serve on for some seconds, or until `stop_at_once` is called."""
        waits = [
            start_task(self._clock.sleep(seconds)),
            start_task(self._stop_now.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def close_listeners(self) -> None:
        """Accept no more connections."""
        for listener in self._listeners:
            listener.close()

    async def close_connections(self, timeout: float) -> None:
        """Wait until all connections are closed; after `timeout` seconds close the rest."""
        for listener in self._listeners:
            await listener.settled()
        loop = asyncio.get_running_loop()
        end = loop.time() + (0 if self._stop_now.is_set() else timeout)
        while self._connections:
            left = end - loop.time()
            if left <= 0:
                if self.open_calls and not self._stop_now.is_set():
                    text = "draining %s: ended %s, after %g s (option close_timeout)"
                    self._log.warning(text, self.place, self.describe_calls(), timeout)
                await self._end_connections()
                break
            self._empty.clear()
            try:
                async with asyncio.timeout(min(left, _DRAIN_REPORT)):
                    await self._empty.wait()
            except TimeoutError:
                if left > _DRAIN_REPORT:
                    text = "draining %s: still %s, for up to %.0f s more"
                    more = left - _DRAIN_REPORT
                    self._log.warning(text, self.place, self.describe_calls(), more)
        if self._admission is not None:
            await self._admission.close()
        if self.memory is not None:
            self.memory.close()

    def dismiss(self, chosen: Callable[[Peer], object], message: str) -> int:
        """End the connections of some peers now; return how many there were.

        Args:
            chosen: Returns whether the connections of a peer are to end.
            message: Tells the clients why.
        """
        if self._admission is not None:
            self._admission.verify_again()
        found = [conn for conn in self._connections if chosen(conn.peer)]
        for conn in found:
            conn.dismiss(Code.UNAUTHENTICATED, message)
        return len(found)

    def stop_at_once(self) -> None:
        """Close all listeners and connections without waiting for clients."""
        if self.open_calls and not self._stop_now.is_set():
            self._log.warning("stopped at once: ended %s", self.describe_calls())
        self._stop_now.set()
        self.close_listeners()
        self.abort()

    def abort(self) -> None:
        """Close all connections without waiting for clients."""
        for conn in list(self._connections):
            conn.abort(_STOPPED)

    def reload_certificates(self) -> None:
        """Read the files of TLS again, for new handshakes.

        Raises:
            ValueError: A file cannot be used; the message names its option.
        """
        if self.tls is not None:
            self.tls.reload()
            self._log.info("new connections use the reloaded TLS files: %s", self.tls.describe())

    def _make_tls(self) -> ServerTls | None:
        config = self._config
        crt, key, ca, crl = (
            config.ssl_crt_path,
            config.ssl_key_path,
            config.ssl_ca_path,
            config.ssl_crl_path,
        )
        check_paths(ssl_crt_path=crt, ssl_key_path=key, ssl_ca_path=ca, ssl_crl_path=crl)
        if crt is None and key is None:
            for option, path in (("ssl_ca_path", ca), ("ssl_crl_path", crl)):
                if path is not None:
                    raise ValueError(f"{option} needs ssl_crt_path and ssl_key_path")
            return None
        if crt is None or key is None:
            missing = "ssl_key_path" if key is None else "ssl_crt_path"
            raise ValueError(f"ssl_crt_path and ssl_key_path go together; {missing} is missing")
        return ServerTls(crt, key, ca, crl)

    def _on_handshake(self, handshake: Handshake) -> None:
        if self.limit.accept_handshake(
            handshake, len(self._connections) + self.accept_limiter.pending
        ):
            self.accept_limiter.accept_handshake(handshake)

    def _on_made(self, conn: Connection) -> None:
        count = len(self._connections)
        self._connections.add(conn)
        self.opened += 1
        if self.memory is not None:
            self.memory.watch(conn)
        if self.tls is not None and not self.tls.proves_again(
            conn.transport.get_extra_info("ssl_object")
        ):
            conn.abort(_RESUMED)
            self.accept_limiter.release(conn)
        elif not self.limit.accept(conn, count):
            self.accept_limiter.release(conn)
        elif self.accept_limiter.accept(conn) and self._admission is not None:
            self._admission.admit(conn)

    def _stream_handler(self, conn: Connection) -> StreamHandler:
        """Return the function that takes the streams of a connection, chosen by its Hello."""
        if conn.peer_hello.get("load") is True:
            return self._reporter().subscribe(conn, self._on_open)
        return self._on_open

    def _on_load_request(self, conn: Connection, _: bytes) -> None:
        self._reporter().report(conn)

    def _reporter(self) -> LoadReporter:
        if self._load_reporter is None:
            self._load_reporter = LoadReporter(self, self._clock)
        return self._load_reporter

    def _on_lost(self, conn: Connection) -> None:
        self.accept_limiter.release(conn)
        self.limit.release(conn)
        self._connections.discard(conn)
        if isinstance(conn.error, VersionMismatch):
            self._note_mismatch(conn)
        if self.memory is not None:
            self.memory.forget(conn)
        self._calls += conn.opened
        self._cancel_pauses += conn.cancel_pauses
        self._cancels_excessive += conn.cancels_excessive
        self._messages_cut += conn.messages_cut
        if not self._connections:
            self._empty.set()

    def _note_mismatch(self, conn: Connection) -> None:
        """Count a client that speaks no version of this server; log it once per host and text."""
        self.versions_refused += 1
        found = conn.peer.host, str(conn.error)
        if found not in self._mismatches:
            if len(self._mismatches) >= _MAX_MISMATCHES:
                self._mismatches.clear()
            self._mismatches.add(found)
            self._log.error("%s: %s", conn.peer, conn.error)

    async def _end_connections(self) -> None:
        """Send the final GoAway, fail all open calls, and close the connections."""
        assert self._dispatcher is not None
        left = list(self._connections)
        for conn in left:
            conn.go_away(final=True, message="the server is shutting down")
            for stream in list(conn.streams.values()):
                if isinstance(stream, ServerStream):
                    self._dispatcher.give_up(stream)
        await close_all(left, _STOPPED)
