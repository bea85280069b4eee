"""``rap ls``: list the services of a registry, the instances of one, or functions."""

from typing import Any

import click

from rap.cli.command import Command, json_option, run
from rap.cli.commands.describe import KINDS
from rap.cli.descriptions import list_functions
from rap.cli.registry import RegistryReader
from rap.cli.remote import Remote, remote_options
from rap.cli.table import print_rows
from rap.registry import Endpoint
from rap.registry.base import WIRE_VERSIONS
from rap.wire.hello import VERSIONS, Versions

__all__ = ["ls"]


@click.command(cls=Command)
@json_option
@remote_options
def ls(remote: Remote, json: bool) -> None:
    """List services, instances or functions.

    With --registry, list the services of its namespace. With --registry and --service, list the
    instances of the service. Otherwise list the functions of the server at --host, which answers
    only clients on its own machine.
    """
    if remote.registry is None:
        print_rows(run(_functions(remote)), json=json)
    elif remote.service is None:
        print_rows(run(_services(remote)), json=json)
    else:
        print_rows(run(_instances(remote)), json=json, right=["weight"])


async def _functions(remote: Remote) -> list[dict[str, Any]]:
    async with remote.connected() as client:
        return [
            {
                "group": each["group"],
                "function": each["func_name"] + each["signature"],
                "stream_type": _kind(each),
                "private": each["is_private"],
            }
            for each in await list_functions(client)
        ]


def _kind(entry: dict[str, Any]) -> str:
    if "shape" in entry:  # older servers do not tell it
        return str(KINDS.get(entry["shape"], entry["shape"]))
    if entry["func_type"] == "channel":
        return "channel"
    return "generator" if entry["is_gen_func"] else "function"


async def _services(remote: Remote) -> list[dict[str, Any]]:
    async with RegistryReader(remote) as registry:
        names = await registry.services()
    if not names:
        click.echo("the registry lists no service", err=True)
    return [{"service": name} for name in names]


async def _instances(remote: Remote) -> list[dict[str, Any]]:
    async with RegistryReader(remote) as registry:
        instances = await registry.instances()
        loads = await registry.loads()
        if not instances:
            click.echo(await registry.none_found(), err=True)
    return [_row(each, loads.get(each.id, {})) for each in instances]


def _row(instance: Endpoint, load: Any) -> dict[str, Any]:
    wire = instance.metadata.get(WIRE_VERSIONS, "")
    spoken = Versions.parse(wire)
    common = spoken is None or VERSIONS.common(spoken)
    address = str(instance.address)
    return {
        "address": address,
        "registered_as": "" if instance.id == address else instance.id,
        "state": instance.state.value if common else "incompatible",
        "weight": instance.weight,
        "zone": instance.zone,
        "version": instance.metadata.get("version", ""),
        "wire": wire,
        "incarnation": instance.incarnation,
        "load": " ".join(f"{name}={figure:g}" for name, figure in sorted(load.items())),
    }
