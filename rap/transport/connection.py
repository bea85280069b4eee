"""The asyncio driver of one `WireProtocol` over one TCP, TLS or unix transport.

It is the `asyncio.Protocol` itself: no reader task, no queue. `data_received` decodes, hands each
frame to its stream and returns; it runs no user code. Writes gather until the loop's turn ends or
some 16 frames are there. One timer looks after deadlines, keepalive and stalls of all streams.
"""

import asyncio
import dataclasses
import functools
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from rap.address import Peer
from rap.clock import Clock
from rap.errors import (
    Code,
    ConnectionClosed,
    ExceptionTypes,
    RapError,
    Unauthenticated,
    Unavailable,
    decode_error,
)
from rap.transport.options import ConnectionOptions
from rap.transport.rate_limit import TokenBucket
from rap.transport.watchdog import Watchdog
from rap.wire.frames import (
    ACK,
    DATA,
    END,
    GOAWAY,
    HELLO,
    LOAD,
    MAX_STREAM_ID,
    MESSAGE,
    OPEN,
    PING,
    REFUSED,
    RESET,
    UNSERVED,
    read_go_away,
    read_reset,
)
from rap.wire.protocol import WireProtocol
from rap.wire.sender import BULK
from rap.wire.stream import CLOSED, REMOTE_END, State, StreamState, is_unsent

__all__ = [
    "Connection",
    "Holding",
    "bind",
    "bound_peer",
    "close_all",
    "defer_when_full",
    "lost",
    "new_random",
    "on_rare",
    "on_unfinished",
    "pause",
    "peer_of",
    "writelines_of",
]


def peer_of(transport: asyncio.BaseTransport) -> Peer | None:
    """Return who is at the other end, or `None` if that cannot be known any more.

    A TCP peer that has left already has no address. It must not pass for a peer without one, on
    a unix socket: such a peer is local, and may call private functions.
    """
    name = transport.get_extra_info("peername")
    sock = transport.get_extra_info("socket")
    family = getattr(sock, "family", None)
    if family in (socket.AF_INET, socket.AF_INET6) and not isinstance(name, tuple):
        return None
    tls = transport.get_extra_info("ssl_object")
    identity = tls.getpeercert() if tls is not None else None
    return Peer.from_sockname(name, identity or None)


_SIZE = 16  # bytes; with less, two connections could have the same by chance
_MOST = 64  # a binding is kept as long as the connection


def new_random() -> bytes:
    """Return the random number of one side of one connection."""
    return os.urandom(_SIZE)


def bind(client: object, server: object) -> bytes:
    """Return the binding of a connection; nothing if a side's number is missing, short or long.

    Args:
        client: What the client's Hello has as ``random``.
        server: What the server's Hello has.
    """
    binding = b""
    for number in (client, server):
        if not isinstance(number, bytes) or not _SIZE <= len(number) <= _MOST:
            return b""
        binding += len(number).to_bytes(4, "big") + number  # no other pair gives the same
    return binding


def bound_peer(conn: "Connection", own: bytes) -> Peer:
    """Return the peer of a connection as it is once its Hello has come.

    Args:
        conn: The connection.
        own: The random number of this side.
    """
    theirs = conn.protocol.peer_hello.get("random")
    binding = bind(theirs, own) if conn.is_server else bind(own, theirs)
    return dataclasses.replace(conn.peer, binding=binding, state=conn.state)


Pieces = Sequence[bytes | memoryview]

# There `writelines` of a plain socket never asks to pause, so its buffer grows without bound
# (CVE-2024-12254).
_NEVER_PAUSES = (3, 12, 0) <= sys.version_info < (3, 12, 9) or (
    (3, 13, 0) <= sys.version_info < (3, 13, 2)
)


def writelines_of(transport: asyncio.Transport) -> Callable[[Pieces], None]:
    """Return what writes several pieces to `transport`."""
    if _NEVER_PAUSES and type(transport).__module__ == "asyncio.selector_events":

        def join_and_write(pieces: Pieces) -> None:
            transport.write(b"".join(pieces))

        return join_and_write
    return transport.writelines


_REQUEST = MESSAGE | END
# What costs no credit goes out also when the transport is full. A peer that asks for ever
# more of it and takes nothing is cut when so many bytes are waiting beyond what is usual.
_BACKLOG = 4 * 1024 * 1024


