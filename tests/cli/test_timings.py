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


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0.001], [(1.0, 1.1, 1)]),
        ([0.00112, 0.00125, 0.00126], [(1.1, 1.2, 1), (1.2, 1.3, 2)]),
        (
            [0.00052, 0.00105, 0.0021],
            [(0.47, 0.68, 1), (0.68, 1.0, 0), (1.0, 1.5, 1), (1.5, 2.2, 1)],
        ),
    ],
)
def test_the_buckets_of_a_histogram_have_round_bounds_and_no_gap(
    times: list[float], expected: list[tuple[float, float, int]]
) -> None:
    histogram = Histogram()
    for each in times:
        histogram.add(each)
    found = histogram.buckets(4)
    assert expected == [
        (round(each.low * 1000, 6), round(each.high * 1000, 6), each.number) for each in found
    ]


def test_buckets_count_every_duration_once_whatever_they_span() -> None:
    rng = random.Random(2)
    for decades in range(1, 10):
        histogram = Histogram()
        for _ in range(300):
            histogram.add(10.0 ** rng.uniform(-7, -7 + decades))
        found = histogram.buckets()
        assert sum(each.number for each in found) == 300
        assert len(found) <= max(12, 3 * decades + 1)
        assert [each.high for each in found[:-1]] == [each.low for each in found[1:]]
        assert found[0].number
        assert found[-1].number
    assert Histogram().buckets() == []
