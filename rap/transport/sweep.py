"""The one timer of a connection: deadlines, keepalive, idle and old age, stalled peers.

A timer per call costs 2 us, a sweep over the open streams when the nearest deadline comes nearly
nothing. It is armed for whatever is due next, at most every 10 ms.
"""

import asyncio
from math import inf
from typing import TYPE_CHECKING

from rap.errors import Code, ConnectionClosed, DeadlineExceeded, ResourceExhausted
from rap.transport.keepalive import Keepalive, Move
from rap.transport.stalls import Stalls
from rap.wire.frames import MAX_STREAM_ID
from rap.wire.states import State

if TYPE_CHECKING:
    from rap.transport.connection import Connection

__all__ = ["Sweep"]

_LEAST_DELAY = 0.01
_LAST_OPEN = MAX_STREAM_ID - 2**24  # far more ids are left than one tick can use


class Sweep:
    """Looks after what time does to one connection.

    Args:
        conn: The connection.
        loop: Its event loop.
    """

    __slots__ = tuple(
        (
            "_active_at _buffered _conn _last_id _loop _made_at _partial _partial_at _progress_at "
            "_shut_at _stalls _starved_at _timer at busy keepalive max_age"
        ).split()
    )

    def __init__(self, conn: "Connection", loop: asyncio.AbstractEventLoop) -> None:
        now = conn.clock.monotonic()
        self.at = inf  # when the timer fires
        self.busy = False  # it fires soon, for calls were open when it was armed
        self.keepalive = Keepalive(conn.options.keepalive, now)
        self.max_age = conn.options.max_age  # of this connection: not all leave at the same time
        self._conn = conn
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._made_at = self._active_at = self._progress_at = now
        self._last_id = 0
        self._buffered = 0
        self._partial: object = None  # the beginning of a frame, and when it came
        self._partial_at = now
        self._shut_at: float | None = None  # when we closed; the transport may still be writing
        self._stalls = Stalls()
        self._starved_at: float | None = None

    def start(self) -> None:
        """Wait for the handshake."""
        self.watch(self._made_at + self._conn.options.handshake_timeout)

    def stop(self) -> None:
        """Stop the timer for good."""
        self.at = -inf
        if self._timer is not None:
            self._timer.cancel()

    def watch(self, when: float) -> None:
        """See to it that the timer fires at `when` or before."""
        if when < self.at:
            if self._timer is not None:
                self._timer.cancel()
            self.at = when
            delay = max(when - self._conn.clock.monotonic(), _LEAST_DELAY)
            self._timer = self._loop.call_later(delay, self.tick)

    def on_busy(self, deadline: float = inf) -> None:
        """A call was opened: look after the peer, and fire at the call's deadline."""
        self.busy = True
        now = self._conn.clock.monotonic()
        self.watch(min(deadline, now + self._conn.options.keepalive.busy))

    def on_paused(self) -> None:
        """The transport's buffer is full: watch whether the peer takes something."""
        self._progress_at = self._conn.clock.monotonic()
        self._buffered = self._conn.transport.get_write_buffer_size()
        self.watch(self._progress_at + self._conn.options.timeout)

    def on_partial(self, partial: object) -> None:
        """A frame has begun to come: watch whether the rest does."""
        if partial is not self._partial:
            self._partial = partial
            self._partial_at = self._conn.clock.monotonic()
            self.watch(self._partial_at + self._conn.options.timeout)

    def on_shut(self) -> None:
        """We close: watch whether the peer takes what is left."""
        if self._shut_at is None:
            self._shut_at = self._conn.clock.monotonic()
            self.watch(self._shut_at + self._conn.options.timeout)

    def tick(self) -> None:
        """Do what is due, and arm the timer for what is due next."""
        conn = self._conn
        if conn.closed:
            return
        self.at = inf
        now = conn.clock.monotonic()
        due = min(self._check_stall(now), self._check_life(now), self._expire(now))
        if not conn.closed:
            self.watch(min(due, self._check_starved(now), now + 3600.0))

    def _expire(self, now: float) -> float:
        """End streams whose deadline has passed; return the nearest one left.

        Also note whose messages nobody has taken: it is the one loop over all streams.
        """
        nearest = inf
        waiting = []
        for stream in list(self._conn.streams.values()):
            deadline = stream.deadline
            if deadline <= now:
                message = stream.deadline_text
                stream.fail(DeadlineExceeded(message))
                self._conn.reset(stream, Code.DEADLINE_EXCEEDED, message)
                continue
            if deadline < nearest:
                nearest = deadline
            if stream.held:
                waiting.append(stream)
        self._stalls.look(waiting, now)
        return nearest

    def _check_life(self, now: float) -> float:
        """Ping or cut a silent peer, leave an idle or old connection; return the next time."""
        conn, options = self._conn, self._conn.options
        heard, conn.heard = conn.heard or self._progress_at == now, False
        if conn.protocol.state is State.OPENING:
            limit = options.handshake_timeout
            if now - self._made_at >= limit:
                conn.abort(ConnectionClosed(f"{conn.peer} sent no Hello in {limit} s"))
            return self._made_at + limit
        busy = self.busy = bool(conn.streams)
        # A drain waits for the peer to leave, so one that is gone has to be noticed soon.
        move, due = self.keepalive.check(now, heard=heard, busy=busy or conn.draining)
        if move is Move.PING:
            conn.ping()
        elif move is Move.GIVE_UP:
            silence = options.keepalive.timeout * options.keepalive.failures
            text = f"{conn.peer} answered no ping for {silence} s"
            hint = "it is gone, or something blocks its event loop"
            conn.abort(ConnectionClosed(f"{text}: {hint}"))
        if conn.protocol.next_id > _LAST_OPEN:
            conn.leave()  # the pool dials another before the ids run out
        if busy or self._last_id != conn.protocol.last_id:
            self._last_id = conn.protocol.last_id
            self._active_at = now
        if conn.draining:
            return due
        leave_at = self._leave_at()
        if now >= leave_at:
            conn.go_away(message="maximum age" if busy else "idle or maximum age")
        return min(due, leave_at)

    def _leave_at(self) -> float:
        """When a server asks its client to leave: idle or old."""
        idle, age = self._conn.options.idle_timeout, self.max_age
        return min(
            inf if idle is None else self._active_at + idle,
            inf if age is None else self._made_at + age,
        )

    def _check_stall(self, now: float) -> float:
        """Cut a peer that neither takes what we wrote nor finishes the frame it began."""
        conn = self._conn
        timeout = conn.options.timeout
        due = inf
        if conn.paused:
            buffered = conn.transport.get_write_buffer_size()
            if buffered < self._buffered:
                self._progress_at = now
            self._buffered = buffered
            if now - self._progress_at >= timeout:
                conn.abort(ConnectionClosed(f"{conn.peer} took nothing we wrote for {timeout} s"))
            due = self._progress_at + timeout
        partial = conn.protocol.partial
        if partial is None or conn.protocol.more:
            self._partial = None
        else:
            self.on_partial(partial)
            due = min(due, self._partial_at + timeout)
            if now >= self._partial_at + timeout:
                text = f"{conn.peer} did not finish a frame in {timeout} s"
                conn.abort(ConnectionClosed(text))
        if self._shut_at is not None:
            due = min(due, self._shut_at + timeout)
            if now >= self._shut_at + timeout:
                conn.abort(ConnectionClosed(f"{conn.peer} did not take what was left"))
        return due

    def _check_starved(self, now: float) -> float:
        """Reset streams when readers that stall have kept all credit too long; return when next.

        The one that waited longest goes first, and no more than it takes to set credit free.
        """
        protocol = self._conn.protocol
        if not protocol.starved:
            self._starved_at = None
            return inf
        if self._starved_at is None:
            self._starved_at = now
        elif now - self._starved_at >= (patience := self._conn.options.stall_timeout):
            self._starved_at = now
            for stream in self._stalls.longest_first():
                message = f"nobody took {stream.held} bytes of this call for {patience:g} s"
                details = {"limit": "connection_window"}
                self._conn.reset(stream, Code.RESOURCE_EXHAUSTED, message, details)
                stream.inbox = ()  # they are what the memory is needed for
                stream.fail(ResourceExhausted(message, details=details))
                if not protocol.starved:
                    break
        return now + 1.0
