"""An event loop and calls in simulated time, for tests of the gate."""

from bisect import insort
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from rap.call import PRIORITIES
from rap.clock import NEVER
from rap.server.overload.gate import Gate, Line
from tests.fake_clock import FakeClock

__all__ = ["Conn", "SimulatedCall", "Simulation"]

_TURN = 2e-5  # seconds that a turn takes in which nothing happens
DEFAULT = PRIORITIES.index("default")


class Conn:
    """A connection."""


class SimulatedCall:
    """A call that takes some time of the loop when it runs."""

    def __init__(self, conn: Conn, deadline: float, seconds: float, priority: int) -> None:
        self.conn = conn
        self.deadline = deadline
        self.seconds = seconds
        self.priority = priority
        self.line: Line[Any] | None = None
        self.cancelled = False
        self.began: float | None = None
        self.ended: float | None = None
        self.refused: str | None = None

    def set_line(self, line: Line[Any] | None) -> None:
        self.line = line

    def cancel(self) -> None:
        """End the call, as a Reset does."""
        self.cancelled = True
        if self.line is not None:
            line, self.line = self.line, None
            line.remove(self)

    @property
    def succeeded(self) -> bool:
        return self.ended is not None and self.ended <= self.deadline


class Simulation:
    """A server whose loop runs callbacks in turns, and reads its sockets at the end of each.

    Args:
        eager: Handlers run when their call begins, as from Python 3.12 on.
        read_cost: Seconds that it takes to read one call.
        refuse_cost: Seconds that it takes to refuse one.
        waits: Seconds for which a handler waits before it works.
        is_on: Of the gate.
    """

    def __init__(
        self,
        *,
        eager: bool = False,
        waits: float = 0.0,
        read_cost: float = 0.0,
        refuse_cost: float = 0.0,
        is_on: bool = True,
    ) -> None:
        self.clock = FakeClock()
        self.began_at = self.now
        self.eager = eager
        self.waits = waits
        self.read_cost = read_cost
        self.refuse_cost = refuse_cost
        self.calls: list[SimulatedCall] = []
        self.turns = 0
        self.longest_turn = 0.0
        self._ready: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        # What arrives when, and timers.
        self.sockets: list[tuple[float, Callable[[], None]]] = []
        self.gate: Gate[SimulatedCall] = Gate(
            self._begin,
            self._refuse,
            self.clock,
            self,  # type: ignore[arg-type]  # the part of a loop that it needs
            is_on=is_on,
        )

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> None:
        self._ready.append((callback, args))

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        insort(self.sockets, (self.now + delay, callback), key=lambda each: each[0])

    @property
    def now(self) -> float:
        return self.clock.monotonic()

    def arrive(
        self,
        conn: Conn,
        timeout: float = NEVER,
        seconds: float = 0.0,
        *,
        priority: int = DEFAULT,
        count: int = 1,
        after: float = 0.0,
    ) -> list[SimulatedCall]:
        """Let calls arrive in a socket; return them. Their deadlines begin then."""
        at = self.now + after
        found = [SimulatedCall(conn, at + timeout, seconds, priority) for _ in range(count)]
        self.sockets.extend((at, lambda it=each: self._open(it)) for each in found)  # type: ignore[misc]
        self.calls += found
        return found

    def offer(
        self,
        conns: Iterable[Conn],
        rate: float,
        duration: float,
        timeout: float,
        seconds: float,
        *,
        priority: int = DEFAULT,
        begin: float = 0.0,
    ) -> list[SimulatedCall]:
        """Let calls arrive at a constant rate on some connections in turn; return them."""
        conns = list(conns)
        return [
            self.arrive(
                conns[n % len(conns)], timeout, seconds, priority=priority, after=begin + n / rate
            )[0]
            for n in range(round(rate * duration))
        ]

    def cancel_after(self, call: SimulatedCall, after: float) -> None:
        """Let a Reset arrive in the socket."""
        self.sockets.append((self.now + after, call.cancel))

    def turn(self) -> None:
        """Run what is ready, then read what had arrived by the begin of the turn."""
        self.clock.advance(_TURN)
        began = self.now
        due = [act for at, act in self.sockets if at <= began]
        self.sockets = [each for each in self.sockets if each[0] > began]
        for _ in range(len(self._ready)):
            callback, args = self._ready.popleft()
            callback(*args)
        for act in due:
            act()
        self.turns += 1
        self.longest_turn = max(self.longest_turn, self.now - began)

    def run(self) -> None:
        """Turn until nothing is left to do."""
        self.sockets.sort(key=lambda each: each[0])
        while self.is_busy:
            self.turn()
            assert self.turns < 1_000_000

    @property
    def is_busy(self) -> bool:
        """Whether something is left to do; waits until it is due."""
        if not self._ready and self.sockets:
            first = min(at for at, _ in self.sockets)
            self.clock.advance(max(0.0, first - self.now))
        return bool(self._ready or self.sockets)

    def outcome(self, calls: Iterable[SimulatedCall] | None = None) -> Counter[str]:
        """Return what became of calls, counted."""
        return Counter(map(_outcome, self.calls if calls is None else calls))

    def _open(self, call: SimulatedCall) -> None:
        self.clock.advance(self.read_cost)
        if call.cancelled or call.deadline <= self.now:
            return
        if self.now < self.gate.until and next(self.gate.room, False):
            self._begin(call, 0)
        elif not self.gate.hold(call, 0, call.priority, self.now):
            self._begin(call, 0)

    def _begin(self, call: SimulatedCall, flags: int) -> None:
        if self.eager:
            self._serve(call)
        else:
            self.call_soon(self._serve, call)

    def _serve(self, call: SimulatedCall) -> None:
        assert call.began is None, "it begins once"
        assert call.refused is None, "it was refused"
        if call.cancelled:
            return
        call.began = self.now
        if self.waits:
            self.call_later(self.waits, lambda: self.call_soon(self._work, call))
        else:
            self._work(call)

    def _work(self, call: SimulatedCall) -> None:
        self.clock.advance(call.seconds)
        call.ended = self.now

    def _refuse(self, call: SimulatedCall, priority: int, why: str, wait: float) -> None:
        assert call.refused is None, "it is refused once"
        assert call.began is None, "it has begun"
        assert priority == call.priority
        assert not call.cancelled
        self.clock.advance(self.refuse_cost)
        call.refused = why


def _outcome(call: SimulatedCall) -> str:
    if call.refused is not None:
        return call.refused
    if call.ended is not None:
        return "good" if call.succeeded else "late answer"
    return "cancelled" if call.cancelled else "lost"
