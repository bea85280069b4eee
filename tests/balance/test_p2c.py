"""PowerOfTwoChoices: fair draws, the less loaded wins, and a cache nobody can notice."""

from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rap.balance.p2c import MAX_CACHED, PowerOfTwoChoices
from tests.balance.nodes import FixedNode, LoadedNode, Timeline, fixed_nodes


def test_a_single_candidate_is_returned_without_a_draw() -> None:
    rng = Random(1)
    before = rng.getstate()
    (only,) = fixed_nodes(1)
    assert PowerOfTwoChoices(rng).pick((only,)) is only
    assert rng.getstate() == before


def test_of_two_the_one_with_less_load_per_weight_wins() -> None:
    picker = PowerOfTwoChoices(Random(1))
    strong, weak = FixedNode("a", weight=8.0, cost=4.0), FixedNode("b", weight=1.0, cost=1.0)
    nodes = (strong, weak)
    assert {picker.pick(nodes).key for _ in range(50)} == {"a"}
    strong.cost = 12.0
    assert {picker.pick(nodes).key for _ in range(50)} == {"b"}


def counting_nodes(*weights: float) -> tuple[LoadedNode, ...]:
    timeline = Timeline()
    return tuple(LoadedNode(f"10.0.0.{i}:9000", timeline, it) for i, it in enumerate(weights))


def test_shares_outlive_candidates_that_come_once_and_those_of_other_weights() -> None:
    picker = PowerOfTwoChoices(Random(6))
    nodes = counting_nodes(1, 1, 2)
    shares: Counter[str] = Counter()
    for number in range(4000):
        offered = tuple(nodes) if number % 2 else list(nodes)
        shares[picker.pick(offered).key] += 1
        if number % 3 == 0:
            picker.pick(nodes[1:])
    assert [shares[node.key] for node in nodes] == pytest.approx([1000, 1000, 2000], abs=250)


def test_a_list_of_different_weights_may_change_between_picks() -> None:
    picker = PowerOfTwoChoices(Random(7))
    nodes = list(counting_nodes(1, 2, 3))
    for _ in range(3):
        picker.pick(nodes)
    gone = nodes.pop()
    assert gone not in {picker.pick(nodes) for _ in range(50)}


def test_a_node_that_starts_slowly_again_is_owed_a_call() -> None:
    picker = PowerOfTwoChoices(Random(8))
    nodes = counting_nodes(1, 1, 1, 1, 1, 3)
    for _ in range(100):
        picker.pick(nodes)
    nodes[0].weight = 0.1
    again = tuple(nodes)
    assert nodes[0] in [picker.pick(again) for _ in range(40)]


def test_accounts_of_nodes_that_have_left_are_dropped() -> None:
    picker = PowerOfTwoChoices(Random(9))
    for number in range(1, 50):
        nodes = counting_nodes(*[1.0] * number, 5.0)[-3:]
        for _ in range(3):
            picker.pick(nodes)
    assert len(picker._shares._accounts) <= 6


def test_the_most_loaded_of_several_is_never_picked() -> None:
    picker = PowerOfTwoChoices(Random(2))
    nodes = fixed_nodes(1, 1, 1, 1)
    nodes[2].cost = 1.1
    assert nodes[2] not in {picker.pick(nodes) for _ in range(500)}


def test_equal_nodes_get_equal_shares() -> None:
    for count in (2, 3, MAX_CACHED + 1):
        picker = PowerOfTwoChoices(Random(3))
        nodes = fixed_nodes(*[1.0] * count)
        shares = Counter(picker.pick(nodes).key for _ in range(400 * count))
        assert len(shares) == count
        assert max(shares.values()) < 500
        assert min(shares.values()) > 300


def test_a_tuple_that_comes_once_does_not_displace_the_usual_one() -> None:
    picker = PowerOfTwoChoices(Random(4))
    usual = fixed_nodes(1, 1, 1)
    for _ in range(3):
        picker.pick(usual)
    kept = picker._pairs
    assert picker.pick(usual[1:]) in usual[1:]
    picker.pick(usual)
    assert picker._pairs is kept


def test_a_list_may_change_between_picks() -> None:
    picker = PowerOfTwoChoices(Random(5))
    nodes = list(fixed_nodes(1, 1, 1))
    for _ in range(3):
        picker.pick(nodes)
    gone = nodes.pop()
    assert gone not in {picker.pick(nodes) for _ in range(50)}


@given(st.data(), st.integers(1, 30), st.integers(), st.booleans())
def test_a_pick_is_always_one_of_the_candidates_of_that_pick(
    data: st.DataObject, count: int, seed: int, even: bool
) -> None:
    picker = PowerOfTwoChoices(Random(seed))
    nodes: tuple[Any, ...] = (fixed_nodes if even else counting_nodes)(*[1.0] * (count - 1), 2.0)
    sets = [nodes, nodes[: max(1, count // 2)], nodes[-1:]]
    for index in data.draw(st.lists(st.integers(0, 2), max_size=20)):
        assert picker.pick(sets[index], "key") in sets[index]
