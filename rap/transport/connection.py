"""The asyncio driver of one `WireProtocol` over one TCP, TLS or unix transport.

`Connection` is the `asyncio.Protocol` itself: there is no reader task and no queue. `data_received`
decodes a chunk, hands each frame to its stream and returns; it runs no user code except inline
handlers. Writes are gathered until the turn of the event loop ends or about 16 frames are waiting.
One `Watchdog` has the timer for deadlines, keepalive and stalls of all streams.
"""

import asyncio
import functools
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from rap.address import Certificate, Peer
from rap.call import HEADER_DETAIL, TRAILER
from rap.clock import Clock
from rap.errors import (
    CallError,
    Code,
    ConnectionClosed,
    ExceptionTypes,
    PeerSilent,
    RapError,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    VersionMismatch,
    decode_error,
)
from rap.foreign import one_line
from rap.transport.farewell import Farewell
from rap.transport.fork import descriptors_of, let_go_in_children
from rap.transport.options import ConnectionOptions
from rap.transport.rate_limit import TokenBucket
from rap.transport.watchdog import Watchdog
from rap.wire.frames import (
    ACK,
    DATA,
    DONE,
    END,
    GOAWAY,
    HEADER,
    HEADER_SIZE,
    HELLO,
    LOAD,
    MAX_HELLO,
    MAX_STREAM_ID,
    MESSAGE,
    OPEN,
    PING,
    REFUSED,
    RESET,
    UNSERVED,
    parse_frames,
    read_go_away,
    read_reset,
)
from rap.wire.hello import decode_hello
from rap.wire.load_report import ASK_FOR_LOAD
from rap.wire.protocol import CONTROL_FRAMES_PER_TURN, IDLE, IDLE_FRAMES, WireProtocol
from rap.wire.sender import BULK, ignore
from rap.wire.stream import CLOSED, REMOTE_END, StreamState, held_by, is_unsent

__all__ = [
    "AdmissionGate",
    "Connection",
    "StreamHandler",
    "channel_binding",
    "close_all",
    "new_random",
    "peer_of",
    "writelines_of",
]

_REQUEST = MESSAGE | END
# What this release can do beyond the first release of the protocol (PROTOCOL.md §3.1).
_ABILITIES = frozenset({"outcome"})
# Bytes that may wait beyond the write buffer's high-water mark. Replies to control frames take no
# credit, so they go out even when the transport is full; a peer that keeps asking and does not
# read is closed.
_MAX_EXCESS = 4 * 1024 * 1024
_DEFERRED_PER_TURN = 64  # deferred streams that are handed out in one turn of the loop
# Seconds that new calls of a client wait that cancels most of its calls; and if it cancels nearly
# all, seconds between two reads.
_CANCEL_PAUSE = 0.05
_NEARLY_ALL = 9  # cancelled calls for each one that was served
# Seconds between two reads of a client that was told to go away for it, which may have many more
# calls left to cancel.
_READ_PAUSE = 0.005
# Frames that change nothing, for each call: a Reset and a Credit that come late, a Done.
_IDLE_PER_CALL = 4
# Seconds before its deadline from which on a cancelled call counts as expired: the clocks of both
# sides started at different times.
_DEADLINE_SLACK = 0.1
_CALL_MEMORY = 2048  # bytes of a call besides its messages: stream, task and frame
_LEAST_CHUNK = 1024  # bytes to read at least while a connection is held back
_NO_CHUNK = bytearray()
_CLOSE_TIMEOUT = 1.0  # seconds for peers to read what is queued when connections are closed
_RANDOM_SIZE = 16  # bytes; with fewer, two connections could have the same by chance
_MAX_RANDOM = 64  # bytes; a binding is kept as long as the connection

# Takes a stream that the peer opened: stream, flags, meta, body.
StreamHandler = Callable[[Any, int, bytes, bytes | memoryview], None]
_Pieces = Sequence[bytes | memoryview]


