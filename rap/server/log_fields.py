"""What a log record about a call carries beside its text, for whoever writes more than text."""

from typing import Any

from rap.call import Call
from rap.errors import Code
from rap.processor.tracing.context import trace_id

__all__ = ["log_fields"]


def log_fields(call: Call, code: Code, seconds: float | None) -> dict[str, Any]:
    """Return the attributes of a record, for the `extra` of `logging`.

    They are `method`, ``/group/name``; `peer`, its address; `code`, the name of how it ended;
    `seconds` since its request, `None` where nobody knows; and `trace_id`, 32 hex digits, empty
    outside of a trace.
    """
    return {
        "method": call.method,
        "peer": str(call.peer),
        "code": code.name,
        "seconds": seconds,
        "trace_id": trace_id(call),
    }
