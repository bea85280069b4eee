"""Trace context in headers: W3C Trace Context, or the format of Jaeger.

A peer chooses its headers, so a malformed one is ignored.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from rap.call import Call, Header

__all__ = [
    "TRACEPARENT",
    "TRACE_ID",
    "UBER_TRACE_ID",
    "TraceParent",
    "put_trace",
    "sampled_trace_id",
    "trace_id",
]

TRACEPARENT = "traceparent"  # https://www.w3.org/TR/trace-context/
UBER_TRACE_ID = "uber-trace-id"  # Jaeger: trace id, span id, parent's id, flags; hex digits
_TRACE_HEADERS = (TRACEPARENT, "tracestate", UBER_TRACE_ID)
# Key in `Call.state`: the trace id of its span if that is sampled. Tracing processors set it.
TRACE_ID = "rap.trace_id"

_FORMS = {
    TRACEPARENT: r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})",
    UBER_TRACE_ID: r"([0-9a-fA-F]{1,32}):([0-9a-fA-F]{1,16}):[0-9a-fA-F]*:([0-9a-fA-F]+)",
}
_SAMPLED = 1


class TraceParent(NamedTuple):
    """The span of the caller.

    Args:
        trace_id: 128 bits.
        span_id: 64 bits.
        sampled: Whether the caller sampled the trace.
    """

    trace_id: int
    span_id: int
    sampled: bool

    @classmethod
    def of(cls, header: dict[str, Any]) -> "TraceParent | None":
        """Return the span in a header, W3C first; `None` without a valid one."""
        for name, form in _forms():
            value = header.get(name)
            found = form.fullmatch(value) if isinstance(value, str) else None
            if found:
                trace_id, span_id, flags = (int(each, 16) for each in found.groups())
                if trace_id and span_id:
                    return cls(trace_id, span_id, bool(flags & _SAMPLED))
        return None

    @property
    def uber_trace_id(self) -> str:
        """The span in the format of Jaeger."""
        return f"{self.trace_id:032x}:{self.span_id:016x}:0:{int(self.sampled)}"

    @property
    def traceparent(self) -> str:
        """The span in the format of W3C."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.sampled):02x}"


@functools.cache
def _forms() -> list[tuple[str, re.Pattern[str]]]:
    """Return the headers and their forms, compiled when the first call has a header."""
    return [(name, re.compile(form)) for name, form in _FORMS.items()]


def put_trace(header: Header, carrier: Mapping[str, str]) -> None:
    """Write a span into the header of a call, in place of one that user code put there."""
    for name in _TRACE_HEADERS:
        header.pop(name, None)
    header.update(carrier)


def trace_id(call: Call) -> str:
    """Return the trace id of a call, sampled or not, as 32 hex digits; empty without a trace."""
    if call.state.get(TRACE_ID):
        return str(call.state[TRACE_ID])
    parent = TraceParent.of(call.header)
    return "" if parent is None else f"{parent.trace_id:032x}"


def sampled_trace_id(call: Call) -> str:
    """Return the trace id of a call as 32 hex digits; empty if its trace is not sampled."""
    if TRACE_ID in call.state:
        return str(call.state[TRACE_ID])
    parent = TraceParent.of(call.header)
    return f"{parent.trace_id:032x}" if parent is not None and parent.sampled else ""
