"""The one timer of a connection: deadlines, keepalive, idle time and age, stalled peers.

A timer per call would cost 2 us. A scan of the open streams when the nearest deadline expires costs
next to nothing. The timer is set for the next event, and fires at most every 10 ms.
"""

import asyncio
from collections.abc import Iterable, Mapping
from enum import Enum
from math import inf
from typing import Any, NamedTuple, Protocol

from rap.address import Peer
from rap.clock import LEAST_DELAY, Clock, Timer, timer_of
from rap.errors import (
    Code,
    ConnectionClosed,
    DeadlineExceeded,
    PeerSilent,
    RapError,
    ResourceExhausted,
)
from rap.transport.options import ConnectionOptions, KeepaliveOptions
from rap.transport.suspicion import LOOK, Doubt, Suspicion
from rap.wire.frames import MAX_STREAM_ID, OPEN, UNSERVED
from rap.wire.protocol import WireProtocol
from rap.wire.stream import State, is_unsent

__all__ = ["Keepalive", "PingAction", "Stalls", "Watchdog", "Watched"]

_MAX_DELAY = 3600.0  # seconds
_LAST_OPEN = MAX_STREAM_ID - 2**24  # the ids above are more than one tick can use
_LATE = 0.02  # seconds by which the timer is late if something held the event loop
_OWN_PAUSE = 0.05  # seconds of lateness after which what has arrived meanwhile is read first
_READ_TIME = 0.05  # seconds that an answer gets to arrive after that
_FIRST_PIECE = 2048  # bytes of a message that have arrived when it may still wait for its turn
_STARVED_DELAY = 1.0  # seconds between two looks at a connection whose window is used up
# Seconds that a peer may ask for between two pings. If it could forbid pings, a dead peer would
# never be noticed.
_MAX_PING_INTERVAL = 30.0


class Watched(Protocol):
    """What a `Watchdog` needs of its connection."""

    @property
    def options(self) -> ConnectionOptions:
        """Its limits and times."""
        ...

    @property
    def clock(self) -> Clock:
        """Source of time."""
        ...

    @property
    def peer(self) -> Peer:
        """The other end, for error texts."""
        ...

    @property
    def protocol(self) -> WireProtocol[Any]:
        """Its protocol."""
        ...

    @property
    def transport(self) -> asyncio.Transport:
        """Its transport."""
        ...

    @property
    def streams(self) -> Mapping[int, Any]:
        """Open streams by id."""
        ...

    @property
    def opened(self) -> int:
        """Number of streams that the client has opened so far."""
        ...

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        ...

    @property
    def draining(self) -> bool:
        """Whether it takes no new calls."""
        ...

    @property
    def paused(self) -> bool:
        """Whether the transport's write buffer is full."""
        ...

    def take_activity(self) -> bool:
        """Return whether something was received since the last call."""
        ...

    def ping(self) -> None:
        """Send a Ping."""
        ...

    def tell_suspicion(self) -> None:
        """Tell the owner that the peer is suspected to be gone, or was heard again."""
        ...

    def reset(
        self,
        stream: Any,
        code: Code,
        message: str = "",
        details: Mapping[str, Any] | None = None,
        flags: int = 0,
    ) -> None:
        """End a stream in both directions."""
        ...

    def go_away(self, *, message: str = "") -> None:
        """Ask the peer to leave."""
        ...

    def dismiss(self, code: Code, message: str) -> None:
        """End the connection now, and tell the peer why."""
        ...

    def drain(self) -> None:
        """Open nothing new."""
        ...

    def abort(self, error: RapError) -> None:
        """End the connection now."""
        ...


