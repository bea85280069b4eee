"""Responses of the gateway: results as JSON, items as server-sent events, errors as statuses."""

import asyncio
import base64
import datetime
import json
import math
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from rap.call import Header
from rap.client.response_stream import ResponseStream
from rap.errors import CallError, Code, Internal
from rap.gateway.errors import BadRequest, CallOfError, ErrorReplies
from rap.gateway.large_json import LargeJson, is_large_value

__all__ = [
    "EVENT_STREAM",
    "Answer",
    "EventResponse",
    "any_json",
    "error_response",
    "event_response",
    "left_response",
    "result_object",
    "result_response",
    "to_json",
]

EVENT_STREAM = "text/event-stream"  # media type of server-sent events
_JSON = "application/json"
_HEADER, _TRAILER = "Rap-Header-", "Rap-Trailer-"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
_VISIBLE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_NOTHING = object()
_CLIENT_LEFT = 499  # status

# Errors with a status that may have a Retry-After, as servers do with `retry_after` (RFC 9110,
# section 10.2.3; RFC 6585, section 4).
_BUSY = (Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE)
_LONGEST_PAUSE = 1e9  # seconds


class Answer(CallOfError, Protocol):
    """A call whose answer has a header and a trailer."""

    @property
    def header(self) -> Header:
        """The header of the answer."""
        ...

    @property
    def trailer(self) -> Header:
        """The trailer of the answer."""
        ...


async def result_response(data: Any, answer: Answer, large: LargeJson) -> Response:
    """Return the response for the result of a call.

    Args:
        data: The result.
        answer: The call.
        large: Makes the JSON of a large result.

    Raises:
        Internal: JSON cannot represent it.
        BadRequest: It is large, and there can be no thread for it now.
    """
    body = await any_json(result_object(data), large)
    return Response(body, headers=_headers_of(answer), media_type=_JSON)


def error_response(
    error: CallError | BadRequest, replies: ErrorReplies, answer: Answer | None = None
) -> Response:
    """Return the response for an error of a call, or of the request."""
    reply = replies.reply(error, answer)
    headers = {} if answer is None else _headers_of(answer)
    if isinstance(error, BadRequest):
        headers |= error.headers
    elif error.code in _BUSY:
        seconds: Any = error.details.get("retry_after")
        if isinstance(seconds, int | float) and 0 <= seconds <= _LONGEST_PAUSE:
            headers["Retry-After"] = str(math.ceil(seconds))
    return Response(to_json(reply), reply["code"], headers, media_type=_JSON)


def left_response() -> Response:
    """Return what a client that has disconnected does not read; logs have its status."""
    return Response(status_code=_CLIENT_LEFT)


def _headers_of(answer: Answer, *, trailer: bool = True) -> dict[str, str]:
    """Return the HTTP headers for header and trailer of an answer.

    Those that HTTP cannot represent are left out: the value must be a string of visible ASCII.
    """
    parts = [(_HEADER, answer.header), *([(_TRAILER, answer.trailer)] if trailer else [])]
    return {
        f"{prefix}{name}": value
        for prefix, values in parts
        for name, value in values.items()
        if isinstance(value, str) and _TOKEN.fullmatch(name) and _VISIBLE.fullmatch(value)
    }


def result_object(data: Any) -> dict[str, Any]:
    """Return the response object of a result."""
    return {"code": 0, "data": data}


async def event_response(
    items: ResponseStream[Any],
    first_item_timeout: float | None,
    replies: ErrorReplies,
    large: LargeJson,
) -> Response:
    """Return a response with one server-sent event per item (WHATWG HTML, section 9.2).

    The generator ends when the response is cancelled, as when the client disconnects. An event
    ``end`` follows the last item, and an event ``error`` reports an error after the first item.
    Without them a browser would take the end of the response for a lost connection, and send the
    request again. Both have the trailer of the answer, because the HTTP headers have been sent and
    few clients can read HTTP trailers.

    Args:
        items: The call.
        first_item_timeout: Seconds until the first item or the end; `None`: no limit.
        replies: Makes the objects of errors.
        large: Makes the JSON of large items.

    Raises:
        BadRequest: The request was found to be wrong before the first item, or that took too long.
    """
    text: str | None = None
    try:
        async with asyncio.timeout(first_item_timeout):
            first = await anext(items, _NOTHING)
        if first is not _NOTHING:  # one that JSON cannot represent still gets an error status
            text = await any_json(first, large)
    except CallError as error:
        await items.aclose()
        return error_response(error, replies, items)
    except TimeoutError:
        await items.aclose()
        text = f"no item within {first_item_timeout:g} s, which is first_item_timeout"
        raise BadRequest(504, text) from None
    except BaseException:  # raised again
        await items.aclose()
        raise
    headers = {"Cache-Control": "no-store", **_headers_of(items, trailer=False)}
    events = _events(text, items, replies, large)
    return EventResponse(events, media_type=EVENT_STREAM, headers=headers)


class EventResponse(StreamingResponse):
    """A response with events. Whoever sends it watches for the disconnect of the client."""

    body_iterator: AsyncGenerator[str, None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        async with aclosing(self.body_iterator):
            await self.stream_response(send)


async def _events(
    first: str | None, items: ResponseStream[Any], replies: ErrorReplies, large: LargeJson
) -> AsyncGenerator[str, None]:
    try:
        if first is not None:
            yield f"data: {first}\n\n"
            async for item in items:
                yield f"data: {await any_json(item, large)}\n\n"
                # Items that arrive in each iteration of the loop leave it no turn to see that the
                # client has left.
                await asyncio.sleep(0)
        trailer = _trailer_field(items)
        yield f"event: end\ndata: {to_json(trailer or None)}\n\n"
    except (CallError, BadRequest) as error:
        reply = replies.reply(error, items) | _trailer_field(items)
        yield f"event: error\ndata: {to_json(reply)}\n\n"
    except ClientDisconnect:
        return
    finally:
        await items.aclose()


def _trailer_field(answer: Answer) -> dict[str, Any]:
    """Return the trailer of an answer as a field of an object; empty without a trailer."""
    trailer = answer.trailer
    try:
        to_json(trailer)
    except Internal:
        return {}
    return {"trailer": trailer} if trailer else {}


async def any_json(value: Any, large: LargeJson) -> str:
    """Return a value as JSON, which is made outside the event loop if the value is large.

    Raises:
        Internal: As `to_json`.
        BadRequest: The value is large, and there can be no thread for it now.
    """
    return await large.run(to_json, value) if is_large_value(value) else to_json(value)


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
