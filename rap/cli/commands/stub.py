"""``rap stub``: write a module of typed stubs for the functions of a server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from rap.cli.command import Command, Failed, run
from rap.cli.descriptions import describe_all, describe_program
from rap.cli.remote import Remote, remote_options
from rap.cli.stubgen.module import stub_module

__all__ = ["stub"]


@click.command(cls=Command)
@click.argument("target", metavar="[MODULE:SERVER]", required=False)
@click.option(
    "--group",
    metavar="NAME",
    multiple=True,
    help="Include only the functions of this group. May be repeated.",
)
@click.option("--private", is_flag=True, help="Include private functions.")
@click.option("--sync", is_flag=True, help="Write stubs for a SyncClient, without await.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False),
    help="File to write. [default: standard output]",
)
@remote_options
def stub(
    remote: Remote,
    target: str | None,
    group: tuple[str, ...],
    private: bool,
    sync: bool,
    output: str | None,
) -> None:
    """Write a Python module of typed stubs.

    With MODULE:SERVER, import that program without serving it, and write stubs of its functions.
    Otherwise ask the server at --host, which answers only clients on its own machine.

    Each group becomes a Protocol for client.bind. Each channel becomes a function that opens it.
    """
    found: Sequence[Any] = run(describe_all(remote)) if target is None else describe_program(target)
    chosen = [
        each
        for each in found
        if (private or not each["is_private"]) and (not group or each["group"] in group)
    ]
    missing = set(group) - {each["group"] for each in chosen}
    if missing:
        names = ", ".join(sorted({each["group"] for each in found})) or "none"
        text = f"there is no function in the group {min(missing)}; the groups are {names}"
        raise Failed(f"{text}; for private functions, use --private")
    if not chosen:
        raise Failed(
            "the server has no function that is not private; register one, or use --private"
        )
    text = stub_module(chosen, sync=sync)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as exc:
        raise click.BadParameter(f"cannot write {output}: {exc}", param_hint="'--output'") from exc
