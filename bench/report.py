"""The results of a run, as tables in Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.metrics import GRPC, LIMIT, METRICS, RAP, Metric, figure, ratio
from bench.rounds import Round

__all__ = ["Report"]


@dataclass(frozen=True)
class Report:
    """A run.

    Args:
        machine: Properties of the machine, such as processor and Python version.
        peers: Name of each peer that was measured, with version and settings.
        skipped: Why peers and workloads were left out.
        seconds: Duration of each measurement.
        rounds: Results of each round.
    """

    machine: Mapping[str, str]
    peers: Mapping[str, Mapping[str, str]]
    skipped: Sequence[str]
    seconds: float
    rounds: Sequence[Round]

    def as_json(self) -> dict[str, Any]:
        """Return all results, and the medians."""
        return {
            "machine": dict(self.machine),
            "peers": {name: dict(each) for name, each in self.peers.items()},
            "skipped": list(self.skipped),
            "seconds": self.seconds,
            "medians": {
                metric.title: {
                    "unit": metric.unit,
                    **{
                        peer: value
                        for peer in self.peers
                        if (value := figure(self.rounds, peer, metric)) is not None
                    },
                }
                for metric in self.metrics
            },
            "rounds": list(self.rounds),
        }

    @property
    def metrics(self) -> list[Metric]:
        """The rows that at least one peer has."""
        asked = {workload for each in self.rounds for found in each.values() for workload in found}
        return [metric for metric in METRICS if metric.workload in asked]

    @property
    def failures(self) -> list[str]:
        """The workloads that failed, with their errors; each once."""
        told = {
            f"{peer}, {workload}: {found['error']}": None
            for each in self.rounds
            for peer, workloads in each.items()
            for workload, found in workloads.items()
            if "error" in found
        }
        return list(told)

    def as_markdown(self) -> str:
        """Return the tables."""
        parts = [
            "# Benchmarks",
            "\n".join(f"- {name}: {value}" for name, value in self.machine.items())
            + f"\n- {len(self.rounds)} rounds, {self.seconds:g} s each measurement; medians",
            _table(["", "unit", *self.peers], self._figures()),
        ]
        if targets := self._targets():
            parts += [
                "## rap against its targets\n\nMedians of the ratios within each round.",
                _table(["", "to grpc.aio", "target", "to limit", "target", "itself"], targets),
            ]
        parts.append(
            "## What was measured\n\n"
            + "\n".join(
                f"- {' '.join(filter(None, (name, each['version'])))}: {each['settings']}"
                for name, each in self.peers.items()
            )
        )
        if reasons := [*self.skipped, *self.failures]:
            parts.append("## Not measured\n\n" + "\n".join(f"- {why}" for why in reasons))
        return "\n\n".join(parts) + "\n"

    def _figures(self) -> list[list[str]]:
        return [
            [metric.title, metric.unit, *(self._cell(peer, metric) for peer in self.peers)]
            for metric in self.metrics
        ]

    def _cell(self, peer: str, metric: Metric) -> str:
        value = figure(self.rounds, peer, metric)
        if value is not None:
            return f"{value:,.{metric.digits}f}"
        failed = any("error" in each.get(peer, {}).get(metric.workload, {}) for each in self.rounds)
        return "failed" if failed else "-"

    def _targets(self) -> list[list[str]]:
        rows = []
        for metric in self.metrics:
            cells = [*self._against(GRPC, metric, metric.vs_grpc)]
            cells += self._against(LIMIT, metric, metric.vs_limit)
            cells.append(self._itself(metric))
            if any(cells):
                rows.append([metric.title, *cells])
        return rows

    def _against(self, other: str, metric: Metric, target: float | None) -> tuple[str, str]:
        """Return the cells of a ratio and its target."""
        value = ratio(self.rounds, RAP, other, metric)
        if value is None:
            return "", ""
        if target is None:
            return f"{value:.3g}x", ""
        verdict = "met" if metric.met(value, target) else "**missed**"
        return f"{value:.3g}x", f"{_sign(metric)} {target:.3g}x {verdict}"

    def _itself(self, metric: Metric) -> str:
        value = figure(self.rounds, RAP, metric)
        if value is None or metric.bound is None:
            return ""
        verdict = "met" if metric.met(value, metric.bound) else "**missed**"
        return f"{value:.3g} {_sign(metric)} {metric.bound:g} {metric.unit} {verdict}"


def _sign(metric: Metric) -> str:
    return "<=" if metric.lower_is_better else ">="


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose columns line up in plain text too."""
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    lines = [[*head], ["-" * (width - 1) + ":" for width in widths], *map(list, rows)]
    lines[1][0] = "-" * widths[0]
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    )