class Connection(asyncio.Protocol):
    """One connection, either side.

    Args:
        options: Limits, times and what the Hello says.
        clock: Source of time.
        log: Logger of the side.
        new_stream: On a server, the class of stream records, called with (connection, id, send
            credit, receive credit).
        on_open: On a server, takes each stream the peer opened: (stream, flags, meta, body).
        on_change: Called when the peer's Hello or GoAway came.
        on_lost: Called once, when the connection has ended.
        exception_types: On a client, what remote errors may become.
    """

    __slots__ = tuple(
        "_call_soon _drain_waiter _flush_callback _loop _most_waiting _on_change _on_lost "
        "_on_made _random _scheduled _writelines keep_task cancels clock closed draining ended "
        "error exception_types handshake active held pins is_server log new_future on_open "
        "on_load options paused peer pings protocol state streams transport usable "
        "waits_for_turn watchdog".split()
    )

    keep_task: Callable[[Any], object]  # on a server: takes a cancelled task without a stream

    def __init__(
        self,
        options: ConnectionOptions,
        *,
        clock: Clock,
        log: logging.Logger,
        new_stream: Callable[..., Any] | None = None,
        on_open: Callable[[Any, int, bytes, bytes | memoryview], None] | None = None,
        on_made: Callable[["Connection"], None] | None = None,
        on_change: Callable[["Connection"], None] | None = None,
        on_lost: Callable[["Connection"], None] | None = None,
        exception_types: ExceptionTypes | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.options = options
        self.clock = clock
        self.log = log
        self.is_server = new_stream is not None
        self._random = new_random()
        self.protocol: WireProtocol[Any] = WireProtocol(
            is_server=self.is_server,
            new_stream=functools.partial(new_stream, self) if new_stream else _no_streams,
            limits=options.limits,
            hello={**options.hello, "random": self._random},
        )
        self.streams = self.protocol.streams
        self.new_future = self._loop.create_future
        self.peer = Peer()
        self.paused = False
        self.draining = False  # either side announced that it opens or takes nothing new
        self.closed = False
        self.usable = True  # new calls may be opened: neither closed nor draining
        self.error: RapError | None = None  # why it ended
        self.pins = 0  # sessions bound to it
        self.state: dict[str, Any] = {}  # scratch space of middleware and processors
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.handshake: asyncio.Future[None] = self.new_future()
        self.ended: asyncio.Future[None] = self.new_future()
        self.on_open = on_open
        self.on_load: Callable[[Any, bytes], object] | None = None  # reports, or requests for one
        self._on_made = on_made
        self._on_change = on_change
        self._on_lost = on_lost
        self.exception_types = exception_types or _BUILTIN_TYPES  # shared
        self._call_soon = self._loop.call_soon
        self._flush_callback = self._flush  # bound once
        self.protocol.wake = self._flush_soon
        self.protocol.flush = self._flush
        self._scheduled = False
        self.held: Holding | None = None
        self.waits_for_turn = False  # more has come than one turn takes
        self._drain_waiter: asyncio.Future[None] | None = None
        self.active = False  # the peer gave a sign of life since the watchdog last looked
        self.watchdog = Watchdog(self, self._loop)
        self.cancels = TokenBucket(options.max_cancels, clock.monotonic())
        self.pings = TokenBucket(options.max_pings, clock.monotonic())
        self._most_waiting = options.write_buffer + _BACKLOG

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport and send our Hello."""
        self.transport = cast(asyncio.Transport, transport)
        self._writelines = writelines_of(self.transport)
        self.transport.set_write_buffer_limits(
            high=self.options.write_buffer, low=self.options.write_buffer // 4
        )
        peer = peer_of(transport)
        if peer is None:
            self.abort(ConnectionClosed("the peer left at once"))
            return
        self.peer = peer
        self.watchdog.start()
        if self._on_made is not None:
            self._on_made(self)
        if self.held is None:
            self._flush()

    def data_received(self, data: bytes) -> None:
        """Decode a chunk and hand each frame to its stream."""
        self.active = True
        protocol = self.protocol
        for kind, stream, flags, meta, body, size in protocol.receive_data(data):
            if kind == DATA:
                stream.on_data(flags, meta, body, size)  # type: ignore[union-attr]  # Data has a stream
            elif kind == OPEN:
                self.on_open(stream, flags, meta, body)  # type: ignore[misc]  # server only
            else:
                on_rare(self, kind, stream, flags, body)
        if self.streams and not self.watchdog.busy:
            self.watchdog.on_busy()
        if protocol.partial is not None:
            on_unfinished(self)
        if protocol.error is not None:
            if self.error is None:
                self.log.warning("connection with %s closed: %s", self.peer, protocol.error)
                self._flush()  # what the protocol has queued for the peer
                self._shut(protocol.error)
        elif protocol.out or protocol.waiting:
            if not self._scheduled:
                self._scheduled = True
                self._call_soon(self._flush_callback)
        elif self.draining:
            self._close_if_unused()

    def eof_received(self) -> bool:
        """Close: a peer that ends its side has left."""
        return False

    def pause_writing(self) -> None:
        """Stop pumping: the transport's buffer is full."""
        self.paused = True
        self.protocol.pause()
        self.watchdog.on_paused()

    def resume_writing(self) -> None:
        """Go on pumping."""
        self.paused = False
        self.protocol.resume()
        waiter, self._drain_waiter = self._drain_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self.protocol.waiting:
            self._flush_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        """End every stream."""
        if self.closed:
            return
        self.closed = True
        self.usable = False
        self.protocol.state = State.CLOSED
        self.watchdog.stop()
        why = self.error or exc or "the peer closed it"
        if self.error is None:
            self.error = lost(self.peer, exc)
        for stream in list(self.streams.values()):
            unsent = is_unsent(stream)
            stream.complete = bool(stream.state & REMOTE_END)
            self.protocol.drop_stream(stream)
            stream.fail(Unavailable(str(self.error), unserved=unsent))
        self.protocol.out.clear()
        for waiter in (self._drain_waiter, self.handshake, self.ended):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        self.log.info("connection with %s ended: %s", self.peer, why)
        if self._on_lost is not None:
            self._on_lost(self)

    def set_load_handler(self, handler: Callable[[Any, bytes], object]) -> None:
        """Let `handler` take load frames: reports on a client, requests for one on a server.

        Args:
            handler: Called with this connection and the body of the frame.
        """
        self.on_load = handler

    def disown(self, error: RapError) -> None:
        """Mark the connection as lost and leave its socket alone: another process owns that.

        Args:
            error: What calls on this connection fail with.
        """
        self.error = error
        self.closed = True
        self.usable = False

    @property
    def round_trip(self) -> float | None:
        """Seconds the last answered ping took."""
        return self.watchdog.keepalive.round_trip

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
        """Open a unary call with its request; `open` for the most common case.

        Raises:
            Unavailable: The connection has ended; nothing was sent.
            ResourceExhausted: A limit of the peer forbids it; nothing was sent.
        """
        if not self.usable:
            self.open(stream, _REQUEST, meta, body)
            return
        self.protocol.open_unary(stream, meta, body)
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
        """End a stream in both directions; nothing happens if it has ended."""
        if not self.closed:
            self.protocol.reset_stream(stream, code, message, details, flags)
            self._flush_soon()

    async def wait_writable(self) -> None:
        """Return when the transport takes writes again, or the connection has ended."""
        while self.paused and not self.closed:
            if self._drain_waiter is None:
                self._drain_waiter = self.new_future()
            await asyncio.shield(self._drain_waiter)

    async def wait_handshake(self) -> None:
        """Return when the peer's Hello has come.

        Raises:
            Unavailable: The connection ended before.
            Unauthenticated: The peer does not accept who this side is.
        """
        await asyncio.shield(self.handshake)
        if isinstance(self.error, Unauthenticated):
            raise self.error
        if self.closed:
            raise Unavailable(str(self.error), unserved=True)

    def pin(self) -> None:
        """Keep the connection open through a drain until `unpin`: a session is bound to it."""
        self.pins += 1

    def unpin(self) -> None:
        """Undo one `pin`."""
        self.pins -= 1
        if self.draining:
            self._flush_soon()  # what was sent last leaves before the connection closes

    def ping(self) -> None:
        """Send a Ping; the answer sets `round_trip`."""
        self.protocol.ping(b"rap-ping")
        self._flush_soon()

    def go_away(self, *, final: bool = False, code: Code = Code.OK, message: str = "") -> None:
        """Announce a drain; `final`: what the peer opens from now on is not served."""
        if self.closed:
            return
        self.begin_drain()
        last_id = self.protocol.last_id if final else MAX_STREAM_ID
        self.protocol.go_away(last_id, code, message)
        self._flush_soon()

    def drain(self) -> None:
        """On a client: open nothing new; close when the last call and session have left."""
        self.begin_drain()
        self._flush_soon()

    async def close(self) -> None:
        """Write what is queued, close, and return when the connection has ended."""
        self.begin_close()
        await asyncio.shield(self.ended)

    def begin_close(self) -> None:
        """Write what is queued, and close; `ended` is done when it has ended."""
        if not self.closed:
            if self.held is None:
                self._flush()
            self._shut(ConnectionClosed(f"connection with {self.peer} closed by this side"))

    def abort(self, error: RapError) -> None:
        """End the connection now; what is queued is lost."""
        if not self.closed:
            if self.error is None:
                self.error = error
            self.begin_drain()
            self.transport.abort()

    def begin_drain(self) -> None:
        """Open nothing new: one of the two ends is about to leave."""
        self.draining = True
        self.usable = False

    def _shut(self, error: RapError) -> None:
        """Close when the transport has written what it was given, or could not in time."""
        if self.error is None:
            self.error = error
        self.begin_drain()
        self.watchdog.on_shut()
        self.transport.close()

    def _flush_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._flush_callback)

    def _flush(self) -> None:
        self._scheduled = False
        if self.closed:
            return
        protocol = self.protocol
        if protocol.waiting and not self.paused:
            for stream in protocol.send_pending(BULK - protocol.bulk):
                stream.on_flushed()
            if protocol.waiting and protocol.bulk:
                self._flush_soon()
        out = protocol.out
        if out:
            if protocol.bulk:
                protocol.bulk = 0
                self._writelines(out)
            else:
                self.transport.write(b"".join(out))
            out.clear()
            if self.paused and self.transport.get_write_buffer_size() > self._most_waiting:
                self.abort(ConnectionClosed(f"{self.peer} does not take what it asks for"))
        if self.draining:
            self._close_if_unused()

    def _close_if_unused(self) -> None:
        """A client leaves a draining connection when its last call and session have."""
        if not (self.is_server or self.streams or self.pins or self.closed):
            self._shut(ConnectionClosed(f"{self.peer} is draining"))

    def on_hello(self) -> None:
        """Take the peer's Hello, which the protocol has read."""
        self.peer = bound_peer(self, self._random)
        if not self.handshake.done():
            self.handshake.set_result(None)
        if self.protocol.peer_hello.get("draining"):
            self.begin_drain()
        self.log.info("connection with %s open", self.peer)
        self.changed()

    def changed(self) -> None:
        """Tell the owner that the peer's Hello or GoAway came."""
        if self._on_change is not None:
            self._on_change(self)