class Connection(asyncio.Protocol):
    """One connection, seen from either side.

    Args:
        options: Limits, times and the content of our Hello.
        clock: Source of time.
        log: Logger of the side.
        new_stream: On a server, the class of stream records, called with (connection, id, send
            window, state). A connection without it is a client's.
        stream_handler: On a server, called once, when the client's Hello has arrived; returns
            what takes each stream that the client opens.
        keep_task: On a server, takes a stream that has failed, and its task, which was cancelled.
        on_load: Takes load reports, or on a server requests for one: (connection, body).
        on_made: Called when the transport is connected, before anything is sent.
        on_change: Called when the peer's Hello or GoAway has arrived.
        on_lost: Called once, when the connection has ended.
        on_suspect: Called when the peer is suspected to be gone, and when it was heard again.
            Without it, it is never suspected.
        on_grown: Called when the connection holds more memory, as `tell_growth` says. It is called
            in the middle of other work, so it must only take note.
        exception_types: On a client, the exceptions that remote errors may become.
        age_factor: What `options.max_age` is multiplied by, so that connections that were opened
            together do not end together.

    Attributes:
        streams: Open streams by id.
        peer: The other end; its binding is known once its Hello has arrived.
        peer_hello: What the peer's Hello says, without versions and limits; empty until it has
            arrived.
        peer_limits: Limits of the peer; the protocol's defaults until its Hello has arrived.
        state: Scratch space of middleware and processors.
        paused: The transport's write buffer is full.
        reading_paused: Nothing is read until a later turn of the loop.
        draining: Either side has announced that it opens or takes no new calls.
        closed: The connection has ended.
        usable: New calls may be opened: neither closed nor draining.
        active: Something was received since `take_activity` was called.
        error: Why the connection ended, or is about to.
        pins: Number of sessions that are bound to the connection.
        gate: What holds the connection back until it is admitted; `None` once it is.
        handshake: Done when the peer's Hello has arrived, or the connection has ended.
        ended: Done when the connection has ended.
        cancel_pauses: How often new calls had to wait because the client cancels most of its calls.
        cancels_excessive: Whether the client was told to go away for it.
        on_open: Takes the streams that the client opens: the stream handler, unless they are
            deferred.
        on_load: Takes load reports or requests for one; `None`: they are ignored.
        send_data: `Sender.send_data` of the protocol, bound once; so are the next two.
    """

    __slots__ = (
        "__weakref__",
        "_abilities",
        "_call_soon",
        "_cancelled",
        "_cancels",
        "_deferred",
        "_drain_waiter",
        "_expired",
        "_farewell",
        "_flush_callback",
        "_handler",
        "_idle_bucket",
        "_idles",
        "_loop",
        "_max_buffered",
        "_on_change",
        "_on_grown",
        "_on_lost",
        "_on_made",
        "_on_suspect",
        "_open_unary",
        "_opens_paused",
        "_pings",
        "_random",
        "_scheduled",
        "_served",
        "_stream_handler",
        "_writelines",
        "acknowledge",
        "active",
        "cancel_pauses",
        "cancels_excessive",
        "clock",
        "closed",
        "draining",
        "ended",
        "error",
        "exception_types",
        "gate",
        "handshake",
        "is_server",
        "keep_task",
        "log",
        "new_future",
        "on_load",
        "on_open",
        "options",
        "paused",
        "peer",
        "peer_hello",
        "peer_limits",
        "pins",
        "protocol",
        "reading_paused",
        "send_data",
        "send_response",
        "state",
        "streams",
        "transport",
        "usable",
        "watchdog",
    )

    def __init__(
        self,
        options: ConnectionOptions,
        *,
        clock: Clock,
        log: logging.Logger,
        new_stream: Callable[..., Any] | None = None,
        stream_handler: "Callable[[Connection], StreamHandler] | None" = None,
        keep_task: Callable[[Any, asyncio.Task[None]], object] | None = None,
        on_load: "Callable[[Connection, bytes], object] | None" = None,
        on_made: "Callable[[Connection], object] | None" = None,
        on_change: "Callable[[Connection], object] | None" = None,
        on_lost: "Callable[[Connection], object] | None" = None,
        on_suspect: "Callable[[Connection], object] | None" = None,
        on_grown: "Callable[[Connection], object] | None" = None,
        exception_types: ExceptionTypes | None = None,
        age_factor: float = 1.0,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._call_soon = self._loop.call_soon
        self.new_future = self._loop.create_future
        self.options = options
        self.clock = clock
        self.log = log
        self.is_server = new_stream is not None
        self.exception_types = exception_types or _BUILTIN_TYPES
        self._stream_handler = stream_handler
        self.keep_task = keep_task or _keep_no_task
        self.on_load = on_load
        self._on_made = on_made
        self._on_change = on_change or ignore
        self._on_lost = on_lost
        self._on_suspect = on_suspect or ignore
        self._on_grown = on_grown or ignore

        self._random = new_random()
        # Of this side; of both sides from the peer's Hello on.
        self._abilities = _ABILITIES.union(options.hello.get("abilities", ()))
        self.protocol: WireProtocol[Any] = WireProtocol(
            is_server=self.is_server,
            new_stream=functools.partial(new_stream, self) if new_stream else _no_streams,
            limits=options.limits,
            hello={**options.hello, "random": self._random, "abilities": [*self._abilities]},
            versions=options.versions,
            wake=self._flush_soon,
            flush=self._flush,
            on_write_buffer=self._on_write_buffer if self.is_server else ignore,
            on_grown=self.note_growth,
        )
        self.streams = self.protocol.streams
        self.peer_hello: Mapping[str, Any] = {}
        self.peer_limits = self.protocol.peer
        self.send_data = self.protocol.send_data
        self.send_response = self.protocol.send_response
        self.acknowledge = self.protocol.acknowledge
        self._open_unary = self.protocol.open_unary

        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.peer = Peer()
        self.state: dict[str, Any] = {}
        self.paused = False
        self.reading_paused = False
        self.draining = False
        self.closed = False
        self.usable = True
        self.active = False
        self.error: RapError | None = None
        self.pins = 0
        self.gate: AdmissionGate | None = None
        self._farewell: Farewell | None = None
        self.ended: asyncio.Future[None] = self.new_future()
        self.handshake: asyncio.Future[None] = self.new_future()
        self._drain_waiter: asyncio.Future[None] | None = None
        self._flush_callback = self._flush  # bound once
        self._scheduled = False
        self._max_buffered = options.write_buffer + _MAX_EXCESS

        self._handler: StreamHandler = _no_handler
        self.on_open: StreamHandler = _no_handler  # the handler, or `_defer`
        self._deferred: deque[tuple[Any, int, bytes, bytes | memoryview]] | None = None
        self._opens_paused = False
        self._cancels: TokenBucket | None = None  # made with the first that is cancelled
        self._cancelled = self._expired = self._served = 0  # calls; counted when one is cancelled
        self.cancel_pauses = 0
        self.cancels_excessive = False
        self._pings: TokenBucket | None = None  # made with the first
        self._idles = 0  # events of the kind `IDLE`
        self._idle_bucket: TokenBucket | None = None
        self.watchdog = Watchdog(
            self, self._loop, age_factor=age_factor, suspicious=on_suspect is not None
        )

    # The transport calls these.

    def check_first(self, check: "Callable[[Connection], object]") -> None:
        """Let a function look at the peer before anything is sent; call it before the start.

        Args:
            check: Refuses the peer by raising a `RapError`, which ends the connection.
        """

        def check_peer(conn: "Connection") -> None:
            try:
                check(conn)
            except RapError as exc:
                conn.abort(exc)

        self._on_made = check_peer

    def name_peer(self, address: str) -> None:
        """Let messages name the peer by the address that was dialled; it has no host and port."""
        self.peer = self.peer.replace(address=address)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport and send our Hello, unless the connection is held back."""
        self.transport = cast(asyncio.Transport, transport)
        self._writelines = writelines_of(self.transport)
        self.transport.set_write_buffer_limits(
            high=self.options.write_buffer, low=self.options.write_buffer // 4
        )
        peer = peer_of(transport)
        if peer is None:
            self.abort(ConnectionClosed("the peer disconnected at once"))
            return
        self.peer = peer.narrowed(self.options.local)
        let_go_in_children(self)
        self.watchdog.start()
        if self._on_made is not None:
            self._on_made(self)
        if self.gate is None and not self.transport.is_closing():
            self._flush()

    def data_received(self, data: bytes) -> None:
        """Decode a chunk and hand each frame to its stream."""
        self.active = True
        protocol = self.protocol
        for kind, stream, flags, meta, body, size in protocol.receive_data(data):
            if kind == DATA:
                stream.on_data(flags, meta, body, size)  # type: ignore[union-attr]  # Data has a stream
            elif kind == OPEN:
                self.on_open(stream, flags, meta, body)
            else:
                self.on_control(kind, stream, flags, body)
        if self.streams and not self.watchdog.busy:
            self.watchdog.on_busy()
        if protocol.partial is not None:
            if protocol.more:
                self.pause_reading()
            else:
                self.watchdog.on_partial(protocol.partial)
        if protocol.error is not None:
            if not self.transport.is_closing():  # `error` may be what a GoAway of the peer said
                # Client and server themselves log once which versions do not fit.
                is_known = isinstance(protocol.error, VersionMismatch)
                level = logging.INFO if is_known else logging.WARNING
                self.log.log(level, "connection with %s closed: %s", self.peer, protocol.error)
                self._flush()  # what the protocol has queued for the peer
                self._close_transport(protocol.error)
        elif protocol.out or protocol.pending:
            if not self._scheduled:
                self._scheduled = True
                self._call_soon(self._flush_callback)
        elif self.draining:
            self._close_if_unused()

    def eof_received(self) -> bool:
        """Close the connection: a peer that ends its side has left."""
        return False

    def pause_writing(self) -> None:
        """Queue messages: the transport's write buffer is full."""
        self.paused = True
        self.protocol.pause()
        self.watchdog.on_paused()

    def resume_writing(self) -> None:
        """Send messages again."""
        self.paused = False
        self.protocol.resume()
        waiter, self._drain_waiter = self._drain_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self.protocol.pending:
            self._flush_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail every open stream."""
        if self.closed:
            return
        self.closed = True
        self.usable = False
        self.watchdog.stop()
        why = self.error or exc or "the peer closed it"
        if self.error is None:
            cause = f": {exc}" if exc else ""
            self.error = ConnectionClosed(f"connection to {self.peer} lost{cause}")
        silent = isinstance(self.error, PeerSilent)
        details = {"limit": "ping_timeout"} if silent else {}
        maybe_ran = "" if self.is_server else "; the call may have run"
        for stream in list(self.streams.values()):
            unsent = is_unsent(stream)
            had_ended = bool(stream.state & REMOTE_END)
            self.protocol.drop_stream(stream)
            text = f"{self.error}{maybe_ran}" if not unsent else str(self.error)
            error = Unavailable(text, unserved=unsent, details=details)
            stream.on_lost(error, had_ended)
        self.protocol.close()
        for waiter in (self._drain_waiter, self.handshake, self.ended):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        self.log.debug("connection with %s ended: %s", self.peer, why)
        if self._on_lost is not None:
            self._on_lost(self)

    # The handshake, and admission before it.

    def peer_has(self, ability: str) -> bool:
        """Return whether both sides have an ability; false until the peer's Hello has arrived."""
        return ability in self.peer.abilities

    async def wait_handshake(self) -> None:
        """Wait for the peer's Hello.

        Raises:
            Unavailable: The connection ended before.
            Unauthenticated: The peer refused the identity of this side.
            VersionMismatch: The sides have no version of the protocol in common.
        """
        await asyncio.shield(self.handshake)
        if isinstance(self.error, Unauthenticated | VersionMismatch):
            raise self.error
        if self.closed:
            raise Unavailable(str(self.error), unserved=True)

    def hold_back(self) -> "AdmissionGate":
        """Send and process nothing until `admit`; to be called in `on_made`."""
        self.gate = AdmissionGate(self, self.transport)
        return self.gate

    def admit(self) -> None:
        """Send our Hello, and process what has arrived; does nothing if it is not held back."""
        gate, self.gate = self.gate, None
        if gate is not None and not self.closed:
            self._flush()
            self.transport.set_protocol(self)
            self.transport.resume_reading()
            early = gate.take_data()
            if early:
                self.data_received(early)

    def set_identity(self, identity: object) -> None:
        """Set the identity of the peer, which the application has verified."""
        self.peer = self.peer.replace(identity=identity)

    # Streams.

    def open(self, stream: Any, flags: int, meta: bytes, body: bytes) -> None:
        """Open `stream` with its first message.

        Raises:
            Unavailable: The connection has ended; nothing was sent.
            ResourceExhausted: A limit of the peer forbids it; nothing was sent.
        """
        if self.closed:
            raise Unavailable(str(self.error), unserved=True)
        self.protocol.open_stream(stream, flags, meta, body)
        if not self.watchdog.busy or stream.deadline < self.watchdog.at:
            self.watchdog.on_busy(stream.deadline)
        self._flush_soon()

    def open_unary(self, stream: Any, meta: bytes, body: bytes) -> None:
        """Open a unary call with its request; the fast path of `open`.

        Raises:
            Unavailable: The connection has ended; nothing was sent.
            ResourceExhausted: A limit of the peer forbids it; nothing was sent.
        """
        if not self.usable:
            self.open(stream, _REQUEST, meta, body)
            return
        self._open_unary(stream, meta, body)
        watchdog = self.watchdog
        if not watchdog.busy or stream.deadline < watchdog.at:
            watchdog.on_busy(stream.deadline)

    def reset(
        self,
        stream: Any,
        code: Code,
        message: str = "",
        details: Mapping[str, Any] | None = None,
        flags: int = 0,
    ) -> None:
        """End a stream in both directions; does nothing if it has ended."""
        if not self.closed:
            self.protocol.reset_stream(stream, code, message, details, flags)
            self._flush_soon()

    def refuse(self, stream: Any, body: bytes) -> None:
        """End a stream on which no handler began; `body` is that of the Reset, packed."""
        if not self.closed:
            self.protocol.refuse_stream(stream, body)

    def send_done(self, stream: Any) -> None:
        """Tell the server that this side reads nothing more of a stream."""
        self.protocol.send_done(stream)

    async def wait_writable(self) -> None:
        """Return when the transport takes writes again, or the connection has ended."""
        while self.paused and not self.closed:
            if self._drain_waiter is None:
                self._drain_waiter = self.new_future()
            await asyncio.shield(self._drain_waiter)

    @property
    def messages_cut(self) -> int:
        """Number of calls that were ended because a message did not go on."""
        return self.watchdog.messages_cut

    @property
    def opened(self) -> int:
        """Number of streams that the client has opened so far, counted by their ids."""
        protocol = self.protocol
        return (protocol.last_id + 1) // 2 if self.is_server else protocol.next_id // 2

    def pin(self) -> None:
        """Keep the connection open through a drain until `unpin`: a session is bound to it."""
        self.pins += 1

    def unpin(self) -> None:
        """Undo one `pin`."""
        self.pins -= 1
        if self.draining:
            self._flush_soon()  # what was sent last leaves before the connection closes

    # Pings and load reports.

    @property
    def round_trip(self) -> float | None:
        """Seconds that the last answered ping took; `None` before the first."""
        return self.watchdog.keepalive.round_trip

    @property
    def min_ping_interval(self) -> float:
        """Seconds between two pings that the server asks for in its Hello; 0 if it does not."""
        return self.watchdog.keepalive.min_interval

    @property
    def suspect(self) -> bool:
        """Whether the peer is suspected to be gone, because it answers no ping."""
        suspicion = self.watchdog.suspicion
        return suspicion is not None and suspicion.suspected

    @property
    def silence(self) -> float:
        """Seconds since something of the peer was last seen; 0 where it is never suspected."""
        suspicion = self.watchdog.suspicion
        return 0.0 if suspicion is None else self.clock.monotonic() - suspicion.heard_at

    def is_alive(self, now: float) -> bool:
        """Whether the peer was heard in the last 3 s, and no answer to a ping is awaited."""
        suspicion = self.watchdog.suspicion
        return suspicion is None or suspicion.is_alive(now)

    def learn_answers(self, other: "Connection") -> None:
        """Learn from another connection to the peer how slowly it answers pings."""
        suspicion, known = self.watchdog.suspicion, other.watchdog.suspicion
        if suspicion is not None and known is not None:
            suspicion.learn(known, self.clock.monotonic())

    def probe(self) -> None:
        """Ping the peer, and suspect it if it does not answer soon."""
        if not self.closed:
            self.watchdog.probe()

    def tell_suspicion(self) -> None:
        """Tell the owner that the peer is suspected to be gone, or was heard again."""
        self._on_suspect(self)

    def ping(self) -> None:
        """Send a Ping; its answer sets `round_trip`."""
        self.protocol.ping(b"rap-ping")
        self._flush_soon()

    def set_load_handler(self, on_load: "Callable[[Connection, bytes], object]") -> None:
        """Call `on_load` with the connection and the body of each load report from now on."""
        self.on_load = on_load

    def request_load_report(self) -> None:
        """Ask the server for a load report; it counts as a ping."""
        self.protocol.send_load(ASK_FOR_LOAD)

    def send_load_report(self, frame: bytes) -> None:
        """Send a load report, encoded by `rap.wire.load_report.load_frame`."""
        self.protocol.send_load(frame)

    # Draining and closing.

    def go_away(self, *, final: bool = False, code: Code = Code.OK, message: str = "") -> None:
        """Announce a drain; `final`: what the peer opens from now on is not served."""
        if self.closed or self._farewell is not None:
            return
        self._begin_drain()
        last_id = self.protocol.last_id if final else MAX_STREAM_ID
        self.protocol.go_away(last_id, code, message)
        self._flush_soon()

    def turn_away(self, code: Code, message: str) -> Farewell:
        """On a server, refuse a connection that was just made, and let its client read why.

        It still has to be closed, by `begin_close`.
        """
        self.go_away(final=True, code=code, message=message)
        self._flush()
        self._farewell = Farewell(self, self.transport)
        return self._farewell

    def dismiss(self, code: Code, message: str) -> None:
        """On a server, end the connection now, and tell the client why.

        Open calls fail and their handlers are cancelled at once, and nothing that the client still
        sends is served, even if it does not read what it is told.
        """
        if self.closed:
            return
        error = ConnectionClosed(f"connection with {self.peer} closed by this side: {message}")
        is_held = self.gate is not None or self._farewell is not None
        if is_held or self.transport.is_closing():
            self.abort(error)
            return
        self.go_away(final=True, code=code, message=message)
        for stream in list(self.streams.values()):
            stream.fail(CallError(message, code=code))
            self.reset(stream, code, message)
        self._flush()
        self._close_transport(error)

    def drain(self) -> None:
        """On a client, open nothing new; close when the last call and session have ended."""
        self._begin_drain()
        self._flush_soon()

    async def close(self) -> None:
        """Write what is queued, close, and return when the connection has ended."""
        self.begin_close()
        await asyncio.shield(self.ended)

    def begin_close(self) -> None:
        """Write what is queued, and close; `ended` is done when the connection has ended."""
        if not self.closed:
            if self.gate is None and self._farewell is None:
                self._flush()
            self._close_transport(
                ConnectionClosed(f"connection with {self.peer} closed by this side")
            )

    def abort(self, error: RapError) -> None:
        """End the connection now; what is queued is lost."""
        if not self.closed:
            if self.error is None:
                self.error = error
            self._begin_drain()
            self.transport.abort()

    def disown(self, error: RapError) -> None:
        """Count as lost without touching the socket, which belongs to the parent process."""
        self.error = error
        self.closed = True
        self.usable = False

    def let_go(self) -> list[int]:
        """Count as lost in a forked child; return the descriptor of the socket."""
        text = "the connection belongs to the process that this one was forked from"
        self.disown(ConnectionClosed(text))
        return descriptors_of(self.transport)

    def _begin_drain(self) -> None:
        self.draining = True
        self.usable = False

    def _close_transport(self, error: RapError) -> None:
        """Close when the transport has written what it was given, or could not in time."""
        if self.error is None:
            self.error = error
        self._begin_drain()
        self.watchdog.on_closing()
        self.transport.close()

    def _close_if_unused(self) -> None:
        """On a client, leave a draining connection when its last call and session have ended."""
        if not (self.is_server or self.streams or self.pins or self.closed):
            self._close_transport(ConnectionClosed(f"{self.peer} is draining"))

    # Writing.

    def _flush_soon(self) -> None:
        """Write when the turn of the event loop ends."""
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._flush_callback)

    def _flush(self) -> None:
        self._scheduled = False
        if self.closed:
            return
        protocol = self.protocol
        if protocol.pending and not self.paused:
            for stream in protocol.send_pending(BULK - protocol.bulk):
                stream.on_flushed()
            if protocol.pending and protocol.bulk:
                self._flush_soon()
        out = protocol.out
        if out:
            if protocol.bulk:
                self._writelines(out)
                protocol.clear_output()
            else:
                self.transport.write(b"".join(out))
                out.clear()
            if self.paused and self.transport.get_write_buffer_size() > self._max_buffered:
                self.abort(ConnectionClosed(f"{self.peer} does not read what it asks for"))
        if self.draining:
            self._close_if_unused()

    # Read throttling.

    def take_activity(self) -> bool:
        """Return `active`, and clear it."""
        active, self.active = self.active, False
        return active

    def pause_reading(self) -> None:
        """Read on in a later turn of the loop, so that other connections get theirs.

        A client that cancels nearly all of its calls, or was told to go away for it, waits for
        longer.
        """
        if self.reading_paused or self.closed:
            return
        self.reading_paused = True
        self.transport.pause_reading()
        if self.cancels_excessive:
            self._loop.call_later(_READ_PAUSE, self.resume_reading)
        elif self._cancels_nearly_all:
            self._loop.call_later(_CANCEL_PAUSE, self.resume_reading)
        else:
            self._call_soon(self.resume_reading)

    def resume_reading(self) -> None:
        """Decode what the last turn has left, then read on."""
        self.reading_paused = False
        if self.closed or self.transport.is_closing():
            return
        if self.protocol.more:
            self.data_received(b"")
        if not (self.reading_paused or self.transport.is_closing()):
            self.transport.resume_reading()

    # A server begins no further call of a client for which it has much to send, and for a while
    # none of a client that cancels most of its calls.

    def _on_write_buffer(self, is_full: bool) -> None:
        """Defer new streams while the protocol's write buffer is full."""
        if not is_full:
            self._call_soon(self._open_deferred)
        else:
            self._defer_opens()

    def _defer_opens(self) -> None:
        if self._deferred is None:
            self._deferred = deque()
            self.on_open = self._defer

    def _pause_opens(self) -> None:
        """Begin no new call for a moment; other frames are read on."""
        if not self._opens_paused:
            if not self.cancel_pauses:
                text = "%s cancels most of its calls (%d of %d): its new calls wait"
                self.log.warning(text, self.peer, self._cancelled, self.opened)
            self.cancel_pauses += 1
            self._opens_paused = True
            self._defer_opens()
            self._loop.call_later(_CANCEL_PAUSE, self._resume_opens)

    def _resume_opens(self) -> None:
        self._opens_paused = False
        self._open_deferred()

    def _defer(self, stream: Any, flags: int, meta: bytes, body: bytes | memoryview) -> None:
        assert self._deferred is not None
        self._deferred.append((stream, flags, meta, body))

    def _open_deferred(self) -> None:
        """Hand out deferred streams in order, some in each turn of the loop."""
        deferred, write_buffer = self._deferred, self.protocol.write_buffer
        if deferred is None or self._opens_paused or self.closed:
            return
        for _ in range(_DEFERRED_PER_TURN):
            if not deferred or write_buffer.is_full:
                break
            stream, flags, meta, body = deferred.popleft()
            if stream.state != CLOSED:  # else the client has cancelled it
                self._handler(stream, flags, meta, body)
        if write_buffer.is_full:
            return
        if deferred:
            self._call_soon(self._open_deferred)
        else:
            self._deferred = None
            self.on_open = self._handler

    # Memory that is held for the peer.

    def memory(self) -> int:
        """Return the bytes of memory that are held for the peer.

        This visits all streams. The arguments of a call are decoded from its request, so both
        count. A request may be a view that keeps the whole chunk alive in which it came.
        """
        total = self.protocol.held + self.transport.get_write_buffer_size()
        chunks: dict[int, int] = {}
        for stream in self.streams.values():
            body = stream.body
            if type(body) is memoryview:
                chunks[id(body.obj)] = len(cast(bytes, body.obj))
            else:
                total += len(body)
            total += _CALL_MEMORY + stream.decoded_memory()
        total += sum([2 * len(body) for _, _, _, body in self._deferred or ()])
        partial = self.protocol.partial
        return total + sum(chunks.values()) + (0 if partial is None else len(partial))

    def tell_growth(self, held: int, streams: int) -> None:
        """Call `on_grown` after so many more bytes of messages, or so many more open streams."""
        self.protocol.tell_growth(held, streams)

    def note_growth(self) -> None:
        """Call `on_grown`: the connection may hold much more memory than before."""
        self._on_grown(self)

    def shed(self, size: int, message: str) -> tuple[int, int]:
        """End the calls that hold the most until at least `size` bytes are free.

        Args:
            size: Bytes to free.
            message: Of the error of these calls.

        Returns:
            Number of calls that were ended, and the bytes that they held.
        """
        holdings = [
            (_CALL_MEMORY + len(stream.body) + stream.decoded_memory() + held_by(stream), stream)
            for stream in self.streams.values()
        ]
        holdings.sort(key=lambda each: each[0], reverse=True)
        freed = count = 0
        details = {"limit": "max_memory"}
        for held, stream in holdings:
            if freed >= size:
                break
            is_new = stream.is_new or (stream.parts is not None and stream.parts_kind == OPEN)
            flags = UNSERVED if is_new else 0
            self.reset(stream, Code.RESOURCE_EXHAUSTED, message, details, flags)
            stream.clear_inbox()
            stream.fail(ResourceExhausted(message, details=details, unserved=is_new))
            freed += held
            count += 1
        return count, freed

    # Control frames.

    def on_control(self, kind: int, stream: Any, flags: int, body: bytes | memoryview) -> None:
        """Act on a control frame.

        Args:
            kind: RESET, PING, GOAWAY, HELLO, LOAD, DONE or IDLE.
            stream: The stream of a Reset or Done.
            flags: Flags of the frame; for a GoAway, its last stream id.
            body: Body of the frame.
        """
        if kind == RESET:
            self._on_reset(stream, flags, bytes(body))
        elif kind == PING:
            self._on_ping(flags)
        elif kind == GOAWAY:
            self._on_go_away(flags, bytes(body))
        elif kind == HELLO:
            self._on_hello()
        elif kind == LOAD:
            self._on_load_frame(bytes(body))
        elif kind == DONE:
            stream.on_done()
        elif kind == IDLE:
            self._on_idle_frames()

    def _on_hello(self) -> None:
        self.peer_hello = hello = self.protocol.peer_hello
        self.peer_limits = self.protocol.peer
        theirs = hello.get("random")
        if self.is_server:
            binding = channel_binding(theirs, self._random)
        else:
            binding = channel_binding(self._random, theirs)
            self.watchdog.keepalive.set_min_interval(hello.get("min_ping"))
        match hello.pop("abilities", None):
            case [*named]:
                shared = self._abilities.intersection(
                    each for each in named if isinstance(each, str)
                )
                self._abilities = _ABILITIES if shared == _ABILITIES else shared
            case _:
                self._abilities = frozenset()
        self.peer = self.peer.replace(binding=binding, state=self.state, abilities=self._abilities)
        hello.pop("token", None)  # the gate has read it, nothing else may
        if self._stream_handler is not None:
            self._handler = self.on_open = self._stream_handler(self)
        if not self.handshake.done():
            self.handshake.set_result(None)
        if hello.get("draining"):
            self._begin_drain()
        self.log.debug("connection with %s open", self.peer)
        self._on_change(self)

    def _on_reset(self, stream: Any, flags: int, body: bytes) -> None:
        try:
            code, message, details = read_reset(body)
        except ValueError as exc:
            code, message, details = Code.UNKNOWN, f"a malformed Reset: {exc}", {}
        if code == Code.OK and not self.is_server:
            stream.on_stopped()
            return
        if code == Code.OK:
            code = Code.CANCELLED  # only a server may end a call that way; its handler must stop
        refused = bool(flags & REFUSED)  # by this side
        if stream.see_error is not None and not refused:
            code, message, details = stream.see_error((code, message, details))
        if not self.is_server and (HEADER_DETAIL in details or TRAILER in details):
            names = (HEADER_DETAIL, TRAILER)
            stream.on_failed_meta({name: details.pop(name, None) for name in names})
        unserved = bool(flags & UNSERVED)
        types = self.exception_types
        error = decode_error(code, message, details, types, unserved=unserved, remote=not refused)
        stream.fail(error)
        if not self.is_server:
            return
        if self._was_due(stream, code):
            self._expired += 1
        else:
            self._on_cancel()

    def _was_due(self, stream: Any, code: int) -> bool:
        """Whether a call was cancelled at its deadline, when it would have ended anyway.

        The client chooses the time limit, so that of a short one, half has to be over.
        """
        left = stream.deadline - self.clock.monotonic()
        slack = min(_DEADLINE_SLACK, stream.time_limit / 2)
        return code == Code.DEADLINE_EXCEEDED and bool(left < slack)

    def _on_cancel(self) -> None:
        """Judge a client that cancels a call by the share of its calls that it cancels.

        Every call that was served pays for `max_cancel_share` of cancelled ones. What it does not
        pay for takes tokens of `max_cancels`.
        """
        now = self.clock.monotonic()
        cancels = self._cancels
        if cancels is None:
            cancels = self._cancels = TokenBucket(self.options.max_cancels, now)
        self._cancelled += 1
        share = self.options.max_cancel_share
        # Cancels of this turn that have not been judged yet must not count as served.
        ended = self.opened - len(self.streams) - CONTROL_FRAMES_PER_TURN
        served = ended - self._cancelled - self._expired
        if served > self._served:
            cancels.add((served - self._served) * share / (1.0 - share))
            self._served = served
        if not cancels.allow(now):
            self._on_too_many_cancels(cancels)
        if cancels.is_low and not self.cancels_excessive:
            self._pause_opens()
        if self.cancels_excessive or self._cancels_nearly_all:
            self.pause_reading()

    @property
    def _cancels_nearly_all(self) -> bool:
        """Whether it cancels nearly all of its calls, and faster than is allowed for long."""
        cancels = self._cancels
        is_low = cancels is not None and cancels.is_low
        return is_low and self._cancelled > _NEARLY_ALL * self._served

    def _on_too_many_cancels(self, cancels: TokenBucket) -> None:
        """Serve nothing new, for a good client goes elsewhere; the second time, close."""
        text = f"too many cancelled calls ({self._cancelled} of {self.opened})"
        if not self.cancels_excessive:
            self.cancels_excessive = True
            self.log.warning("%s is told to go away: %s", self.peer, text)
        if self.protocol.refuse_above == MAX_STREAM_ID:
            self.go_away(final=True, message=text)
            cancels.reset()
        else:
            self.abort(ConnectionClosed(f"{self.peer}: {text}"))

    def _on_ping(self, flags: int) -> None:
        if flags & ACK:
            self.watchdog.on_answer()
        elif not self._allow_ping(self.clock.monotonic()):
            self.abort(ConnectionClosed(f"{self.peer}: too many pings"))

    def _allow_ping(self, now: float) -> bool:
        """Take a token of `max_pings`; return `False` if none is left."""
        if self._pings is None:
            self._pings = TokenBucket(self.options.max_pings, now)
        return self._pings.allow(now)

    def _on_idle_frames(self) -> None:
        """Limit the rate of frames that change nothing; each call pays for some."""
        self._idles += 1
        if self._idles * IDLE_FRAMES <= _IDLE_PER_CALL * self.opened:
            return
        now = self.clock.monotonic()
        if self._idle_bucket is None:
            self._idle_bucket = TokenBucket(self.options.max_pings, now)
        if not self._idle_bucket.allow(now):
            self.abort(ConnectionClosed(f"{self.peer}: too many frames that change nothing"))

    def _on_go_away(self, last_id: int, body: bytes) -> None:
        """Open nothing new; streams above the last id were never served."""
        try:
            code, message = read_go_away(body)
        except ValueError as exc:
            code, message = Code.UNKNOWN, str(exc)
        self._begin_drain()
        if code != Code.OK and self.error is None:
            text = f"{self.peer} refused the connection: {one_line(message)}"
            denied = code == Code.UNAUTHENTICATED
            self.error = _denial(text) if denied else ConnectionClosed(text)
            if self.is_server or not denied:  # else the client's pool logs it
                self.log.warning("%s", self.error)
        if not self.is_server and last_id < MAX_STREAM_ID:
            for stream in [each for each in self.streams.values() if each.id > last_id]:
                self.protocol.drop_stream(stream)
                text = f"{self.peer} closed the connection before it served the call"
                stream.fail(Unavailable(text, remote=True, unserved=True))
        self._on_change(self)

    def _on_load_frame(self, body: bytes) -> None:
        if self.on_load is None:
            return
        if self.is_server and not self._allow_ping(self.clock.monotonic()):
            self.abort(ConnectionClosed(f"{self.peer}: too many requests for load reports"))
        else:
            self.on_load(self, body)


