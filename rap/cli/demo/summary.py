"""What the demo says at its end: calls, shares against weights, and when things were noticed."""

from rich.console import Console
from rich.table import Table

from rap.cli.demo.scenario import ScenarioReport
from rap.cli.demo.traffic import Stretch, Traffic

__all__ = ["print_summary"]


def print_summary(
    console: Console, report: ScenarioReport, traffic: Traffic, elapsed: float
) -> None:
    """Print the summary.

    Args:
        console: Where.
        report: What the story came to.
        traffic: The calls made meanwhile.
        elapsed: Seconds it took.
    """
    shares = Table("quiet after", "calls", "share (by weight)", "off")
    for stretch in report.stretches:
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


def _shares(stretch: Stretch) -> str:
    names = sorted({*stretch.expected, *stretch.answered})
    return ", ".join(
        f"{name} {stretch.share(name):.1%} ({stretch.expected.get(name, 0.0):.0%})"
        for name in names
    )


def _but(error: str) -> str:
    return f", until it ended: {error}" if error else ""