_BUILTIN_TYPES = ExceptionTypes()


def _no_streams(*_: object) -> StreamState:
    raise AssertionError("a client's peer opens no streams")


_NEARLY = 0.1  # seconds before its deadline, for the clocks began at different times


def on_rare(
    conn: "Connection", kind: int, stream: Any, flags: int, body: bytes | memoryview
) -> None:
    """Act on an event of the protocol.

    Args:
        conn: Where it came.
        kind: RESET, PING, GOAWAY, HELLO or LOAD.
        stream: The stream of a Reset.
        flags: Of the frame; the last stream id of a GoAway.
        body: Of the frame.
    """
    if kind == RESET:
        _on_reset(conn, stream, flags, bytes(body))
    elif kind == PING:
        _on_ping(conn, flags)
    elif kind == GOAWAY:
        _on_go_away(conn, flags, bytes(body))
    elif kind == HELLO:
        conn.on_hello()
    elif kind == LOAD and conn.on_load is not None:
        if conn.is_server and not conn.pings.allow(conn.clock.monotonic()):
            conn.abort(ConnectionClosed(f"{conn.peer}: too many requests for load reports"))
        else:
            conn.on_load(conn, bytes(body))


def lost(peer: object, error: Exception | None) -> ConnectionClosed:
    """Return what is told of a connection that ended, and not by this side's will."""
    return ConnectionClosed(f"connection to {peer} lost" + (f": {error}" if error else ""))


