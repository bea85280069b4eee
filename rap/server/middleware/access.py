"""An access log with one line per call that has one response."""

import logging
from typing import Any

from rap.errors import CallError, Code
from rap.server.log_fields import log_fields
from rap.server.middleware.base import Answer, BaseMsgMiddleware

__all__ = ["AccessMsgMiddleware"]

_log = logging.getLogger("rap.server.access")


class AccessMsgMiddleware(BaseMsgMiddleware):
    """Logs every unary and client-streaming call to ``rap.server.access`` when it has ended.

    The level is INFO. The message has this form, in one line::

        method=/default/add peer=127.0.0.1:55064 status=OK duration_ms=0.213 request_bytes=3
        response_bytes=1 trace_id=4bf92f3577b34da6a3ce929d0e0e4736

    ``error`` is added with the exception class of a handler that raised, and ``trace_id`` is left
    out if the call is in no trace. `record.access` has the same fields as a dict, for a handler
    that writes JSON. The record also has the attributes of every record about a call: `method`,
    `peer`, `code`, `seconds` and `trace_id`. All values are escaped or validated, so a client
    cannot forge a line.

    Args:
        exception_level: Level at which the server logs an exception of a handler that is not a
            `CallError`, with its traceback, to ``rap.server``. `None`: not at all, if the field
            ``error`` is enough.
    """

    def __init__(self, *, exception_level: int | None = logging.ERROR) -> None:
        self.exception_level = exception_level

    def answered(self, answer: Answer) -> None:
        """Log the call."""
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
