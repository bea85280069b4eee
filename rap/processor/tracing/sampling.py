"""Whether a call that is in no trace begins one: settled before anything is made for it.

A call that does not says so in its header, and is traced by nobody that it reaches. That header is
the same for all such calls, so that it costs as good as nothing on both sides. An id would be
another in each call.
"""

import random
from collections.abc import Callable

from rap.call import UNTRACED, Call, Header, current
from rap.processor.base import BaseProcessor

__all__ = ["HeadSamplingProcessor", "is_untraced"]


class HeadSamplingProcessor(BaseProcessor):
    """Draws lots for the calls of one server or client.

    Args:
        around: Returns something true where a call is made in a trace.
        sample: Share of the calls in no trace that begin one, 0 to 1.
    """

    def __init__(self, around: Callable[[], object], sample: float) -> None:
        if isinstance(sample, bool) or not isinstance(sample, int | float) or not 0 <= sample <= 1:
            raise ValueError(f"sample must be a number from 0 to 1, got {sample!r}")
        self._sample = float(sample)
        self._draw = random.random()
        self._around = around
        if not sample:  # half of what may be spent, which is 2 % of a call
            self.wants_next = around  # type: ignore[method-assign]

    def wants_next(self) -> object:
        """Whether the call that is about to be made may be in a trace, or begins one."""
        if self._next_begins() or self._around():
            return True
        self._taken()
        return False

    def _next_begins(self) -> bool:
        """Return whether the next call begins a trace; the answer stays until `_taken`.

        A call that is made while one without a trace is served begins none.
        """
        if self._draw >= self._sample:
            return False
        outer = current.get()
        return outer is None or UNTRACED not in outer.header

    def _taken(self) -> None:
        """Draw the next lot: the one before was for a call that has been made."""
        if 0.0 < self._sample < 1.0:
            self._draw = random.random()

    def _stays_out(self, call: Call) -> bool:
        """Whether a call in no trace begins none; it is marked then."""
        begins = UNTRACED not in call.header and self._next_begins()
        self._taken()
        if not begins:
            call.header[UNTRACED] = True
        return not begins


def is_untraced(header: Header) -> bool:
    """Whether a header says that its call is in no trace, and nothing else that matters here."""
    return UNTRACED in header and len(header) == 1 + ("session_id" in header)
