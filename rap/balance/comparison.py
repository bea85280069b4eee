"""Outlier detection by comparison: a node that fails far more calls than the others do.

A function that raises an error may be at fault itself, or its caller, or a database behind all
nodes. A node is at fault if its calls fail and those of the others do not. So nodes are compared
with each other, each function on its own, and each few seconds on their own: a function that fails
everywhere says nothing, nor does one that only one node is asked for, nor an outage before a node
was there.

This is the test of Cochran, Mantel and Haenszel. In each stratum (a function in five seconds) with
N calls, of which m failed, a node that was given n of the calls at random would have failed
n * m / N of them, with the variance of a hypergeometric distribution. The sums over all strata say
how far the node is from that, in standard deviations. Envoy's ``success_rate`` and gRPC's A50
compare the success rates of nodes with their mean and standard deviation; that needs at least five
nodes with a hundred calls each, and takes a bad function for a bad node.

A function is counted from its first failure on, until no call of it has failed for a minute, so
functions that do not fail cost nothing.
"""

from collections import Counter, deque
from collections.abc import Iterator
from math import sqrt
from typing import NamedTuple

from rap.record import Record

__all__ = ["Comparison", "ComparisonPolicy", "Finding", "Tally"]

_LOOK = 0.1  # seconds between two looks at one node, at least
_MAX_FUNCTIONS = 256  # that are counted at a time
_COMMON = 0.5  # share of the calls that fail at other nodes, from which on a function is at fault


class ComparisonPolicy(Record, frozen=True, kw_only=True):
    """When a node is an outlier.

    Args:
        failed: Minimum number of failed calls of the node.
        excess: By how much the share of its calls that fail has to exceed that of the others.
        certainty: How many standard deviations its failures have to be from those expected.
        window: Seconds over which calls are compared.
        slices: Number of parts of the window within which nodes are compared.
    """

    failed: int = 5
    excess: float = 0.1
    certainty: float = 5.0
    window: float = 60.0
    slices: int = 12


class Finding(NamedTuple):
    """Why a node is an outlier.

    Args:
        failed: How many calls of the compared functions failed there.
        calls: How many there were.
        others_failed: The same for the other nodes.
        others_calls: Likewise.
        function: The function of which most calls failed.
    """

    failed: int
    calls: int
    others_failed: int
    others_calls: int
    function: str

    def __str__(self) -> str:
        return (
            f"{self.failed} of {self.calls} calls failed, most of {self.function}; at other"
            f" servers {self.others_failed} of {self.others_calls}"
        )


class Tally:
    """Counts the calls of one function by node while some of them fail.

    Times are in seconds on the monotonic clock.

    Args:
        policy: Says for how long calls count.
    """

    __slots__ = ("_answered", "_failed", "_failed_at", "_past", "_policy", "_turn_at")

    def __init__(self, policy: ComparisonPolicy) -> None:
        self._policy = policy
        self._answered: Counter[str] = Counter()  # calls in the present slice, by node
        self._failed: Counter[str] = Counter()
        self._past: deque[tuple[float, Counter[str], Counter[str]]] = deque()  # end, the two
        self._turn_at = 0.0  # end of the present slice
        self._failed_at = 0.0

    def succeeded(self, node: str, now: float) -> bool:
        """Count a call that did not fail; return whether such calls still have to be counted."""
        if now >= self._turn_at:
            self._turn(now)
            if not self.is_needed(now):
                return False
        self._answered[node] += 1
        return True

    def failed(self, node: str, now: float) -> None:
        """Count a call that failed."""
        if now >= self._turn_at:
            self._turn(now)
        self._failed[node] += 1
        self._failed_at = now

    def is_needed(self, now: float) -> bool:
        """Whether a call has failed within the window."""
        return now < self._failed_at + self._policy.window

    def forget(self, node: str) -> None:
        """Drop what was counted for a node."""
        for answered, failed in self._slices():
            answered.pop(node, None)
            failed.pop(node, None)

    def strata(self, node: str) -> Iterator[tuple[int, int, int, int]]:
        """Yield for each slice calls and failures of a node, then of all nodes."""
        for answered, failed in self._slices():
            own = failed.get(node, 0)
            all_failed = failed.total()
            yield own + answered.get(node, 0), own, all_failed + answered.total(), all_failed

    def _slices(self) -> Iterator[tuple[Counter[str], Counter[str]]]:
        for _, answered, failed in self._past:
            yield answered, failed
        yield self._answered, self._failed

    def _turn(self, now: float) -> None:
        if self._answered or self._failed:
            self._past.append((self._turn_at, self._answered, self._failed))
            self._answered, self._failed = Counter(), Counter()
        step = self._policy.window / self._policy.slices
        self._turn_at = now + step
        oldest = self._turn_at + step - self._policy.window
        while self._past and self._past[0][0] < oldest:
            self._past.popleft()


