"""Requests to the gateway: JSON of limited size, checked before anything is called.

A text with many values is counted before they are built, and parsed outside the event loop.
"""

import asyncio
import json
import math
from collections.abc import Collection
from typing import Any, NamedTuple, Self

from starlette.requests import HTTPConnection, Request

from rap.call import FORWARDED, PRIORITIES, Header, canonical_group, method_path
from rap.gateway.arrivals import Arrivals
from rap.gateway.errors import BadRequest, unknown_function
from rap.gateway.large_json import LargeJson, is_large_text
from rap.wire.codec import MAX_ELEMENTS

__all__ = [
    "PRIORITY_HEADER",
    "TIMEOUT_HEADER",
    "TRACE_HEADERS",
    "FunctionCall",
    "Parser",
    "RequestOptions",
    "channel_options_of",
    "host_of",
    "options_of",
    "parse_json",
    "read_body",
]

TIMEOUT_HEADER = "rap-timeout"
PRIORITY_HEADER = "rap-priority"
_LOWEST = PRIORITIES[-1]
_FIELDS = {"group", "func_name", "arg_list", "kwarg_list"}
_CHANNEL_FIELDS = _FIELDS | {"messages"}
_IGNORED = {"func_type"}  # clients of release 0.5.3.8 send it
_MESSAGES = ("text", "json")
_KINDS: dict[type[Any], str] = {str: "a string", list: "an array", dict: "an object"}
# Trace headers of W3C Trace Context and Jaeger. Baggage of HTTP clients is dropped.
TRACE_HEADERS = ("traceparent", "tracestate", "uber-trace-id")
_MAX_VALUES = MAX_ELEMENTS + 16  # the fields of the object around the arguments count, too
_MAX_TRACE_HEADER = 512  # characters, as W3C asks of tracestate


class FunctionCall(NamedTuple):
    """The call that a request asks for.

    Args:
        group: Group of the function, as `canonical_group` returns it.
        name: Name of the function.
        args: Positional arguments.
        kwargs: Keyword arguments.
        json_messages: Whether the messages of a channel are JSON in both directions.
    """

    group: str
    name: str
    args: list[Any]
    kwargs: dict[str, Any]
    json_messages: bool = False


class RequestOptions(NamedTuple):
    """The options of a call that the headers of a request set.

    Args:
        header: Header of the call.
        timeout: Seconds; `None`: the timeout of the client.
        priority: Priority of the call; `None`: that of the client or the server.
    """

    header: Header
    timeout: float | None
    priority: str | None


class Parser:
    """Parses the calls that requests ask for.

    Args:
        hidden: Groups that cannot be called.
        large: Converts large JSON of the client whose requests they are.

    Attributes:
        large: As given.
    """

    def __init__(self, hidden: Collection[str], large: LargeJson | None = None) -> None:
        self._hidden = frozenset(canonical_group(group) for group in hidden)
        self.large = large or LargeJson()

    def of(self, connection: HTTPConnection) -> Self:
        """Return the parser for the client of a request."""
        return type(self)(self._hidden, self.large.of(connection))

    async def parse_json(self, text: str | bytes, what: str) -> Any:
        """Return the value of a JSON text. Large ones are parsed outside the event loop.

        Raises:
            BadRequest: It is not JSON, has a name twice, a number that JSON does not have or is out
                of range, or more values than an argument can have; the message begins with `what`.
        """
        data = text.encode(errors="surrogatepass") if isinstance(text, str) else text
        if not is_large_text(data):
            return _parse_json(data, what)
        return await self.large.run(parse_json, data, what)

    async def parse(self, text: str | bytes, *, is_channel: bool = False) -> FunctionCall:
        """Return the call that a JSON object describes.

        Args:
            text: The object.
            is_channel: Whether it may say what the messages of a channel are.

        Raises:
            BadRequest: The text is not such an object, or names a hidden group.
        """
        fields = await self._object(text)
        known = _CHANNEL_FIELDS if is_channel else _FIELDS
        unknown = fields.keys() - known - _IGNORED
        if unknown:
            raise BadRequest(400, f"unknown field {min(unknown)!r}; there are {sorted(known)}")
        messages = _get(fields, "messages", str, "text")
        if messages not in _MESSAGES:
            raise BadRequest(400, f"messages must be one of {_MESSAGES}, got {messages!r}")
        call = FunctionCall(
            canonical_group(_get(fields, "group", str, None)),
            _get(fields, "func_name", str, ""),
            _get(fields, "arg_list", list, []),
            _get(fields, "kwarg_list", dict, {}),
            messages == "json",
        )
        if not call.name:
            raise BadRequest(400, 'func_name is missing; give it as {"func_name": "..."}')
        return self._visible(call)

    async def parse_named(self, group: str, name: str, text: str | bytes) -> FunctionCall:
        """Return the call of a function in a path, with a JSON object of keyword arguments.

        Raises:
            BadRequest: The text is not such an object, or the group is hidden.
        """
        fields = await self._object(text) if text.strip() else {}
        return self._visible(FunctionCall(canonical_group(group), name, [], fields))

    async def _object(self, text: str | bytes) -> dict[str, Any]:
        fields = await self.parse_json(text, "the body")
        if not isinstance(fields, dict):
            text = "the body must be a JSON object with the arguments by name"
            raise BadRequest(400, f"{text}, got {type(fields).__name__}")
        return fields

    def _visible(self, call: FunctionCall) -> FunctionCall:
        # Neither a group nor a name has a slash: what is called is in the group that was checked.
        is_odd = "/" in call.group or "/" in call.name
        if is_odd or call.group in self._hidden:  # looks like a function that does not exist
            raise BadRequest(404, unknown_function(method_path(call.group, call.name)))
        return call


