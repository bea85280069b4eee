"""Subsets: every client has its own, nodes have about as many clients, few connections move."""

from collections import Counter
from random import Random
from statistics import fmean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rap.balance import Subset, needs_all, picker_from_name


def names(count: int, start: int = 0) -> list[str]:
    return [f"10.0.{i // 250}.{i % 250}:9000" for i in range(start, start + count)]


def test_a_set_that_is_not_larger_is_taken_whole() -> None:
    rng = Random(1)
    before = rng.getstate()
    keys = names(5)
    assert Subset(5, rng).choose(keys) is keys
    assert rng.getstate() == before


@given(st.integers(2, 20), st.integers(0, 60), st.integers())
def test_a_client_keeps_its_subset_in_whatever_order_nodes_are_listed(
    size: int, count: int, seed: int
) -> None:
    subset, keys = Subset(size, Random(seed)), names(count)
    chosen = set(subset.choose(keys))
    assert len(chosen) == min(size, count)
    assert chosen <= set(keys)
    assert set(subset.choose(keys[::-1])) == chosen


def test_each_client_has_another_subset() -> None:
    keys = names(200)
    chosen = {frozenset(Subset(20, Random(seed)).choose(keys)) for seed in range(100)}
    assert len(chosen) == 100


@given(st.integers(2, 20), st.integers(21, 60), st.integers(), st.data())
def test_who_leaves_is_replaced_by_one_and_who_comes_takes_the_place_of_one(
    size: int, count: int, seed: int, data: st.DataObject
) -> None:
    subset, keys = Subset(size, Random(seed)), names(count)
    before = set(subset.choose(keys))
    gone = data.draw(st.sampled_from(keys))
    after = set(subset.choose([key for key in keys if key != gone]))
    assert len(before - after) == len(after - before) == (gone in before)
    assert before - after <= {gone}
    assert set(subset.choose(keys)) == before
    more = set(subset.choose([*keys, "new"]))
    assert more - before <= {"new"}
    assert len(before - more) == ("new" in more)


def test_nodes_have_as_many_clients_as_chance_gives() -> None:
    keys, clients, size = names(200), 400, 50
    counts = Counter(
        key for seed in range(clients) for key in Subset(size, Random(seed)).choose(keys)
    )
    mean = clients * size / len(keys)
    spread = (mean * (1 - size / len(keys))) ** 0.5  # of a binomial distribution
    assert fmean(counts[key] for key in keys) == mean
    assert pstdev(counts[key] for key in keys) == pytest.approx(spread, rel=0.2)


def test_a_node_that_comes_soon_has_its_share_of_clients() -> None:
    keys, clients, size = names(150), 300, 50
    moved = 0
    for seed in range(clients):
        subset = Subset(size, Random(seed))
        before = set(subset.choose(keys))
        moved += len(set(subset.choose([*keys, "new"])) - before)
    assert moved == pytest.approx(clients * size / 151, rel=0.25)


@pytest.mark.parametrize(
    ("name", "zone", "all_of_them"),
    [("p2c", "", False), ("rendezvous", "", True), ("rendezvous", "a", True), ("p2c", "a", False)],
)
def test_a_picker_for_which_all_must_agree_sees_every_node(
    name: str, zone: str, all_of_them: bool
) -> None:
    assert needs_all(picker_from_name(name, Random(1), zone)) is all_of_them
