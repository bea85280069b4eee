"""Head sampling: whether a call outside a trace starts one, decided before it is made.

A call that is not sampled says so in its header, so no server or client after it traces it. The
header is the same for all such calls, which keeps their cost close to zero on both sides. A trace
id would differ from call to call.
"""

import random
from collections.abc import Callable

from rap.call import UNTRACED, Call, Header, running_call
from rap.processor.base import BaseProcessor

__all__ = ["HeadSamplingProcessor", "is_untraced"]


class HeadSamplingProcessor(BaseProcessor):
    """Base of the tracing processors: samples the calls of one server or client.

    Args:
        active: Returns a true value where a call is made inside a trace.
        sample: Share of the calls outside a trace that start one, 0 to 1.

    Raises:
        ValueError: `sample` is not a number from 0 to 1.
    """

    def __init__(self, active: Callable[[], object], sample: float) -> None:
        if isinstance(sample, bool) or not isinstance(sample, int | float) or not 0 <= sample <= 1:
            raise ValueError(f"sample must be a number from 0 to 1, got {sample!r}")
        self._sample = float(sample)
        self._draw = random.random()
        self._active_trace = active
        if not sample:  # saves 1 % of a call; tracing without samples may cost 2 %
            self.wants_next = active  # type: ignore[method-assign]

    def wants_next(self) -> object:
        """Whether the next call may be in a trace, or starts one."""
        if self._next_is_sampled() or self._active_trace():
            return True
        self._draw_next()
        return False

    def _next_is_sampled(self) -> bool:
        """Whether the next call starts a trace; the answer is the same until `_draw_next`.

        A call that the handler of an untraced call makes never starts one.
        """
        if self._draw >= self._sample:
            return False
        outer = running_call()
        return outer is None or UNTRACED not in outer.header

    def _draw_next(self) -> None:
        """Draw for the next call, after the last draw was used."""
        if 0.0 < self._sample < 1.0:
            self._draw = random.random()

    def _is_left_out(self, call: Call) -> bool:
        """Whether a call outside a trace starts none; its header then says so."""
        is_sampled = UNTRACED not in call.header and self._next_is_sampled()
        self._draw_next()
        if not is_sampled:
            call.header[UNTRACED] = True
        return not is_sampled


def is_untraced(header: Header) -> bool:
    """Whether a header says that its call is not traced, and has no other entry to propagate."""
    return UNTRACED in header and len(header) == 1 + ("session_id" in header)
