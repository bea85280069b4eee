"""What the gateway answers: results as JSON, and errors as the status codes of HTTP.

The codes are those that gRPC's HTTP mapping uses (google.rpc.Code); 499 is nginx's for a client
that has left.
"""

import base64
import datetime
import json
from collections.abc import Mapping
from typing import Any

from rap.errors import CallError, Code, Internal

__all__ = ["BadRequest", "failure_of", "success_of", "to_json"]

_STATUS: Mapping[Code, int] = {
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}


class BadRequest(Exception):
    """The gateway itself refuses a request.

    Args:
        status: Of HTTP.
        message: One sentence.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def success_of(data: Any) -> dict[str, Any]:
    """Return the answer for a result."""
    return {"code": 0, "data": data}


def failure_of(error: CallError | BadRequest) -> dict[str, Any]:
    """Return the answer for an error; its ``code`` is the status of HTTP."""
    status = error.status if isinstance(error, BadRequest) else _STATUS[error.code]
    return {"code": status, "msg": str(error)}


def to_json(value: Any) -> str:
    """Return a result as JSON: bytes in base64, points in time as in ISO 8601.

    Raises:
        Internal: It has no form in JSON: it is not finite, or a key is no string.
    """
    try:
        return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError as exc:
        raise Internal(f"the result has no form in JSON: {exc}") from exc


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_key(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    return value


def _key(key: Any) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)
    raise ValueError(f"a key must be a string in JSON, got {type(key).__name__}")
