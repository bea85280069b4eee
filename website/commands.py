"""The page of the reference that lists each command of ``rap`` with its options.

It is made from the commands themselves when the site is built.
"""

from inspect import cleandoc

import click

from rap.cli.app import COMMANDS, rap

__all__ = ["PAGE", "commands_page"]

PAGE = "reference/commands.md"
HEAD = """# Commands

`rap COMMAND --help` prints the same. [The command line](../cli.md) shows what to do with them.
"""


def commands_page() -> str:
    """Return the page as Markdown."""
    with click.Context(rap, info_name="rap") as context:
        names = [name for name in sorted(COMMANDS) if COMMANDS[name].help]
        return "\n".join([HEAD, *(section(context, name) for name in names)])


def section(context: click.Context, name: str) -> str:
    """Return the section of one command: its usage, its text, and a table of its options."""
    command = rap.get_command(context, name)
    assert command is not None
    with click.Context(command, info_name=name, parent=context) as own:
        usage = " ".join([own.command_path, *command.collect_usage_pieces(own)])
        options = [each for each in command.params if isinstance(each, click.Option)]
        records = [each.get_help_record(own) for each in options]
    rows = [row(*record) for record in records if record]
    table = ["| Option | Meaning |", "| --- | --- |", *rows, ""] if rows else []
    text = cleandoc(command.help or "").replace("\b\n", "").replace("<", "&lt;")
    return "\n".join([f"## `rap {name}`", "", "```text", usage, "```", "", text, "", *table])


def row(option: str, meaning: str) -> str:
    """Return the row of one option."""
    return f"| `{escaped(option)}` | {escaped(meaning).replace('[', '&#91;')} |"


def escaped(text: str) -> str:
    """Return a text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
