"""Rows for people and for programs: aligned columns, or JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from rap.cli.command import one_line
from rap.cli.values import to_json

__all__ = ["print_rows"]

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
    columns = [name for name in (rows[0] if rows else ()) if any(_text(row, name) for row in rows)]
    widths = {name: max(len(name), *(len(_text(row, name)) for row in rows)) for name in columns}
    for row in ({name: name.upper().replace("_", " ") for name in columns}, *rows):
        cells = [
            f"{_text(row, name):{'>' if name in right else '<'}{widths[name]}}" for name in columns
        ]
        if columns:
            click.echo(_GAP.join(cells).rstrip())


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else ""
    return one_line(f"{value:.3f}" if isinstance(value, float) else str(value))
