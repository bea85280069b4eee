"""The parts of the demo: shares, percentiles, and the display."""

import io
from collections import Counter
from dataclasses import replace

import pytest
from click.testing import CliRunner
from rich.console import Console

from rap.cli.app import rap as rap_group
from rap.cli.demo.backend import GivenRedis, choose_backend
from rap.cli.demo.display import make_display, print_summary
from rap.cli.demo.monitor import ClusterView, ReplicaView, percentile
from rap.cli.demo.scenario import Notice, ScenarioReport
from rap.cli.demo.traffic import PinnedCalls, QuietPeriod, RecordingPicker, Traffic
from rap.client import Client
from tests.loopback import calling, eventually, serving


def quiet_period(**answered: int) -> QuietPeriod:
    return QuietPeriod("the start", {"a": 0.25, "b": 0.75}, Counter(answered), 1.0)


@pytest.mark.parametrize(
    ("answered", "points"),
    [
        ({"a": 25, "b": 75}, 0.0),
        ({"a": 30, "b": 70}, 5.0),
        ({"b": 100}, 25.0),
        ({"a": 20, "b": 70, "gone": 10}, 10.0),
        ({}, 75.0),
    ],
)
def test_the_deviation_of_a_quiet_period_is_that_of_its_worst_share(
    answered: dict[str, int], points: float
) -> None:
    assert quiet_period(**answered).deviation == pytest.approx(points)


@pytest.mark.parametrize(
    ("values", "fraction", "found"),
    [([], 0.5, 0.0), ([1.0], 0.99, 1.0), ([1.0, 2.0, 3.0, 4.0], 0.5, 3.0)],
)
def test_a_percentile_is_one_of_the_values(
    values: list[float], fraction: float, found: float
) -> None:
    assert percentile(values, fraction) == found


async def test_a_call_that_failed_is_counted_and_its_error_kept() -> None:
    turns = iter(["answer", "fail", "fail"])

    async def work() -> str:
        if next(turns, "answer") == "fail":
            raise ValueError("out of order")
        return "a"

    async with serving(work) as server, calling(server) as client:
        traffic = Traffic(client, 1)
        async with traffic.flowing():
            await eventually(lambda: traffic.answered["a"] > 1)
    assert (traffic.failed, traffic.total) == (2, traffic.answered["a"] + 2)
    assert traffic.errors == ["ValueError: out of order"] * 2


@pytest.mark.parametrize(("failed", "status"), [(0, 0), (1, 1), (300, 1)])
def test_the_exit_status_says_whether_a_call_failed(
    monkeypatch: pytest.MonkeyPatch, failed: int, status: int
) -> None:
    async def ended(*_: object) -> int:
        return failed

    monkeypatch.setattr("rap.cli.commands.demo._main", ended)
    result = CliRunner().invoke(rap_group, ["demo", "--redis", "redis://nowhere:1"])
    assert result.exit_code == status


class Node:
    def __init__(self, key: str, load: float) -> None:
        self.key = key
        self.weight = 1.0
        self.own_calls = 0
        self._load = load

    @property
    def stats(self) -> "Node":
        return self

    def load(self) -> float:
        return self._load

    def beats(self, other: "Node") -> bool:
        return self._load <= other._load

    def resembles(self, other: "Node") -> bool:
        return self._load == other._load


def test_the_picker_records_its_first_and_last_picks() -> None:
    observed = RecordingPicker()
    idle, busy = Node("idle", 1.0), Node("busy", 9.0)
    assert observed.pick((idle, busy)) is idle
    first = observed.first["idle"]
    assert observed.pick((idle,)) is idle
    assert observed.first == {"idle": first}
    assert observed.last["idle"] >= first


def test_a_session_is_pinned_to_the_replicas_that_answered() -> None:
    assert PinnedCalls(Counter(a=3), Counter(a=1)).replicas == ["a"]
    assert PinnedCalls(Counter(a=3), Counter(b=1)).replicas == ["a", "b"]


def test_a_redis_of_the_user_gets_a_namespace_and_is_not_restarted() -> None:
    backend = choose_backend("redis://user:secret@host:6379/1?x=1")
    assert isinstance(backend, GivenRedis)
    assert backend.url.startswith("redis://user:secret@host:6379/1?x=1&namespace=demo-")
    assert "secret" not in backend.title
    assert not backend.restarts


VIEW = ClusterView(
    elapsed=1.5,
    rows=(
        ReplicaView("a", 1, "up", 0.3, 0.25, 16, 0.001, 0.002, 1200),
        ReplicaView("b", 3, "killed", 0.0, 0.0, 0, 0.0, 0.0, 34),
    ),
    rate=4321.0,
    calls=1234,
    failed=2,
)


def shown(terminal: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=80, color_system=None)
    with make_display(console) as display:
        display.show(VIEW)
        display.event(2.0, "something [happened]")
        display.show(VIEW)
    return out.getvalue()


def test_a_terminal_shows_a_table_and_events() -> None:
    output = shown(terminal=True)
    for text in ("by weight", "30.0%", "25.0%", "1.0", "2.0", "1,234 calls", "2 failed", "killed"):
        assert text in output
    assert "2.00 s  something [happened]" in output


def test_the_table_is_whole_in_a_terminal_of_80_columns() -> None:
    row = replace(VIEW.rows[0], state="connecting", share=1.0, in_flight=1024, calls=12_345_678)
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system=None)
    with make_display(console) as display:
        display.show(replace(VIEW, rows=(row,)))
    for text in ("replica", "connecting", "100.0%", "in flight", "p99 ms", "calls", "12,345,678"):
        assert text in out.getvalue()


def test_other_outputs_show_plain_lines() -> None:
    assert shown(terminal=False) == (
        "  1.50 s  4321 calls/s, 2 failed | a up 30% of 25%, 16 in flight, p50 1.0 p99 2.0 ms; "
        "b killed\n"
        "  2.00 s  something [happened]\n"
    )


@pytest.mark.parametrize("failed", [0, 1])
async def test_the_summary_has_failed_calls_and_how_fast_events_were_noticed(failed: int) -> None:
    traffic = Traffic(Client("localhost:9000"), 1)
    traffic.answered.update(a=99)
    traffic.failed = failed
    traffic.errors = ["Unavailable: [nobody] there"] * failed
    report = ScenarioReport(
        [Notice("SIGKILL of a", "the last call given to it", 0.0123)],
        [quiet_period(a=30, b=70)],
        PinnedCalls(Counter(a=3), Counter(a=4), "the server left"),
    )
    out = io.StringIO()
    print_summary(Console(file=out, width=100), report, traffic, 2.0)
    output = out.getvalue()
    assert f"{99 + failed} idempotent calls in 2.0 s, {failed} failed" in output
    assert "a 30.0% (25%), b 70.0% (75%)" in output
    assert "12.3" in output
    assert (
        "3 calls and 4 messages of a channel, all on a, until it ended: the server left" in output
    )
    assert ("Unavailable: [nobody] there" in output) is bool(failed)
