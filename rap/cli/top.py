"""``rap top``: the instances of a service side by side, again and again."""

import asyncio
import contextlib
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import click

from rap.cli.board import Board
from rap.cli.command import Command, run
from rap.cli.listing import columns, print_rows, text
from rap.cli.remote import Remote, remote_options
from rap.cli.values import to_json

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

__all__ = ["top"]

_STYLES = {"up": "green", "draining": "yellow", "suspect": "yellow", "silent": "red"}
_TITLES = {"calls_s": "calls/s", "errors_s": "errors/s"}
_NUMBERS = (
    "weight", "in_flight", "calls/s", "errors/s", "latency_ms", "p50_ms", "p99_ms", "cpu",
    "clients", "ping_ms",
)  # fmt: skip


@click.command(cls=Command)
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(min=0.2),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    help="Port of the page of metrics that each instance has on its host; see rap serve.",
)
@click.option("--once", is_flag=True, help="Look once.")
@click.option("--json", is_flag=True, help="Print a JSON array for each look, on a line.")
@remote_options
def top(remote: Remote, interval: float, metrics_port: int | None, once: bool, json: bool) -> None:
    """Show load and state of each instance of a service, or each --host.

    Until Ctrl-C; a table in place on a terminal, one after another elsewhere. What neither the
    registry nor the instances tell is left out.
    """
    live = sys.stdout.isatty() and not json and not once
    board = Board(remote, metrics_port)
    run(_top(board, interval, once=once, json=json, live=live))


async def _top(board: Board, interval: float, *, once: bool, json: bool, live: bool) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(board)
        screen = stack.enter_context(_screen()) if live else None
        with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C is how one leaves
            if once and board.counts:
                await board.look()  # what is counted is told of the time between two looks
                await asyncio.sleep(interval)
            while True:
                rows = await board.look()
                if json:
                    click.echo(to_json(rows))
                elif not rows:
                    said = await board.none_found()
                    if screen is None:
                        click.echo(said, err=True)
                    else:
                        screen.update(said, refresh=True)
                elif screen is None:
                    print_rows(_shown(rows), json=False, right=_NUMBERS)
                else:
                    screen.update(_table(_shown(rows)), refresh=True)
                if once:
                    return
                await asyncio.sleep(interval)
                if not live and not json:
                    click.echo()


def _shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows as people read them."""
    return [{_TITLES.get(name, name): _cell(name, row[name]) for name in row} for row in rows]


def _cell(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in _TITLES:
        return f"{value:.1f}"
    return f"{value * 100:.0f} %" if name == "cpu" else value


def _screen() -> "Live":
    from rich.live import Live  # for those who look at a terminal

    return Live(auto_refresh=False)


def _table(rows: list[dict[str, Any]]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=0)
    names = columns(rows)
    for name in names:
        right = name in _NUMBERS
        table.add_column(name.replace("_", " "), justify="right" if right else "left")
    for row in rows:
        style = _STYLES.get(row["state"], "")
        table.add_row(*(Text(text(row[n]), style if n == "state" else "") for n in names))
    return table
