"""Rendezvous: keys keep to their node, and only those move that must."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rap.balance.rendezvous import Rendezvous
from tests.balance.nodes import FixedNode, fixed_nodes

KEYS = [f"user-{number}" for number in range(3000)]


def owners(nodes: tuple[FixedNode, ...]) -> dict[str, str]:
    picker = Rendezvous(Random(0))
    return {key: picker.pick(nodes, key).key for key in KEYS}


def test_every_client_agrees_whatever_the_order_of_candidates() -> None:
    nodes = fixed_nodes(1, 1, 2)
    assert owners(nodes) == owners(nodes[::-1])


def test_the_owner_of_a_key_is_the_same_in_every_release() -> None:
    nodes = fixed_nodes(1, 1, 2, 4)
    picker = Rendezvous(Random(0))
    assert [picker.pick(nodes, key).key[7] for key in KEYS[:12]] == list("434433123234")


def test_shares_follow_weights() -> None:
    counts = Counter(owners(fixed_nodes(1, 1, 2)).values())
    assert [counts[f"10.0.0.{i}:9000"] for i in (1, 2, 3)] == pytest.approx(
        [750, 750, 1500], abs=90
    )


def test_when_a_node_leaves_only_its_keys_move() -> None:
    nodes = fixed_nodes(1, 1, 1, 1)
    before, after = owners(nodes), owners(nodes[:-1])
    moved = [key for key in KEYS if before[key] != after[key]]
    assert moved
    assert {before[key] for key in moved} == {nodes[-1].key}


def test_when_a_weight_grows_keys_move_only_to_that_node() -> None:
    nodes = fixed_nodes(1, 1, 1)
    before = owners(nodes)
    nodes[0].weight = 2
    after = owners(nodes)
    moved = [key for key in KEYS if before[key] != after[key]]
    assert moved
    assert {after[key] for key in moved} == {nodes[0].key}


def test_calls_without_a_key_are_spread_by_weight() -> None:
    nodes = fixed_nodes(1, 3)
    picker = Rendezvous(Random(1))
    counts = Counter(picker.pick(nodes).key for _ in range(2000))
    assert counts[nodes[1].key] == pytest.approx(1500, abs=90)


@given(st.text(st.characters()), st.integers(1, 6))
def test_any_text_is_a_key(key: str, count: int) -> None:
    nodes = fixed_nodes(*[1.0] * count)
    picker = Rendezvous(Random(0))
    assert picker.pick(nodes, key) is picker.pick(nodes, key)


def test_a_lone_surrogate_is_a_key() -> None:
    nodes = fixed_nodes(1, 1)
    assert Rendezvous(Random(0)).pick(nodes, "\udc80") in nodes
