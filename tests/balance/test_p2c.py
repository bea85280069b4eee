"""PowerOfTwoChoices: fair draws, the less loaded wins, and a cache nobody can notice."""

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from rap.balance.p2c import MAX_CACHED, PowerOfTwoChoices
from tests.balance.nodes import FixedNode, fixed_nodes


def test_a_single_candidate_is_returned_without_a_draw() -> None:
    rng = Random(1)
    before = rng.getstate()
    (only,) = fixed_nodes(1)
    assert PowerOfTwoChoices(rng).pick((only,)) is only
    assert rng.getstate() == before


def test_of_two_the_one_with_less_load_per_weight_wins() -> None:
    picker = PowerOfTwoChoices(Random(1))
    strong, weak = FixedNode("a", weight=3.0, cost=2.0), FixedNode("b", weight=1.0, cost=1.0)
    nodes = (strong, weak)
    assert {picker.pick(nodes).key for _ in range(50)} == {"a"}
    strong.cost = 4.0
    assert {picker.pick(nodes).key for _ in range(50)} == {"b"}


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


@given(st.data(), st.integers(1, 30), st.integers())
def test_a_pick_is_always_one_of_the_candidates_of_that_pick(
    data: st.DataObject, count: int, seed: int
) -> None:
    picker = PowerOfTwoChoices(Random(seed))
    nodes = fixed_nodes(*[1.0] * count)
    sets = [nodes, nodes[: max(1, count // 2)], nodes[-1:]]
    for index in data.draw(st.lists(st.integers(0, 2), max_size=20)):
        assert picker.pick(sets[index], "key") in sets[index]