class Watchdog:
    """Acts on a connection when time passes.

    Args:
        conn: The connection.
        loop: Its event loop.
        age_factor: What the maximum age of the options is multiplied by.
        suspicious: Whether to suspect a silent peer.

    Attributes:
        at: When the timer fires, in seconds on the monotonic clock.
        busy: The timer fires soon enough for a connection with open calls.
        keepalive: State of its pings.
        max_age: Seconds after which the peer is asked to leave; `None`: never.
        messages_cut: Calls that were ended because a message did not go on.
        suspicion: Whether the peer is suspected to be gone; `None`: it never is.
    """

    __slots__ = (
        "_active_at",
        "_asked_at",
        "_buffered",
        "_call_later",
        "_closing_at",
        "_conn",
        "_due_at",
        "_last_id",
        "_loop",
        "_made_at",
        "_partial",
        "_partial_at",
        "_progress_at",
        "_reading_first",
        "_stalls",
        "_starved_at",
        "_timer",
        "_unfinished",
        "_unsent",
        "at",
        "busy",
        "keepalive",
        "max_age",
        "messages_cut",
        "suspicion",
    )

    def __init__(
        self,
        conn: Watched,
        loop: asyncio.AbstractEventLoop,
        *,
        age_factor: float = 1.0,
        suspicious: bool = False,
    ) -> None:
        now = conn.clock.monotonic()
        max_age = conn.options.max_age
        self.at = inf
        self.busy = False
        self.keepalive = Keepalive(conn.options.keepalive, now)
        self.messages_cut = 0
        self.max_age = None if max_age is None else max_age * age_factor
        self.suspicion = Suspicion(now) if suspicious else None
        self._conn = conn
        self._loop = loop
        self._call_later = timer_of(conn.clock, loop)
        self._timer: Timer | None = None
        self._due_at = inf  # when the timer fires, on the clock of the loop
        self._reading_first = False  # the timer was late, and waits for the loop to read
        self._made_at = now
        self._active_at = now  # a call was open, or had been opened since the look before
        self._asked_at: float | None = None  # when the peer was asked to leave
        self._last_id = 0
        self._progress_at = now  # the peer read some of what the write buffer has
        self._buffered = 0
        self._unsent = 0  # bytes in the write buffer, when an answer to a ping was last missed
        self._partial: object = None  # a frame that has arrived in part, and since when
        self._partial_at = now
        self._closing_at: float | None = None  # the transport may still be writing
        self._stalls = Stalls()
        self._starved_at: float | None = None
        self._unfinished: Unfinished | None = None

    def start(self) -> None:
        """Wait for the handshake."""
        self.schedule(self._made_at + self._conn.options.handshake_timeout)

    def stop(self) -> None:
        """Stop the timer for good."""
        self.at = -inf
        if self._timer is not None:
            self._timer.cancel()

    def schedule(self, when: float) -> None:
        """Make sure that the timer fires at `when` or before."""
        if when < self.at:
            if self._timer is not None:
                self._timer.cancel()
            self.at = when
            delay = max(when - self._conn.clock.monotonic(), LEAST_DELAY)
            self._due_at = self._loop.time() + delay
            self._timer = self._call_later(delay, self.tick)

    def on_busy(self, deadline: float = inf) -> None:
        """Keep an eye on the peer, for a call was opened; and fire at the call's deadline."""
        conn, suspicion = self._conn, self.suspicion
        now = conn.clock.monotonic()
        if suspicion is None:
            look = conn.options.keepalive.busy
        else:
            look = LOOK
            if not self.busy and suspicion.begin(now, self.keepalive.min_interval):
                conn.ping()
        self.busy = True
        self.schedule(min(deadline, now + look))

    def probe(self) -> None:
        """Find out by a ping whether a peer is alive that was not heard lately."""
        conn, suspicion = self._conn, self.suspicion
        if suspicion is not None and conn.protocol.state is State.OPEN:
            now = conn.clock.monotonic()
            if suspicion.ask(now, self.keepalive.min_interval):
                conn.ping()
                self.schedule(now + LOOK)

    def on_answer(self) -> None:
        """Take the answer to a ping."""
        now = self._conn.clock.monotonic()
        self.keepalive.on_pong(now)
        if self.suspicion is not None and self.suspicion.on_answer(now):
            self._conn.tell_suspicion()

    def on_paused(self) -> None:
        """Check whether the peer reads: the write buffer is full."""
        self._progress_at = self._conn.clock.monotonic()
        self._buffered = self._conn.transport.get_write_buffer_size()
        self.schedule(self._progress_at + self._conn.options.timeout)

    def on_partial(self, partial: object) -> None:
        """Check whether the rest of a frame arrives."""
        if partial is not self._partial:
            self._partial = partial
            self._partial_at = self._conn.clock.monotonic()
            self.schedule(self._partial_at + self._conn.options.timeout)

    def on_closing(self) -> None:
        """Check whether the peer reads the rest: this side closes the connection."""
        if self._closing_at is None:
            self._closing_at = self._conn.clock.monotonic()
            self.schedule(self._closing_at + self._conn.options.timeout)

    def tick(self) -> None:
        """Do what is due, and set the timer for what is due next."""
        conn = self._conn
        if conn.closed:
            return
        now = conn.clock.monotonic()
        late = self._loop.time() - self._due_at
        if late > _LATE:
            if self.suspicion is not None:
                self.suspicion.postpone(late)
            if late > _OWN_PAUSE and not self._reading_first:
                self.keepalive.postpone(now)
                self._reading_first = True
                self.at = inf
                self.schedule(now)  # what has arrived meanwhile may not have been read
                return
        self._reading_first = False
        self.at = inf
        due = min(self._check_progress(now), self._check_life(now), self._expire(now))
        if not conn.closed:
            due = min(due, self._check_unfinished(now))
            self.schedule(min(due, self._check_starved(now), now + _MAX_DELAY))

    def _check_progress(self, now: float) -> float:
        """Cut a peer that does not read, or does not finish a frame; return the next time."""
        conn = self._conn
        timeout = conn.options.timeout
        due = inf
        if conn.paused:
            buffered = conn.transport.get_write_buffer_size()
            if buffered < self._buffered:
                self._progress_at = now
            self._buffered = buffered
            if now - self._progress_at >= timeout:
                conn.abort(ConnectionClosed(f"{conn.peer} read nothing for {timeout} s"))
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
        if self._closing_at is not None:
            due = min(due, self._closing_at + timeout)
            if now >= self._closing_at + timeout:
                text = f"{conn.peer} did not read the rest in {timeout} s"
                conn.abort(ConnectionClosed(text))
        return due

    def _check_life(self, now: float) -> float:
        """Ping or cut a silent peer, leave an idle or old connection; return the next time."""
        conn, options = self._conn, self._conn.options
        active = conn.take_activity() or self._progress_at == now
        if conn.protocol.state is State.OPENING:
            limit = options.handshake_timeout
            if now - self._made_at >= limit:
                conn.abort(ConnectionClosed(f"{conn.peer} sent no Hello in {limit} s"))
            return self._made_at + limit
        busy = self.busy = bool(conn.streams)
        doubted_at = inf
        suspicion = self.suspicion
        if suspicion is not None:
            doubted_at = self._look(suspicion, now, active, busy)
            self.busy = busy and not suspicion.is_patient
        # A drain waits for the peer to leave, so a dead peer has to be noticed soon.
        urgent = busy or conn.draining or (suspicion is not None and suspicion.suspected)
        action, due = self.keepalive.check(now, active=active, busy=urgent)
        due = min(due, doubted_at)
        if action is PingAction.PING:
            conn.ping()
        elif action is PingAction.CLOSE:
            silence = options.keepalive.timeout * options.keepalive.failures
            text = f"{conn.peer} answered no ping for {silence} s"
            hint = "it is gone, or something blocks its event loop"
            conn.abort(PeerSilent(f"{text}: {hint}"))
        if conn.protocol.next_id > _LAST_OPEN:
            conn.drain()  # the pool opens another connection before the ids run out
        if busy or self._last_id != conn.protocol.last_id:
            self._last_id = conn.protocol.last_id
            self._active_at = now
        if self._asked_at is None:
            leave_at = self._leave_at()
            if now < leave_at:
                return min(due, leave_at)
            self._asked_at = now
            if not conn.draining:  # otherwise it has been asked, or has asked this side
                conn.go_away(message="maximum age" if busy else "idle or maximum age")
        return min(due, self._check_asked(now, self._asked_at))

    def _check_asked(self, now: float, asked_at: float) -> float:
        """End a connection whose peer does not leave; return when that is due."""
        grace = self._conn.options.grace
        if grace is None:
            return inf
        if now >= asked_at + grace:
            text = f"the connection is idle or too old, and did not end within {grace:g} s"
            self._conn.dismiss(Code.UNAVAILABLE, text)
            return inf
        return asked_at + grace

    def _look(self, suspicion: Suspicion, now: float, active: bool, busy: bool) -> float:
        """Ask or suspect a silent peer; return when to look again."""
        conn = self._conn
        if suspicion.asked_at is not None and not active:
            # A ping waits behind what this side sends; a peer that reads that is alive.
            unsent, self._unsent = self._unsent, conn.transport.get_write_buffer_size()
            active = 0 < self._unsent < unsent
        doubt, due = suspicion.look(
            now,
            active=active,
            busy=busy,
            opened=conn.opened,
            least=self.keepalive.min_interval,
        )
        if doubt is Doubt.ASK:
            conn.ping()
            self._unsent = conn.transport.get_write_buffer_size()
        elif doubt is not Doubt.NONE:
            conn.tell_suspicion()
        return due

    def _leave_at(self) -> float:
        """Return when a server asks its client to leave: the connection is idle or old."""
        idle, age = self._conn.options.idle_timeout, self.max_age
        return min(
            inf if idle is None else self._active_at + idle,
            inf if age is None else self._made_at + age,
        )

    def _expire(self, now: float) -> float:
        """End streams whose deadline has passed, tell those that are late; return the next time.

        As it is the only loop over all streams, it also notes which have unread messages.
        """
        nearest = inf
        unread = []
        for stream in list(self._conn.streams.values()):
            deadline = stream.deadline
            if deadline <= now:
                message = stream.deadline_text
                stream.fail(DeadlineExceeded(message, unserved=is_unsent(stream)))
                self._conn.reset(stream, Code.DEADLINE_EXCEEDED, message)
                continue
            late_at = stream.late_at
            if late_at is not None and late_at < deadline:
                if late_at <= now:
                    stream.on_late()
                else:
                    deadline = late_at
            if deadline < nearest:
                nearest = deadline
            if stream.held:
                unread.append(stream)
        self._stalls.observe(unread, now)
        return nearest

    def _check_unfinished(self, now: float) -> float:
        """Reset streams whose message does not go on; return the next time."""
        protocol = self._conn.protocol
        if not protocol.unfinished:
            self._unfinished = None
            return inf
        if self._unfinished is None:
            self._unfinished = Unfinished(now)
        limit, rate = self._conn.options.message_timeout, self._conn.options.min_message_rate
        for stream, still in self._unfinished.observe(
            self._conn.streams.values(), now, limit, rate
        ):
            if protocol.starved:
                break  # the peer has no credit
            self.messages_cut += 1
            size, is_new = stream.parts_size, stream.parts_kind == OPEN
            message = f"a message broke off: no part came for {limit:g} s after {size} bytes"
            if still < limit:
                message = f"a message comes too slowly: {size} bytes so far, less than {rate:g}/s"
                message += f" for {limit:g} s, which is min_message_rate"
            details = {"limit": "message_timeout"}
            flags = UNSERVED if is_new else 0
            self._conn.reset(stream, Code.RESOURCE_EXHAUSTED, message, details, flags)
            stream.fail(ResourceExhausted(message, details=details, unserved=is_new))
        return now + _STARVED_DELAY

    def _check_starved(self, now: float) -> float:
        """Reset unread streams that hold the whole window for too long; return the next time.

        The one that has been unread the longest goes first. No more are reset than necessary.
        """
        protocol = self._conn.protocol
        if not protocol.starved:
            self._starved_at = None
            return inf
        if self._starved_at is None:
            self._starved_at = now
        elif now - self._starved_at >= (limit := self._conn.options.stall_timeout):
            self._starved_at = now
            for stream in self._stalls.longest_first():
                message = f"{stream.held} bytes of this call were not read for {limit:g} s"
                details = {"limit": "connection_window"}
                self._conn.reset(stream, Code.RESOURCE_EXHAUSTED, message, details)
                stream.clear_inbox()  # its messages are what the memory is needed for
                stream.fail(ResourceExhausted(message, details=details))
                if not protocol.starved:
                    break
        return now + _STARVED_DELAY


