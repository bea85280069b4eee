"""How the demo is shown: a table that lives in a terminal, plain lines anywhere else."""

import time
from types import TracebackType
from typing import Protocol, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rap.cli.demo.board import Row, View

__all__ = ["Display", "make_display"]

_LINE_INTERVAL = 2.0  # seconds between two lines of plain output
_MILLISECONDS = 1000.0
_STYLES = {"up": "green", "draining": "yellow", "drained": "yellow", "killed": "red"}


class Display(Protocol):
    """Shows events when they happen, and the state of the cluster all the time."""

    def event(self, elapsed: float, text: str) -> None:
        """Tell of something that happened `elapsed` seconds after the beginning."""

    def show(self, view: View) -> None:
        """Show how things stand."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None: ...


class LiveTable:
    """A table in place, events scrolling above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False)

    def event(self, elapsed: float, text: str) -> None:
        """Print above the table."""
        self._console.print(Text.assemble((f"{elapsed:6.2f} s  ", "dim"), text), soft_wrap=True)

    def show(self, view: View) -> None:
        """Draw the table anew."""
        self._live.update(_table(view), refresh=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


class PlainLines:
    """One line an event, and one every two seconds on how things stand."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._due = 0.0

    def event(self, elapsed: float, text: str) -> None:
        """Print a line."""
        self._console.print(
            f"{elapsed:6.2f} s  {text}", markup=False, highlight=False, soft_wrap=True
        )

    def show(self, view: View) -> None:
        """Print a line if the last one is old enough."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + _LINE_INTERVAL
            rows = "; ".join(_line(row) for row in view.rows)
            self.event(view.elapsed, f"{view.rate:.0f} calls/s, {view.failed} failed | {rows}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def make_display(console: Console) -> Display:
    """Return a table for a terminal, plain lines for anything else."""
    return LiveTable(console) if console.is_terminal else PlainLines(console)


def _line(row: Row) -> str:
    if row.state in ("killed", "drained"):
        return f"{row.name} {row.state}"
    return (
        f"{row.name} {row.state} {row.share:.0%} of {row.expected:.0%}, {row.in_flight} in flight, "
        f"p50 {row.p50 * _MILLISECONDS:.1f} p99 {row.p99 * _MILLISECONDS:.1f} ms"
    )


def _table(view: View) -> Group:
    # It has to fit into 80 columns.
    table = Table("replica", "weight", box=SIMPLE_HEAD, padding=0)
    table.add_column("state", min_width=len("connecting"))
    for title in ("share", "by weight", "in flight", "p50 ms", "p99 ms", "calls"):
        table.add_column(title, justify="right", min_width=max(len(title), 6))
    for row in view.rows:
        table.add_row(
            row.name,
            str(row.weight),
            Text(row.state, _STYLES.get(row.state, "")),
            f"{row.share:.1%}",
            f"{row.expected:.1%}",
            str(row.in_flight),
            f"{row.p50 * _MILLISECONDS:.1f}",
            f"{row.p99 * _MILLISECONDS:.1f}",
            f"{row.calls:,}",
        )
    failed = Text(f"{view.failed} failed", "bold red" if view.failed else "green")
    return Group(
        table,
        Text.assemble(
            f"{view.elapsed:5.1f} s   {view.rate:,.0f} calls/s   {view.calls:,} calls   ", failed
        ),
    )