async def read_body(arrivals: Arrivals, max_body: int, timeout: float) -> bytes:
    """Return the body of a request.

    Raises:
        BadRequest: It is longer than `max_body` bytes, or took longer than `timeout` seconds.
        ClientDisconnect: The client has disconnected.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(timeout):
            async for chunk in arrivals.body():
                body += chunk
                if len(body) > max_body:
                    text = f"the body has more than {max_body} bytes, which is max_body"
                    raise BadRequest(413, text)
    except TimeoutError:
        raise BadRequest(408, f"the body did not arrive within {timeout:g} s") from None
    return bytes(body)


def host_of(connection: HTTPConnection) -> str:
    """Return the address of the client of a request; empty on a unix socket."""
    return "" if connection.client is None else connection.client.host


def _header_of(connection: HTTPConnection) -> Header:
    """Return the header of the call for a request: the address of its client, and its trace."""
    header: Header = {FORWARDED: host_of(connection)}
    for name in TRACE_HEADERS:
        value = connection.headers.get(name, "")
        if 0 < len(value) <= _MAX_TRACE_HEADER:
            header[name] = value
    return header


def options_of(request: Request) -> RequestOptions:
    """Return the options of the call for a request.

    Raises:
        BadRequest: A header has a bad value; the message names it.
    """
    return RequestOptions(_header_of(request), _timeout_of(request), _priority_of(request))


def channel_options_of(connection: HTTPConnection) -> RequestOptions:
    """Return the options of the call for a WebSocket; it has no timeout.

    Raises:
        BadRequest: A header has a bad value; the message names it.
    """
    return RequestOptions(_header_of(connection), None, _priority_of(connection))


def _priority_of(connection: HTTPConnection) -> str | None:
    """Return the priority of the call, from the header ``Rap-Priority``.

    Anyone can send the header, so it can only lower the priority: a client that names a high one
    would displace the calls of all others.

    Raises:
        BadRequest: The value is not ``sheddable``.
    """
    text = connection.headers.get(PRIORITY_HEADER)
    if text not in (None, _LOWEST):
        raise BadRequest(400, f"{PRIORITY_HEADER} can only be {_LOWEST}, got {text!r}")
    return text


def _timeout_of(request: Request) -> float | None:
    """Return the timeout of the call in seconds, from the header ``Rap-Timeout``.

    Raises:
        BadRequest: The value is not a positive number.
    """
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise BadRequest(
            400, f"{TIMEOUT_HEADER} must be a positive number of seconds, got {text!r}"
        )
    return seconds


def parse_json(data: bytes, what: str) -> Any:
    """Return the value of a JSON text, unless it has too many; see `Parser.parse_json`.

    Raises:
        BadRequest: As there.
    """
    if _count_values(data) > _MAX_VALUES:
        raise BadRequest(413, f"{what} has more than {MAX_ELEMENTS:,} values")
    return _parse_json(data, what)


def _parse_json(data: bytes, what: str) -> Any:
    try:
        return json.loads(
            data,
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as exc:
        raise BadRequest(400, f"{what} is not JSON: {exc}") from exc


def _count_values(data: bytes) -> int:
    """Return a number of values that a JSON text has at least; keys count, too.

    Each value but the first one of its container follows a comma, and each key comes before a
    colon. A parser and this function agree on where strings are, up to the first mistake, which
    ends parsing.
    """
    data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    quotes = data.count(b'"')
    if quotes > 2 * _MAX_VALUES:
        return quotes // 2
    outside = b"".join(data.split(b'"')[::2])
    return outside.count(b",") + outside.count(b":")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:20]} is out of range")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object. Of two equal names the last one must not win silently."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"an object has a name twice among {len(pairs)} names")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _get(fields: dict[str, Any], field: str, kind: type[Any], default: Any) -> Any:
    value = fields.get(field)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise BadRequest(400, f"{field} must be {_KINDS[kind]}, got {type(value).__name__}")
    return value
