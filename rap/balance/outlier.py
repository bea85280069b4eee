"""Outlier detection: a node that keeps failing is ejected for a while, then gets one probe call.

That calls fail in a row shows that a node cannot be reached or does not answer. Whether the errors
that it answers with are its fault is shown by `rap.balance.comparison`.

::

        5 failures in a row, too few successes, or far more failures than others
        CLOSED ────────────────────────────────────────────▶ OPEN ◀──────────┐
           ▲                                                  │              │
           │ the probe was answered             pause is over, a call taken  │ it failed
           │                                                  ▼              │
           └───────────────────────────────────────────── HALF_OPEN ─────────┘

The pause doubles each time, with jitter so that clients do not probe together (Finagle's failure
accrual). Ejection is limited, because a client cannot tell whether the nodes or the client itself
has a problem: only some nodes may be ejected at a time, and with too few nodes left, health is
ignored (gRPC A50; the panic threshold of Envoy).
"""

from collections import deque
from collections.abc import Callable
from enum import Enum
from math import inf
from random import Random

from rap.errors import Verdict
from rap.record import Record

__all__ = ["Breaker", "BreakerPolicy", "BreakerState", "ejection_limit", "is_panic"]

BUCKETS = 6
MAX_EJECTED = 0.1
PANIC_BELOW = 0.5


class BreakerState(Enum):
    """The state of a breaker."""

    CLOSED = "closed"  # admits all calls
    OPEN = "open"  # admits no call until the pause is over
    HALF_OPEN = "half_open"  # one call is in flight as a probe


class BreakerPolicy(Record, frozen=True, kw_only=True):
    """When a breaker opens, and for how long.

    Args:
        failures: Number of failures in a row that opens it.
        success_rate: It opens if the share of answered calls is below this, after `min_calls`.
        min_calls: Minimum number of calls in the window for `success_rate`.
        window: Seconds over which `success_rate` is measured.
        pause: Seconds of the first pause; the jitter takes up to half of it.
        max_pause: Maximum seconds of a pause.
    """

    failures: int = 5
    success_rate: float = 0.8
    min_calls: int = 5
    window: float = 30.0
    pause: float = 5.0
    max_pause: float = 300.0

    def __post_init__(self) -> None:
        _check(self.failures >= 1, "failures", self.failures, "at least 1")
        _check(0.0 <= self.success_rate <= 1.0, "success_rate", self.success_rate, "from 0 to 1")
        _check(self.min_calls >= 1, "min_calls", self.min_calls, "at least 1")
        _check(0.0 < self.window < inf, "window", self.window, "finite and more than 0 seconds")
        _check(0.0 < self.pause < inf, "pause", self.pause, "finite and more than 0 seconds")
        longest_fits = self.pause <= self.max_pause < inf
        _check(longest_fits, "max_pause", self.max_pause, f"finite and at least {self.pause:g}")


def _always() -> bool:
    return True


