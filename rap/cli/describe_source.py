"""Where descriptions of functions come from: a server that runs, or a program that is imported."""

from collections.abc import Sequence
from typing import Any

import click

from rap.cli.command import Failed
from rap.cli.commands.ls import FUNCTIONS_ARE_PRIVATE, registered
from rap.cli.remote import Remote
from rap.cli.target import load_server
from rap.errors import NotFound

__all__ = ["described", "description", "imported"]

Description = dict[str, Any]


async def description(remote: Remote, name: str, group: str) -> Description:
    """Return how a server describes one function.

    Raises:
        Failed: It has none of that name, or tells nothing to a client on another machine.
    """
    async with remote.connected() as client:
        try:
            found: Description = await client.raw_call("describe", name, group, group="registry")
        except NotFound as exc:
            if "describe:" not in exc.message:
                raise Failed(FUNCTIONS_ARE_PRIVATE) from exc
            groups = {e["group"] for e in await registered(client) if e["func_name"] == name}
            hint = f"; there is one with --group {min(groups)}" if groups else ""
            raise Failed(f"there is no function {name} in the group {group}{hint}") from exc
    return found


async def described(remote: Remote) -> list[Description]:
    """Return how a server describes all its functions.

    Raises:
        Failed: It tells nothing to a client on another machine.
    """
    async with remote.connected() as client:
        return [
            await client.raw_call("describe", each["func_name"], each["group"], group="registry")
            for each in await registered(client)
        ]


def imported(target: str) -> Sequence[Any]:
    """Return the descriptions of the functions of a program, which does not serve.

    Raises:
        UsageError: It is none.
    """
    from rap.schema.reflection import describe

    try:
        server = load_server(target)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="'MODULE:SERVER'") from exc
    handlers = sorted(server.handlers, key=lambda each: (each.group, each.name))
    return [describe(each) for each in handlers]
