"""Quantiles of durations: exact ones, and those of a histogram."""

import random

import pytest

from rap.cli.timings import Durations, Histogram


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([], {}),
        ([0.001], {"min": 1.0, "avg": 1.0, "p50": 1.0, "p99": 1.0, "max": 1.0}),
        (
            [i / 1000 for i in range(100, 0, -1)],
            {"min": 1.0, "avg": 50.5, "p50": 50.0, "p99": 99.0, "max": 100.0},
        ),
    ],
)
def test_quantiles_are_measured_durations(times: list[float], expected: dict[str, float]) -> None:
    measured = Durations(times[:-1])
    measured.milliseconds(0.5)
    for each in times[-1:]:
        measured.add(each)
    assert measured.milliseconds(0.5, 0.99) == expected


def test_a_histogram_is_accurate_to_about_one_percent() -> None:
    rng = random.Random(1)
    times = [rng.expovariate(1000.0) for _ in range(5000)]
    histogram = Histogram()
    for each in times:
        histogram.add(each)
    quantiles = (0.5, 0.9, 0.99)
    assert histogram.milliseconds(*quantiles) == pytest.approx(
        Durations(times).milliseconds(*quantiles), rel=0.011, abs=0.001
    )
    assert Histogram().milliseconds(0.5) == {}
