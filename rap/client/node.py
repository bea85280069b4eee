"""A node: one server with its connections, its load and its health, as a client sees it."""

import logging
import random
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from rap.balance import Breaker, BreakerPolicy, BreakerState, PeakEwma
from rap.balance.load import FAILURE_PENALTY, MAX_PENALTY
from rap.client.method import Method
from rap.client.pool import Pool, has_room
from rap.client.rescue import AttemptDoubted
from rap.client.retry import pushback
from rap.clock import LEAST_DELAY, Clock
from rap.errors import CallError, Code, DeadlineExceeded, ResourceExhausted, Verdict, verdict_of
from rap.registry.base import Endpoint, State
from rap.transport import Connection
from rap.wire.load_report import ServerLoad, read_load

if TYPE_CHECKING:
    from rap.balance import Comparison, Finding

__all__ = ["Node"]

_log = logging.getLogger("rap.client")

_CALM = 5.0  # seconds after an overload in which calls may still be late for it
_ASK_PAUSE = 0.2  # seconds between two requests for a report, at least


class Node:
    """One server; a `Candidate` for pickers.

    Times are in seconds on the monotonic clock.

    Args:
        endpoint: What the registry says about the server.
        pool: Connections to it.
        clock: Source of time.
        rng: Source of jitter.
        may_eject: Returns whether one more node may be ejected for failing.
        on_change: Called when the health of the node has changed.
        compared: Returns what compares it with the other nodes; `None`: nothing does.
        policy: When it is ejected; `None` for the defaults.

    Attributes:
        weight: Effective capacity, slow start applied.
        stats: Load, from the calls of this client.
        load: Returns the cost of giving it a call now; lower is better.
        breaker: Health, from the calls of this client.
        listed_as_draining: Whether the registry says that it drains, and not of a process that it
            has replaced.
        leaving: Whether the registry no longer lists it.
        since: When it was first usable; `None` before.
        keep_until: Until when it stays without a connection although the registry does not list it.
        report: Its last load report, if the picker or subsetting asked for one; `None` before.
        reported_at: When that report came.
        own_in_flight: How many of the calls that the report counts are this client's.
        avoid_until: Until when pickers that go by reports avoid it, because a call has failed.
        refused_until: Until when it asked for no more calls, because it is overloaded.
        finding: Why it was ejected in comparison with others, until it is up again; `None` if it
            was not.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        pool: Pool,
        *,
        clock: Clock,
        rng: random.Random,
        may_eject: Callable[[], bool],
        on_change: Callable[[], None],
        compared: "Callable[[], Comparison] | None" = None,
        policy: BreakerPolicy | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.key = endpoint.id
        self.incarnation = endpoint.incarnation
        self.pool = pool
        self.weight = float(endpoint.weight)
        self.listed_as_draining = self._is_listed_as_draining()
        self.leaving = False
        self.since: float | None = None
        self.keep_until = 0.0
        self.report: ServerLoad | None = None
        self.reported_at = 0.0
        self.own_in_flight = 0
        self.avoid_until = 0.0
        self.refused_until = 0.0
        self._former = ("", 0.0)  # see `remember`
        self._asked_at = -_ASK_PAUSE
        self.stats = PeakEwma(clock=clock, prove=self._prove)
        self.load = self.stats.value  # bound once: a pick calls it twice
        self._policy = policy
        self.breaker = Breaker(rng, policy, may_eject)
        self._rng = rng
        self._may_eject = may_eject
        self._now = clock.monotonic
        self._on_change = on_change
        self.finding: Finding | None = None
        self._compared = compared
        self._is_compared = False

    def __repr__(self) -> str:
        return f"Node({self.key!r}, {self.state})"

    @property
    def zone(self) -> str:
        """Name of its zone; empty if it is not known."""
        return self.endpoint.zone

    @property
    def alive(self) -> bool:
        """Whether one of its connections takes new calls."""
        return any(conn.usable for conn in self.pool.connections)

    @property
    def conn(self) -> Connection | None:
        """The connection that a new call takes; `None` while there is none."""
        return self.pool.conn

    @property
    def state(self) -> str:
        """Its state in one word: up, connecting, incompatible, draining, suspect or ejected."""
        if self.listed_as_draining or (
            any(conn.draining and not conn.closed for conn in self.pool.connections)
            and not self.pool.redialled
        ):
            return "draining"
        if not self.pool.connections:
            if self.pool.incompatible:
                return "incompatible"
            return "connecting" if self.pool.wanted else "suspect"
        now = self._now()
        if self.pool.suspect or self.pool.is_held(now):
            return "suspect"
        if not self.breaker.available(now):
            return "ejected"
        return "suspect" if self.leaving or self.endpoint.state is State.SUSPECT else "up"

    def describe(self) -> str:
        """Return its state, and what is to be said about it, without its id."""
        if self.state == "ejected" and self.finding is not None:
            return f"ejected: {self.finding}"
        reason = self.pool.describe().replace(f"cannot reach {self.key}: ", "cannot reach it: ", 1)
        return f"{self.state}: {reason}"

    @property
    def own_calls(self) -> int:
        """How many calls of this client wait for an answer of it; streams do not count."""
        return self.stats.in_flight

    @property
    def crowd(self) -> float:
        """How many streams of this client it would serve with one more, for its weight."""
        return (self.stats.open_streams + 1) / self.weight

    def takes_stream(self) -> bool:
        """Whether it takes one more stream now, and is not ejected."""
        conn = self.pool.conn
        return self.breaker.state is BreakerState.CLOSED and conn is not None and has_room(conn)

    def is_alive(self, now: float) -> bool:
        """Whether new calls find a connection that was heard lately, and owes no answer."""
        conn = self.pool.conn
        return conn is not None and conn.usable and conn.is_alive(now)

    def takes_copy(self, now: float, within: float, max_in_flight: int) -> bool:
        """Whether it is alive, answers calls, refuses none, and has room for one more.

        Args:
            now: Seconds on the monotonic clock.
            within: Seconds since its last answer that are too many while calls wait for it.
            max_in_flight: Calls that it may have.
        """
        stats = self.stats
        return (
            self.is_alive(now)
            and now >= self.refused_until
            and self.pool.has_room
            and stats.in_flight < max_in_flight
            and stats.stall(now) <= within
        )

    def probe(self) -> None:
        """Ask by a ping whether it is alive, unless it is known."""
        conn = self.pool.conn
        if conn is not None and conn.usable and not conn.is_alive(self._now()):
            conn.probe()

    def _prove(self, now: float) -> bool:
        """Return whether an idle node is known to be alive; if it is not, ask."""
        if self.is_alive(now):
            return True
        self.probe()
        return False

    def request_load_report(self) -> None:
        """Ask the server for a load report, unless that would be too often."""
        conn, now = self.pool.conn, self._now()
        if conn is None or not conn.usable:
            return
        # The server counts it as a ping, and real pings need some of the allowed rate.
        if now - self._asked_at >= max(_ASK_PAUSE, 2 * conn.min_ping_interval):
            self._asked_at = now
            conn.request_load_report()

    def take_report(self, conn: Connection, body: bytes) -> None:
        """Keep a load report of the server; one that cannot be read is ignored."""
        try:
            self.report = read_load(body)
        except ValueError:
            return
        self.reported_at = self._now()
        self.own_in_flight = self.own_calls

    def record_result(
        self,
        started: float,
        error: BaseException | None,
        method: Method | None = None,
        deadline: float = inf,
    ) -> None:
        """Account for an attempt that has ended.

        Args:
            started: When it started, in seconds on the monotonic clock.
            error: Why it failed; `None` if it succeeded.
            method: What was called, if the node was free to choose, so that it can be compared.
            deadline: By when the caller wanted an answer, likewise; inf: it waited long enough.
        """
        now = self._now()
        if error is None:
            self.stats.finished(now, now - started, True)
            self.breaker.succeeded(now)
            if method is not None and method.tally is not None:
                method.count_answer(self.key, now)
            return
        if isinstance(error, AttemptDoubted) and not error.ended:
            return  # the attempt goes on
        if isinstance(error, DeadlineExceeded):
            # While it is silent, it gets no calls anyway, and what it was before does not matter.
            says_nothing = self.pool.suspect and not error.remote
            says_nothing = says_nothing or deadline - started < self._least_patience()
        else:
            says_nothing = isinstance(error, AttemptDoubted)
        if says_nothing:
            self.stats.failed(now, now - started, Verdict.IGNORED, None)
            self.breaker.record(Verdict.IGNORED, now)
            return
        before = self.breaker.state
        health = self._count_failure(started, now, error)
        if isinstance(error, CallError) and method is not None:
            if self._is_comparable(method, error, now):
                health = self._compare(method, error, health, now)
            elif method.tally is not None and error.remote and not error.unserved:
                method.count_answer(self.key, now)
        self.breaker.record(health, now)
        if self.breaker.state is not before:
            if self.breaker.state is BreakerState.OPEN:
                self.pool.counters.count_ejection(is_outlier=self.finding is not None)
                self._log_ejection(error, now)
            self._on_change()

    def _least_patience(self) -> float:
        """Return how many seconds a caller has to wait at least for its deadline to tell anything.

        A deadline that a healthy node misses says nothing about the node. The timers that end calls
        have a grain of 10 ms. Half of the latency, because the average may have risen lately.
        """
        return max(LEAST_DELAY, self.stats.usual / 2)

    def _is_comparable(self, method: Method, error: CallError, now: float) -> bool:
        """Return whether an error counts where nodes are compared."""
        if error.unserved or not method.rules.is_fault(error):
            return False
        if error.code is Code.DEADLINE_EXCEEDED:
            return not self._others_refuse(now)
        return error.remote

    def _compare(self, method: Method, error: CallError, health: Verdict, now: float) -> Verdict:
        """Count a failed call where nodes are compared; return what it says about the health.

        That the node has answered is a sign of health, whatever it has answered, unless the other
        nodes answer the same calls.
        """
        if self._compared is None:
            return health
        comparison, breaker = self._compared(), self.breaker
        state, is_common = breaker.state, comparison.is_common(method.path, self.key)
        if state is BreakerState.CLOSED:
            self.finding, self._is_compared = None, True
            method.count_answers(comparison.failed(method.path, self.key, now))
            finding = comparison.find(self.key, now)
            if finding is not None and self._is_ill(finding, now) and breaker.eject(now):
                self.finding = finding
                comparison.forget(self.key)
                return Verdict.IGNORED
        elif state is BreakerState.HALF_OPEN and self.finding is not None:
            return Verdict.IGNORED if is_common else Verdict.FAILURE
        return Verdict.ANSWERED if error.remote or is_common else health

    def _is_ill(self, finding: "Finding", now: float) -> bool:
        """Return whether it is not just busy.

        One that refuses calls is busy, unless it answers none of those that it takes: if a function
        hangs there, the server refuses the calls that would have to wait for it.
        """
        return now >= self.refused_until + _CALM or finding.failed == finding.calls

    def _log_ejection(self, error: BaseException, now: float) -> None:
        why = f"its calls fail: {error}" if self.finding is None else str(self.finding)
        _log.warning("%s is ejected for %.1f s: %s", self.key, self.breaker.left(now), why)

    def avoid(self, seconds: float) -> None:
        """Note that it has refused a call, and wants no calls for some seconds."""
        until = self._now() + min(seconds, MAX_PENALTY)
        self.refused_until = max(self.refused_until, until)
        self.avoid_until = max(self.avoid_until, until)
        self.pool.counters.note_overload(until, self.key)

    def _count_failure(self, started: float, now: float, error: BaseException) -> Verdict:
        """Count a failed attempt in the load; return what it says about the health."""
        stats, elapsed, verdict = self.stats, now - started, verdict_of(error)
        told = pushback(error) if isinstance(error, CallError) else None
        pause = None if told is None or told < 0.0 else min(told, MAX_PENALTY)
        if isinstance(error, ResourceExhausted):
            if pause is not None:
                # It is alive. If it were ejected, the others would have even more to do.
                if error.unserved:
                    stats.refused(now, elapsed, pause)
                    self.avoid(pause)
                else:  # a service behind it is overloaded, or the caller has reached a limit
                    stats.failed(now, elapsed, Verdict.IGNORED, None)
                    self.pool.counters.note_overload(now + min(pause, _CALM))
                return Verdict.ANSWERED
            if not error.remote:
                verdict = Verdict.IGNORED  # a limit of this side; the server has not seen the call
        elif isinstance(error, DeadlineExceeded) and self._may_be_late(started, now):
            stats.failed(now, elapsed, Verdict.FAILURE, elapsed)  # this call was late
            return Verdict.IGNORED
        stats.failed(now, elapsed, verdict, pause)
        if verdict is Verdict.FAILURE:
            self.avoid_until = max(
                self.avoid_until, now + (FAILURE_PENALTY if pause is None else pause)
            )
        return verdict

    def _may_be_late(self, started: float, now: float) -> bool:
        """Return whether a call can be late on a healthy node.

        It can if the node has answered others meanwhile, and while others refuse calls. A silent
        node is suspect.
        """
        return self.stats.answered_since(started) or self._others_refuse(now)

    def _others_refuse(self, now: float) -> bool:
        """Return whether another server of the service, or one behind it, has too many calls.

        Where one refuses calls, or has a moment ago, the others may be about to: they are not ill.
        """
        return now < self.pool.counters.overloaded_until(but=self.key) + _CALM

    def record_overtaken(self, started: float) -> None:
        """Account for an attempt that is cancelled because another one was answered first.

        It counts as latency, and says nothing about the health of the node.

        Args:
            started: When it started, in seconds on the monotonic clock.
        """
        now = self._now()
        waited = now - started
        self.stats.failed(now, waited, Verdict.FAILURE, waited)  # costs its duration and no more
        self.breaker.record(Verdict.IGNORED, now)

    def cancel_probe(self, now: float) -> None:
        """Let the next call probe an ejected node: the one it was picked for is not made."""
        self.breaker.record(Verdict.IGNORED, now)

    def update(self, endpoint: Endpoint) -> bool:
        """Take what the registry says now; return whether another process is at the address."""
        known = ("", self.incarnation, self.endpoint.incarnation)
        self.endpoint = endpoint
        self.leaving = False
        self.weight = float(endpoint.weight)
        if endpoint.incarnation in known:  # a process may be replaced before the registry knows
            self.listed_as_draining = self._is_listed_as_draining()
            return False
        self.reset(endpoint.incarnation)
        return True

    def leave(self) -> None:
        """Note that the registry no longer has it."""
        self.leaving = True
        self.keep_until = 0.0

    def keep(self, until: float) -> None:
        """Stay without a connection until a time, in seconds on the monotonic clock."""
        self.keep_until = until

    def join(self, now: float) -> None:
        """Note that it is usable for the first time, or again after it had left the registry."""
        incarnation, since = self._former
        is_known = bool(incarnation) and incarnation == self.incarnation
        self.since = since if is_known else now

    def remember(self, incarnation: str, since: float) -> None:
        """Note which process was at the address: if it is still there, it does not start slowly.

        Args:
            incarnation: Of the process.
            since: When it was first usable.
        """
        self._former = (incarnation, since)

    def set_weight(self, weight: float) -> None:
        """Set the effective capacity."""
        self.weight = weight

    def on_hello(self, incarnation: object) -> bool:
        """Take what a new connection says; return whether another process is there than before."""
        if not isinstance(incarnation, str) or incarnation == self.incarnation:
            return False
        if not self.incarnation:
            self.incarnation = incarnation
            self.listed_as_draining = self._is_listed_as_draining()
            return False
        self.reset(incarnation)
        return True

    def reset(self, incarnation: str) -> None:
        """Forget what was measured: another process is at the address now."""
        self.incarnation = incarnation
        self.listed_as_draining = self._is_listed_as_draining()
        self.stats.reset()
        self.breaker = Breaker(self._rng, self._policy, self._may_eject)
        self.finding = None
        if self._is_compared and self._compared is not None:
            self._compared().forget(self.key)
        self.since = None
        self.report = None
        self.avoid_until = self.refused_until = 0.0

    def _is_listed_as_draining(self) -> bool:
        endpoint = self.endpoint
        return endpoint.state is State.DRAINING and endpoint.incarnation in ("", self.incarnation)
