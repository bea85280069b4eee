"""The output of the demo: a live table on a terminal, plain lines elsewhere, and a summary."""

import time
from types import TracebackType
from typing import Protocol, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rap.cli.demo.monitor import ClusterView, ReplicaView
from rap.cli.demo.scenario import ScenarioReport
from rap.cli.demo.traffic import QuietPeriod, Traffic

__all__ = ["Display", "make_display", "print_summary"]

_LINE_INTERVAL = 2.0  # seconds between two lines about the cluster
_MILLISECONDS = 1000.0
_STYLES = {"up": "green", "draining": "yellow", "drained": "yellow", "killed": "red"}


class Display(Protocol):
    """Shows events, and the state of the cluster."""

    def event(self, elapsed: float, text: str) -> None:
        """Show an event that happened `elapsed` seconds after the start."""

    def show(self, view: ClusterView) -> None:
        """Show the state of the cluster."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
        /,
    ) -> None: ...


class LiveTable:
    """A table that is updated in place, with events above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False)

    def event(self, elapsed: float, text: str) -> None:
        """Print an event above the table."""
        self._console.print(Text.assemble((f"{elapsed:6.2f} s  ", "dim"), text), soft_wrap=True)

    def show(self, view: ClusterView) -> None:
        """Update the table."""
        self._live.update(_table(view), refresh=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


class PlainLines:
    """A line for each event, and every two seconds a line about the cluster."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._due = 0.0

    def event(self, elapsed: float, text: str) -> None:
        """Print a line."""
        self._console.print(
            f"{elapsed:6.2f} s  {text}", markup=False, highlight=False, soft_wrap=True
        )

    def show(self, view: ClusterView) -> None:
        """Print a line, unless one was printed less than two seconds ago."""
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
    """Return a live table for a terminal, and plain lines for any other output."""
    return LiveTable(console) if console.is_terminal else PlainLines(console)


def print_summary(
    console: Console, report: ScenarioReport, traffic: Traffic, elapsed: float
) -> None:
    """Print the calls, the shares against the weights, and how fast events were noticed.

    Args:
        console: Where to print.
        report: The results of the scenario.
        traffic: The calls.
        elapsed: Duration of the demo in seconds.
    """
    shares = Table("quiet after", "calls", "share (by weight)", "off")
    for stretch in report.quiet_periods:
        shares.add_row(
            stretch.label,
            f"{stretch.answered.total():,}",
            _shares(stretch),
            f"{stretch.deviation:.1f}",
        )
    shares.caption = "off: percentage points by which the worst share misses its weight"
    times = Table("event", "noticed by", "ms")
    for notice in report.notices:
        times.add_row(notice.event, notice.effect, f"{notice.seconds * 1000:.1f}")
    console.print(shares)
    console.print(times)
    pinned = report.pinned
    console.print(
        f"session: {pinned.calls.total()} calls and {pinned.messages.total()} messages of a "
        f"channel, all on {' and '.join(pinned.replicas) or 'none'}{_but(pinned.error)}"
    )
    console.print(
        f"{traffic.total:,} idempotent calls in {elapsed:.1f} s, {traffic.failed} failed",
        style="bold red" if traffic.failed else "bold green",
    )
    for error in traffic.errors:
        console.print(f"  {error}", markup=False)


def _line(row: ReplicaView) -> str:
    if row.state in ("killed", "drained"):
        return f"{row.name} {row.state}"
    return (
        f"{row.name} {row.state} {row.share:.0%} of {row.expected:.0%}, {row.in_flight} in flight, "
        f"p50 {row.p50 * _MILLISECONDS:.1f} p99 {row.p99 * _MILLISECONDS:.1f} ms"
    )


def _table(view: ClusterView) -> Group:
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


def _shares(stretch: QuietPeriod) -> str:
    names = sorted({*stretch.expected, *stretch.answered})
    return ", ".join(
        f"{name} {stretch.share(name):.1%} ({stretch.expected.get(name, 0.0):.0%})"
        for name in names
    )


def _but(error: str) -> str:
    return f", until it ended: {error}" if error else ""