def _on_ping(conn: "Connection", flags: int) -> None:
    now = conn.clock.monotonic()
    if flags & ACK:
        conn.watchdog.keepalive.answered(now)
    elif not conn.pings.allow(now):
        conn.abort(ConnectionClosed(f"{conn.peer}: too many pings"))


def _on_reset(conn: "Connection", stream: Any, flags: int, body: bytes) -> None:
    try:
        code, message, details = read_reset(body)
    except ValueError as exc:
        code, message, details = Code.UNKNOWN, f"a malformed Reset: {exc}", {}
    if code == Code.OK and not conn.is_server:
        stream.on_stopped()
        return
    if code == Code.OK:
        code = Code.CANCELLED  # only a server may end a call that way; who serves it must stop
    refused = bool(flags & REFUSED)  # by this side
    if stream.see_error is not None and not refused:
        code, message, details = stream.see_error((code, message, details))
    unserved = bool(flags & UNSERVED)
    error = decode_error(code, message, details, conn.exception_types, unserved=unserved)
    error.remote = not refused
    stream.fail(error)
    if conn.is_server and not _was_due(conn, stream, code):
        if not conn.cancels.allow(conn.clock.monotonic()):
            _on_too_many_cancels(conn)
        if conn.cancels.is_low or conn.cancels.exceeded:
            pause(conn)