class PingAction(Enum):
    """What `Keepalive.check` asks for."""

    WAIT = "wait"
    PING = "ping"
    CLOSE = "close"


class Keepalive:
    """State of the pings of one connection.

    Args:
        options: When to ping.
        now: Seconds on the monotonic clock.

    Attributes:
        round_trip: Seconds that the last answered ping took; `None` before the first.
        min_interval: Seconds between two pings that the peer asks for.
        pinged_at: When the ping was sent whose answer is awaited.
        missed: Pings in a row without an answer.
    """

    __slots__ = (
        "_options",
        "_postponed",
        "_silent_since",
        "min_interval",
        "missed",
        "pinged_at",
        "round_trip",
    )

    def __init__(self, options: KeepaliveOptions, now: float) -> None:
        self.round_trip: float | None = None
        self.min_interval = 0.0
        self.pinged_at: float | None = None
        self.missed = 0
        self._options = options
        self._silent_since = now
        self._postponed = False  # the wait for the current answer has been prolonged

    def set_min_interval(self, milliseconds: object) -> None:
        """Ping no more often than the peer's Hello allows; an invalid value is ignored."""
        if isinstance(milliseconds, int) and milliseconds > 0:
            self.min_interval = min(milliseconds / 1000, _MAX_PING_INTERVAL)

    def on_pong(self, now: float) -> None:
        """Take the answer to a ping."""
        if self.pinged_at is not None:
            self.round_trip = now - self.pinged_at
            self.pinged_at = None
        self.missed = 0

    def postpone(self, now: float) -> None:
        """Wait a little longer for an answer, once, as this side did not run for a while."""
        if self.pinged_at is not None and not self._postponed:
            self._postponed = True
            self.pinged_at = max(self.pinged_at, now + _READ_TIME - self._patience())

    def check(self, now: float, *, active: bool, busy: bool) -> tuple[PingAction, float]:
        """Return what to do now, and when to check again.

        Args:
            now: Seconds on the monotonic clock.
            active: Whether anything was received since the last check.
            busy: Whether calls are open.
        """
        options = self._options
        if active:
            self._silent_since = now
            self.pinged_at = None
            self.missed = 0
        if self.pinged_at is None:
            pause = options.busy if busy else options.idle
            due = self._silent_since + max(pause, self.min_interval)
            if now < due:
                return PingAction.WAIT, due
        elif now < self.pinged_at + self._patience():
            return PingAction.WAIT, self.pinged_at + self._patience()
        else:
            self.missed += 1
            if self.missed >= options.failures:
                return PingAction.CLOSE, now
        self.pinged_at = now
        self._postponed = False
        return PingAction.PING, now + self._patience()

    def _patience(self) -> float:
        """Return the seconds to wait for the answer; another ping must not come too early."""
        options = self._options
        is_last = self.missed + 1 >= options.failures
        return options.timeout if is_last else max(options.timeout, self.min_interval)


