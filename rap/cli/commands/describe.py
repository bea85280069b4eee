"""``rap describe [FUNC]``: the parameters, the result and the types of functions."""

import textwrap
from collections.abc import Mapping
from typing import Any

import click

from rap.call import canonical_group
from rap.cli.calls import function_named, group_option
from rap.cli.command import Command, json_option, run
from rap.cli.descriptions import describe_all, describe_one
from rap.cli.json_values import to_json
from rap.cli.remote import Remote, remote_options
from rap.cli.stubgen.annotations import Annotations
from rap.cli.stubgen.declarations import declare, parameters
from rap.foreign import printable

__all__ = ["KINDS", "describe", "description_text"]

KINDS = {
    "unary": "function",
    "stream": "generator",
    "client_stream": "client streaming",
    "bidi": "bidirectional",
    "channel": "channel",
}


@click.command(cls=Command)
@click.argument("func", metavar="[FUNC]", required=False)
@group_option
@json_option
@remote_options
def describe(remote: Remote, func: str | None, group: str | None, json: bool) -> None:
    """Describe a function of a server.

    Without FUNC, it describes all of them. `rap compat` compares what --json then writes with a
    later version of the server. A server describes its functions only to clients on its own
    machine.
    """
    if func is not None:
        name, group = function_named(func, group)
        found = run(describe_one(remote, name, canonical_group(group)))
        click.echo(to_json(found) if json else description_text(found))
        return
    every = [
        each
        for each in run(describe_all(remote))
        if each["group"] != "registry" and group in (None, each["group"])
    ]
    click.echo(to_json(every) if json else "\n\n\n".join(map(description_text, every)))


def description_text(found: Mapping[str, Any]) -> str:
    """Return a description as lines that are safe to print.

    Raises:
        Failed: It describes what is not Python.
    """
    names = {each["name"] for each in found["types"]}
    annotations = Annotations(names, ())
    given = ", ".join(parameters(found["parameters"], annotations))
    rows = {
        "group": found["group"],
        "stream type": KINDS.get(found["shape"], found["shape"]),
        "idempotent": "yes" if found["idempotent"] else "no",
        "private": "yes" if found["is_private"] else "no",
    }
    parts = [
        f"{found['func_name']}({given}) -> {annotations.type(found['returns'])}",
        "\n".join(f"  {name:<11} {value}" for name, value in rows.items()),
    ]
    if found["doc"]:
        parts.append(textwrap.indent(found["doc"], "  "))
    parts += ["\n".join(declare(each, annotations)) for each in found["types"]]
    return printable("\n\n".join(parts)).replace("\t", " ")
