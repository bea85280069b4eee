"""The picture of a day: what callers got, second by second, and what happened meanwhile."""

import math
from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise

from chaos.day import Happening
from chaos.driver import Outcome
from chaos.records import Found

__all__ = ["draw"]

_WIDTH, _LEFT, _RIGHT = 1400, 70, 20  # pixels
_PANEL, _GAP, _TOP = 150, 34, 56
_ROW, _COLUMNS = 17, 4  # of the legend of events
_BANDS = ("#dbeafe", "#fef3c7")
_COLOURS = {
    "answered": "#15803d",
    "work": "#0e7490",
    "p50": "#2563eb",
    "p99": "#c2410c",
    "failed": "#dc2626",
    "excused": "#f9a8d4",
    "broken": "#d97706",
    "scripted": "#7c3aed",
    "refused": "#94a3b8",
    "healthy": "#15803d",
}


def draw(found: Found, happenings: Sequence[Happening], title: str) -> str:
    """Return the picture as SVG.

    Args:
        found: What was found.
        happenings: The events.
        title: For its head.
    """
    return _Picture(found, happenings).render(title)


class _Picture:
    def __init__(self, found: Found, happenings: Sequence[Happening]) -> None:
        self._found = found
        self._happenings = happenings
        self._end = max(len(found.seconds), 1)
        self._parts: list[str] = []

    def render(self, title: str) -> str:
        panels = (self._calls, self._latencies, self._errors, self._replicas)
        below = _TOP + len(panels) * (_PANEL + _GAP)
        height = below + 12 + _ROW * -(-len(self._happenings) // _COLUMNS) + 10
        self._bands(below - _GAP)
        for number, panel in enumerate(panels):
            panel(_TOP + number * (_PANEL + _GAP))
        self._names(below + 12)
        head = f'<text x="{_LEFT}" y="20" font-size="15" font-weight="bold">{escape(title)}</text>'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
            f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="11">\n'
            f'<rect width="{_WIDTH}" height="{height}" fill="white"/>\n{head}\n'
            + "\n".join(self._parts)
            + "\n</svg>\n"
        )

    # Panels

    def _calls(self, top: int) -> None:
        seconds = self._found.seconds
        answered = [float(each.outcomes[Outcome.ANSWERED]) for each in seconds]
        work = [float(each.work[Outcome.ANSWERED]) for each in seconds]
        y = self._linear(top, max([1.0, *answered, *work]))
        self._frame(
            top, "calls/s", [("answered", "answered"), ("work", "answered in the overload")]
        )
        self._line(answered, y, _COLOURS["answered"])
        if any(work):
            self._line(work, y, _COLOURS["work"])

    def _latencies(self, top: int) -> None:
        low, high = math.log10(0.0005), math.log10(10.0)

        def y(seconds: float) -> float:
            share = (math.log10(min(max(seconds, 0.0005), 10.0)) - low) / (high - low)
            return top + _PANEL * (1.0 - share)

        self._frame(top, "latency", [("p50", "p50"), ("p99", "p99")])
        for seconds, text in ((0.001, "1 ms"), (0.01, "10 ms"), (0.1, "100 ms"), (1.0, "1 s")):
            self._grid(y(seconds), text)
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            values = [second.percentile(share) for second in self._found.seconds]
            self._line(values, y, _COLOURS[name])

    def _errors(self, top: int) -> None:
        seconds, bad = self._found.seconds, (Outcome.FAILED, Outcome.WRONG)
        kinds = [
            ("failed", [sum(each.outcomes[it] for it in bad) - each.excused for each in seconds]),
            ("excused", [each.excused for each in seconds]),
            ("broken", [each.outcomes[Outcome.BROKEN] for each in seconds]),
            ("scripted", [each.outcomes[Outcome.SCRIPTED] for each in seconds]),
            ("refused", [each.work.total() - each.work[Outcome.ANSWERED] for each in seconds]),
        ]
        y = self._root(top, float(max([1, *(value for _, values in kinds for value in values)])))
        legend = {
            "failed": "failed",
            "excused": "failed without a healthy replica",
            "broken": "failed, could not be repeated",
            "scripted": "errors of handlers",
            "refused": "not answered in the overload",
        }
        self._frame(top, "errors/s", [(name, legend[name]) for name, _ in kinds])
        for name, values in reversed(kinds):
            for second, value in enumerate(values):
                if value:
                    x, upper = self._x(second), y(float(value))
                    self._parts.append(
                        f'<rect x="{x:.1f}" y="{upper:.1f}" width="{self._step:.1f}" '
                        f'height="{top + _PANEL - upper:.1f}" fill="{_COLOURS[name]}"/>'
                    )

    def _replicas(self, top: int) -> None:
        alive = [*self._found.alive, (float(self._end), 0)]
        most = max(1, *(count for _, count in alive))
        y = self._linear(top, float(most))
        self._frame(top, "healthy replicas", [])
        points = []
        for (at, count), (until, _) in pairwise(alive):
            points += [(self._x(at), y(float(count))), (self._x(until), y(float(count)))]
        self._path(points, _COLOURS["healthy"])
        for second in range(0, self._end + 1, _tick(self._end)):
            self._text(self._x(second), top + _PANEL + 14, f"{second} s", "middle")

    # Parts

    @property
    def _step(self) -> float:
        return max(1.0, (_WIDTH - _LEFT - _RIGHT) / self._end)

    def _x(self, second: float) -> float:
        share = min(max(second / self._end, 0.0), 1.0)
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * share

    def _linear(self, top: int, most: float) -> Callable[[float], float]:
        """Return the height of values up to the largest, and label it."""
        self._grid(top, f"{most:,.0f}")
        return lambda value: top + _PANEL * (1.0 - value / most)

    def _root(self, top: int, most: float) -> Callable[[float], float]:
        """Return the same by the square root, so that one error is to be seen beside a thousand."""
        self._grid(top, f"{most:,.0f}")
        return lambda value: top + _PANEL * (1.0 - math.sqrt(value / most))

    def _frame(self, top: int, title: str, legend: Sequence[tuple[str, str]]) -> None:
        right = _WIDTH - _RIGHT
        bottom = top + _PANEL
        self._parts.append(
            f'<path d="M{_LEFT} {top}V{bottom}H{right}" fill="none" stroke="#475569"/>'
        )
        self._text(_LEFT, top - 5, title, "start", bold=True)
        x = _LEFT + 130
        for name, text in legend:
            self._parts.append(
                f'<rect x="{x}" y="{top - 14}" width="10" height="10" fill="{_COLOURS[name]}"/>'
            )
            self._text(x + 14, top - 5, text, "start")
            x += 40 + 6 * len(text)

    def _grid(self, y: float, text: str) -> None:
        line = f"M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"
        self._parts.append(f'<path d="{line}" stroke="#cbd5e1" stroke-dasharray="2 3"/>')
        self._text(_LEFT - 5, y + 4, text, "end")

    def _line(
        self, values: Sequence[float | None], y: Callable[[float], float], colour: str
    ) -> None:
        self._path(
            [
                (self._x(second + 0.5), y(value))
                for second, value in enumerate(values)
                if value is not None
            ],
            colour,
        )

    def _path(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.3"/>'
        )

    def _bands(self, bottom: int) -> None:
        for number, happening in enumerate(self._happenings, 1):
            left, right = self._x(happening.begin), self._x(happening.healed)
            self._parts.append(
                f'<rect x="{left:.1f}" y="{_TOP - 22}" width="{max(1.5, right - left):.1f}" '
                f'height="{bottom - _TOP + 22}" fill="{_BANDS[number % 2]}">'
                f"<title>{escape(happening.event.title)}</title></rect>"
            )
            self._text((left + right) / 2, _TOP - 24, str(number), "middle", bold=True)

    def _names(self, top: int) -> None:
        for number, happening in enumerate(self._happenings):
            x = _LEFT + (number % _COLUMNS) * (_WIDTH - _LEFT) // _COLUMNS
            y = top + _ROW * (number // _COLUMNS) + 12
            self._text(x, y, f"{number + 1}  {happening.event.title}", "start")

    def _text(self, x: float, y: float, text: str, anchor: str, *, bold: bool = False) -> None:
        weight = ' font-weight="bold"' if bold else ""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight} fill="#0f172a">'
            f"{escape(text)}</text>"
        )


def _tick(end: int) -> int:
    """Return the seconds between two labels of the time."""
    return next((step for step in (5, 10, 30, 60, 120, 300) if end / step <= 20), 600)