class Stalls:
    """Since when streams have been unread.

    To note the time of every message would burden the hot path. The watchdog looks about once a
    second, and sees whether the oldest message is still the same.
    """

    __slots__ = ("_unread",)

    def __init__(self) -> None:
        self._unread: dict[Any, tuple[object, float]] = {}  # stream → oldest message, since when

    def observe(self, streams: Iterable[Any], now: float) -> None:
        """Note which streams have unread messages."""
        before = self._unread
        self._unread = {}
        for stream in streams:
            oldest = stream.inbox[0] if stream.inbox else None
            seen = before.get(stream)
            self._unread[stream] = seen if seen is not None and seen[0] is oldest else (oldest, now)

    def longest_first(self) -> list[Any]:
        """Return the unread streams, the one that has been unread the longest first."""
        return sorted(self._unread, key=lambda stream: self._unread[stream][1])


class _Part(NamedTuple):
    """A message that has arrived in part.

    Args:
        size: Its bytes so far.
        since: Since when it has not gone on, at the least pace.
        changed_at: When its last part was seen.
    """

    size: int
    since: float
    changed_at: float


class Unfinished:
    """Since when messages that have arrived in part have not gone on.

    A part takes as long as its bytes do at the least pace. So a message of which a byte comes each
    second does not go on, and one that comes in bursts does.

    Args:
        now: Seconds on the monotonic clock.
    """

    __slots__ = ("_progress_at", "_seen")

    def __init__(self, now: float) -> None:
        self._seen: dict[int, _Part] = {}  # by the id of the stream, which is not kept alive so
        self._progress_at = now

    def observe(
        self, streams: Iterable[Any], now: float, limit: float, rate: float
    ) -> list[tuple[Any, float]]:
        """Return the streams whose message has not gone on for `limit` seconds.

        If unread messages are before it, the reader on this side is slow, and not the peer. Of a
        message that waits for its turn, only the first piece has come (PROTOCOL.md §6.3): it has
        time for as long as others go on.

        Args:
            streams: All streams of the connection.
            now: Seconds on the monotonic clock.
            limit: Seconds.
            rate: Bytes per second that are the least pace; 0: each part is progress.

        Returns:
            The streams, each with the seconds since the last part of its message.
        """
        before, self._seen = self._seen, {}
        unfinished: list[Any] = []
        for stream in streams:
            if stream.parts is None:
                continue
            size, known = stream.parts_size, before.get(stream.id)
            if known is None or size < known.size or stream.held:
                part = _Part(size, now, now)
            elif size == known.size:
                part = known
            else:
                took = (size - known.size) / rate if rate else inf
                part = _Part(size, min(now, known.since + took), now)
            if part.since == now and (known is None or size != known.size):
                self._progress_at = now
            self._seen[stream.id] = part
            unfinished.append(stream)
        return [
            (stream, now - self._seen[stream.id].changed_at)
            for stream in unfinished
            if now - self._since(stream) >= limit
        ]

    def _since(self, stream: Any) -> float:
        size, since, _ = self._seen[stream.id]
        return max(since, self._progress_at) if size <= _FIRST_PIECE else since
