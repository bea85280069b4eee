"""Rows as text for people: aligned columns; or as JSON for programs."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from rap.cli.json_values import to_json
from rap.foreign import one_line

__all__ = ["cell_text", "columns", "print_rows"]

_GAP = "  "


def print_rows(rows: Sequence[Mapping[str, Any]], *, json: bool, right: Sequence[str] = ()) -> None:
    """Print rows. The text leaves out columns that are empty in every row; JSON has all.

    Args:
        rows: Mappings of column name to value; `None` and the empty string are empty cells.
        json: Print one JSON array instead of text.
        right: Names of the columns that are aligned to the right.
    """
    if json:
        click.echo(to_json(list(rows)))
        return
    names = columns(rows)
    texts = [{name: name.upper().replace("_", " ") for name in names}]
    texts += [{name: cell_text(row.get(name)) for name in names} for row in rows]
    widths = {name: max(len(each[name]) for each in texts) for name in names}
    for each in texts if names else ():
        cells = [f"{each[name]:{'>' if name in right else '<'}{widths[name]}}" for name in names]
        click.echo(_GAP.join(cells).rstrip())


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the columns that are not empty in every row."""
    names = rows[0] if rows else ()
    return [name for name in names if any(cell_text(row.get(name)) for row in rows)]


def cell_text(value: Any) -> str:
    """Return the text of a cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else ""
    return one_line(f"{value:.3f}" if isinstance(value, float) else value)
