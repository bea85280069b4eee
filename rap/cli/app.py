"""The program ``rap``: its commands under one name, each imported when it is asked for.

What a command imports takes a while, so ``rap --help`` imports none and prints the table below.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

import click

from rap import __version__

__all__ = ["COMMANDS", "main", "rap"]


class Place(NamedTuple):
    """Where a command is.

    Args:
        module: Which has it.
        attribute: Its name there.
        help: Its line in the list of commands; empty: it is not listed.
    """

    module: str
    attribute: str
    help: str


COMMANDS = {
    "bench": Place(
        "rap.cli.commands.bench", "bench", "Call a function again and again, and measure."
    ),
    "call": Place("rap.cli.commands.call", "call", "Call a function and print what it answers."),
    "demo": Place(
        "rap.cli.commands.demo",
        "demo",
        "Run a small cluster, do to it what happens to clusters, and count what its client"
        " noticed.",
    ),
    "demo-replica": Place("rap.cli.demo.replica", "demo_replica", ""),
    "describe": Place("rap.cli.commands.describe", "describe", "Describe a function of a server."),
    "ls": Place("rap.cli.commands.ls", "ls", "List services, instances or functions."),
    "ping": Place(
        "rap.cli.commands.ping",
        "ping",
        "Measure round trips to each instance of a service, or each --host.",
    ),
    "serve": Place(
        "rap.cli.commands.serve",
        "serve",
        "Serve MODULE:SERVER, a Server or a function that makes one.",
    ),
    "stub": Place("rap.cli.commands.stub", "stub", "Write a Python module of typed stubs."),
    "top": Place(
        "rap.cli.commands.top",
        "top",
        "Show load and state of each instance of a service, or each --host.",
    ),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order of the alphabet."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; `None` if there is none of that name."""
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        command: click.Command = getattr(import_module(place.module), place.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        rows: Sequence[tuple[str, str]] = [
            (name, place.help) for name, place in sorted(COMMANDS.items()) if place.help
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="rap", message="rap %(version)s")
def rap() -> None:
    """Call Python functions over the network."""


def main() -> None:
    """Run the command line and exit.

    Every option can be given in the environment: ``RAP_SERVE_LOOP`` for ``rap serve --loop``.
    """
    rap(prog_name="rap", auto_envvar_prefix="RAP")
