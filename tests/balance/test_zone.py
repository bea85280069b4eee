"""Zones: the formula balances every node, and the picker follows it."""

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rap.balance import PowerOfTwoChoices, RoundRobin, ZoneAware, picker_from_name, zone_shares
from rap.balance.zone import MIN_NODES
from tests.balance.nodes import FixedNode


class ZonedNode(FixedNode):
    def __init__(self, key: str, zone: str, weight: float = 1.0) -> None:
        super().__init__(key, weight)
        self.zone = zone


def nodes_in(*zones: str, weight: float = 1.0) -> tuple[ZonedNode, ...]:
    return tuple(ZonedNode(f"n{i}", zone, weight) for i, zone in enumerate(zones))


def aware(zone: str = "a", seed: int = 1) -> ZoneAware:
    picker = picker_from_name("p2c", Random(seed), zone)
    assert isinstance(picker, ZoneAware)
    return picker


def picks(picker: ZoneAware, nodes: Sequence[ZonedNode], calls: int = 4000) -> Counter[str]:
    return Counter(picker.pick(nodes).zone for _ in range(calls))


def test_a_change_of_weight_is_a_new_group_for_the_picker_of_its_zone() -> None:
    picker, nodes = aware(), nodes_in(*"aaabbb")
    offered = []
    for weight in (1.0, 1.0, 2.0):
        nodes[0].weight = weight
        picker.plan(nodes, False)
        offered.append(picker._routes[0][1])
    assert offered[0] is offered[1]
    assert offered[2] is not offered[1]
    assert offered[2] == offered[1]


def test_a_zone_with_its_even_share_of_capacity_keeps_all_its_calls() -> None:
    assert zone_shares({"a": 2.0, "b": 2.0, "c": 2.0}, "a") == {"a": 1.0}
    assert zone_shares({"a": 4.0, "b": 1.0, "c": 1.0}, "a") == {"a": 1.0}


def test_a_small_zone_sends_the_rest_to_where_there_is_room() -> None:
    shares = zone_shares({"a": 1.0, "b": 2.0, "c": 3.0}, "a")
    assert shares == {"a": pytest.approx(0.5), "c": pytest.approx(0.5)}


def test_nodes_without_a_zone_are_free_for_all() -> None:
    assert zone_shares({"a": 3.0, "": 3.0}, "a") == {"a": 0.5, "": 0.5}


def test_a_client_whose_zone_is_the_only_one_stays_there() -> None:
    assert zone_shares({"a": 5.0}, "a") == {"a": 1.0}


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.floats(0.1, 1000.0), min_size=1), st.booleans()
)
def test_callers_spread_evenly_load_every_zone_by_its_capacity(
    zones: dict[str, float], unnamed: bool
) -> None:
    capacities = {**zones, **({"": 7.0} if unnamed else {})}
    load: dict[str, float] = dict.fromkeys(capacities, 0.0)
    for caller in zones:
        shares = zone_shares(capacities, caller)
        assert sum(shares.values()) == pytest.approx(1.0)
        for zone, share in shares.items():
            assert share >= 0.0
            load[zone] += share / len(zones)
    total = sum(capacities.values())
    for zone, capacity in capacities.items():
        assert load[zone] == pytest.approx(capacity / total, abs=1e-9)


def test_calls_stay_in_the_zone_that_has_room_for_them() -> None:
    nodes, picker = nodes_in(*"aabbcc"), aware()
    picker.plan(nodes, panic=False)
    assert picks(picker, nodes) == {"a": 4000}


def test_a_zone_with_few_nodes_is_not_overloaded() -> None:
    nodes, picker = nodes_in(*"abbccc"), aware()
    picker.plan(nodes, panic=False)
    shares = picks(picker, nodes)
    assert shares["a"] == pytest.approx(2000, abs=150)
    assert shares["b"] == 0
    assert shares["c"] == pytest.approx(2000, abs=150)


def test_weights_are_the_capacity_of_a_zone() -> None:
    nodes, picker = nodes_in(*"abbbbb"), aware()
    nodes[0].weight = 5.0
    picker.plan(nodes, panic=False)
    assert picks(picker, nodes) == {"a": 4000}


@pytest.mark.parametrize(
    ("zones", "panic", "own"),
    [("aabbcc", True, "a"), ("aabbc", False, "a"), ("bbbccc", False, "a")],
    ids=["panic", "too few nodes", "none in the own zone"],
)
def test_zones_do_not_count_in_a_small_or_ill_cluster(zones: str, panic: bool, own: str) -> None:
    nodes, picker = nodes_in(*zones), aware(own)
    picker.plan(nodes, panic=panic)
    assert picks(picker, nodes, 1000).keys() == set(zones)


def test_zones_count_again_when_the_panic_is_over() -> None:
    nodes, picker = nodes_in(*"aabbcc"), aware()
    picker.plan(nodes, panic=True)
    picker.plan(nodes, panic=False)
    assert picks(picker, nodes, 200).keys() == {"a"}
    picker.plan(nodes[: MIN_NODES - 1], panic=False)
    assert picks(picker, nodes[: MIN_NODES - 1], 200).keys() == {"a", "b", "c"}


def test_a_retry_may_go_to_any_zone_and_affinity_comes_before_zones() -> None:
    nodes = nodes_in(*"aabbcc")
    picker = aware()
    picker.plan(nodes, panic=False)
    assert picks(picker, nodes[1:], 500).keys() == {"a", "b", "c"}
    by_key = picker_from_name("rendezvous", Random(1), "a")
    assert isinstance(by_key, ZoneAware)
    by_key.plan(nodes, panic=False)
    plain = picker_from_name("rendezvous", Random(2))
    for number in range(50):
        assert by_key.pick(nodes, f"key-{number}") is plain.pick(nodes, f"key-{number}")


def test_each_zone_has_a_picker_of_its_own_that_stays_when_weights_change() -> None:
    made: list[RoundRobin] = []

    def make() -> RoundRobin:
        made.append(RoundRobin(Random(len(made))))
        return made[-1]

    nodes = nodes_in(*"abbccc")
    picker = ZoneAware(make, "a", Random(1))
    picker.plan(nodes, panic=False)
    nodes[0].weight = 1.5
    picker.plan(nodes, panic=False)
    assert len(made) == 3  # of all, of a, of c


def test_a_group_is_the_same_object_until_it_changes() -> None:
    seen: list[Any] = []

    class Noting(PowerOfTwoChoices):
        def pick(self, candidates: Sequence[Any], affinity: str | None = None) -> Any:
            seen.append(candidates)
            return super().pick(candidates)

    nodes = nodes_in(*"aabbcc")
    picker = ZoneAware(lambda: Noting(Random(1)), "a", Random(1))
    for ready in (nodes, (*nodes,), nodes_in(*"aabbccc")):
        picker.plan(ready, panic=False)
        picker.pick(ready)
    assert seen[0] is seen[1]
    assert seen[2] is not seen[0]


def test_a_draw_that_rounding_leaves_over_goes_to_the_last_zone() -> None:
    class Draw(Random):
        def random(self) -> float:
            return 1.0

    nodes = nodes_in(*"abbccc")
    picker = ZoneAware(lambda: PowerOfTwoChoices(Random(1)), "a", Draw())
    picker.plan(nodes, panic=False)
    assert picker.pick(nodes).zone == "c"
