"""LatencyAt: the latency that calls have when so many are in flight."""

import pytest

from rap.balance.latency import KEPT, LatencyAt


def test_nothing_is_known_before_the_first_sample() -> None:
    assert LatencyAt().at(3, 0.0) is None


def test_a_latency_is_that_of_calls_with_about_as_many_in_flight() -> None:
    latency = LatencyAt()
    for number in range(20):
        for others in (0, 10, 100):
            latency.add(float(number) / 10, others, 0.010 * (others + 1))
    for others in (0, 10, 100):
        assert latency.at(others, 2.0) == pytest.approx(0.010 * (others + 1))
    assert latency.at(60, 2.0) == pytest.approx(1.01)  # in proportion, 100 is nearer than 10
    assert latency.at(25, 2.0) == pytest.approx(0.11)


def test_one_outlier_does_not_count() -> None:
    latency = LatencyAt()
    for _ in range(7):
        latency.add(0.0, 1, 0.010)
    latency.add(0.0, 1, 5.0)
    assert latency.at(1, 0.0) == 0.010


def test_the_newest_count_where_several_had_as_many_in_flight() -> None:
    latency = LatencyAt()
    for number in range(40):
        latency.add(number / 10, 5, 0.010 if number < 30 else 0.050)
    assert latency.at(5, 4.0) == 0.050


def test_old_samples_do_not_count() -> None:
    latency = LatencyAt()
    latency.add(0.0, 1, 0.010)
    latency.add(5.0, 50, 0.100)
    assert latency.at(1, 10.0) == 0.100  # the upper of two
    assert latency.at(1, 10.1) == 0.100
    assert latency.at(1, 15.1) is None


def test_only_so_many_samples_are_kept() -> None:
    latency = LatencyAt()
    latency.add(0.0, 1, 1.0)
    for _ in range(KEPT):
        latency.add(0.0, 1000, 0.5)
    assert latency.at(1, 0.0) == 0.5
