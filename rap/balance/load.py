"""How loaded a node is: calls in flight, alone or weighed with recent peak latency.

A load is told of the start and the end of every call, so these methods are the hot path of a
client: plain attributes, times as arguments, one method for the good end and one for the others.
"""

from collections.abc import Iterable
from math import exp, inf
from typing import Protocol

from rap.errors import Verdict

__all__ = ["Load", "PeakEwma", "PendingRequests", "median_ewma"]

EPSILON = 1e-4
"""Seconds added to every latency: differences below it are noise of the two event loops, and
with it calls in flight count on a node that answers in no time."""
FAILURE_PENALTY = 5.0
MAX_PENALTY = 300.0
STALE_AFTER = 3.0
GRAIN = 1e-3
"""Seconds between two steps down of an average: with a decay of seconds, looking at one answer in
a millisecond says as much as looking at all, and `exp` is most of the cost of an answer."""


class Load(Protocol):
    """Measure of one node. Times are seconds on the monotonic clock.

    Every `started` is followed by exactly one `finished` or `failed`.
    """

    in_flight: int
    """Calls that wait for their answer."""
    open_streams: int
    """Generators and channels that are past their first message; the owner counts them.

    They are load, but one that is silent for an hour is no sign of a node that hangs. So for
    load such a call is finished with its first message, and from then on counted here.
    """

    def started(self, now: float) -> None:
        """Count a call that was given to the node."""
        ...

    def finished(self, now: float, elapsed: float, ok: bool) -> None:
        """Count an answer.

        Args:
            now: When it came.
            elapsed: Seconds from the request to it; to the first message of a generator.
            ok: It is a result; an error shows that the node is alive, not that it is fast.
        """
        ...

    def failed(self, now: float, elapsed: float, verdict: Verdict, penalty: float | None) -> None:
        """Count a call that ended without an answer, or whose verdict has to be looked at.

        Args:
            now: When it ended.
            elapsed: Seconds from the request to the end.
            verdict: What the end says about the node.
            penalty: Seconds of latency that a FAILURE costs, such as the server's retry-after;
                `None` for 5. At most 300 count.
        """
        ...

    def value(self, now: float) -> float:
        """Return the cost of giving the node a call; more than 0, lower is better."""
        ...


class PendingRequests:
    """Load as the number of calls on the node.

    Latency does not count, so a node that fails fast attracts calls: use it with a `Breaker`.
    """

    __slots__ = ("in_flight", "open_streams")

    def __init__(self) -> None:
        self.in_flight = 0
        self.open_streams = 0

    def started(self, now: float) -> None:
        """Count a call that was given to the node."""
        self.in_flight += 1

    def finished(self, now: float, elapsed: float, ok: bool) -> None:
        """Count an answer."""
        self.in_flight -= 1

    def failed(self, now: float, elapsed: float, verdict: Verdict, penalty: float | None) -> None:
        """Count a call that ended without an answer."""
        self.in_flight -= 1

    def value(self, now: float) -> float:
        """Return the number of calls on the node if it got one more."""
        return self.in_flight + self.open_streams + 1.0


class PeakEwma:
    """Load as recent peak latency times calls on the node.

    A slow answer raises the average at once, faster ones lower it gradually, so a node in
    trouble is left before many calls have met it (Finagle's and tower's peak EWMA). Three
    rules keep it honest. Only results lower the average: a node that fails fast must not look
    fast (linkerd2-proxy). Silence counts: while calls wait, the time since the node's last
    answer stands in for a latency that is lower, so a node that froze costs more with every
    moment. And an idle node that got no call for 3 s costs next to nothing, so that one call
    finds out whether its old average still holds (go-zero, kratos).

    Args:
        decay: Seconds after which an old peak weighs 1/e.

    Attributes:
        ewma: Average in seconds; of use when `measured`.
        measured: Whether a call has told a latency yet.
        prior: Latency assumed until then, in seconds. Set to the median of the other nodes
            (`median_ewma`) it keeps a newcomer from being flooded or shunned.
    """

    __slots__ = (
        "_decay",
        "_due",
        "_picked",
        "_progress",
        "_updated",
        "ewma",
        "in_flight",
        "measured",
        "open_streams",
        "prior",
    )

    def __init__(self, decay: float = 10.0) -> None:
        if not 0.0 < decay < inf:
            raise ValueError(f"decay must be more than 0 seconds and finite, got {decay!r}")
        self.in_flight = 0
        self.open_streams = 0
        self.ewma = 0.0
        self.measured = False
        self.prior = 0.0
        self._decay = decay
        self._updated = 0.0
        self._due = 0.0  # when the next answer may lower the average
        self._progress = 0.0  # last answer, or start of the first call since the node was idle
        self._picked = inf  # never: slow start decides when a newcomer gets its first call

    def reset(self) -> None:
        """Forget the latency: another process answers now."""
        self.ewma = 0.0
        self.measured = False

    def assume(self, latency: float) -> None:
        """Assume a latency, in seconds, until one is measured; see `prior`."""
        self.prior = latency

    def stream_opened(self) -> None:
        """Count a stream that stays open after its first message."""
        self.open_streams += 1

    def stream_closed(self) -> None:
        """Count the end of such a stream."""
        self.open_streams -= 1

    def started(self, now: float) -> None:
        """Count a call that was given to the node."""
        if not self.in_flight:
            self._progress = now
        self.in_flight += 1
        self._picked = now

    def finished(self, now: float, elapsed: float, ok: bool) -> None:
        """Count an answer; an error (`ok` false) can only raise the average."""
        self.in_flight -= 1
        self._progress = now
        ewma = self.ewma
        if elapsed < ewma:
            if ok and now >= self._due:
                self._due = now + GRAIN
                self.ewma = elapsed + (ewma - elapsed) * exp((self._updated - now) / self._decay)
                self._updated = now
        elif ok or self.measured:  # unmeasured, `ewma` is 0: any result comes here, no error does
            self.ewma = elapsed
            self._updated = now
            self.measured = True

    def failed(self, now: float, elapsed: float, verdict: Verdict, penalty: float | None) -> None:
        """Count any end; a FAILURE costs its penalty, or its own duration if that is longer."""
        if verdict is Verdict.SUCCESS or verdict is Verdict.ANSWERED:
            self.finished(now, elapsed, verdict is Verdict.SUCCESS)
            return
        self.in_flight -= 1
        if verdict is Verdict.FAILURE:
            cost = min(max(elapsed, FAILURE_PENALTY if penalty is None else penalty), MAX_PENALTY)
            self.ewma = max(cost, self.ewma if self.measured else self.prior)
            self._updated = now
            self.measured = True

    def value(self, now: float) -> float:
        """Return latency times calls on the node, were it given one more."""
        latency = self.ewma if self.measured else self.prior
        waiting = self.in_flight
        if waiting:
            stall = now - self._progress
            if stall > latency:
                latency = stall
        elif now - self._picked > STALE_AFTER:
            latency = 0.0
        return (latency + EPSILON) * (waiting + self.open_streams + 1)

    def stale(self, now: float) -> bool:
        """Whether the node is idle and its last call began more than 3 s ago."""
        return not self.in_flight and now - self._picked > STALE_AFTER


def median_ewma(loads: Iterable[PeakEwma]) -> float:
    """Return the median average of the loads that are measured, in seconds; 0 without any."""
    from statistics import median  # slow to import, and rarely needed

    known = [load.ewma for load in loads if load.measured]
    return median(known) if known else 0.0
