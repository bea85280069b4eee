"""Rows for people and for programs: aligned columns, or JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from rap.cli.command import one_line
from rap.cli.json_values import to_json

__all__ = ["columns", "print_rows", "text"]

_GAP = "  "


def print_rows(rows: Sequence[Mapping[str, Any]], *, json: bool, right: Sequence[str] = ()) -> None:
    """Print rows; columns in which no row has anything are left out of what people see.

    Args:
        rows: Name of each column to its value; `None` and the empty string are nothing.
        json: Print one JSON array instead.
        right: Columns of numbers.
    """
    if json:
        click.echo(to_json(list(rows)))
        return
    names = columns(rows)
    texts = [{name: name.upper().replace("_", " ") for name in names}]
    texts += [{name: text(row.get(name)) for name in names} for row in rows]
    widths = {name: max(len(each[name]) for each in texts) for name in names}
    for each in texts if names else ():
        cells = [f"{each[name]:{'>' if name in right else '<'}{widths[name]}}" for name in names]
        click.echo(_GAP.join(cells).rstrip())


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the columns in which some row has something."""
    return [name for name in (rows[0] if rows else ()) if any(text(row.get(name)) for row in rows)]


def text(value: Any) -> str:
    """Return what people see of a value."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else ""
    return one_line(f"{value:.3f}" if isinstance(value, float) else str(value))
