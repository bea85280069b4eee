"""The fields of a log record about a call; the dispatcher and the access log have the same."""

from typing import Any

from rap.call import Call
from rap.errors import Code
from rap.processor.tracing.context import trace_id

__all__ = ["log_fields"]


def log_fields(call: Call, code: Code, seconds: float | None) -> dict[str, Any]:
    """Return the attributes of a record, for the `extra` of `logging`.

    They are `method`, ``/group/name``; `peer`, the address of the client; `code`, the name of the
    status; `seconds` since the request, `None` if unknown; and `trace_id`, 32 hex digits, empty
    outside of a trace.
    """
    return {
        "method": call.method,
        "peer": str(call.peer),
        "code": code.name,
        "seconds": seconds,
        "trace_id": trace_id(call),
    }