class Comparison:
    """Compares the nodes of one service. Times are in seconds on the monotonic clock.

    Args:
        policy: When a node is an outlier; `None` for the defaults.
    """

    def __init__(self, policy: ComparisonPolicy | None = None) -> None:
        self._policy = policy or ComparisonPolicy()
        self._tallies: dict[str, Tally] = {}  # by function
        self._looked_at: dict[str, float] = {}  # by node

    def failed(self, function: str, node: str, now: float) -> Tally | None:
        """Count a call that failed.

        Returns:
            What counts the calls of the function that do not fail; `None` if too many functions
            are counted already.
        """
        tally = self._tallies.get(function)
        if tally is None:
            if len(self._tallies) >= _MAX_FUNCTIONS:
                self._drop_old(now)
                if len(self._tallies) >= _MAX_FUNCTIONS:
                    return None
            tally = self._tallies[function] = Tally(self._policy)
        tally.failed(node, now)
        return tally

    def find(self, node: str, now: float) -> Finding | None:
        """Return why a node is an outlier; `None` if it is none, or was looked at just now."""
        if now < self._looked_at.get(node, -1.0) + _LOOK:
            return None
        self._looked_at[node] = now
        self._drop_old(now)
        policy = self._policy
        above = variance = scale = 0.0
        calls = failed = all_calls = all_failed = most = 0
        worst = ""
        for function, tally in self._tallies.items():
            of_function = 0
            for n, a, total, m in tally.strata(node):
                if not 0 < n < total:
                    continue  # there is nothing to compare
                above += a - n * m / total
                variance += n * (total - n) * m * (total - m) / (total * total * (total - 1))
                scale += n * (total - n) / total
                calls += n
                failed += a
                all_calls += total
                all_failed += m
                of_function += a
            if of_function > most:
                most, worst = of_function, function
        if failed < policy.failed or above - 0.5 < policy.certainty * sqrt(variance):
            return None
        if above < policy.excess * scale:  # the difference of the shares (Mantel and Haenszel)
            return None
        return Finding(failed, calls, all_failed - failed, all_calls - calls, worst)

    def is_common(self, function: str, node: str) -> bool:
        """Whether a function fails at other nodes, too, in at least half of its calls there."""
        tally = self._tallies.get(function)
        calls = failed = 0
        for n, a, total, m in () if tally is None else tally.strata(node):
            calls += total - n
            failed += m - a
        return failed > 0 and failed >= _COMMON * calls

    def forget(self, node: str) -> None:
        """Drop what was counted for a node: it is ejected, or another process is there."""
        self._looked_at.pop(node, None)
        for tally in self._tallies.values():
            tally.forget(node)

    def _drop_old(self, now: float) -> None:
        """Drop the functions of which no call has failed for long."""
        if not all(tally.is_needed(now) for tally in self._tallies.values()):
            needed = {name: each for name, each in self._tallies.items() if each.is_needed(now)}
            self._tallies = needed
