"""Prequal: hot and cold, latency that belongs to calls in flight, and who is asked."""

from collections import Counter
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rap.balance import Picker, Prequal, ZoneAware, picker_from_name, wants_reports
from rap.balance.prequal import FRESH, MAX_AGE, POOL
from rap.wire.load_report import ServerLoad

NOW = 100.0


@dataclass(eq=False)
class ReportingNode:
    """A candidate with a report of its server."""

    key: str
    report: Any = None
    reported_at: float = NOW
    own_in_flight: int = 0
    own_calls: int = 0
    avoid_until: float = 0.0
    weight: float = 1.0
    cost: float = 1.0
    asked: int = 0

    @property
    def stats(self) -> "ReportingNode":
        return self

    def load(self) -> float:
        return self.cost

    def beats(self, other: "ReportingNode") -> bool:
        return self.cost <= other.cost

    def resembles(self, other: "ReportingNode") -> bool:
        return self.cost == other.cost

    def request_load_report(self) -> None:
        self.asked += 1


def nodes(*loads: tuple[int, float | None], **changes: Any) -> tuple[ReportingNode, ...]:
    """Return candidates whose servers told calls in flight and latency."""
    return tuple(
        replace(ReportingNode(f"n{number}", ServerLoad(*load)), **changes)
        for number, load in enumerate(loads)
    )


def prequal(seed: int = 1, now: float = NOW) -> Prequal:
    return Prequal(Random(seed), lambda: now)


def picks(candidates: tuple[ReportingNode, ...], calls: int = 50) -> set[str]:
    picker = prequal()
    return {picker.pick(candidates).key for _ in range(calls)}


def test_of_the_cold_ones_the_fastest_is_picked() -> None:
    assert picks(nodes((5, 0.03), (2, 0.02), (9, 0.001))) == {"n1"}  # the last one is hot


def test_if_all_are_hot_the_one_with_the_fewest_calls_is_picked() -> None:
    crowd = nodes((9, 0.01), (9, 0.02), (9, 0.03))
    assert picks(crowd) == {"n0"}  # as many: then the fastest
    many = nodes(*[(0, 0.1)] * 13, (8, 0.010), (7, 0.020), (9, 0.001))
    for each in many[:13]:
        each.reported_at = NOW - 0.5  # they are in the pool, but not among the newest
    assert picks(many) == {"n14"}


def test_the_newest_reports_are_the_choices_where_few_are_fresh() -> None:
    candidates = nodes((1, 0.001), (3, 0.030), (3, 0.020), (4, 0.040), reported_at=NOW - 0.2)
    candidates[0].reported_at = NOW - 0.3
    assert picks(candidates) == {"n2"}
    candidates[0].reported_at = NOW - 0.05
    candidates[1].reported_at = NOW - 0.3
    assert picks(candidates) == {"n0"}


def test_all_fresh_reports_are_choices() -> None:
    candidates = nodes(*[(3, 0.030)] * 8, (1, 0.001), (9, 0.001))
    for number, each in enumerate(candidates):
        each.reported_at = NOW - 0.01 * number
    assert picks(candidates) == {"n8"}


def test_a_set_that_changes_is_followed_however_many_there_are() -> None:
    many = nodes(*[(1, 0.01)] * 40)
    picker = prequal()
    for size in (40, 30, 20, 17, 16, 2, 25):
        part = many[:size]
        assert {picker.pick(part) for _ in range(100)} <= set(part)
    changing = list(many[:20])
    picker.pick(changing)
    gone = changing.pop(0)
    assert gone not in {picker.pick(changing) for _ in range(200)}


def test_a_latency_grows_with_the_calls_that_were_sent_since() -> None:
    candidates = nodes((4, 0.010), (5, 0.012), (20, 0.001))
    assert picks(candidates) == {"n0"}
    candidates[0].own_in_flight, candidates[0].own_calls = 2, 4  # 6 in flight: 14 ms
    assert picks(candidates) == {"n1"}
    candidates[0].own_calls = 0  # 2 in flight: 6 ms
    assert picks(candidates) == {"n0"}


