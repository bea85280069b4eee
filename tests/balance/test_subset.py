"""Subsets: every client has its own, nodes have about as many clients, few connections move."""

from collections import Counter
from itertools import pairwise
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


def test_servers_that_have_about_as_many_clients_are_kept() -> None:
    subset, keys = Subset(5, Random(1)), names(20)
    chosen = set(subset.choose(keys))
    assert not subset.judge(dict.fromkeys(chosen, 40))
    assert not subset.judge({key: 40 + number for number, key in enumerate(sorted(chosen))})
    assert set(subset.choose(keys)) == chosen


def test_two_servers_say_nothing_of_the_average() -> None:
    assert not Subset(2, Random(1)).judge({"a": 1000, "b": 1})


def test_a_crowded_server_is_passed_over_by_as_many_clients_as_are_too_many() -> None:
    left = 0
    for seed in range(500):
        subset, keys = Subset(5, Random(seed)), names(20)
        chosen = sorted(subset.choose(keys))
        crowded = chosen[0]
        changed = subset.judge({key: 80 if key == crowded else 20 for key in chosen})
        after = set(subset.choose(keys))
        assert changed == (crowded not in after)
        assert set(chosen) - after <= {crowded}
        assert len(after) == 5
        left += changed
    assert left == pytest.approx(500 * (1 - 32 / 80), rel=0.1)  # the average is 32


class Always(Random):
    """Draws so that whoever is too crowded is passed over."""

    def random(self) -> float:
        return 0.0


def test_who_was_passed_over_counts_again_when_it_had_been_gone() -> None:
    subset, keys = Subset(4, Always(3)), names(6)
    first = set(subset.choose(keys))
    crowded = max(first)
    assert subset.judge({key: 100 if key == crowded else 10 for key in first})
    assert crowded not in subset.choose(keys)
    subset.choose([key for key in keys if key != crowded])
    assert set(subset.choose(keys)) == first


def test_who_was_passed_over_first_counts_again_when_too_few_are_left() -> None:
    subset, keys = Subset(4, Always(3)), names(6)
    first = set(subset.choose(keys))
    crowded = sorted(first)[:2]
    assert subset.judge({key: 100 if key in crowded else 10 for key in sorted(first)})
    assert not set(crowded) & set(subset.choose(keys))
    few = set(subset.choose([*sorted(first), "new"]))
    assert few == {*first - set(crowded), "new", crowded[0]}
    assert set(subset.choose(keys)) & set(crowded) == {crowded[0]}


def test_who_cannot_be_reached_is_passed_over_in_turn() -> None:
    subset, keys = Subset(2, Random(5)), names(3)
    seen: list[set[str]] = []
    for _ in range(6):
        chosen = set(subset.choose(keys))
        assert len(chosen) == 2
        seen.append(chosen)
        subset.pass_over(chosen)
    assert all(one != next_one for one, next_one in pairwise(seen))
    counts = Counter(key for chosen in seen for key in chosen)
    assert all(counts[key] >= 3 for key in keys)


def spread_of(seed: int, nodes: int, clients: int, size: int) -> tuple[float, float, float]:
    """Return how many more clients than the average the fullest node has, before and after.

    All clients start together; each looks anew when it has connected to another node. The third
    is the share of connections that were made anew.
    """
    keys = names(nodes)
    subsets = [Subset(size, Random(seed * 1000 + number)) for number in range(clients)]
    chosen = [set(subset.choose(keys)) for subset in subsets]
    counts = Counter(key for each in chosen for key in each)
    average = clients * size / nodes
    before, moved = max(counts.values()) / average, 0
    to_look = set(range(clients))
    while to_look:
        told = counts.copy()
        for number in sorted(to_look):
            if not subsets[number].judge({key: told[key] for key in sorted(chosen[number])}):
                to_look.discard(number)
                continue
            after = set(subsets[number].choose(keys))
            counts.subtract(chosen[number] - after)
            counts.update(after - chosen[number])
            moved += len(after - chosen[number])
            chosen[number] = after
    return before, max(counts.values()) / average, moved / (clients * size)


@pytest.mark.parametrize("seed", range(3))
def test_no_node_has_many_more_clients_than_others_when_crowded_ones_are_passed_over(
    seed: int,
) -> None:
    before, after, moved = spread_of(seed, nodes=200, clients=400, size=50)
    assert before > 1.2
    assert after < 1.15
    assert moved < 0.03