def _was_due(conn: "Connection", stream: Any, code: int) -> bool:
    """Whether a call ends at the deadline that its client gave it, as it would without a Reset."""
    left = stream.deadline - conn.clock.monotonic()
    return code == Code.DEADLINE_EXCEEDED and bool(left < _NEARLY)


def _on_too_many_cancels(conn: "Connection") -> None:
    """Serve nothing new of the client: a good one goes on elsewhere. Cut one that stays."""
    text = "too many cancelled calls"
    if conn.protocol.refuse_above == MAX_STREAM_ID:
        conn.go_away(final=True, message=text)
        conn.cancels.reset()
    else:
        conn.abort(ConnectionClosed(f"{conn.peer}: {text}"))


def _denial(text: str) -> Unauthenticated:
    return Unauthenticated(text, remote=True, unserved=True)


def _on_go_away(conn: "Connection", last_id: int, body: bytes) -> None:
    """Open nothing new; what lies above the last id was never served."""
    try:
        code, message = read_go_away(body)
    except ValueError as exc:
        code, message = Code.UNKNOWN, str(exc)
    conn.begin_drain()
    if code != Code.OK and conn.error is None:
        text = f"{conn.peer} refused the connection: {message}"
        denied = code == Code.UNAUTHENTICATED
        conn.error = _denial(text) if denied else ConnectionClosed(text)
        if conn.is_server or not denied:  # else the pool says so
            conn.log.warning("%s", conn.error)
    if not conn.is_server and last_id < MAX_STREAM_ID:
        for stream in [each for each in conn.streams.values() if each.id > last_id]:
            conn.protocol.drop_stream(stream)
            text = f"{conn.peer} closed before it served the call"
            stream.fail(Unavailable(text, remote=True, unserved=True))
    conn.changed()


# Seconds between two turns of a client that cancels much; and of one that was asked to leave for
# it, which may have many more calls open to cancel, but has none begun.
_PAUSE = 0.05
_PAUSE_AFTER = 0.005


def on_unfinished(conn: "Connection") -> None:
    """Watch over a frame that has begun to come, or take what is left in a later turn."""
    protocol = conn.protocol
    if not protocol.more:
        conn.watchdog.on_partial(protocol.partial)
    else:
        pause(conn)


def pause(conn: "Connection") -> None:
    """Let others have their turn; a client that cancels much has to wait for longer."""
    if conn.waits_for_turn or conn.closed:
        return
    conn.waits_for_turn = True
    conn.transport.pause_reading()
    loop = asyncio.get_running_loop()
    cancels = conn.cancels
    if cancels.exceeded or cancels.is_low:
        loop.call_later(_PAUSE_AFTER if cancels.exceeded else _PAUSE, _go_on, conn)
    else:
        loop.call_soon(_go_on, conn)


