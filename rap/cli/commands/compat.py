"""``rap compat OLD NEW``: whether old and new clients and servers understand each other."""

import json as json_module
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from rap.address import Address
from rap.cli.command import Command, json_option, run
from rap.cli.descriptions import checked_description, describe_all, describe_program
from rap.cli.json_values import to_json
from rap.cli.remote import Remote, remote_options
from rap.foreign import printable
from rap.schema.compatibility import (
    ORDERS,
    Compatibility,
    Verdict,
    breaks,
    compare_all,
    orders_of,
    read_descriptions,
)

__all__ = ["compat"]

_SIDES = ("old clients, new servers", "new clients, old servers")


@click.command(cls=Command)
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@click.option(
    "--order",
    type=click.Choice(ORDERS),
    default="servers-first",
    show_default=True,
    help="What you update first; the exit status is 1 if calls would fail in this order.",
)
@json_option
@remote_options
@click.pass_context
def compat(ctx: click.Context, remote: Remote, old: str, new: str, order: str, json: bool) -> None:
    """Compare two versions of a server, and say whether calls would fail.

    OLD and NEW are files that `rap describe --json` has written, programs MODULE:SERVER, addresses
    of running servers, or with --registry names of services.
    """
    found = compare_all(_read(old, remote), _read(new, remote))
    broken = breaks(found, order)
    if json:
        click.echo(to_json([_as_data(each) for each in found]))
    else:
        click.echo(printable("\n".join(_lines(found))))
    if broken:
        ctx.exit(1)


def _read(source: str, remote: Remote) -> Sequence[Any]:
    """Return the descriptions of the functions of one side.

    Raises:
        UsageError: The source has none of the known forms.
        Failed: The server cannot be asked.
    """
    path = Path(source)
    if path.is_file() or path.suffix == ".json":
        try:
            entries = read_descriptions(json_module.loads(path.read_text()))
            return [checked_description(each) for each in entries]
        except (OSError, ValueError) as exc:
            raise click.UsageError(f"{source}: {exc}") from exc
    if remote.registry is not None and not set(source) & set(":/"):
        return run(describe_all(replace(remote, host=(), service=source)))
    try:
        address = Address.parse(source)
    except ValueError:
        return describe_program(source)
    return run(describe_all(replace(remote, host=(str(address),), registry=None, service=None)))


def _lines(found: Sequence[Compatibility]) -> list[str]:
    """Return what is printed: each function that has changed, then what it means."""
    lines: list[str] = []
    changed = [each for each in found if each.change != "same"]
    for each in changed:
        lines.append(f"{each.function}: {each.change}")
        for side, verdict in zip(_SIDES, (each.old_clients, each.new_clients), strict=True):
            lines.append(f"  {side}: {verdict.text}")
            lines += [f"    {reason}" for reason in verdict.reasons]
    number = f"{len(changed)} of {len(found)} functions changed"
    possible = orders_of(found)
    if not possible:
        return [*lines, f"{number}; in any order of updates, some calls fail"]
    if "any" in possible:
        return [*lines, f"{number}; update servers and clients in any order"]
    (first,) = possible
    return [*lines, f"{number}; update the {first.removesuffix('-first')} first"]


def _as_data(each: Compatibility) -> dict[str, Any]:
    def data(verdict: Verdict) -> dict[str, Any]:
        return {"verdict": verdict.level.name.lower(), "reasons": list(verdict.reasons)}

    return {
        "function": each.function,
        "change": each.change,
        "old_clients": data(each.old_clients),
        "new_clients": data(each.new_clients),
    }
