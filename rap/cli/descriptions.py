"""Descriptions of functions, from a running server or from a program that is imported.

A server describes its functions only to clients on its own machine.
"""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import click

from rap.cli.command import Failed
from rap.cli.remote import Remote
from rap.cli.target import load_server
from rap.client import Client
from rap.errors import NotFound, Unimplemented

__all__ = [
    "checked_description",
    "describe_all",
    "describe_one",
    "describe_program",
    "list_functions",
]

Description = dict[str, Any]

_FUNCTIONS_ARE_PRIVATE = (
    "the server lists its functions only to clients on its own machine: run rap there"
)


async def list_functions(client: Client) -> list[dict[str, Any]]:
    """Return the list of functions of a server, sorted by group and name.

    Raises:
        Failed: The server does not answer a client on another machine, or not with such a list.
    """
    try:
        entries = await client.raw_call("list", group="registry")
    except (Unimplemented, NotFound) as exc:  # older servers say NOT_FOUND
        raise Failed(_FUNCTIONS_ARE_PRIVATE) from exc
    if not isinstance(entries, list) or not all(map(_is_listed, entries)):
        raise Failed("the server does not list its functions as a rap server does")
    return sorted(entries, key=lambda each: (each["group"], each["func_name"]))


async def describe_one(remote: Remote, name: str, group: str) -> Description:
    """Return the description of one function of a server.

    Raises:
        Failed: There is no such function, or the server does not answer a client on another
            machine.
    """
    async with remote.connected() as client:
        try:
            found = await client.raw_call("describe", name, group, group="registry")
        except (Unimplemented, NotFound) as exc:
            if "describe:" not in exc.message:
                raise Failed(_FUNCTIONS_ARE_PRIVATE) from exc
            entries = await list_functions(client)
            groups = {each["group"] for each in entries if each["func_name"] == name}
            hint = f"; there is one with --group {min(groups)}" if groups else ""
            names = [each["func_name"] for each in entries if each["group"] == group]
            if near := get_close_matches(name, names, 1):
                hint = hint or f"; did you mean {near[0]}?"
            hint = hint or "; see rap describe without a name"
            raise Failed(f"there is no function {name} in the group {group}{hint}") from exc
    return checked_description(found)


async def describe_all(remote: Remote) -> list[Description]:
    """Return the descriptions of all functions of a server.

    Raises:
        Failed: The server does not answer a client on another machine.
    """
    async with remote.connected() as client:
        return [
            checked_description(
                await client.raw_call(
                    "describe", each["func_name"], each["group"], group="registry"
                )
            )
            for each in await list_functions(client)
        ]


def describe_program(target: str) -> Sequence[Any]:
    """Return the descriptions of the functions of a program. It is imported and does not serve.

    Args:
        target: The program as ``module:server``.

    Raises:
        UsageError: `target` does not name a server.
    """
    from rap.schema.reflection import describe

    try:
        server = load_server(target)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="'MODULE:SERVER'") from exc
    handlers = sorted(server.handlers, key=lambda each: (each.group, each.name))
    return [describe(each) for each in handlers]


def checked_description(found: object) -> Description:
    """Return the description of a function that a server has sent.

    Raises:
        Failed: It has another form. What its texts say is not checked.
    """
    if not isinstance(found, dict) or not _has(found, _FUNCTION):
        raise Failed("the server does not describe a function as a rap server does")
    return found


def _has(found: Mapping[Any, Any], form: Mapping[str, Callable[[Any], bool]]) -> bool:
    return all(
        is_right(found[name]) if name in found else name in _NEW for name, is_right in form.items()
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_listed(value: object) -> bool:
    return isinstance(value, dict) and (_has(value, _LISTED) or _has(value, _LISTED_BEFORE))


def _are_options(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_text, (*value, *value.values())))


def _are_parameters(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, dict) and _has(each, _PARAMETER) for each in value
    )


def _are_types(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, dict) and _has(each, _TYPE) for each in value
    )


def _are_fields(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, dict) and _has(each, _FIELD) for each in value
    )


# Older servers do not tell these.
_NEW = ("channel_parameter", "request", "response", "stream_parameter")
_FIELD = {"name": _is_text, "type": _is_text, "default": _is_text_or_none}
_PARAMETER = {**_FIELD, "kind": _is_text}
_TYPE = {
    **dict.fromkeys(("name", "origin", "kind"), _is_text),
    "options": _are_options,
    "fields": _are_fields,
}
_FUNCTION = {
    **dict.fromkeys(("group", "func_name", "shape", "doc", "returns"), _is_text),
    **dict.fromkeys(("is_private", "idempotent"), _is_bool),
    **dict.fromkeys(
        ("stream_parameter", "channel_parameter", "request", "response"), _is_text_or_none
    ),
    "parameters": _are_parameters,
    "types": _are_types,
}
_LISTED = {
    **dict.fromkeys(("group", "func_name", "signature", "shape"), _is_text),
    "is_private": _is_bool,
}
_LISTED_BEFORE = {
    **dict.fromkeys(("group", "func_name", "signature", "func_type"), _is_text),
    **dict.fromkeys(("is_private", "is_gen_func"), _is_bool),
}