def _go_on(conn: "Connection") -> None:
    conn.waits_for_turn = False
    if conn.closed or conn.transport.is_closing():
        return
    if conn.protocol.more:
        conn.data_received(b"")
    if not (conn.waits_for_turn or conn.transport.is_closing()):
        conn.transport.resume_reading()


class Holding(asyncio.Protocol):
    """Stands in for a new connection at its transport; to be made in its `on_made`.

    Not even our Hello is sent, so a client that is turned away learns it while it dials.

    Args:
        conn: The connection.
    """

    def __init__(self, conn: "Connection") -> None:
        self._conn = conn
        self._early = b""  # uvloop begins to read when `connection_made` has returned
        conn.held = self
        conn.transport.set_protocol(self)
        conn.transport.pause_reading()

    def hand_to(self, protocol: asyncio.Protocol) -> None:
        """Let another protocol read in the place of the connection, which stays held."""
        transport = self._conn.transport
        transport.set_protocol(protocol)
        early, self._early = self._early, b""
        if early:
            protocol.data_received(early)
        transport.resume_reading()

    def release(self) -> None:
        """Let the connection say Hello, and read unless another protocol does."""
        conn = self._conn
        conn.held = None
        if not conn.closed:
            conn.protocol.flush()
            if conn.transport.get_protocol() is self:
                self.hand_to(conn)
            else:
                conn.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Keep what the transport had read already, and stop it."""
        self._early += data
        self._conn.transport.pause_reading()

    def pause_writing(self) -> None:
        """Tell the connection."""
        self._conn.pause_writing()

    def resume_writing(self) -> None:
        """Tell the connection."""
        self._conn.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the connection."""
        self._conn.connection_lost(exc)


_TURN = 64  # calls that are begun in one turn of the loop


def defer_when_full(conn: "Connection") -> None:
    """Begin no call of a connection, of a server, while its backlog is full."""
    conn.protocol.backlog.tell = partial(_Deferral, conn)  # few are ever needed


class _Deferral:
    """Takes the place of what begins calls, as long as the backlog of a connection is full.

    Args:
        conn: The connection.
        is_full: Whether it is.
    """

    def __init__(self, conn: "Connection", is_full: bool) -> None:
        self._conn = conn
        self._begin = conn.on_open
        self._waiting: deque[tuple[Any, int, bytes, bytes | memoryview]] = deque()
        self._backlog = conn.protocol.backlog
        self._backlog.tell = self._on_change
        self._on_change(is_full)

    def _on_change(self, is_full: bool) -> None:
        if is_full:
            self._conn.on_open = self._put
        else:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _put(self, stream: Any, flags: int, meta: bytes, body: bytes | memoryview) -> None:
        self._waiting.append((stream, flags, meta, body))

    def _go_on(self) -> None:
        """Begin what waits, in the order in which it came."""
        assert self._begin is not None
        for _ in range(_TURN):
            if not self._waiting or self._backlog.is_full:
                break
            stream, flags, meta, body = self._waiting.popleft()
            if stream.state != CLOSED:  # else its client has given it up meanwhile
                self._begin(stream, flags, meta, body)
        if self._backlog.is_full:
            return
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._go_on)
        else:
            self._conn.on_open = self._begin


_GRACE = 1.0  # seconds for a peer to take what is queued; one that is frozen would never


async def close_all(connections: Iterable[Connection], error: RapError) -> None:
    """Write what is queued, close, and return when all have ended.

    Args:
        connections: Which to close.
        error: Why a connection ends whose peer does not take what is left within a second.
    """
    left: dict[asyncio.Future[None], Connection] = {}
    for conn in connections:
        conn.begin_close()
        left[conn.ended] = conn
    if not left:
        return
    try:
        _, slow = await asyncio.wait(left, timeout=_GRACE)
    except asyncio.CancelledError:
        slow = set(left)
        raise
    finally:
        for closing in slow:
            left[closing].abort(error)
    if slow:
        await asyncio.wait(slow)