class AdmissionGate(asyncio.BufferedProtocol):
    """Holds a new connection back until it is admitted, like a listener filter of Envoy.

    It reads in the place of the connection. Not even our Hello is sent, so a client that is
    refused learns it while it connects.

    It gives the transport a buffer in order to keep no more than a Hello: the rest of what the
    client has sent stays in the kernel.

    Args:
        conn: The connection.
        transport: Its transport.
    """

    def __init__(self, conn: Connection, transport: asyncio.Transport) -> None:
        self._conn = conn
        self._transport = transport
        self._data = bytearray()
        self._chunk = _NO_CHUNK
        self._hello_size: int | None = None  # with its header
        self._hello: asyncio.Future[None] | None = None  # done when it has arrived
        transport.set_protocol(self)
        transport.pause_reading()

    async def receive_hello(self) -> None:
        """Return when the client's first frame has arrived, or the connection has ended."""
        self._hello = self._conn.new_future()
        self._transport.resume_reading()
        self._look_for_hello()
        await self._hello
        if self._conn.error is not None:
            await asyncio.shield(self._conn.ended)

    def decode_hello(self) -> dict[str, Any] | None:
        """Return the client's Hello, and decode it only once; `None` if it has not sent one."""
        try:
            frame = parse_frames(bytes(self._data[: self._hello_size]))[0]
            if frame.kind != HELLO:
                return None
            content = decode_hello(frame.body)
        except (ValueError, IndexError):
            return None
        self._conn.protocol.use_hello(content)
        return content

    def take_data(self) -> bytes:
        """Return what has arrived, and forget it."""
        data, self._data = bytes(self._data), bytearray()
        return data

    def get_buffer(self, sizehint: int) -> bytearray:
        """Return the place for the next chunk; uvloop may need one when reading is paused."""
        room = HEADER_SIZE + MAX_HELLO - len(self._data)
        self._chunk = bytearray(max(room, _LEAST_CHUNK))
        return self._chunk

    def buffer_updated(self, nbytes: int) -> None:
        """Keep a chunk."""
        self._data += memoryview(self._chunk)[:nbytes]
        self._chunk = _NO_CHUNK
        if self._hello is None:
            self._transport.pause_reading()
        else:
            self._look_for_hello()

    def pause_writing(self) -> None:
        """Pass it on to the connection."""
        self._conn.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on to the connection."""
        self._conn.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on to the connection."""
        self._conn.connection_lost(exc)
        self._settle()

    def _look_for_hello(self) -> None:
        """Stop reading when the whole Hello has arrived."""
        if self._hello_size is None and len(self._data) >= HEADER_SIZE:
            self._hello_size = HEADER_SIZE + int(HEADER.unpack_from(self._data)[0])
            if self._hello_size > HEADER_SIZE + MAX_HELLO:
                self._conn.admit()  # the protocol refuses it by its header, and says so
                self._settle()
        if self._hello_size is not None and len(self._data) >= self._hello_size:
            self._transport.pause_reading()
            self._settle()

    def _settle(self) -> None:
        if self._hello is not None and not self._hello.done():
            self._hello.set_result(None)


