"""An access log with one line per call that has one response."""

import logging

from rap.errors import CallError, Code
from rap.server.log_fields import access_fields, log_fields, write_access
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
        error = answer.error
        record = log_fields(answer.call, _code(error), answer.duration)
        is_own = error is not None and not isinstance(error, CallError)
        fields = access_fields(
            record,
            answer.duration,
            error=type(error).__name__ if is_own else "",
            sizes={
                "request_bytes": answer.request_size,
                "response_bytes": answer.response_size,
            },
        )
        write_access(_log, fields, record)


def _code(error: BaseException | None) -> Code:
    if isinstance(error, CallError):
        return error.code
    return Code.OK if error is None else Code.UNKNOWN
