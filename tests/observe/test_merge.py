"""Metrics of several processes are merged into one text for Prometheus."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_open_metrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_open_metrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from rap.observe.workers import merge

AWKWARD = 'a "b", {c}\\ \n # {d="e"} 1'
TRACE = {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}


def process(calls: int) -> CollectorRegistry:
    """Return the metrics of a process: one of each kind, with labels that are hard to read."""
    registry = CollectorRegistry()
    counter = Counter("calls", "Calls, { } #.", ("method",), registry=registry)
    counter.labels(AWKWARD).inc(calls)
    Gauge("open_now", "Open.", registry=registry).set(calls)
    seconds = Histogram("seconds", "Seconds.", buckets=(1, 2), registry=registry)
    seconds.observe(0.5, TRACE)
    return registry


def pages(generate: object = generate_latest) -> dict[str, str]:
    return {str(number): generate(process(number + 1)).decode() for number in (0, 1)}  # type: ignore[operator]  # either


def test_every_sample_gets_the_label_of_its_process() -> None:
    found = {
        (sample.name, sample.labels["worker"], sample.labels.get("method")): sample.value
        for family in parse_text(merge("worker", pages()))
        for sample in family.samples
    }
    for worker, calls in (("0", 1), ("1", 2)):
        assert found["calls_total", worker, AWKWARD] == calls
        assert found["open_now", worker, None] == calls


def test_a_metric_is_described_once_and_followed_by_all_samples() -> None:
    lines = merge("worker", pages()).splitlines()
    assert lines.count("# TYPE open_now gauge") == 1
    at = lines.index("# TYPE open_now gauge")
    assert lines[at - 1 : at + 3] == [
        "# HELP open_now Open.",
        "# TYPE open_now gauge",
        'open_now{worker="0"} 1.0',
        'open_now{worker="1"} 2.0',
    ]


def test_openmetrics_and_exemplars_are_kept() -> None:
    text = merge("worker", pages(generate_open_metrics))
    assert text.endswith("# EOF\n")
    assert text.count("# EOF") == 1
    exemplars = [
        (sample.labels["worker"], sample.exemplar.labels)
        for family in parse_open_metrics(text)  # type: ignore[no-untyped-call]  # not typed there
        for sample in family.samples
        if sample.exemplar
    ]
    assert exemplars == [("0", TRACE), ("1", TRACE)]


def test_samples_of_the_own_process_get_no_label() -> None:
    text = merge("worker", {"7": "# TYPE up gauge\nup 1\n"}, own='# TYPE up gauge\nup{x="y"} 0\n')
    assert text == '# TYPE up gauge\nup{x="y"} 0\nup{worker="7"} 1\n'


@pytest.mark.parametrize(
    ("line", "labelled"),
    [
        ("up 1", 'up{worker="7"} 1'),
        ("up{} 1", 'up{worker="7"} 1'),
        ('up{a="b"} 1 1700000000', 'up{worker="7",a="b"} 1 1700000000'),
        ('up{worker="me"} 1', 'up{worker="7",exported_worker="me"} 1'),
        ('up{a="b",worker="me"} 1', 'up{worker="7",a="b",exported_worker="me"} 1'),
        (r'up{a=",worker=\"me\""} 1', r'up{worker="7",a=",worker=\"me\""} 1'),
        ('up{co_worker="me"} 1', 'up{worker="7",co_worker="me"} 1'),
    ],
)
def test_a_label_is_added_to_every_form_of_a_sample(line: str, labelled: str) -> None:
    assert merge("worker", {"7": line}) == f"{labelled}\n"


def test_merging_nothing_gives_nothing() -> None:
    assert merge("worker", {}) == ""
