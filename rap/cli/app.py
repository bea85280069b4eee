"""The program ``rap``: a group of commands, each imported when it is run.

Importing a command takes time, so ``rap --help`` imports none and prints the table below.
"""

from difflib import get_close_matches
from importlib import import_module
from typing import NamedTuple

import click

from rap import __version__

__all__ = ["COMMANDS", "CommandEntry", "main", "rap"]


class CommandEntry(NamedTuple):
    """Where to import a command from, and what ``rap --help`` says of it.

    Args:
        module: The module that defines it.
        attribute: Its name in that module.
        help: Its line in the list of commands; empty if it is not listed.
    """

    module: str
    attribute: str
    help: str


COMMANDS = {
    "bench": CommandEntry(
        "rap.cli.commands.bench", "bench", "Call a function repeatedly and measure the calls."
    ),
    "call": CommandEntry("rap.cli.commands.call", "call", "Call a function and print its result."),
    "compat": CommandEntry(
        "rap.cli.commands.compat",
        "compat",
        "Compare two versions of a server, and say whether calls would fail.",
    ),
    "demo": CommandEntry(
        "rap.cli.commands.demo",
        "demo",
        "Run a small cluster with failures, and count the failed calls.",
    ),
    "demo-replica": CommandEntry("rap.cli.demo.replica", "demo_replica", ""),
    "describe": CommandEntry(
        "rap.cli.commands.describe", "describe", "Describe a function of a server."
    ),
    "ls": CommandEntry("rap.cli.commands.ls", "ls", "List services, instances or functions."),
    "ping": CommandEntry(
        "rap.cli.commands.ping",
        "ping",
        "Measure round trips to each instance of a service, or to each --host.",
    ),
    "serve": CommandEntry(
        "rap.cli.commands.serve",
        "serve",
        "Serve MODULE:SERVER, a Server or a function that returns one.",
    ),
    "stub": CommandEntry("rap.cli.commands.stub", "stub", "Write a Python module of typed stubs."),
    "top": CommandEntry(
        "rap.cli.commands.top",
        "top",
        "Show the load and state of each instance of a service, or of each --host.",
    ),
}


class LazyGroup(click.Group):
    """A group of commands that are imported when they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands in alphabetical order."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, or `None` if there is none of that name."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = getattr(import_module(entry.module), entry.attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; the error for an unknown one suggests the one that was meant."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            close = get_close_matches(name, [each for each in COMMANDS if COMMANDS[each].help], 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            ctx.fail(f"No such command {name!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        rows = [(name, entry.help) for name, entry in sorted(COMMANDS.items()) if entry.help]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="rap", message="rap %(version)s")
def rap() -> None:
    """Call Python functions over the network."""


def main() -> None:
    """Run the command line and exit.

    Every option can also be set in the environment: ``RAP_SERVE_LOOP`` sets ``rap serve --loop``.
    """
    rap(prog_name="rap", auto_envvar_prefix="RAP")
