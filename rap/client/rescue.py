"""When a call that waits in vain is made once more, while its first attempt stays open.

A server that is silent is suspected to be gone (`rap.transport.suspicion`), and the idempotent
calls that wait there are rescued: each is made on another server, too, and the first answer counts.
A call that is not answered within 40 % of its time gets such a late copy as well, for its handler
may hang on one server only.

Copies must not make an overload worse, which looks alike. So a copy goes only to a server that is
known to be alive, and only if the function usually takes at most half of the time that is left.
The copies of the calls that a suspicion finds are free, once for each server in ten seconds. All
others are taken from the retry budget.
"""

from collections import deque
from math import inf

from rap.errors import CallError, Code

__all__ = ["FREE_AGAIN", "LATE", "AttemptDoubted", "RescuePolicy"]

LATE = 0.4
"""Share of the time of a call after which it is late."""
FREE_AGAIN = 10.0
"""Seconds between two suspicions of a server that each give free copies."""
_SLOW = 0.25  # share of the timeout; a function that often takes more gets no late copies
_OFTEN = 0.1  # share of calls
_PAUSE = 0.025  # seconds between two samples
_KEPT = 32  # samples
_FEWEST = 5  # samples that say something
_MAX_AGE = 60.0  # seconds


class AttemptDoubted(CallError):
    """The answer of an attempt does not come. It goes on, unless `ended`; callers never see this.

    Args:
        message: The reason.
        is_late: It has been open for long; otherwise its server is suspected to be gone.
        free: The retry budget does not pay for a copy.
        ended: The attempt was given up.
    """

    code = Code.UNAVAILABLE

    def __init__(
        self, message: str, *, is_late: bool = False, free: bool = False, ended: bool = False
    ) -> None:
        super().__init__(message)
        self.is_late = is_late
        self.free = free
        self.ended = ended

    def leave_context_of(self, error: BaseException) -> None:
        """Let an error that was raised while this was handled not show it."""
        while error.__context__ is not None:
            if error.__context__ is self:
                error.__context__ = None
                return
            error = error.__context__


class RescuePolicy:
    """How long the calls of one idempotent function take, and whether it gets late copies.

    Times are in seconds on the monotonic clock. Only some calls are samples, so that others cost
    one comparison.

    Args:
        timeout: Of the calls of the function, in seconds; `None`: none.

    Attributes:
        sample_at: When the next call that ends is a sample.
    """

    __slots__ = ("_samples", "_slow", "sample_at")

    def __init__(self, timeout: float | None) -> None:
        self.sample_at = -inf
        self._slow = inf if timeout is None else timeout * _SLOW
        self._samples: deque[tuple[float, float]] = deque(maxlen=_KEPT)

    def add(self, seconds: float, now: float) -> None:
        """Add a call that has ended, or was waited for in vain, if it is time for a sample."""
        if now >= self.sample_at:
            self.sample_at = now + _PAUSE
            self._samples.append((now, seconds))

    def usual(self, now: float) -> float | None:
        """Return the median of the seconds that recent calls took; `None` if it is not known."""
        recent = sorted(self._recent(now))
        return recent[len(recent) // 2] if len(recent) >= _FEWEST else None

    def allows_late_copy(self, now: float) -> bool:
        """Whether few calls take more than a quarter of the timeout."""
        recent = self._recent(now)
        slow = sum(seconds > self._slow for seconds in recent)
        return len(recent) < _FEWEST or slow <= _OFTEN * len(recent)

    def _recent(self, now: float) -> list[float]:
        oldest = now - _MAX_AGE
        return [seconds for then, seconds in self._samples if then >= oldest]
