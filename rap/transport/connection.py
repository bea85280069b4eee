"""The asyncio driver of one `WireProtocol` over one TCP, TLS or unix transport.

It is the `asyncio.Protocol` itself: no reader task, no queue. `data_received` decodes, hands each
frame to its stream and returns; it runs no user code. Writes gather until the loop's turn ends or
some 16 frames are there. One timer looks after deadlines, keepalive and stalls of all streams.
"""

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping
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
)
from rap.transport.allowance import Allowance
from rap.transport.binding import bound_peer, new_random
from rap.transport.holding import Holding
from rap.transport.options import ConnectionOptions
from rap.transport.peer import peer_of
from rap.transport.rare import lost, on_rare
from rap.transport.sweep import Sweep
from rap.transport.turns import on_unfinished
from rap.transport.writing import writelines_of
from rap.wire.frames import DATA, END, MAX_STREAM_ID, MESSAGE, OPEN
from rap.wire.protocol import WireProtocol
from rap.wire.sender import BULK
from rap.wire.states import REMOTE_END, State, StreamState, is_unsent

__all__ = ["Connection"]

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
        "_on_made _random _scheduled _writelines adopt cancels clock closed draining ended "
        "error exception_types handshake heard held holds is_server log new_future on_open "
        "on_load options paused peer pings protocol state streams sweep transport usable "
        "waits_for_turn".split()
    )

    adopt: Callable[[Any], object]  # on a server: takes a cancelled task that outlives its stream

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
        self.holds = 0  # sessions bound to it
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
        self.heard = False  # the peer gave a sign of life since the sweep last looked
        self.sweep = Sweep(self, self._loop)
        self.cancels = Allowance(options.max_cancels, clock.monotonic())
        self.pings = Allowance(options.max_pings, clock.monotonic())
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
        self.sweep.start()
        if self._on_made is not None:
            self._on_made(self)
        if self.held is None:
            self._flush()

    def data_received(self, data: bytes) -> None:
        """Decode a chunk and hand each frame to its stream."""
        self.heard = True
        protocol = self.protocol
        for kind, stream, flags, meta, body, size in protocol.receive_data(data):
            if kind == DATA:
                stream.on_data(flags, meta, body, size)  # type: ignore[union-attr]  # Data has a stream
            elif kind == OPEN:
                self.on_open(stream, flags, meta, body)  # type: ignore[misc]  # server only
            else:
                on_rare(self, kind, stream, flags, body)
        if self.streams and not self.sweep.busy:
            self.sweep.on_busy()
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
        self.protocol.hold()
        self.sweep.on_paused()

    def resume_writing(self) -> None:
        """Go on pumping."""
        self.paused = False
        self.protocol.hold(False)
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
        self.sweep.stop()
        why = self.error or exc or "the peer closed it"
        if self.error is None:
            self.error = lost(self.peer, exc)
        for stream in list(self.streams.values()):
            unsent = is_unsent(stream)
            stream.complete = bool(stream.state & REMOTE_END)
            self.protocol.forget(stream)
            stream.fail(Unavailable(str(self.error), unserved=unsent))
        self.protocol.out.clear()
        for waiter in (self._drain_waiter, self.handshake, self.ended):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        self.log.info("connection with %s ended: %s", self.peer, why)
        if self._on_lost is not None:
            self._on_lost(self)

    @property
    def round_trip(self) -> float | None:
        """Seconds the last answered ping took."""
        return self.sweep.keepalive.round_trip

    def open(self, stream: Any, flags: int, meta: bytes, body: bytes, now: float) -> None:
        """Open `stream` with its first message.

        Raises:
            Unavailable: The connection has ended; nothing was sent.
            ResourceExhausted: A limit of the peer forbids it; nothing was sent.
        """
        if self.closed:
            raise Unavailable(str(self.error), unserved=True)
        self.protocol.open_stream(stream, flags, meta, body)
        if not self.sweep.busy or stream.deadline < self.sweep.at:
            self.sweep.on_busy(stream.deadline)
        self._flush_soon()

    def open_unary(self, stream: Any, meta: bytes, body: bytes, now: float) -> None:
        """Open a unary call with its request; `open` for the most common case.

        Raises:
            Unavailable: The connection has ended; nothing was sent.
            ResourceExhausted: A limit of the peer forbids it; nothing was sent.
        """
        if not self.usable:
            self.open(stream, _REQUEST, meta, body, now)
            return
        self.protocol.open_unary(stream, meta, body)
        sweep = self.sweep
        if not sweep.busy or stream.deadline < sweep.at:
            sweep.on_busy(stream.deadline)

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

    async def drained(self) -> None:
        """Return when the transport takes writes again, or the connection has ended."""
        while self.paused and not self.closed:
            if self._drain_waiter is None:
                self._drain_waiter = self.new_future()
            await asyncio.shield(self._drain_waiter)

    async def shaken(self) -> None:
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

    def hold(self) -> None:
        """Keep the connection open through a drain until `release`: a session is bound to it."""
        self.holds += 1

    def release(self) -> None:
        """Undo one `hold`."""
        self.holds -= 1
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
        self.stop_opening()
        last_id = self.protocol.last_id if final else MAX_STREAM_ID
        self.protocol.go_away(last_id, code, message)
        self._flush_soon()

    def leave(self) -> None:
        """On a client: open nothing new; close when the last call and session have left."""
        self.stop_opening()
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
            self.stop_opening()
            self.transport.abort()

    def stop_opening(self) -> None:
        """Open nothing new: one of the two ends is about to leave."""
        self.draining = True
        self.usable = False

    def _shut(self, error: RapError) -> None:
        """Close when the transport has written what it was given, or could not in time."""
        if self.error is None:
            self.error = error
        self.stop_opening()
        self.sweep.on_shut()
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
            for stream in protocol.pump(BULK - protocol.bulk):
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
        if not (self.is_server or self.streams or self.holds or self.closed):
            self._shut(ConnectionClosed(f"{self.peer} is draining"))

    def greeted(self) -> None:
        """Take the peer's Hello, which the protocol has read."""
        self.peer = bound_peer(self, self._random)
        if not self.handshake.done():
            self.handshake.set_result(None)
        if self.protocol.peer_hello.get("draining"):
            self.stop_opening()
        self.log.info("connection with %s open", self.peer)
        self.changed()

    def changed(self) -> None:
        """Tell the owner that the peer's Hello or GoAway came."""
        if self._on_change is not None:
            self._on_change(self)


_BUILTIN_TYPES = ExceptionTypes()


def _no_streams(*_: object) -> StreamState:
    raise AssertionError("a client's peer opens no streams")
