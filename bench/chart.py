"""Draws the results: a panel for each of the main figures, a bar for each peer."""

from pathlib import Path

from bench.metrics import METRICS, RAP, figure
from bench.report import Report

__all__ = ["draw"]

_SHOWN = (
    "one call at a time, p50", "64 in flight", "64 in flight, p99",
    "server time of 100,000 calls", "echo 64 KiB", "stream of integers",
    "100 channels, round trips", "connect, call, close", "server memory of a connection",
)  # fmt: skip
_COLUMNS = 3


def draw(report: Report, path: Path) -> None:
    """Write the chart, without the figures that were not measured.

    Args:
        report: A run.
        path: File to write. Its suffix is the format: svg, png or pdf.
    """
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "font.size": 9}
    from matplotlib import pyplot

    metrics = [metric for metric in METRICS if metric.title in _SHOWN]
    rows = -(-len(metrics) // _COLUMNS)
    picture, panels = pyplot.subplots(rows, _COLUMNS, figsize=(4 * _COLUMNS, 2.4 * rows))
    for panel, metric in zip(panels.flat, metrics, strict=False):
        values = {
            peer: value
            for peer in reversed(list(report.peers))
            if (value := figure(report.rounds, peer, metric)) is not None
        }
        colours = ["#c2410c" if peer == RAP else "#94a3b8" for peer in values]
        bars = panel.barh(list(values), list(values.values()), color=colours)
        panel.bar_label(bars, [f"{each:,.{metric.digits}f}" for each in values.values()], padding=3)
        better = "less is better" if metric.lower_is_better else "more is better"
        panel.set_title(f"{metric.title}\n{metric.unit}, {better}", fontsize=9, loc="left")
        panel.set_xticks([])
        panel.margins(x=0.25)
        for side in ("top", "right", "bottom"):
            panel.spines[side].set_visible(False)
    picture.tight_layout()
    picture.savefig(path)
    pyplot.close(picture)
