"""Descriptions of functions, from a running server or from a program that is imported.

A server describes its functions only to clients on its own machine.
"""

from collections.abc import Sequence
from typing import Any

import click

from rap.cli.command import Failed
from rap.cli.remote import Remote
from rap.cli.target import load_server
from rap.client import Client
from rap.errors import NotFound, Unimplemented

__all__ = ["describe_all", "describe_one", "describe_program", "list_functions"]

Description = dict[str, Any]

_FUNCTIONS_ARE_PRIVATE = (
    "the server lists its functions only to clients on its own machine: run rap there"
)


async def list_functions(client: Client) -> list[dict[str, Any]]:
    """Return the list of functions of a server, sorted by group and name.

    Raises:
        Failed: The server does not answer a client on another machine.
    """
    try:
        entries: list[dict[str, Any]] = await client.raw_call("list", group="registry")
    except (Unimplemented, NotFound) as exc:  # older servers say NOT_FOUND
        raise Failed(_FUNCTIONS_ARE_PRIVATE) from exc
    return sorted(entries, key=lambda each: (each["group"], each["func_name"]))


async def describe_one(remote: Remote, name: str, group: str) -> Description:
    """Return the description of one function of a server.

    Raises:
        Failed: There is no such function, or the server does not answer a client on another
            machine.
    """
    async with remote.connected() as client:
        try:
            found: Description = await client.raw_call("describe", name, group, group="registry")
        except (Unimplemented, NotFound) as exc:
            if "describe:" not in exc.message:
                raise Failed(_FUNCTIONS_ARE_PRIVATE) from exc
            entries = await list_functions(client)
            groups = {each["group"] for each in entries if each["func_name"] == name}
            hint = f"; there is one with --group {min(groups)}" if groups else ""
            raise Failed(f"there is no function {name} in the group {group}{hint}") from exc
    return found


async def describe_all(remote: Remote) -> list[Description]:
    """Return the descriptions of all functions of a server.

    Raises:
        Failed: The server does not answer a client on another machine.
    """
    async with remote.connected() as client:
        return [
            await client.raw_call("describe", each["func_name"], each["group"], group="registry")
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
