"""The load of a node: calls in flight, multiplied by recent peak latency.

A load counts the start and the end of each call, so its methods are on the hot path of a client:
plain attributes, times as arguments, one method for success and one for all other ends.
"""

from collections.abc import Callable, Iterable
from math import exp, inf, sqrt
from typing import Any, Protocol

from rap.clock import Clock, SystemClock
from rap.errors import Verdict

__all__ = ["Load", "PeakEwma", "median_ewma"]

EPSILON = 1e-4
"""Seconds added to each latency. Smaller differences are noise of the two event loops, and calls in
flight must count even on a node that answers instantly."""
FAILURE_PENALTY = 5.0
MAX_PENALTY = 300.0
STALE_AFTER = 3.0
ALIKE = 3.0
"""Two nodes of different weights are about equally fast if their latencies differ by at most this
factor. Nodes of equal weights are if one takes at most twice as long as the other."""
STEP, AGAIN_STEP, FIRST_STEP = 1.05, 1.5, 2.0
"""By which factor an answer moves the usual latency of its node; the first ones, and those after a
second without any, move it more. While it is more than the middle one, too little is known."""
FAR = 16.0
"""An answer that takes so many times the usual latency is a peak."""
PEAK_LASTS = 2.0
"""A peak counts for so many times its duration, so that calls in vain take a third of the time of a
caller at most, and only until they have shown that the node is slow."""
GRAIN = 5e-3
"""Seconds between two reductions of an average. With a decay of seconds, one sample in a while is
as good as all of them, and `exp` is most of the cost of an answer."""


class Load(Protocol):
    """The load of one node. Times are seconds on the monotonic clock.

    Each `started` is followed by exactly one `finished` or `failed`.
    """

    in_flight: int
    """Number of calls that wait for an answer."""
    open_streams: int
    """Number of streams and channels, also before their first message.

    A stream may be silent for an hour, so it is not in flight, and keeps no calls away. New streams
    go where there are few of them.
    """

    def started(self, now: float) -> None:
        """Count a call that starts on the node."""
        ...

    def stream_started(self) -> None:
        """Count a stream that starts on the node."""
        ...

    def stream_ended(self) -> None:
        """Count the end of a stream."""
        ...

    def stream_answered(self, now: float) -> None:
        """Count the first answer of a stream as that of a call; `finished` or `failed` follows."""
        ...

    def finished(self, now: float, elapsed: float, ok: bool) -> None:
        """Count an answer.

        Args:
            now: When it came.
            elapsed: Seconds from the request to the answer, or to the first message of a stream.
            ok: Whether it is a result. An error shows that the node is alive, not that it is fast.
        """
        ...

    def failed(self, now: float, elapsed: float, verdict: Verdict, penalty: float | None) -> None:
        """Count a call that ended in any other way.

        Args:
            now: When it ended.
            elapsed: Seconds from the request to the end.
            verdict: The effect of the end on the health of the node.
            penalty: Latency in seconds that a FAILURE costs, such as the server's retry-after, at
                most 300; `None` for 5.
        """
        ...

    def value(self, now: float) -> float:
        """Return the cost of one more call on the node, above 0; lower is better."""
        ...

    def beats(self, other: Any) -> bool:
        """Whether one more call is better here than with another load; see `Compared`."""
        ...

    def resembles(self, other: Any) -> bool:
        """Whether the node of another load is about equally fast, as far as is known."""
        ...


