"""RoundRobin, SmoothWeighted and WeightedRandom: whose turn it is."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rap.balance import Picker
from rap.balance.weighted import RoundRobin, SmoothWeighted, WeightedRandom
from tests.balance.nodes import FixedNode, fixed_nodes


def shares(picker: Picker, nodes: tuple[FixedNode, ...], picks: int) -> list[int]:
    counts = Counter(picker.pick(nodes).key for _ in range(picks))
    return [counts[node.key] for node in nodes]


class Draw(Random):
    """A source of chance that always draws the same number."""

    def __init__(self, value: float) -> None:
        super().__init__(0)
        self.value = value

    def random(self) -> float:
        return self.value


@pytest.mark.parametrize("kind", [RoundRobin, SmoothWeighted, WeightedRandom])
def test_a_single_candidate_is_always_picked(kind: type[RoundRobin]) -> None:
    nodes = fixed_nodes(2)
    assert shares(kind(Random(1)), nodes, 7) == [7]


def test_round_robin_takes_turns_whatever_the_weights() -> None:
    nodes = fixed_nodes(1, 5, 1000)
    picker = RoundRobin(Random(1))
    turns = [picker.pick(nodes) for _ in range(6)]
    assert turns[:3] == turns[3:]
    assert set(turns) == set(nodes)


def test_round_robins_of_different_clients_begin_at_different_nodes() -> None:
    nodes = fixed_nodes(1, 1, 1)
    assert {RoundRobin(Random(seed)).pick(nodes).key for seed in range(20)} == {
        node.key for node in nodes
    }


def test_round_robin_survives_a_set_that_shrinks() -> None:
    nodes = fixed_nodes(1, 1, 1)
    picker = RoundRobin(Random(1))
    for size in (3, 2, 1, 2, 3):
        assert picker.pick(nodes[:size]) in nodes[:size]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.integers())
def test_smooth_weighted_gives_exact_shares(weights: list[int], seed: int) -> None:
    nodes = fixed_nodes(*weights)
    picker = SmoothWeighted(Random(seed))
    cycle = sum(weights)
    for _ in range(3):
        given_out = shares(picker, nodes, cycle)
        assert all(abs(got - due) <= 1 for got, due in zip(given_out, weights, strict=True))


def test_smooth_weighted_spreads_the_turns_of_a_heavy_node() -> None:
    nodes = fixed_nodes(5, 1, 1)
    picker = SmoothWeighted(Random(0))
    turns = [picker.pick(nodes).weight for _ in range(70)]
    runs = "".join("x" if weight == 5 else " " for weight in turns).split()
    assert max(map(len, runs)) <= 4


def test_smooth_weighted_keeps_shares_when_a_node_joins_and_another_leaves() -> None:
    first, second, third = fixed_nodes(1, 1, 1)
    picker = SmoothWeighted(Random(3))
    shares(picker, (first, second), 5)
    assert shares(picker, (second, third), 100) == pytest.approx([50, 50], abs=1)


def test_smooth_weighted_follows_a_list_that_changes() -> None:
    nodes = list(fixed_nodes(1, 1))
    picker = SmoothWeighted(Random(3))
    picker.pick(nodes)
    nodes[0] = FixedNode("new")
    assert {picker.pick(nodes).key for _ in range(4)} == {"new", nodes[1].key}


def test_smooth_weighted_follows_a_weight_that_grows() -> None:
    nodes = fixed_nodes(1, 1)
    picker = SmoothWeighted(Random(3))
    shares(picker, nodes, 10)
    nodes[0].weight = 3
    assert shares(picker, nodes, 100) == pytest.approx([75, 25], abs=1)


def test_weighted_random_follows_weights() -> None:
    nodes = fixed_nodes(1, 1, 2)
    assert shares(WeightedRandom(Random(7)), nodes, 4000) == pytest.approx(
        [1000, 1000, 2000], abs=120
    )


def test_weighted_random_picks_the_last_where_rounding_leaves_a_sliver() -> None:
    nodes = fixed_nodes(0.1, 0.2, 0.3)
    assert WeightedRandom(Draw(1.0)).pick(nodes) is nodes[-1]
    assert WeightedRandom(Draw(0.0)).pick(nodes) is nodes[0]
