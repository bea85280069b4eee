"""What the gateway is asked: JSON of bounded size, checked before anything is called."""

import asyncio
import json
import math
from collections.abc import Collection
from typing import Any, NamedTuple

from starlette.requests import HTTPConnection, Request

from rap.call import FORWARDED, Header
from rap.gateway.reply import BadRequest

__all__ = ["Target", "Targets", "header_of", "read_body", "timeout_of"]

_FIELDS = {"group", "func_name", "arg_list", "kwarg_list"}
_KINDS: dict[type[Any], str] = {str: "a string", list: "an array", dict: "an object"}
TIMEOUT_HEADER = "rap-timeout"
# Which trace a request belongs to, by W3C Trace Context or Jaeger. Baggage of strangers stays out.
_TRACE_HEADERS = ("traceparent", "tracestate", "uber-trace-id")
_LONGEST_TRACE_HEADER = 512  # characters, as W3C asks of tracestate


class Target(NamedTuple):
    """What to call, and with what.

    Args:
        group: Of the function.
        name: Of the function.
        args: Positional arguments.
        kwargs: Keyword arguments.
    """

    group: str
    name: str
    args: list[Any]
    kwargs: dict[str, Any]


class Targets:
    """Reads what a request wants to call.

    Args:
        left_out: Groups that cannot be reached.
    """

    def __init__(self, left_out: Collection[str]) -> None:
        self._left_out = frozenset(left_out)

    def read(self, text: str | bytes) -> Target:
        """Return what a JSON object asks for.

        Raises:
            BadRequest: It is no such object, or names a group that is left out.
        """
        asked = _object(text)
        unknown = asked.keys() - _FIELDS
        if unknown:
            raise BadRequest(400, f"unknown field {min(unknown)!r}; there are {sorted(_FIELDS)}")
        target = Target(
            _get(asked, "group", str, "default"),
            _get(asked, "func_name", str, ""),
            _get(asked, "arg_list", list, []),
            _get(asked, "kwarg_list", dict, {}),
        )
        if not target.name:
            raise BadRequest(400, "func_name must be the name of a function")
        return self._reachable(target)

    def read_named(self, group: str, name: str, text: str | bytes) -> Target:
        """Return what a path and a JSON object of keyword arguments ask for.

        Raises:
            BadRequest: It is no such object, or the group is left out.
        """
        return self._reachable(Target(group, name, [], _object(text) if text else {}))

    def _reachable(self, target: Target) -> Target:
        if target.group in self._left_out:  # as for any function that is not there
            raise BadRequest(404, f"no function '/{target.group}/{target.name}' on this server")
        return target


def _object(text: str | bytes) -> dict[str, Any]:
    try:
        asked = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise BadRequest(400, f"the body is no JSON: {exc}") from exc
    if not isinstance(asked, dict):
        raise BadRequest(400, "the body must be a JSON object")
    return asked


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; the last of two equal names must not win in silence."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"an object has a name twice among {len(pairs)} names")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _get(asked: dict[str, Any], field: str, kind: type[Any], default: Any) -> Any:
    value = asked.get(field)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise BadRequest(400, f"{field} must be {_KINDS[kind]}, got {type(value).__name__}")
    return value


async def read_body(request: Request, limit: int, patience: float) -> bytes:
    """Return the body of a request.

    Raises:
        BadRequest: It has more than `limit` bytes, or took more than `patience` seconds.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(patience):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    text = f"the body has more than {limit} bytes, which is max_body"
                    raise BadRequest(413, text)
    except TimeoutError:
        raise BadRequest(408, f"the body did not come in {patience:g} s") from None
    return bytes(body)


def header_of(connection: HTTPConnection) -> Header:
    """Return the header of a call that is made for a request: for whom, and in which trace."""
    header: Header = {FORWARDED: connection.client.host if connection.client is not None else ""}
    for name in _TRACE_HEADERS:
        value = connection.headers.get(name, "")
        if 0 < len(value) <= _LONGEST_TRACE_HEADER:
            header[name] = value
    return header


def timeout_of(request: Request) -> float | None:
    """Return the seconds that the header ``Rap-Timeout`` gives the call.

    Raises:
        BadRequest: They are no positive number.
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
