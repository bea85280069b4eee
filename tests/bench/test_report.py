"""What a run says of its figures."""

from typing import Any

from bench.metrics import METRICS, Metric, figure, ratio
from bench.report import Report

RATE = next(metric for metric in METRICS if metric.title == "64 in flight")
P50 = next(metric for metric in METRICS if metric.title == "one call at a time, p50")
PEERS = {name: {"version": "1", "settings": "none"} for name in ("rap", "limit", "grpc.aio")}


def round_of(**rates: float) -> dict[str, dict[str, dict[str, Any]]]:
    return {name: {"thr64": {"per_second": rate}} for name, rate in rates.items()}


def report(*rounds: dict[str, dict[str, dict[str, Any]]], skipped: tuple[str, ...] = ()) -> Report:
    return Report({"Python": "3"}, PEERS, skipped, 0.4, rounds)


def test_a_figure_is_the_median_of_its_rounds() -> None:
    rounds = [round_of(rap=rate) for rate in (1.0, 100.0, 3.0)]
    assert figure(rounds, "rap", RATE) == 3.0


def test_a_ratio_is_taken_within_each_round() -> None:
    # The second round was disturbed, for both alike.
    rounds = [round_of(rap=50, limit=100), round_of(rap=4, limit=8), round_of(rap=60, limit=100)]
    assert ratio(rounds, "rap", "limit", RATE) == 0.5


def test_what_nobody_measured_has_no_figure() -> None:
    assert figure([round_of(rap=1)], "limit", RATE) is None
    assert ratio([round_of(rap=1)], "rap", "limit", RATE) is None


def test_rates_must_reach_their_target_and_times_stay_below_it() -> None:
    assert RATE.met(0.5, 0.5)
    assert not RATE.met(0.49, 0.5)
    assert P50.met(1.15, 1.15)
    assert not P50.met(1.16, 1.15)


def test_the_table_tells_of_targets_met_and_missed() -> None:
    found: dict[str, dict[str, dict[str, Any]]] = {
        "rap": {"thr64": {"per_second": 700}, "lat1": {"p50_us": 130, "p99_us": 200}},
        "limit": {"thr64": {"per_second": 1000}, "lat1": {"p50_us": 100, "p99_us": 200}},
    }
    text = report(found).as_markdown()
    assert "0.7x" in text
    assert f">= {RATE.vs_limit}x met" in text
    assert "<= 1.15x **missed**" in text


def test_a_workload_that_failed_is_told_with_its_error() -> None:
    found: dict[str, dict[str, dict[str, Any]]] = {"rap": {"thr64": {"error": "it broke"}}}
    text = report(found, found, skipped=("limit: not installed",)).as_markdown()
    assert "failed" in text
    assert text.count("rap, thr64: it broke") == 1
    assert "- limit: not installed" in text


def test_the_json_has_the_medians_and_every_round() -> None:
    told = report(round_of(rap=1.0), round_of(rap=3.0)).as_json()
    assert told["medians"]["64 in flight"]["rap"] == 2.0
    assert len(told["rounds"]) == 2


def test_every_row_has_a_title_of_its_own() -> None:
    titles = [metric.title for metric in METRICS]
    assert len(set(titles)) == len(titles)
    assert all(isinstance(metric, Metric) for metric in METRICS)
