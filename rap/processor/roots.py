"""Whether a call that is in no trace begins one: settled before anything is made for it.

A call that does not says so in its header, and is traced by nobody that it reaches. That header is
the same for all such calls, so that it costs as good as nothing on both sides. An id would be
another in each call.
"""

import random

from rap.message import UNTRACED, Header, current

__all__ = ["Roots", "check_sample", "says_untraced"]


class Roots:
    """Draws lots for the calls of one server or client.

    Args:
        sample: Share of the calls that begin a trace; see `check_sample`.
    """

    __slots__ = ("_draw", "sample")

    def __init__(self, sample: float) -> None:
        self.sample = sample
        self._draw = random.random()

    def next_begins(self) -> bool:
        """Return whether the next call begins a trace; the answer stays until `taken`.

        A call that is made while one without a trace is served begins none.
        """
        if self._draw >= self.sample:
            return False
        outer = current.get()
        return outer is None or UNTRACED not in outer.header

    def taken(self) -> None:
        """Draw the next lot: the one before was for a call that has been made."""
        if 0.0 < self.sample < 1.0:
            self._draw = random.random()


def says_untraced(header: Header) -> bool:
    """Whether a header says that its call is in no trace, and nothing else that matters here."""
    return UNTRACED in header and len(header) == 1 + ("session_id" in header)


def check_sample(sample: float) -> float:
    """Return a share of calls.

    Raises:
        ValueError: It is no number from 0 to 1.
    """
    if isinstance(sample, bool) or not isinstance(sample, int | float) or not 0 <= sample <= 1:
        raise ValueError(f"sample must be a number from 0 to 1, got {sample!r}")
    return float(sample)
