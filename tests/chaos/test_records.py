"""What the report of a day of faults counts, from files as drivers and replicas write them."""

import json
from array import array
from collections.abc import Iterable
from math import inf
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from chaos.day import EVENTS, Happening
from chaos.driver import Outcome
from chaos.records import Found, read_day
from chaos.report import write_report
from chaos.shapes import SHAPES
from chaos.timeline import draw

ROOT = Path(__file__).parents[2]
GET, PUT, WORK = ([shape.name for shape in SHAPES].index(name) for name in ("get", "put", "work"))
KILL = next(event for event in EVENTS if event.name == "kill")
HEALTHY = [(0.0, "stock-0", True), (0.0, "stock-1", True), (0.0, "front-0", True)]
ANSWERED = (1.0, 0.01, GET, Outcome.ANSWERED, 0.0, 1)


def failure(at: float, outcome: Outcome = Outcome.FAILED, shape: str = "get") -> dict[str, Any]:
    return {
        "at": at,
        "ended": at + 0.5,
        "shape": shape,
        "deadline": 2.0,
        "outcome": outcome.name,
        "error": "Unavailable: gone 7",
    }


class Day:
    """The files of a day with one driver."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.errors: list[dict[str, Any]] = []
        self.pauses: list[tuple[float, float]] = []
        self.changes: list[tuple[float, str, bool]] = []
        self.samples: list[tuple[float, dict[str, int]]] = []
        self.happenings: list[Happening] = []

    def executed(self, replica: str, numbers: Iterable[int]) -> None:
        with (self.directory / f"{replica}.ledger").open("ab") as file:
            array("Q", numbers).tofile(file)

    def read(
        self,
        *calls: tuple[float, float, int, int, float, int],
        health: list[tuple[float, str, bool]] = HEALTHY,
    ) -> Found:
        with (self.directory / "calls-0.bin").open("wb") as file:
            for call in calls or (ANSWERED,):
                array("d", call).tofile(file)
        report = {
            "number": 0,
            "samples": self.samples,
            "left_out": 3,
            "errors": self.errors,
            "pauses": self.pauses,
            "changes": self.changes,
            "cpu": 1.0,
        }
        (self.directory / "driver-0.json").write_text(json.dumps(report))
        return read_day(self.directory, self.happenings, health, 1)


@pytest.fixture
def day(tmp_path: Path) -> Day:
    return Day(tmp_path)


def test_a_quiet_day_is_good(day: Day) -> None:
    day.executed("stock-0", [2])
    found = day.read(ANSWERED, (1.5, 0.02, PUT, Outcome.ANSWERED, 0.0, 2))
    assert found.is_good
    assert found.calls == 2


def test_an_idempotent_call_that_failed_beside_a_healthy_replica_counts(day: Day) -> None:
    day.errors = [failure(1.0)]
    health = [*HEALTHY, (0.5, "stock-0", False)]
    found = day.read(health=health)
    assert len(found.failed) == 1
    assert not found.is_good


@pytest.mark.parametrize("service", ["stock", "front"])
def test_a_call_that_failed_while_no_replica_was_healthy_is_excused(day: Day, service: str) -> None:
    day.errors = [failure(1.0)]
    down = [(1.2, name, False) for _, name, _ in HEALTHY if name.startswith(service)]
    found = day.read(health=[*HEALTHY, *down, (1.4, f"{service}-0", True)])
    assert len(found.excused) == 1
    assert found.is_good


def test_a_call_that_failed_before_all_replicas_were_down_counts(day: Day) -> None:
    day.errors = [failure(1.0)]
    down = [(1.6, "stock-0", False), (1.6, "stock-1", False)]
    assert len(day.read(health=[*HEALTHY, *down]).failed) == 1


def test_a_call_that_failed_while_its_driver_was_late_is_not_a_failure_of_rap(day: Day) -> None:
    day.errors = [failure(1.0), failure(3.0)]
    day.pauses = [(0.9, 0.4)]
    found = day.read()
    assert [each.at for each in found.own] == [1.0]
    assert [each.at for each in found.failed] == [3.0]


def test_a_call_that_was_executed_by_two_replicas_counts_once(day: Day) -> None:
    day.executed("stock-0", [2, 3])
    day.executed("stock-1", [3])
    found = day.read()
    assert found.twice == 1
    assert not found.is_good


def test_an_answered_call_that_was_not_executed_counts(day: Day) -> None:
    day.executed("stock-0", [3])
    found = day.read((1.0, 0.01, PUT, Outcome.ANSWERED, 0.0, 2))
    assert found.lost == 1
    assert not found.is_good


def test_a_wrong_answer_counts_whatever_else_was_wrong(day: Day) -> None:
    day.errors = [failure(1.0, Outcome.WRONG, "both")]
    found = day.read(health=[*HEALTHY, (0.5, "stock-0", False), (0.5, "stock-1", False)])
    assert len(found.wrong) == 1
    assert not found.is_good


def test_calls_that_may_fail_do_not_spoil_a_day(day: Day) -> None:
    day.errors = [failure(1.0, Outcome.BROKEN, "put"), failure(1.0, Outcome.REFUSED, "work")]
    found = day.read()
    assert [each.shape for each in found.others] == ["put"]
    assert found.is_good


def test_an_event_has_the_times_to_notice_to_recover_and_to_come_back(day: Day) -> None:
    day.changes = [(0.0, "a:1", True), (10.4, "a:1", False), (15.3, "a:1", True)]
    calls = [100 * i for i in range(20)]
    served = [*calls[:10], *[calls[10]] * 7, *calls[10:20]]  # none from 10 s to 16 s
    day.samples = [(float(i), {"a:1": count, "b:1": 100 * i}) for i, count in enumerate(served)]
    day.happenings = [Happening(KILL, 10.0, 15.0, 20.0, ["a:1"], ["stock-0"])]
    slow = (10.1, 0.7, GET, Outcome.ANSWERED, 0.0, 1)
    (effect,) = day.read(slow, (17.0, 0.01, GET, Outcome.ANSWERED, 0.0, 2)).effects
    assert effect.noticed == pytest.approx(0.4)
    assert effect.disturbed == pytest.approx(0.8)
    assert effect.before == pytest.approx(1.0)
    assert effect.back == pytest.approx(1.25)


def test_a_call_that_the_next_event_makes_slow_belongs_to_that_event(day: Day) -> None:
    day.happenings = [
        Happening(KILL, 10.0, 15.0, 20.0, [], []),
        Happening(KILL, 20.0, 25.0, 30.0, [], []),
    ]
    before = (14.0, 0.4, GET, Outcome.ANSWERED, 0.0, 1)
    between = (19.9, 3.0, GET, Outcome.ANSWERED, 0.0, 2)
    slow_already = (19.0, 0.8, GET, Outcome.ANSWERED, 0.0, 3)
    one, other = day.read(before, between).effects
    assert (one.disturbed, other.disturbed) == pytest.approx((4.4, 2.9))
    one, other = day.read(slow_already, between).effects
    assert (one.disturbed, other.disturbed) == pytest.approx((9.8, 2.9))


def test_a_call_that_was_slow_because_its_driver_was_late_disturbs_nobody(day: Day) -> None:
    day.happenings = [Happening(KILL, 10.0, 15.0, 20.0, [], [])]
    day.pauses = [(13.9, 0.3)]
    calls = [(14.0, took, GET, Outcome.ANSWERED, 0.0, 1) for took in (0.4, 0.6)]
    assert day.read(calls[0]).effects[0].disturbed == 0.0
    assert day.read(calls[1]).effects[0].disturbed == pytest.approx(4.6)


def test_a_replica_that_is_not_called_any_more_is_never_back(day: Day) -> None:
    day.samples = [(float(i), {"a:1": min(i, 10), "b:1": i}) for i in range(30)]
    day.happenings = [Happening(KILL, 10.0, 15.0, 20.0, ["a:1"], ["stock-0"])]
    (effect,) = day.read().effects
    assert effect.back == inf


def test_calls_of_the_overload_are_counted_apart(day: Day) -> None:
    found = day.read(
        (1.0, 0.01, WORK, Outcome.ANSWERED, 0.0, 1),
        (1.0, 0.01, WORK, Outcome.REFUSED, 0.0, 2),
        (1.0, 0.02, GET, Outcome.ANSWERED, 0.0, 3),
    )
    assert found.seconds[1].latencies == [0.02]
    assert found.seconds[1].work == {Outcome.ANSWERED: 1, Outcome.REFUSED: 1}


def test_a_replica_is_back_although_there_was_an_outage_in_between(day: Day) -> None:
    calls = [min(i, 10) + max(0, i - 20) for i in range(40)]  # none at all from 10 s to 20 s
    day.samples = [(float(i), {"a:1": count, "b:1": count}) for i, count in enumerate(calls)]
    day.happenings = [Happening(KILL, 10.0, 12.0, 30.0, ["a:1"], ["stock-0"])]
    (effect,) = day.read().effects
    assert effect.back == pytest.approx(8.0, abs=1.0)


def test_calls_of_the_overload_are_counted_per_second(day: Day) -> None:
    overload = EVENTS[-1]
    day.happenings = [Happening(overload, 10.0, 16.0, 20.0, [], [])]
    made = [(11.0 + i / 10, 0.01, WORK, Outcome.ANSWERED, 0.0, i) for i in range(41)]
    found = day.read(*made)
    assert found.effects[0].work == pytest.approx(10.0, rel=0.03)
    assert "answered 10 calls/s of the overload, 0.05 C" in write_report(
        found, day.happenings, "head", 0, 2
    )


def test_report_and_picture_name_every_event(day: Day) -> None:
    day.errors = [failure(1.0), failure(2.0, Outcome.BROKEN, "put")]
    day.happenings = [
        Happening(event, 2.0 * i, 2.0 * i + 1, 2.0 * i + 2, [], [])
        for i, event in enumerate(EVENTS)
    ]
    found = day.read(*((float(i), 0.01, GET, Outcome.ANSWERED, 0.0, i) for i in range(40)))
    report = write_report(found, day.happenings, "head", 50, 3)
    picture = draw(found, day.happenings, "title <1>")
    ElementTree.fromstring(picture)  # well-formed
    for event in EVENTS:
        assert f"| {event.title} |" in report
        assert picture.count(event.title) == 2
    assert "| failed idempotent calls | 1 | **MISS** |" in report
    assert "at most 0.00 s; 3 calls were not made" in report
    assert "| calls (at least 50) | 40 | **MISS** |" in report


def test_the_page_describes_every_event() -> None:
    page = (ROOT / "docs/chaos.md").read_text()
    assert [event.name for event in EVENTS if f"| `{event.name}` |" not in page] == []
