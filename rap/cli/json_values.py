"""Values on the command line: JSON in, JSON out.

JSON has no bytes. They are printed as base64 text, and given as ``{"$base64": "…"}``.
"""

import base64
import binascii
import datetime
import json
import math
import re
from typing import Any

import click

__all__ = ["parse_arguments", "parse_value", "to_json", "to_text"]

_BYTES = "$base64"
_NAMED = re.compile(r"([^\W\d]\w*)=(.*)", re.DOTALL)
_UNPRINTABLE = re.compile(r"[^\n -~]")  # or printable, but not of ASCII


def parse_value(text: str) -> Any:
    """Return the value of a JSON text; a text that is not JSON is a string.

    Raises:
        BadParameter: The text has bytes that are not base64.
    """
    try:
        return json.loads(text, object_hook=_decode_bytes, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return text


def parse_arguments(texts: tuple[str, ...]) -> tuple[list[Any], dict[str, Any]]:
    """Return positional and keyword arguments; ``name=JSON`` is a keyword argument.

    Raises:
        BadParameter: A name is given twice, or a positional argument follows a keyword argument.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for text in texts:
        named = _NAMED.fullmatch(text)
        if named is None:
            if kwargs:
                raise click.BadParameter(
                    f"{text!r} follows a named argument; put it before {next(iter(kwargs))}="
                )
            args.append(parse_value(text))
        elif named[1] in kwargs:
            raise click.BadParameter(f"{named[1]}= is given twice; give it once")
        else:
            kwargs[named[1]] = parse_value(named[2])
    return args, kwargs


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Return a value as JSON, on one line unless `indent` is given.

    Characters that could control a terminal are escaped.
    """
    separators = (",", ":") if indent is None else None
    text = json.dumps(_jsonable(value), ensure_ascii=False, indent=indent, separators=separators)
    return text if text.isprintable() else _UNPRINTABLE.sub(_escape, text)


def to_text(value: Any) -> str | bytes:
    """Return strings and bytes unchanged, and any other value as JSON."""
    return value if isinstance(value, str | bytes) else to_json(value)


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            each if isinstance(each, str) else to_json(each): _jsonable(inner)
            for each, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_jsonable(inner) for inner in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # such as "nan", a number that JSON does not have
    return value


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    return character if character.isprintable() else json.dumps(character)[1:-1]


def _decode_bytes(found: dict[str, Any]) -> Any:
    if found.keys() != {_BYTES}:
        return found
    try:
        return base64.b64decode(found[_BYTES], validate=True)
    except (TypeError, binascii.Error) as exc:
        raise click.BadParameter(f"{_BYTES} must be text in base64, got {found[_BYTES]!r}") from exc


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")
