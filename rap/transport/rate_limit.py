"""Token buckets: how often a peer may do what costs it little and this side much.

Examples are cancelled calls and pings. The attacks are known from HTTP/2 as rapid reset
(CVE-2023-44487) and ping flood (CVE-2019-9512).
"""

__all__ = ["TokenBucket"]

_BURST = 10  # seconds of the rate that the bucket holds


class TokenBucket:
    """A token bucket that holds ten seconds of its rate, and is full at the start.

    Args:
        rate: Tokens added per second.
        now: Seconds on the monotonic clock.
    """

    __slots__ = ("_rate", "_size", "_tokens", "_updated")

    def __init__(self, rate: int, now: float) -> None:
        self._rate = rate
        self._size = self._tokens = float(_BURST * rate)
        self._updated = now

    @property
    def is_low(self) -> bool:
        """Whether less than half of the tokens are left."""
        return self._tokens < self._size / 2

    def allow(self, now: float) -> bool:
        """Take one token; return `False` if none is left."""
        self._tokens = min(self._size, self._tokens + (now - self._updated) * self._rate)
        self._updated = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return True
        return False

    def add(self, tokens: float) -> None:
        """Add tokens, up to the size of the bucket."""
        self._tokens = min(self._size, self._tokens + tokens)

    def reset(self) -> None:
        """Fill the bucket."""
        self._tokens = self._size
