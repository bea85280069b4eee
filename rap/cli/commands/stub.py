"""``rap stub``: writes a module of typed stubs for the functions of a server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from rap.cli.command import Command, Failed, run
from rap.cli.describe_source import described, imported
from rap.cli.remote import Remote, remote_options
from rap.cli.stubgen.module import stub_module

__all__ = ["stub"]


@click.command(cls=Command)
@click.argument("target", metavar="[MODULE:SERVER]", required=False)
@click.option("--group", metavar="NAME", multiple=True, help="Only this group; may be repeated.")
@click.option("--private", is_flag=True, help="Private functions too.")
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="File to write.")
@remote_options
def stub(
    remote: Remote, target: str | None, group: tuple[str, ...], private: bool, output: str | None
) -> None:
    """Write a Python module of typed stubs.

    From MODULE:SERVER, which is imported and does not serve; else from the server at --host, which
    tells its functions only to clients on its own machine.

    Each group is a Protocol for client.bind, each channel a function that opens it.
    """
    found: Sequence[Any] = run(described(remote)) if target is None else imported(target)
    chosen = [
        each
        for each in found
        if (private or not each["is_private"]) and (not group or each["group"] in group)
    ]
    missing = set(group) - {each["group"] for each in chosen}
    if missing:
        raise Failed(f"there is no function in the group {min(missing)}; see --group, --private")
    if not chosen:
        raise Failed("the server has no function that is not private; see --private")
    text = stub_module(chosen)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        Path(output).write_text(text)
    except OSError as exc:
        raise click.BadParameter(f"cannot write {output}: {exc}", param_hint="'--output'") from exc
