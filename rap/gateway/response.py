"""Responses of the gateway: results as JSON, items as server-sent events, errors as HTTP statuses.

The statuses are those of gRPC's HTTP mapping (google.rpc.Code). 499 is nginx's status for a client
that has closed the request.
"""

import asyncio
import base64
import datetime
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.responses import StreamingResponse

from rap.client.response_stream import ResponseStream
from rap.errors import CallError, Code, Internal

__all__ = [
    "EVENT_STREAM",
    "BadRequest",
    "error_object",
    "event_response",
    "result_object",
    "to_json",
]

EVENT_STREAM = "text/event-stream"  # media type of server-sent events
_NOTHING = object()

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
    """A request that the gateway refuses without calling a function.

    Args:
        status: HTTP status.
        message: The reason, as one sentence.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def result_object(data: Any) -> dict[str, Any]:
    """Return the response object of a result."""
    return {"code": 0, "data": data}


def error_object(error: CallError | BadRequest) -> dict[str, Any]:
    """Return the response object of an error; its ``code`` is the HTTP status."""
    if isinstance(error, BadRequest):
        status = error.status
    elif error.code is Code.UNIMPLEMENTED and error.unserved:
        status = 404  # no server has the function; from a handler, the code has its usual status
    else:
        status = _STATUS[error.code]
    return {"code": status, "msg": str(error)}


async def event_response(items: ResponseStream[Any]) -> StreamingResponse:
    """Return a response with one server-sent event per item (WHATWG HTML, section 9.2).

    If the client disconnects, the generator ends. An event ``end`` follows the last item, and an
    event ``error`` reports an error after the first item. Without them a browser would take the end
    of the response for a lost connection, and send the request again.

    Raises:
        CallError: The call failed before the first item.
    """
    first = await anext(items, _NOTHING)
    if first is not _NOTHING:
        to_json(first)  # an item that JSON cannot represent still gets an error status
    return StreamingResponse(
        _events(first, items), media_type=EVENT_STREAM, headers={"Cache-Control": "no-store"}
    )


async def _events(first: Any, items: ResponseStream[Any]) -> AsyncIterator[str]:
    try:
        if first is not _NOTHING:
            yield f"data: {to_json(first)}\n\n"
            async for item in items:
                yield f"data: {to_json(item)}\n\n"
                # anyio does not cancel a task whose future is done. Without this, items that arrive
                # in each iteration of the loop would keep the generator running for a lost client.
                await asyncio.sleep(0)
        yield "event: end\ndata: null\n\n"
    except CallError as error:
        yield f"event: error\ndata: {to_json(error_object(error))}\n\n"
    finally:
        await items.aclose()


def to_json(value: Any) -> str:
    """Return a result as JSON: bytes as base64, points in time as ISO 8601.

    Raises:
        Internal: JSON cannot represent it: a number is not finite, or a key is not a string.
    """
    try:
        return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError as exc:
        raise Internal(f"the result cannot be represented in JSON: {exc}") from exc


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
