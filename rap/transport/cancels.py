"""How often a client cancels: opening calls only to give them up costs it little, the server much.

The attack is known from HTTP/2 as rapid reset (CVE-2023-44487).
"""

__all__ = ["Cancels"]

_RATE = 100.0  # calls a second
_BURST = 1000.0  # calls at once


class Cancels:
    """A bucket that each cancelled call takes one token from.

    Args:
        now: Seconds on the monotonic clock.
    """

    __slots__ = ("_at", "_exceeded", "_left")

    def __init__(self, now: float) -> None:
        self._left = _BURST
        self._at = now
        self._exceeded = False  # once at least

    @property
    def many(self) -> bool:
        """Whether half of the bucket is used up, or all of it was: the client has to wait."""
        return self._left < _BURST / 2 or self._exceeded

    def too_many(self, now: float) -> bool:
        """Count one; return whether that is one too many, and begin anew if it is."""
        self._left = min(_BURST, self._left + (now - self._at) * _RATE) - 1.0
        self._at = now
        if self._left >= 0.0:
            return False
        self._left = _BURST
        self._exceeded = True
        return True
