"""The fields of a log record about a call; the dispatcher and the access log have the same."""

import logging
from collections.abc import Mapping
from typing import Any

from rap.call import Call
from rap.errors import Code
from rap.processor.tracing.context import trace_id

__all__ = ["access_fields", "log_fields", "write_access"]

# Name and value, in the order in which a line has them.
Fields = dict[str, str | int | float]


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


def access_fields(
    record: Mapping[str, Any],
    seconds: float,
    *,
    error: str = "",
    sizes: Mapping[str, int] | None = None,
) -> Fields:
    """Return the fields of a line of the access log.

    Args:
        record: The attributes of the record, as `log_fields` returns them.
        seconds: How long the call took.
        error: Class of an exception of the handler that is not a `CallError`, if it raised one.
        sizes: Numbers of bytes by name.
    """
    fields: Fields = {
        "method": record["method"].replace(" ", "%20"),
        "peer": record["peer"],
        "status": record["code"],
        "duration_ms": round(seconds * 1000, 3),
        **(sizes or {}),
    }
    if error:
        fields["error"] = error
    if record["trace_id"]:
        fields["trace_id"] = record["trace_id"]
    return fields


def write_access(log: logging.Logger, fields: Fields, record: Mapping[str, Any]) -> None:
    """Write a line of the access log: the fields as text, and as the attribute `access`."""
    line = " ".join([f"{name}={value}" for name, value in fields.items()])
    log.info("%s", line, extra={"access": fields, **record})
