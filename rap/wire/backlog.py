"""How much waits to be sent on a connection, and who is told when it is too much."""

from collections.abc import Callable

__all__ = ["Backlog"]


def _nobody(is_full: bool) -> None:
    """Tell nobody."""


class Backlog:
    """Bytes of messages that wait for credit or for the transport.

    Args:
        most: From more than that on it is full, until half of it is left.

    Attributes:
        tell: Called with `True` when it gets full and with `False` when it no longer is; it must
            only take note, for it is called from the middle of things.
    """

    __slots__ = ("_most", "is_full", "size", "tell")

    def __init__(self, most: int) -> None:
        self._most = most
        self.size = 0
        self.is_full = False
        self.tell: Callable[[bool], object] = _nobody

    def add(self, size: int) -> None:
        """Say that so many bytes have to wait."""
        self.size += size
        if self.size > self._most and not self.is_full:
            self.is_full = True
            self.tell(True)

    def remove(self, size: int) -> None:
        """Say that so many bytes were sent, or are of no use any more."""
        self.size -= size
        if self.is_full and self.size <= self._most // 2:
            self.is_full = False
            self.tell(False)
