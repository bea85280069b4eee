"""An access log: one line for each unary call."""

import logging
import re

from rap.errors import CallError, Code
from rap.server.middleware.base import Answer, BaseMsgMiddleware

__all__ = ["AccessMsgMiddleware"]

_log = logging.getLogger("rap.server.access")

# W3C Trace Context: version, trace id, parent id, flags. Jaeger: trace id first.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_UBER_TRACE_ID = re.compile(r"([0-9a-fA-F]{1,32}):[0-9a-fA-F]+:[0-9a-fA-F]+:[0-9a-fA-F]+")


class AccessMsgMiddleware(BaseMsgMiddleware):
    """Logs every unary call at level INFO to ``rap.server.access``, with its end known.

    ::

        method=/default/add peer=127.0.0.1:55064 status=OK duration_ms=0.213 request_bytes=3
        response_bytes=1 trace_id=4bf92f3577b34da6a3ce929d0e0e4736

    all in one line. ``error`` names the exception of a handler, ``trace_id`` is there when the
    caller sent one. The record has the same as a dict, `record.access`, for a handler that
    writes JSON. Nothing in it has the form that a client chose, so no client can forge a line.
    """

    def answered(self, answer: Answer) -> None:
        """Write the line."""
        if not _log.isEnabledFor(logging.INFO):
            return
        fields = _fields(answer)
        line = " ".join(f"{name}={value}" for name, value in fields.items())
        _log.info("%s", line, extra={"access": fields})


def _fields(answer: Answer) -> dict[str, str | int | float]:
    call, error = answer.call, answer.error
    status = error.code if isinstance(error, CallError) else Code.UNKNOWN
    fields: dict[str, str | int | float] = {
        "method": call.method.replace(" ", "%20"),
        "peer": str(call.peer),
        "status": "OK" if error is None else status.name,
        "duration_ms": round(answer.duration * 1000, 3),
        "request_bytes": answer.request_size,
        "response_bytes": answer.response_size,
    }
    if error is not None and not isinstance(error, CallError):
        fields["error"] = type(error).__name__
    trace_id = _trace_id(call.header)
    if trace_id:
        fields["trace_id"] = trace_id
    return fields


def _trace_id(header: dict[str, object]) -> str:
    """Return the id of the trace that the caller is in, if its header is well formed."""
    for name, form in (("traceparent", _TRACEPARENT), ("uber-trace-id", _UBER_TRACE_ID)):
        value = header.get(name)
        found = form.fullmatch(value) if isinstance(value, str) else None
        if found:
            return found[1]
    return ""