def test_calls_that_have_ended_since_make_no_latency_negative() -> None:
    candidates = nodes((1, 0.010), (3, 0.012), (9, 0.001))
    candidates[0].own_in_flight = 7
    assert picks(candidates) == {"n0"}


def test_a_weight_is_a_capacity_for_calls_in_flight() -> None:
    candidates = nodes((2, 0.010), (3, 0.050), (5, 0.060))
    assert picks(candidates) == {"n0"}
    candidates[0].weight = 0.1  # it has just started: 2 calls are as many as 20
    assert picks(candidates) == {"n1"}


def test_while_a_latency_is_unknown_the_calls_in_flight_decide() -> None:
    assert picks(nodes((1, None), (2, 0.010), (9, 0.001))) == {"n0"}
    assert picks(nodes((3, None), (2, 0.010), (9, 0.001))) == {"n1"}
    assert picks(nodes((3, 0.001), (2, 0.010), (9, None))) == {"n1"}


def test_who_failed_a_call_is_left_alone_for_a_while() -> None:
    candidates = nodes((0, 0.0001), (5, 0.010), (9, 0.020))
    assert picks(candidates) == {"n0"}
    candidates[0].avoid_until = NOW + 0.1
    assert picks(candidates) == {"n1"}


def test_old_reports_do_not_count() -> None:
    candidates = nodes((0, 0.001), (5, 0.010), (6, 0.020), (9, 0.030))
    candidates[0].reported_at = NOW - MAX_AGE - 0.01
    assert picks(candidates) == {"n1"}


@pytest.mark.parametrize("known", [0, 1])
def test_without_two_reports_the_choice_is_blind(known: int) -> None:
    candidates = tuple(ReportingNode(f"n{i}", cost=float(i)) for i in range(4))
    for each in candidates[:known]:
        each.report = ServerLoad(50, 9.0)
    assert picks(candidates, 200) == {"n0", "n1", "n2"}  # of two the one with the lower cost


def test_a_single_candidate_is_picked() -> None:
    (only,) = nodes((3, 0.010))
    assert prequal().pick((only,)) is only


def test_a_call_asks_at_most_one_server_and_only_for_what_is_old() -> None:
    fresh = nodes(*[(1, 0.01)] * 5)
    old = nodes(*[(1, 0.01)] * 5, reported_at=NOW - FRESH - 0.01)
    picker = prequal()
    for number in range(1, 101):
        picker.pick((*fresh, *old))
        assert sum(each.asked for each in old) <= number
    assert all(each.asked == 0 for each in fresh)
    assert all(each.asked > 2 for each in old)


def test_all_of_very_many_candidates_are_in_the_pool_at_times() -> None:
    many = nodes(*[(1, 0.01)] * (3 * POOL), reported_at=NOW - 2 * FRESH)
    picker = prequal()
    chosen = Counter(picker.pick(many).key for _ in range(3000))
    assert len(chosen) == 3 * POOL
    assert max(chosen.values()) < 3 * 3000 / len(many)
    assert all(each.asked for each in many)


loads = st.tuples(st.integers(0, 50), st.none() | st.floats(0.0, 5.0))
ages = st.floats(0.0, 2.0)


@given(st.lists(st.tuples(loads, ages, st.integers(0, 9), st.booleans()), min_size=1, max_size=40))
def test_any_candidates_give_one_of_them(
    made: list[tuple[tuple[int, float | None], float, int, bool]],
) -> None:
    candidates = nodes(*(load for load, *_ in made))
    for each, (_, age, own, failed) in zip(candidates, made, strict=True):
        each.reported_at, each.own_calls = NOW - age, own
        each.avoid_until = NOW + 1.0 if failed else 0.0
    assert prequal().pick(candidates) in candidates


def test_it_is_known_by_its_name_and_each_zone_has_its_own() -> None:
    picker = picker_from_name("prequal", Random(1), now=lambda: NOW)
    assert isinstance(picker, Prequal)
    zoned = picker_from_name("prequal", Random(1), "a", lambda: NOW)
    assert isinstance(zoned, ZoneAware)
    assert wants_reports(picker)
    assert wants_reports(zoned)
    plain: Picker = picker_from_name("p2c", Random(1))
    assert not wants_reports(plain)
