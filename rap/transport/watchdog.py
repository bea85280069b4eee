"""The one timer of a connection: deadlines, keepalive, idle and old age, stalled peers.

A timer per call costs 2 us, a sweep over the open streams when the nearest deadline comes nearly
nothing. It is armed for whatever is due next, at most every 10 ms.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Any

from rap.clock import check_timeout
from rap.errors import Code, ConnectionClosed, DeadlineExceeded, ResourceExhausted
from rap.wire.frames import MAX_STREAM_ID
from rap.wire.stream import State

if TYPE_CHECKING:
    from rap.transport.connection import Connection

__all__ = ["Keepalive", "KeepaliveOptions", "Move", "Stalls", "Watchdog"]


_MOST_LEAST = 30.0  # seconds; a peer that could forbid pings could hide its death


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepaliveOptions:
    """When to ping.

    Args:
        idle: Seconds of silence before a ping when no call is open.
        busy: The same with calls open.
        timeout: Seconds an answer may take.
        failures: Pings in a row without an answer that end the connection.
    """

    idle: float = 30.0
    busy: float = 1.0
    timeout: float = 2.5
    failures: int = 2

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("idle", "busy", "timeout"):
            if check_timeout(f"keepalive {name}", getattr(self, name)) is None:
                raise ValueError(f"keepalive {name} must be a number of seconds, got None")
        failures = self.failures
        if isinstance(failures, bool) or not isinstance(failures, int) or failures < 1:
            raise ValueError(f"keepalive failures must be an integer from 1 on, got {failures!r}")


class Move(Enum):
    """What `check` wants done."""

    NOTHING = "nothing"
    PING = "ping"
    GIVE_UP = "give up"


class Keepalive:
    """State of the pings of one connection."""

    __slots__ = ("least", "missed", "options", "pinged_at", "round_trip", "silent_since")

    def __init__(self, options: KeepaliveOptions, now: float) -> None:
        self.options = options
        self.silent_since = now
        self.pinged_at: float | None = None
        self.missed = 0
        self.round_trip: float | None = None  # seconds, of the last answered ping
        self.least = 0.0  # seconds between two pings that the peer asks for

    def heed(self, milliseconds: object) -> None:
        """Send pings no faster than the peer's Hello says it takes; nonsense is not heeded."""
        if isinstance(milliseconds, int) and milliseconds > 0:
            self.least = min(milliseconds / 1000, _MOST_LEAST)

    def answered(self, now: float) -> None:
        """Take the answer to a ping."""
        if self.pinged_at is not None:
            self.round_trip = now - self.pinged_at
            self.pinged_at = None
        self.missed = 0

    def check(self, now: float, *, heard: bool, busy: bool) -> tuple[Move, float]:
        """Return what to do now, and when to ask again.

        Args:
            now: Seconds on the monotonic clock.
            heard: Whether the peer gave a sign of life since the last check.
            busy: Whether calls are open.
        """
        options = self.options
        if heard:
            self.silent_since = now
            self.pinged_at = None
            self.missed = 0
        if self.pinged_at is None:
            due = self.silent_since + max(options.busy if busy else options.idle, self.least)
            if now < due:
                return Move.NOTHING, due
        elif now < self.pinged_at + max(options.timeout, self.least):
            return Move.NOTHING, self.pinged_at + max(options.timeout, self.least)
        else:
            self.missed += 1
            if self.missed >= options.failures:
                return Move.GIVE_UP, now
        self.pinged_at = now
        return Move.PING, now + max(options.timeout, self.least)


class Stalls:
    """What the sweep saw waiting when it last looked.

    Noting the time of every message would burden the hot path; the sweep comes by about once a
    second, and sees whether the oldest message is still the same.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[Any, tuple[object, float]] = {}  # stream → oldest message, since when

    def look(self, streams: Iterable[Any], now: float) -> None:
        """Note which streams have messages that nobody has taken."""
        before = self._waiting
        self._waiting = {}
        for stream in streams:
            oldest = stream.inbox[0] if stream.inbox else None
            seen = before.get(stream)
            self._waiting[stream] = (
                seen if seen is not None and seen[0] is oldest else (oldest, now)
            )

    def longest_first(self) -> list[Any]:
        """Return the streams that wait, the one that has waited longest first."""
        return sorted(self._waiting, key=lambda stream: self._waiting[stream][1])


_LEAST_DELAY = 0.01
_LAST_OPEN = MAX_STREAM_ID - 2**24  # far more ids are left than one tick can use


class Watchdog:
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
        heard, conn.active = conn.active or self._progress_at == now, False
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
            conn.drain()  # the pool dials another before the ids run out
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