class PeakEwma:
    """Load as latency times calls on the node.

    The latency is the usual one, a running median: each answer moves it by a twentieth. A slow
    answer counts at once for twice as long as it took, as in the peak EWMA of Finagle and tower. It
    counts for longer only if the next call is slow too, or one that a process of the machine has
    delayed would keep calls away for half a minute. There are more rules:

    - Only results lower the average, because a node that fails fast must not look fast
      (linkerd2-proxy). Before the first result, errors raise what is assumed.
    - What a failure costs is forgotten with the first result of a call that began after it. A
      single failure keeps calls away for the 3 s until the node is measured again, and no longer;
      a node that goes on failing is ejected (`rap.balance.outlier`, `rap.balance.comparison`).
    - While calls wait for longer than the average of peaks, the latency is at least the time since
      the last answer of the node, so the cost of a frozen node grows.
    - When a frozen node is heard again, that is forgotten, and the calls that it has kept waiting
      do not raise the average. Otherwise, it would get hardly any calls for a minute.
    - An idle node without a call for 3 s costs close to nothing, so that one call measures it again
      (go-zero, kratos).

    Args:
        decay: Seconds after which an old peak weighs 1/e.
        clock: Source of time where `value` is not told it.
        prove: Returns whether an idle node is known to be alive at a time. One that is not costs
            more than any other.

    Attributes:
        ewma: The average of peaks in seconds; valid if `measured`.
        median: The usual latency in seconds, a running median; 0 until the second result.
        measured: Whether there is a sample.
        prior: The latency in seconds until the first sample, at least that of an error. The median
            of the other nodes (`median_ewma`) gives a new node neither too many nor too few calls.
    """

    __slots__ = (
        "_before",
        "_decay",
        "_due",
        "_heard_at",
        "_monotonic",
        "_peak_at",
        "_peak_median",
        "_peak_until",
        "_penalty",
        "_picked",
        "_progress",
        "_prove",
        "_step",
        "_updated",
        "ewma",
        "in_flight",
        "measured",
        "median",
        "open_streams",
        "prior",
    )

    def __init__(
        self,
        decay: float = 10.0,
        *,
        clock: Clock | None = None,
        prove: Callable[[float], bool] | None = None,
    ) -> None:
        if not 0.0 < decay < inf:
            raise ValueError(f"decay must be more than 0 seconds and finite, got {decay!r}")
        self.in_flight = 0
        self.open_streams = 0
        self.ewma = 0.0
        self.measured = False
        self.prior = 0.0
        self.median = 0.0
        self._step = FIRST_STEP
        self._peak_until = 0.0  # until when `ewma` counts
        self._peak_at = 0.0  # when the last peak came
        self._peak_median = -1.0  # what `median` became then: it is the same until the next result
        self._monotonic = (clock or SystemClock()).monotonic
        self._decay = decay
        self._penalty = -1.0  # what `ewma` is while it is what a failure costs
        self._before = 0.0  # what it was before that
        self._prove = prove
        self._updated = 0.0
        self._due = 0.0  # when the next answer may lower the average
        self._progress = 0.0  # last answer, or start of the first call since the node was idle
        self._heard_at = -inf  # when it was heard again; calls from before say nothing
        self._picked = inf  # never; slow start decides when a new node gets its first call

    @property
    def usual(self) -> float:
        """The average in seconds without what the last failure costs; 0 before the first sample."""
        if not self.measured:
            return 0.0
        return self._before if self.ewma == self._penalty else self.ewma

    def reset(self) -> None:
        """Forget the latency: another process answers now."""
        self.ewma = self.median = 0.0
        self._step = FIRST_STEP
        self.measured = False
        self._penalty = -1.0
        self._peak_until = 0.0

    def end_silence(self, now: float, latency: float) -> None:
        """Forget the latency: the node was silent until now, and calls have waited for that reason.

        One call measures it as soon as none waits.

        Args:
            now: The time.
            latency: Seconds to assume until a call that begins from now on has a result.
        """
        self.reset()
        self.assume(latency)
        self._heard_at = now
        self._picked = -inf

    def assume(self, latency: float) -> None:
        """Assume a latency, in seconds, until one is measured; see `prior`."""
        self.prior = latency

    def stream_started(self) -> None:
        """Count a stream that starts on the node."""
        self.open_streams += 1

    def stream_answered(self, now: float) -> None:
        """Count the first answer of a stream as that of a call; `finished` or `failed` follows."""
        self.in_flight += 1
        self._picked = now

    def stream_ended(self) -> None:
        """Count the end of a stream."""
        self.open_streams -= 1

    def started(self, now: float) -> None:
        """Count a call that starts on the node."""
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
            if ok:
                usual = self.median
                self.median = usual / self._step if elapsed < usual else usual * self._step
                if now >= self._due:
                    self._due = now + GRAIN
                    if ewma == self._penalty:
                        self._forgive(now, elapsed)
                        return
                    if elapsed >= usual * FAR:
                        self._note_peak(now, elapsed)
                    elif now < self._peak_until:
                        self._peak_until = 0.0  # it was one slow call, not the node
                    updated = self._updated
                    if now - updated > 1.0:
                        self._step = AGAIN_STEP
                    elif self._step > STEP:
                        self._step = max(STEP, 1.0 + (self._step - 1.0) * 0.85)
                    if elapsed < usual and now - updated > STALE_AFTER:
                        self.median = sqrt(self.median * elapsed)  # what it was before says little
                    self.ewma = elapsed + (ewma - elapsed) * exp((updated - now) / self._decay)
                    self._updated = now
        elif now - elapsed < self._heard_at:
            pass
        elif ok or self.measured:  # unmeasured, `ewma` is 0: any result comes here, no error does
            if elapsed > ewma and self.measured:
                self._note_peak(now, elapsed)
            self.ewma = elapsed
            self._updated = now
            self.measured = True
        elif elapsed > self.prior:  # no result yet: it must not look faster than its errors come
            self.prior = elapsed

    def failed(self, now: float, elapsed: float, verdict: Verdict, penalty: float | None) -> None:
        """Count any end; a FAILURE costs its penalty, or its duration if that is longer."""
        if verdict is Verdict.SUCCESS or verdict is Verdict.ANSWERED:
            self.finished(now, elapsed, verdict is Verdict.SUCCESS)
            return
        self.in_flight -= 1
        if verdict is Verdict.FAILURE and now - elapsed >= self._heard_at:
            before = self.ewma if self.measured else self.prior
            latency = self._before if before == self._penalty else before
            self._before = latency = max(latency, min(elapsed, MAX_PENALTY))
            cost = min(FAILURE_PENALTY if penalty is None else penalty, MAX_PENALTY)
            self.ewma = max(cost, before, latency)
            self._penalty = self.ewma if self.ewma > latency else -1.0
            self._peak_until = now + PEAK_LASTS * latency if self._penalty < 0.0 else inf
            self._updated = now
            self.measured = True

    def _note_peak(self, now: float, elapsed: float) -> None:
        """Take an answer that came later than usual.

        A single one does not change what is usual by much. If the next call takes as long, the node
        has become slow.
        """
        usual = self.median
        if not usual:
            usual = self._first_median(elapsed)
        elif elapsed < usual * FAR:
            usual = max(usual, min(usual * STEP, elapsed))
        else:
            is_again = usual == self._peak_median and now - elapsed >= self._peak_at
            usual *= 2.0 if is_again else STEP
            self._peak_median = usual
            self._peak_at = now
            self._peak_until = now + PEAK_LASTS * elapsed
        self.median = usual

    def _first_median(self, elapsed: float) -> float:
        """Return the usual latency from two results, and that of the other nodes if it is known.

        Two say little. The geometric mean lets neither chance nor a peak count for much.
        """
        first = elapsed if self.ewma == self._penalty else self.ewma
        usual = sqrt(first * elapsed)
        return sqrt(usual * self.prior) if self.prior else usual

    def _forgive(self, now: float, elapsed: float) -> None:
        """Forget what the last failure has cost, unless this result is of an earlier call."""
        if now - elapsed >= self._updated:
            self.ewma = max(self._before, elapsed)
            self._penalty = -1.0
            self._peak_until = 0.0
            self._updated = now

    def refused(self, now: float, elapsed: float, pause: float) -> None:
        """Count a refusal by an overloaded node; it costs the seconds for which it wants no calls.

        Unlike a failure, it is a sign of life.
        """
        self.failed(now, elapsed, Verdict.FAILURE, pause)
        self._progress = now

    def value(self, now: float | None = None) -> float:
        """Return latency times calls on the node, with one more call; by default as of now."""
        if now is None:
            now = self._monotonic()
        latency = self.median
        if not latency or now < self._peak_until:
            latency = self.ewma if self.measured else self.prior
        waiting = self.in_flight
        if waiting:
            stall = now - self._progress
            if stall > latency and stall > self.ewma:
                latency = stall
        elif now - self._picked > STALE_AFTER:
            latency = 0.0 if self._prove is None or self._prove(now) else MAX_PENALTY
        return (latency + EPSILON) * (waiting + 1)

    def beats(self, other: "PeakEwma") -> bool:
        """Whether one more call is better here than on another node, of the same weight.

        Of nodes that are about equally fast, it is the one with fewer calls, then the one that was
        picked longer ago. Else those that are a little slower would get none of the calls that come
        one at a time, and nodes that are equal would get what chance has measured last.
        """
        now = self._monotonic()
        # Both latencies as in `value`, which would take two more calls and another look at the time
        one = self.median
        if now < self._peak_until or not one:
            one = self.ewma if self.measured else self.prior
        calls = self.in_flight
        if calls:
            stall = now - self._progress
            if stall > one and stall > self.ewma:
                one = stall
        elif now - self._picked > STALE_AFTER:
            one = 0.0 if self._prove is None or self._prove(now) else MAX_PENALTY
        two = other.median
        if now < other._peak_until or not two:
            two = other.ewma if other.measured else other.prior
        other_calls = other.in_flight
        if other_calls:
            stall = now - other._progress
            if stall > two and stall > other.ewma:
                two = stall
        elif now - other._picked > STALE_AFTER:
            two = 0.0 if other._prove is None or other._prove(now) else MAX_PENALTY
        if (one <= two + two + EPSILON and two <= one + one + EPSILON) or self._is_unknown(
            other, now
        ):
            if calls == other_calls:
                picked = self._picked
                return picked <= other._picked < inf or picked == inf  # inf: it never was
            return calls < other_calls
        return (one + EPSILON) * (calls + 1) <= (two + EPSILON) * (other_calls + 1)

    def resembles(self, other: "PeakEwma") -> bool:
        """Whether the other node is about equally fast, as far as is known."""
        now = self._monotonic()
        cost, other_cost = self.value(now), other.value(now)
        one = cost * (other.in_flight + 1)
        two = other_cost * (self.in_flight + 1)
        return (
            (one <= ALIKE * two and two <= ALIKE * one)
            or cost <= EPSILON  # its latency is not known, or no longer
            or other_cost <= EPSILON
            or self._is_unknown(other, now)
        )

    def _is_unknown(self, other: "PeakEwma", now: float) -> bool:
        """Whether few results say too little to compare the latencies of two idle nodes."""
        if self._step <= AGAIN_STEP and other._step <= AGAIN_STEP:
            return False
        return self._is_calm(now) and other._is_calm(now)

    def _is_calm(self, now: float) -> bool:
        """Whether it is idle, and neither a peak nor a pause decides on its cost."""
        return not (self.in_flight or now < self._peak_until or now - self._picked > STALE_AFTER)

    def answered_since(self, then: float) -> bool:
        """Whether the node has answered a call since a call in flight was started at `then`."""
        return self._progress > then

    def stall(self, now: float) -> float:
        """Return the seconds since the last answer if calls wait, else 0."""
        return now - self._progress if self.in_flight else 0.0

    def stale(self, now: float) -> bool:
        """Whether the node is idle and its last call started more than 3 s ago."""
        return not self.in_flight and now - self._picked > STALE_AFTER


def median_ewma(loads: Iterable[PeakEwma]) -> float:
    """Return the median of the measured latencies in seconds; 0 without any."""
    from statistics import median  # slow to import, and rarely needed

    known = [load.median or load.ewma for load in loads if load.measured]
    return median(known) if known else 0.0