async def close_all(connections: Iterable[Connection], error: RapError) -> None:
    """Write what is queued, close the connections, and return when all have ended.

    Args:
        connections: The connections to close.
        error: Why a connection ends whose peer does not read the rest within a second.
    """
    left: dict[asyncio.Future[None], Connection] = {}
    for conn in connections:
        conn.begin_close()
        left[conn.ended] = conn
    if not left:
        return
    try:
        _, slow = await asyncio.wait(left, timeout=_CLOSE_TIMEOUT)
    except asyncio.CancelledError:
        slow = set(left)
        raise
    finally:
        for closing in slow:
            left[closing].abort(error)
    if slow:
        await asyncio.wait(slow)


def peer_of(transport: asyncio.BaseTransport) -> Peer | None:
    """Return the peer of a transport, or `None` if it cannot be known any more.

    A TCP peer that has disconnected has no address. It must not pass for a peer on a unix socket,
    which has none either: that peer is local, and may call private functions.
    """
    name = transport.get_extra_info("peername")
    sock = transport.get_extra_info("socket")
    family = getattr(sock, "family", None)
    if family in (socket.AF_INET, socket.AF_INET6) and not isinstance(name, tuple):
        return None
    tls = transport.get_extra_info("ssl_object")
    content = tls.getpeercert() if tls is not None else None
    return Peer.from_sockname(name, Certificate(content) if content else None)


