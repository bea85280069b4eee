"""How often a peer may do what costs it little and this side much: cancel calls, send pings.

The attacks are known from HTTP/2 as rapid reset (CVE-2023-44487) and ping flood (CVE-2019-9512).
"""

__all__ = ["Allowance"]

_AT_ONCE = 10  # times what is allowed in a second


class Allowance:
    """A bucket that each time takes one token from.

    Args:
        rate: Times a second that are allowed for ever; ten times as many are allowed at once.
        now: Seconds on the monotonic clock.

    Attributes:
        exceeded: Whether it ever was.
    """

    __slots__ = ("_at", "_left", "_most", "_rate", "exceeded")

    def __init__(self, rate: int, now: float) -> None:
        self._rate = rate
        self._most = self._left = float(_AT_ONCE * rate)
        self._at = now
        self.exceeded = False

    @property
    def is_low(self) -> bool:
        """Whether half of the bucket is used up."""
        return self._left < self._most / 2

    def exceeds(self, now: float) -> bool:
        """Count once more; return whether that is one too many, which then does not count."""
        self._left = min(self._most, self._left + (now - self._at) * self._rate) - 1.0
        self._at = now
        if self._left >= 0.0:
            return False
        self._left += 1.0
        self.exceeded = True
        return True

    def renew(self) -> None:
        """Allow as many at once as in the beginning; that it was exceeded is not forgotten."""
        self._left = self._most