class Breaker:
    """The circuit breaker of one node. Times are seconds on the monotonic clock.

    Use `available` to select candidates, which changes nothing, then `allow` for the picked node.
    Only a call that is really made uses up the probe.

    Args:
        rng: Random numbers for the jitter of pauses; only `random` is used.
        policy: When it opens, and for how long; `None` for the defaults.
        may_open: Called before it opens. It returns false if enough other nodes are ejected; see
            `ejection_limit`. The breaker then stays closed and asks again at the next failure.

    Attributes:
        state: The state; read-only.
    """

    def __init__(
        self,
        rng: Random,
        policy: BreakerPolicy | None = None,
        may_open: Callable[[], bool] = _always,
    ) -> None:
        policy = policy or BreakerPolicy()
        self.state = BreakerState.CLOSED
        self._random = rng.random
        self._policy = policy
        self._may_open = may_open
        self._until = -inf  # end of the pause, or of the wait for a probe
        self._pause = policy.pause  # the next one
        self._forget_at = inf  # from then on the next pause is a first one again
        self._step = policy.window / BUCKETS
        self._buckets: deque[tuple[float, int, int]] = deque()  # end, answered, failed
        self._old_answered = self._old_failed = 0  # sums of the buckets
        self._answered = self._failed = 0  # in the present bucket
        self._in_row = 0
        self._turn_at = -inf  # end of the present bucket

    def available(self, now: float) -> bool:
        """Whether the node can take a call; this changes nothing."""
        # A half-open breaker becomes available again too: a probe that was lost, or is a channel
        # that lasts for hours, must not keep the node out.
        return self.state is BreakerState.CLOSED or now >= self._until

    def allow(self, now: float) -> bool:
        """Admit one call; after a pause, only the probe is admitted."""
        if self.state is BreakerState.CLOSED:
            return True
        if now < self._until:
            return False
        self.state = BreakerState.HALF_OPEN
        self._until = now + self._pause
        return True

    def succeeded(self, now: float) -> None:
        """Count a call that was answered; the fast path of `record`."""
        if now >= self._turn_at:
            self._turn(now)
        self._answered += 1
        self._in_row = 0

    def record(self, verdict: Verdict, now: float) -> None:
        """Count the end of a call, and change the state if necessary."""
        if verdict is Verdict.FAILURE:
            self._fail(now)
        elif verdict is not Verdict.IGNORED:
            self.succeeded(now)
        elif self.state is BreakerState.HALF_OPEN:
            self._until = now  # the probe had no result: the next call is one

    def eject(self, now: float) -> bool:
        """Open if it is closed and may open; return whether it did."""
        if self.state is not BreakerState.CLOSED or not self._may_open():
            return False
        self._open(now)
        return True

    def left(self, now: float) -> float:
        """Return the seconds until the pause is over; 0 if there is none."""
        return max(0.0, self._until - now) if self.state is BreakerState.OPEN else 0.0

    def _fail(self, now: float) -> None:
        if self.state is BreakerState.HALF_OPEN:
            self._open(now)
        elif self.state is BreakerState.CLOSED:
            if now >= self._turn_at:
                self._turn(now)
            self._failed += 1
            self._in_row += 1
            if self._is_unhealthy() and self._may_open():
                self._open(now)

    def _is_unhealthy(self) -> bool:
        policy = self._policy
        if self._in_row >= policy.failures:
            return True
        answered = self._old_answered + self._answered
        calls = answered + self._old_failed + self._failed
        return calls >= policy.min_calls and answered < policy.success_rate * calls

    def _open(self, now: float) -> None:
        if now >= self._forget_at:
            self._pause = self._policy.pause
        self._until = now + self._pause * (0.5 + 0.5 * self._random())
        self._pause = min(self._pause * 2.0, self._policy.max_pause)
        self._forget_at = inf
        self.state = BreakerState.OPEN
        self._turn_at = -inf  # sends `succeeded` to `_turn`: its fast path looks at no state

    def _turn(self, now: float) -> None:
        """Start a bucket of the window; if the breaker is not closed, process the answer."""
        if self.state is BreakerState.OPEN:
            return  # the answer of an earlier call
        if self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.CLOSED
            self._forget_at = now + self._policy.window
            self._buckets.clear()
            self._answered = self._failed = self._in_row = 0
        buckets = self._buckets
        if self._answered or self._failed:
            buckets.append((self._turn_at, self._answered, self._failed))
            self._answered = self._failed = 0
        self._turn_at = now + self._step
        oldest = self._turn_at + self._step - self._policy.window
        while buckets and buckets[0][0] < oldest:
            buckets.popleft()
        self._old_answered = sum(bucket[1] for bucket in buckets)
        self._old_failed = sum(bucket[2] for bucket in buckets)


def ejection_limit(total: int, share: float = MAX_EJECTED) -> int:
    """Return how many of `total` nodes may be ejected at a time: a share, at least one.

    With a share of 0, it is none.
    """
    return min(total, max(1, int(total * share))) if share else 0


def is_panic(available: int, total: int) -> bool:
    """Whether so few nodes are available that all nodes must be used."""
    return available < total * PANIC_BELOW


def _check(holds: bool, option: str, value: object, limit: str) -> None:
    if not holds:
        raise ValueError(f"{option} must be {limit}, got {value!r}")