def new_random() -> bytes:
    """Return the random number of one side of one connection."""
    return os.urandom(_RANDOM_SIZE)


def channel_binding(client: object, server: object) -> bytes:
    """Return the channel binding of a connection; empty if a side's number is unusable.

    Args:
        client: The ``random`` of the client's Hello: 16 to 64 bytes.
        server: The ``random`` of the server's Hello.
    """
    binding = b""
    for number in (client, server):
        if not isinstance(number, bytes) or not _RANDOM_SIZE <= len(number) <= _MAX_RANDOM:
            return b""
        binding += len(number).to_bytes(4, "big") + number  # no other pair gives the same
    return binding


# In these versions `writelines` of a plain socket never pauses its protocol, so the buffer grows
# without bound (CVE-2024-12254).
_NEVER_PAUSES = (3, 12, 0) <= sys.version_info < (3, 12, 9) or (
    (3, 13, 0) <= sys.version_info < (3, 13, 2)
)


def writelines_of(transport: asyncio.Transport) -> Callable[[_Pieces], None]:
    """Return the function that writes several pieces to `transport`."""
    if _NEVER_PAUSES and type(transport).__module__ == "asyncio.selector_events":

        def join_and_write(pieces: _Pieces) -> None:
            transport.write(b"".join(pieces))

        return join_and_write
    return transport.writelines


_BUILTIN_TYPES = ExceptionTypes()


def _no_streams(*_: object) -> StreamState:
    raise AssertionError("a client's peer opens no streams")


def _no_handler(stream: Any, flags: int, meta: bytes, body: bytes | memoryview) -> None:
    raise AssertionError("the first frame is a Hello, and a client's peer opens no streams")


def _keep_no_task(_: object, __: asyncio.Task[None]) -> None:
    raise AssertionError("a client has no handlers")


def _denial(text: str) -> Unauthenticated:
    return Unauthenticated(text, remote=True, unserved=True)
