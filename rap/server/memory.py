"""The memory that a server holds for its clients, and what happens when it is too much.

Nothing is counted where a call is served. A connection says when it holds about an eighth more than
before, and is then measured, in the next turn of the event loop. A timer measures all connections
that have open calls, and so finds what very many of them hold that have little each.
"""

import asyncio
import logging
from collections.abc import Collection

from rap.clock import Pace
from rap.errors import ConnectionClosed
from rap.server.process_limits import memory_in_use, return_freed_memory
from rap.transport import Connection

__all__ = ["MemoryBudget"]

_MIB = 1024 * 1024
_STEP = _MIB  # bytes by which a connection grows until it is measured again, at least
_STREAMS = 256  # or open calls
_GROWTH = 8  # or one of so many parts of what it has
_RELIEF = 8  # one of so many parts of the budget is free after it was exceeded
_INTERVAL = 0.5  # seconds between two measurements of all connections
_TRIMMED = 8  # memory is returned to the system after growth by one of so many parts
_LOG_PAUSE = 10.0  # seconds between two log records about calls that were ended


class MemoryBudget:
    """Ends the calls of those clients for which the most memory is held, when it is too much.

    Args:
        most: Bytes that may be held for all clients together.
        connections: The open connections, which the owner keeps up to date.
        loop: The event loop of the server.
        log: Logger of the server.

    Attributes:
        most: Bytes that may be held for all clients together.
        refused: Number of calls that were ended.
    """

    def __init__(
        self,
        most: int,
        connections: Collection[Connection],
        loop: asyncio.AbstractEventLoop,
        log: logging.Logger,
    ) -> None:
        self.most = most
        self.refused = 0
        self._connections = connections
        self._loop = loop
        self._log = log
        self._held: dict[Connection, int] = {}  # bytes at the last measurement
        self._total = 0
        self._grown: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._used = memory_in_use()  # after memory was returned the last time
        self._log_pace = Pace(_LOG_PAUSE, loop.time)
        self._unlogged = 0  # calls that were ended since the last log record

    @property
    def held(self) -> int:
        """Bytes that are held for all clients, measured now."""
        self._measure_all()
        return self._total

    def watch(self, conn: Connection) -> None:
        """Begin to watch a new connection."""
        conn.tell_growth(_STEP, _STREAMS)
        if self._timer is None:
            self._timer = self._loop.call_later(_INTERVAL, self._look)

    def forget(self, conn: Connection) -> None:
        """Forget a connection that has ended."""
        self._total -= self._held.pop(conn, 0)
        self._grown.discard(conn)

    def note(self, conn: Connection) -> None:
        """Measure a connection in the next turn of the event loop."""
        if not self._grown:
            self._loop.call_soon(self._measure_grown)
        self._grown.add(conn)

    def close(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _measure_grown(self) -> None:
        for conn in self._grown:
            self._measure(conn)
        self._grown.clear()
        self._relieve()
        if self._total > self.most // _TRIMMED:
            self._trim()

    def _measure_all(self) -> None:
        for conn in self._connections:
            if conn.streams or conn in self._held or conn.protocol.partial is not None:
                self._measure(conn)

    def _measure(self, conn: Connection) -> None:
        if conn.closed:
            return
        held, calls = conn.memory(), len(conn.streams)
        self._total += held - self._held.pop(conn, 0)
        if held:
            self._held[conn] = held
        # Small steps when little is left; a call may have much more than those before it.
        room = max(_STEP, (self.most - self._total) // 4)
        step = max(_STEP, min(room, held // _GROWTH))
        conn.tell_growth(step, max(_STREAMS // 4, min(_STREAMS, calls * step // (held + 1))))

    def _look(self) -> None:
        self._timer = None
        if self._connections:
            self._timer = self._loop.call_later(_INTERVAL, self._look)
            self._measure_all()
            self._relieve()

    def _relieve(self) -> None:
        """End calls of the connection with the most, until an eighth of the budget is free."""
        if self._total <= self.most:
            return
        self._measure_all()
        if self._total <= self.most:
            return
        before, largest, ended = self._total, "", 0
        target = self.most - self.most // _RELIEF
        while self._total > target and self._held:
            conn = max(self._held, key=self._held.__getitem__)
            held = self._held[conn]
            largest = largest or f"{conn.peer} with {held // _MIB} MiB"
            ended += self._shed(conn, held, before, target)
        self.refused += ended
        self._unlogged += ended
        self._report(before, largest)

    def _trim(self) -> None:
        """Return memory to the system if the process has grown by a part of the budget.

        Large messages leave gaps behind in which the next one does not fit, so a process may have
        twice as much as it uses.
        """
        used = memory_in_use()
        if used > self._used + self.most // _TRIMMED:
            return_freed_memory()
            used = memory_in_use()
            self._used = used
        self._used = min(self._used, used)

    def _shed(self, conn: Connection, held: int, before: int, target: int) -> int:
        """End calls of a connection until it is no longer the largest; return how many."""
        second = max((each for key, each in self._held.items() if key is not conn), default=0)
        excess = min(self._total - target, max(held - second, _MIB))
        text = (
            f"the server holds {before // _MIB} MiB for its clients, max_memory is "
            f"{self.most // _MIB} MiB, and this connection has the most: {held // _MIB} MiB"
        )
        count, freed = conn.shed(excess, text)
        if not count:
            conn.abort(ConnectionClosed(text))  # what it holds is not in calls
            self.forget(conn)
            return 1
        self._held[conn] -= min(freed, held)
        self._total -= min(freed, held)
        return count

    def _report(self, before: int, largest: str) -> None:
        if not self._log_pace.allow():
            return
        text = "%d calls were ended: %d MiB were held for clients, max_memory is %d MiB; "
        text += "the most for %s"
        most = self.most // _MIB
        self._log.warning(text, self._unlogged, before // _MIB, most, largest)
        self._unlogged = 0
