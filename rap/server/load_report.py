"""Tells clients how loaded the server is: on request, and beside answers (PROTOCOL.md §3.8).

A client that wants the latter has its calls looked at; those of others cost nothing.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial

from rap.balance.latency import LatencyAt
from rap.call import StreamType
from rap.clock import Clock
from rap.errors import DeadlineExceeded
from rap.registry.base import LoadReport
from rap.server.connections import Ports
from rap.server.inbound_call import ServerStream
from rap.transport import Connection
from rap.wire.load_report import ServerLoad, load_frame

__all__ = ["Figures", "LoadTeller"]


class Figures:
    """Tells the load of one server; each time of the stretch since it was asked last.

    Args:
        ports: Where its connections and calls are.
        clock: Source of time.
        cpu: Seconds of processor that this process has used.
    """

    def __init__(
        self, ports: Ports, clock: Clock, *, cpu: Callable[[], float] = time.process_time
    ) -> None:
        self._ports = ports
        self._clock = clock
        self._cpu = cpu
        self._before = (clock.monotonic(), ports.calls, cpu())

    def __call__(self) -> LoadReport:
        """Return open calls, calls a second, share of one processor, and open connections."""
        then, calls_then, cpu_then = self._before
        now, calls, cpu = self._before = (self._clock.monotonic(), self._ports.calls, self._cpu())
        seconds = max(now - then, 1e-3)
        connections = self._ports.connections
        return {
            "in_flight": sum(len(conn.streams) for conn in connections),
            "rps": round((calls - calls_then) / seconds, 1),
            "util": round((cpu - cpu_then) / seconds, 3),
            "conns": len(connections),
        }


PAUSE = 0.1  # seconds between two reports to one client that it did not request
# Seconds for which figures stand, for each connection: to count the calls of one takes 50 ns, so
# that counting takes less than 1 % of the time however many ask. With 1,000 they are 10 ms old.
_SAME = 1e-5
_SAMPLE_PAUSE = 0.002  # seconds between two calls of which the latency is taken
_UTIL_PAUSE = 0.5  # seconds over which the use of the processor is taken, at least
_UNARY = StreamType.UNARY


class LoadTeller:
    """Knows the load of one server, and who wants to.

    Args:
        ports: Its connections.
        clock: Source of time.
        cpu: Seconds of processor that this process has used.
    """

    def __init__(
        self, ports: "Ports", clock: Clock, *, cpu: Callable[[], float] = time.process_time
    ) -> None:
        self.now = clock.monotonic
        self.sample_at = 0.0
        self._ports = ports
        self._cpu = cpu
        self._latency = LatencyAt()
        self._counted_at = self._told_at = -1.0
        self._in_flight = 0
        self._same = 0.0
        self._frame = b""
        self._util = 0.0
        self._util_from = (self.now(), cpu())

    def take(self, conn: Connection) -> None:
        """Report beside answers from now on, if the client's Hello asks for it."""
        asks = conn.protocol.peer_hello.get("load") is True
        if asks and not isinstance(getattr(conn.on_open, "__self__", None), _Asking):
            conn.on_open = _Asking(self, conn).on_open

    def tell(self, conn: Connection) -> None:
        """Send a report, unless the client takes nothing now."""
        if not (conn.closed or conn.paused):
            conn.protocol.send_load(self._frame_of(self.now()))

    def in_flight(self, now: float) -> int:
        """Return how many calls are open."""
        if now - self._counted_at >= self._same:
            connections = self._ports.connections
            self._same = len(connections) * _SAME
            self._counted_at = now
            self._in_flight = sum([len(conn.streams) for conn in connections])
        return self._in_flight

    def sample(self, began: float, others: int) -> None:
        """Take the latency of a call that was answered just now."""
        now = self.now()
        self._latency.add(now, others, now - began)

    def _frame_of(self, now: float) -> bytes:
        if now - self._told_at >= self._same:
            self._told_at = now
            in_flight = self.in_flight(now)
            latency = self._latency.at(in_flight, now)
            clients = len(self._ports.connections)
            self._frame = load_frame(
                ServerLoad(
                    in_flight,
                    None if latency is None else round(latency, 6),
                    self._use_of_processor(now),
                    self._ports.draining,
                    clients,
                )
            )
        return self._frame

    def _use_of_processor(self, now: float) -> float:
        then, used_then = self._util_from
        if now - then >= _UTIL_PAUSE:
            used = self._cpu()
            self._util = round((used - used_then) / (now - then), 3)
            self._util_from = (now, used)
        return self._util


class _Asking:
    """One connection whose client wants reports; stands before what begins its calls."""

    __slots__ = ("_begin", "_conn", "_due", "_teller")

    def __init__(self, teller: LoadTeller, conn: Connection) -> None:
        assert conn.on_open is not None
        self._teller = teller
        self._conn = conn
        self._begin = conn.on_open
        self._due = 0.0

    def on_open(
        self, stream: ServerStream, flags: int, meta: bytes, body: bytes | memoryview
    ) -> None:
        """Begin a call; look at its end if a sample or a report is due."""
        teller = self._teller
        began = teller.now()
        if began < teller.sample_at and began < self._due:
            self._begin(stream, flags, meta, body)
            return
        others = teller.in_flight(began) - 1  # it is in the count, with all that came along
        self._begin(stream, flags, meta, body)
        handler = getattr(stream, "handler", None)
        if handler is None or handler.stream_type is not _UNARY:
            self._tell(teller.now())
            return
        teller.sample_at = began + _SAMPLE_PAUSE
        ended = partial(self._on_end, stream, began, max(others, 0))
        if stream.task is None:
            ended()
        else:
            stream.task.add_done_callback(ended)

    def _on_end(
        self, stream: ServerStream, began: float, others: int, _: asyncio.Task[None] | None = None
    ) -> None:
        # A quick error must not make the server look fast; a call that was too late was slow.
        good = not stream.failed and stream.error is None
        if good or isinstance(stream.error, DeadlineExceeded):
            self._teller.sample(began, others)
        self._tell(self._teller.now())

    def _tell(self, now: float) -> None:
        if now >= self._due:
            self._due = now + PAUSE
            self._teller.tell(self._conn)
