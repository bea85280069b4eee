"""A pool of connections to one server, dialled in the background and again after a loss.

The backoff between dials is that of gRPC: 1 s, times 1.6 for each failure, at most 15 s, with a
jitter of 20 %. While calls wait for a server, it is at most half a second, and a dial that hangs is
accompanied by a new one every second: its packets may have been lost while the host was away, and
the kernel repeats them with growing pauses. A connection that ends within a second counts as a
failure too, if the one before did the same. A server that speaks no version of the protocol that
this client speaks is dialled every 15 s, and reported once.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from rap.clock import Clock, Pace, timeout_on
from rap.errors import ConnectionClosed, RapError, Unauthenticated, VersionMismatch
from rap.notify import Notify
from rap.tasks import start_task
from rap.transport import Connection
from rap.transport.connection import close_all

__all__ = ["NOT_DIALLED", "Counters", "Pool", "ServerDraining", "has_room"]

_log = logging.getLogger("rap.client")

NOT_DIALLED = "not dialled yet"
"""`Pool.error` before the first dial has ended."""
_FIRST_PAUSE = 1.0
_GROWTH = 1.6
_JITTER = 0.2
_MAX_PAUSE = 15.0
_HURRIED_PAUSE = 0.5  # while a call waits
_HANGING = 1.0  # seconds after which a dial is accompanied by another one, while a call waits
_HOLD = 10.0  # seconds without calls for a server that was silent twice within as many
_LOG_PAUSE = 60.0  # seconds between two warnings that a server still cannot be reached
_BRIEF = 1.0  # seconds; two connections in a row that end sooner count as failures


class ServerDraining(ConnectionClosed):
    """The server answered, but is draining. The pool soon dials it again."""


class Counters:
    """Counts of a cluster since its start; nodes that have left are included.

    Attributes:
        opened: Connections opened.
        failed: Connections that could not be opened.
        ejections: Times that a server was ejected for failing.
        outliers: Those of them where it failed far more calls than the other servers.
        suspicions: Times that a connection became suspect.
        messages_cut: Calls on connections that have ended which were given up because a message
            did not go on.
    """

    __slots__ = (
        "_overloaded",
        "_overloaded_until",
        "_overloaded_until_before",
        "ejections",
        "failed",
        "messages_cut",
        "opened",
        "outliers",
        "suspicions",
    )

    def __init__(self) -> None:
        self.opened = 0
        self.failed = 0
        self.ejections = 0
        self.outliers = 0
        self.suspicions = 0
        self.messages_cut = 0
        self._overloaded: str | None = None  # whose time is the latest
        self._overloaded_until = 0.0
        self._overloaded_until_before = 0.0  # the latest time of any other

    def count_opened(self) -> None:
        """Count a connection that was opened."""
        self.opened += 1

    def count_failed(self) -> None:
        """Count a connection that could not be opened."""
        self.failed += 1

    def count_suspicion(self) -> None:
        """Count a connection that became suspect."""
        self.suspicions += 1

    def count_cut(self, calls: int) -> None:
        """Count calls that were given up because a message did not go on."""
        self.messages_cut += calls

    def note_overload(self, until: float, key: str | None = None) -> None:
        """Note until when a server has asked for no more calls.

        Args:
            until: In seconds on the monotonic clock.
            key: Of the server; `None`: of a service behind the servers.
        """
        if key == self._overloaded:
            self._overloaded_until = max(self._overloaded_until, until)
        elif until > self._overloaded_until:
            self._overloaded_until_before = self._overloaded_until
            self._overloaded, self._overloaded_until = key, until
        else:
            self._overloaded_until_before = max(self._overloaded_until_before, until)

    def overloaded_until(self, but: str) -> float:
        """Return until when any server but one has asked for no more calls."""
        is_latest = but == self._overloaded
        return self._overloaded_until_before if is_latest else self._overloaded_until

    def count_ejection(self, *, is_outlier: bool = False) -> None:
        """Count a server that was ejected for failing, or for failing more than the others."""
        self.ejections += 1
        self.outliers += is_outlier


class Pool:
    """A pool of connections to one server.

    Args:
        name: Name of the server, for logs and errors.
        open_one: Dials one connection; raises a `RapError` when that fails.
        admit: Takes a connection that was dialled, and returns whether older ones lead to another
            process; raises a `RapError` if the connection is of no use.
        max_connections: How many may be open at once.
        clock: Source of time.
        rng: Source of jitter.
        on_change: Called when the set of usable connections may have changed.
        counters: Where dials are counted, with those of other pools.

    Attributes:
        conn: The connection that new calls take; `None` while there is none.
        error: Why the last dial failed, or the last connection ended.
        denial: Why the last dial found that the server does not serve this client, which no haste
            changes: it rejects it, or speaks no version of the protocol in common. Else `None`.
        failures: Number of dials that failed in a row.
        tried: Whether a dial has ended, in one way or the other.
        failed: Whether the last dial failed. It holds until one succeeds, also while a dial runs.
        draining: Whether the last dial found a server that drains.
        wanted: Whether one connection is to be kept open.
        suspect: Whether every connection that takes new calls is suspected to be dead.
        was_silent: Whether it has become suspect, and nothing has been made of that since.
        connections: All open connections.
    """

    def __init__(
        self,
        name: str,
        open_one: Callable[[], Awaitable[Connection]],
        admit: Callable[[Connection], bool],
        *,
        max_connections: int,
        clock: Clock,
        rng: random.Random,
        on_change: Callable[[], None],
        counters: Counters | None = None,
    ) -> None:
        self.conn: Connection | None = None
        self.error: str = NOT_DIALLED
        self.denial: Unauthenticated | VersionMismatch | None = None
        self.failures = 0
        self.tried = False
        self.failed = False
        self.draining = False
        self.wanted = False
        self.suspect = False
        self.was_silent = False
        self.counters = counters or Counters()
        self.connections: set[Connection] = set()
        self._name = name
        self._open_one = open_one
        self._admit = admit
        self._max_connections = max_connections
        self._clock = clock
        self._rng = rng
        self._on_change = on_change
        self._calls = 0  # on connections that have ended
        self._brief = 0  # connections in a row that ended as soon as they were open
        self._opened_at: dict[Connection, float] = {}
        self._dialling: asyncio.Task[None] | None = None
        self._silent_at = -_HOLD  # when all connections became suspect
        self._held_until = 0.0
        self._warned_at = -_HOLD
        self._is_leaving = False  # the server has asked to leave the last connection
        self._was_connected = False
        self._down_since: float | None = None  # when the first of the dials in a row failed
        self._log_pace = Pace(_LOG_PAUSE, clock.monotonic)
        self._is_redial = False  # that dial is for a connection in addition to suspect ones
        self._dial_began: float | None = None  # of a dial that is under way
        self._beside: asyncio.Task[None] | None = None  # accompanies it
        self._is_hurried = False  # a call waits, as far as is known
        self._news: Notify | None = None  # tells a pause between two dials of a change
        self._due = 0.0  # when the pause ends
        self._hurried_due = 0.0  # when it ends if a call waits

    @property
    def dialling(self) -> bool:
        """Whether a connection is being opened, or a pause before the next try runs."""
        return self._dialling is not None and not self._dialling.done()

    def describe(self) -> str:
        """Return why no connection takes a call: they are full, a dial runs, or the last error."""
        if self.full and not self.dialling:
            calls = sum(len(conn.streams) for conn in self.connections)
            return f"its {len(self.connections)} connections have {calls} calls open, all it takes"
        if self.suspect:
            silence = min((conn.silence for conn in self.connections), default=0.0)
            return f"it has sent nothing for {silence:.3g} s, and answers no ping"
        if self.is_held(self._clock.monotonic()):
            return f"it was silent twice within {_HOLD:g} s"
        if self._dial_began is None:
            return self.error
        seconds = self._clock.monotonic() - self._dial_began
        text = f"being dialled for {seconds:.3g} s"
        return text if self.error == NOT_DIALLED else f"{self.error}; {text}"

    def set_wanted(self, wanted: bool) -> None:
        """Set whether one connection is to be kept open."""
        self.wanted = wanted
        self.refresh()

    def refresh(self) -> None:
        """Choose the connection for new calls; dial one if none has room."""
        usable = [conn for conn in self.connections if conn.usable]
        heard = [conn for conn in usable if not conn.suspect]
        roomy = [conn for conn in heard or usable if has_room(conn)]
        self.conn = min(roomy, key=lambda conn: len(conn.streams), default=None)
        was_suspect, self.suspect = self.suspect, bool(usable) and not heard
        if self.suspect and not was_suspect:
            self._note_silence()
        may_dial = not heard or len(self.connections) < self._max_connections
        needs_one = self.conn is None or self.suspect
        if self._is_redial and self.dialling and not needs_one:
            self._stop_redial()
        if needs_one and self.wanted and may_dial and not self.dialling:
            self._is_redial = self.suspect
            self._dialling = start_task(self._dial(), name=f"rap dial {self._name}")

    @property
    def redialled(self) -> bool:
        """Whether a new connection has taken the place of those that are about to end."""
        return self.conn is not None and self.conn.usable

    def _stop_redial(self) -> None:
        """Stop the dial that was to replace a connection that was heard again."""
        self._is_redial = False
        self._end_dial()
        if self._dialling is not None:
            self._dialling.cancel()
            self._dialling.add_done_callback(lambda _: self.refresh())

    @property
    def incompatible(self) -> bool:
        """Whether the last dial found no version of the protocol in common."""
        return isinstance(self.denial, VersionMismatch)

    @property
    def full(self) -> bool:
        """Whether it is connected, but every connection has reached its limit of calls."""
        return self.conn is None and any(conn.usable for conn in self.connections)

    @property
    def has_room(self) -> bool:
        """Whether the connection that new calls take has room for one more."""
        return self.conn is not None and has_room(self.conn)

    @property
    def room(self) -> int:
        """How many calls its connections take now."""
        return sum(
            max(0, conn.peer_limits.max_streams - len(conn.streams))
            for conn in self.connections
            if conn.usable
        )

    @property
    def calls(self) -> int:
        """How many attempts of calls its connections were given so far."""
        return self._calls + sum(conn.opened for conn in self.connections)

    def reset_backoff(self) -> None:
        """Dial at once if a pause runs, with the shortest pause after that: the server is up."""
        self.failures = self._brief = 0
        self.failed = False
        self._end_pause_at(0.0)

    def hurry(self) -> None:
        """Dial soon, also while another dial hangs: a call waits for a server."""
        self._is_hurried = True
        if self._hurried_due < self._due:
            self._end_pause_at(self._hurried_due)
        if self._dial_began is not None and self._beside is None:
            self._beside = start_task(self._dial_beside(), name=f"rap dial {self._name} again")

    def _end_pause_at(self, due: float) -> None:
        self._due = due
        if self.dialling:
            self._notify().notify()

    def on_connection(self, conn: Connection) -> None:
        """React to a Hello, a GoAway or the end of a connection."""
        if conn not in self.connections:
            return  # it is being opened, and `_dial` sees to it
        if conn.closed:
            self.connections.discard(conn)
            self._note_end(self._opened_at.pop(conn))
            self._calls += conn.opened
            self.counters.count_cut(conn.messages_cut)
            self.error = str(conn.error)
        elif conn is self.conn and conn.draining:
            self._is_leaving = True
        self.refresh()
        self._on_change()

    def is_held(self, now: float) -> bool:
        """Whether it is to get no calls although it is heard: it was silent twice lately.

        Args:
            now: Seconds on the monotonic clock.
        """
        return now < self._held_until

    def _note_silence(self) -> None:
        """Note that all connections are suspect, which they were not before."""
        self.was_silent = True
        now = self._clock.monotonic()
        if now < self._silent_at + _HOLD:
            self._held_until = now + _HOLD
        self._silent_at = now

    def take_silence(self) -> bool:
        """Return once, after it was suspect, whether it was heard again."""
        heard_again = self.was_silent and not self.suspect and self.conn is not None
        if heard_again:
            self.was_silent = False
        return heard_again

    def on_suspicion(self, conn: Connection) -> None:
        """React to a connection that is suspect from now on, or no longer."""
        if conn not in self.connections:
            return
        if conn.suspect:
            self.counters.count_suspicion()
            now = self._clock.monotonic()
            level = logging.INFO if now < self._warned_at + _HOLD else logging.WARNING
            self._warned_at = now
            text = "%s is suspect: it has sent nothing for %.2g s, with %d calls open"
            _log.log(level, text, self._name, conn.silence, len(conn.streams))
            for other in self.connections:
                if other is not conn:  # it may be the process that is frozen
                    other.probe()
        else:
            _log.info("%s was heard again", self._name)
            self.failures, self.failed = 0, False
        self.refresh()
        self._on_change()

    def drain(self) -> None:
        """Give no new calls to the open connections; each closes when its last call has ended."""
        for conn in list(self.connections):
            conn.drain()
        self.refresh()

    async def close(self) -> None:
        """Close every connection; calls on them fail."""
        self.wanted = False
        tasks = [task for task in (self._dialling, self._beside) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await close_all(self.connections, ConnectionClosed("the client was closed"))

    def abort(self) -> None:
        """End every connection now, and the dial under way."""
        self.wanted = False
        for task in (self._dialling, self._beside):
            if task is not None:
                task.cancel()
        for conn in list(self.connections):
            conn.abort(ConnectionClosed("the client was closed"))

    async def _dial(self) -> None:
        """Try until there is a connection, or none is wanted."""
        if self._brief > 1:  # or a server that hangs up at once would be dialled without a pause
            self.failures = self._brief - 1
            self._plan_pause()
            await self._pause()
        while self.wanted:
            try:
                self._dial_began = self._clock.monotonic()
                if self._is_hurried:
                    self.hurry()
                conn = await self._open_one()
                self._end_dial()
                if self._admit(conn):
                    self.drain()
            except (RapError, OSError, ValueError) as exc:  # ValueError: a bad host name
                self._end_dial()
                self.failures += 1
                self._note_failure(exc)
                self.draining = isinstance(exc, ServerDraining)
                if self.draining:
                    self.failures = 1
                self._plan_pause()
                self.refresh()  # a call may have ended meanwhile
                self._on_change()
            else:
                self._dialling = None
                self._add(conn)
                return
            await self._pause()

    async def _dial_beside(self) -> None:
        """While a dial hangs, try again and again meanwhile; the first that succeeds counts."""
        assert self._dial_began is not None
        await self._clock.sleep(self._dial_began + _HANGING - self._clock.monotonic())
        while True:
            try:
                async with timeout_on(self._clock, _HANGING):
                    conn = await self._open_one()
                if self._admit(conn):
                    self.drain()
            except TimeoutError:
                continue
            except (RapError, OSError, ValueError) as exc:
                self._note_failure(exc)
                self._on_change()
                await self._clock.sleep(_HURRIED_PAUSE)
            else:
                self._beside = None
                if self._dialling is not None:
                    self._dialling.cancel()
                    self._dialling = None
                self._end_dial()
                self._add(conn)
                return

    def _end_dial(self) -> None:
        """Note that no dial is under way, and end what accompanied it."""
        self._dial_began = None
        self._is_hurried = False
        if self._beside is not None:
            self._beside.cancel()
            self._beside = None

    def _note_failure(self, error: Exception) -> None:
        """Note why a dial has failed."""
        text = self._explain(error)
        is_known = self.incompatible and self.error == text
        self.error = text
        self.denial = error if isinstance(error, Unauthenticated | VersionMismatch) else None
        self.tried = self.failed = True
        self.counters.count_failed()
        if is_known:
            _log.debug("%s", text)
        elif self.incompatible:
            _log.error("%s", text)
        else:
            self._tell_failure(
                text, is_planned=self._is_leaving or isinstance(error, ServerDraining)
            )

    def _explain(self, error: Exception) -> str:
        """Return why a dial has failed; a server that was connected has probably stopped."""
        text = str(error)
        has_stopped = " before its Hello" in text or isinstance(
            error.__cause__, ConnectionError | FileNotFoundError
        )
        if self._was_connected and has_stopped:
            return f"{text.partition('; ')[0]}; it was connected before, so it has probably stopped"
        return text

    def _tell_failure(self, text: str, *, is_planned: bool) -> None:
        """Log the first dial of several in a row that fails, and then a line a minute.

        A server that has asked its clients to leave is about to stop, so its first line is no
        warning.
        """
        now = self._clock.monotonic()
        if self._down_since is None:
            self._down_since = now
            self._log_pace.begin()
            if is_planned:
                _log.info("%s leaves, as it announced: %s", self._name, text)
            else:
                _log.warning("%s; it is dialled again and again", text)
        elif self._log_pace.allow():
            _log.warning("%s; for %.0f s now", text, now - self._down_since)
        else:
            _log.debug("%s", text)

    def _tell_success(self) -> None:
        """Log that a server can be reached again, if the log says that it cannot."""
        self._is_leaving, self._was_connected = False, True
        if self._down_since is not None:
            seconds = self._clock.monotonic() - self._down_since
            _log.info("%s can be reached again, after %.3g s", self._name, seconds)
            self._down_since = None

    def _add(self, conn: Connection) -> None:
        """Take a connection that was dialled into the pool."""
        self.failures = 0
        self.tried, self.failed = True, False
        self.counters.count_opened()
        self.denial = None
        self.draining = False
        for other in self.connections:
            conn.learn_answers(other)
        if self._is_redial:
            self._leave_suspects()
        self._tell_success()
        now = self._clock.monotonic()
        if conn.closed:
            self._note_end(now)
        else:
            self.connections.add(conn)
            self._opened_at[conn] = now
        self.refresh()
        self._on_change()

    def _leave_suspects(self) -> None:
        """Use a new connection instead of those that are silent: the server is alive."""
        self._is_redial = False
        for conn in list(self.connections):
            if conn.suspect:
                _log.info("%s answers on a new connection; the silent one is left", self._name)
                conn.drain()

    def _note_end(self, opened_at: float) -> None:
        """Count a connection that was open for a short time only."""
        brief = self._clock.monotonic() - opened_at < _BRIEF
        self._brief = self._brief + 1 if brief else 0
        self.failed = self._brief > 1

    def _notify(self) -> Notify:
        """Return what ends a pause; made when it is first needed, which few pools do."""
        if self._news is None:
            self._news = Notify(self._clock)
        return self._news

    def _plan_pause(self) -> None:
        """Choose when the next dial is due; `hurry` may shorten that before the pause begins."""
        pause = min(_FIRST_PAUSE * _GROWTH ** min(self.failures - 1, 20), _MAX_PAUSE)
        hurried = min(pause, _HURRIED_PAUSE)
        if self.incompatible:  # until another process is at the address
            pause = hurried = _MAX_PAUSE
        now, jitter = self._clock.monotonic(), self._rng.uniform(1.0 - _JITTER, 1.0 + _JITTER)
        self._due = now + pause * jitter
        self._hurried_due = now + hurried * jitter

    async def _pause(self) -> None:
        """Return when the next dial is due."""
        while (left := self._due - self._clock.monotonic()) > 0.0:
            await self._notify().wait(left)


def has_room(conn: Connection) -> bool:
    """Whether the server takes one more call on this connection."""
    return len(conn.streams) < conn.peer_limits.max_streams
