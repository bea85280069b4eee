"""``rap ls``: what a registry, a service or a server has."""

from typing import Any

import click

from rap.cli.command import Command, Failed, run
from rap.cli.registry import Directory
from rap.cli.remote import Remote, remote_options
from rap.cli.table import print_rows
from rap.client import Client
from rap.errors import NotFound
from rap.registry import Endpoint

__all__ = ["FUNCTIONS_ARE_PRIVATE", "ls", "registered"]

FUNCTIONS_ARE_PRIVATE = (
    "the server tells only clients on its own machine what functions it has: run rap there"
)
_SHAPES = {True: "generator", False: "function"}


@click.command(cls=Command)
@click.option("--json", is_flag=True, help="Print a JSON array.")
@remote_options
def ls(remote: Remote, json: bool) -> None:
    """List services, instances or functions.

    With --registry the services of its namespace; with --service too the instances of that
    service; else the functions of the server at --host. A server tells those only to clients on
    its own machine.
    """
    if remote.registry is None:
        print_rows(run(_functions(remote)), json=json)
    elif remote.service is None:
        print_rows(run(_services(remote)), json=json)
    else:
        print_rows(run(_instances(remote)), json=json, right=["weight"])


async def registered(client: Client) -> list[dict[str, Any]]:
    """Return what a server says of its functions.

    Raises:
        Failed: It says nothing to a client on another machine.
    """
    try:
        entries: list[dict[str, Any]] = await client.raw_call("list", group="registry")
    except NotFound as exc:
        raise Failed(FUNCTIONS_ARE_PRIVATE) from exc
    return sorted(entries, key=lambda each: (each["group"], each["func_name"]))


async def _functions(remote: Remote) -> list[dict[str, Any]]:
    async with remote.connected() as client:
        return [
            {
                "group": each["group"],
                "function": each["func_name"] + each["signature"],
                "shape": "channel"
                if each["func_type"] == "channel"
                else _SHAPES[each["is_gen_func"]],
                "private": each["is_private"],
            }
            for each in await registered(client)
        ]


async def _services(remote: Remote) -> list[dict[str, Any]]:
    async with Directory(remote) as directory:
        names = await directory.services()
    if not names:
        click.echo("the registry lists no service", err=True)
    return [{"service": name} for name in names]


async def _instances(remote: Remote) -> list[dict[str, Any]]:
    async with Directory(remote) as directory:
        instances = await directory.instances()
        loads = await directory.loads()
        if not instances:
            click.echo(await directory.none_found(), err=True)
    return [_row(each, loads.get(each.id, {})) for each in instances]


def _row(instance: Endpoint, load: Any) -> dict[str, Any]:
    return {
        "address": instance.id,
        "state": instance.state.value,
        "weight": instance.weight,
        "zone": instance.zone,
        "version": instance.metadata.get("version", ""),
        "incarnation": instance.incarnation,
        "load": " ".join(f"{name}={figure:g}" for name, figure in sorted(load.items())),
    }
