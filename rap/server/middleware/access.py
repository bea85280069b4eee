"""An access log: one line for each unary call."""

import logging
from typing import Any

from rap.errors import CallError, Code
from rap.server.log_fields import log_fields
from rap.server.middleware.base import Answer, BaseMsgMiddleware

__all__ = ["AccessMsgMiddleware"]

_log = logging.getLogger("rap.server.access")


class AccessMsgMiddleware(BaseMsgMiddleware):
    """Logs every unary call at level INFO to ``rap.server.access``, with its end known.

    ::

        method=/default/add peer=127.0.0.1:55064 status=OK duration_ms=0.213 request_bytes=3
        response_bytes=1 trace_id=4bf92f3577b34da6a3ce929d0e0e4736

    all in one line. ``error`` names the exception of a handler, ``trace_id`` is there when the
    call is in a trace. The record has the same as a dict, `record.access`, for a handler that
    writes JSON, and the attributes of every record about a call: `method`, `peer`, `code`,
    `seconds` and `trace_id`. Nothing in it has the form that a client chose, so no client can
    forge a line.
    """

    def answered(self, answer: Answer) -> None:
        """Write the line."""
        if not _log.isEnabledFor(logging.INFO):
            return
        record = log_fields(answer.call, _code(answer.error), answer.duration)
        fields = _fields(answer, record)
        line = " ".join(f"{name}={value}" for name, value in fields.items())
        _log.info("%s", line, extra={"access": fields, **record})


def _code(error: BaseException | None) -> Code:
    if isinstance(error, CallError):
        return error.code
    return Code.OK if error is None else Code.UNKNOWN


def _fields(answer: Answer, record: dict[str, Any]) -> dict[str, str | int | float]:
    error = answer.error
    fields: dict[str, str | int | float] = {
        "method": answer.call.method.replace(" ", "%20"),
        "peer": record["peer"],
        "status": record["code"],
        "duration_ms": round(answer.duration * 1000, 3),
        "request_bytes": answer.request_size,
        "response_bytes": answer.response_size,
    }
    if error is not None and not isinstance(error, CallError):
        fields["error"] = type(error).__name__
    if record["trace_id"]:
        fields["trace_id"] = record["trace_id"]
    return fields
