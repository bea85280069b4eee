"""Comparison: which node fails more calls than the others do, and what says nothing about nodes."""

from collections.abc import Iterable, Mapping
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rap.balance.comparison import Comparison, ComparisonPolicy, Finding, Tally

NOW = 1000.0


class Calls:
    """Calls of functions, counted as a client does: from the first failure on."""

    def __init__(self, policy: ComparisonPolicy | None = None) -> None:
        self.comparison = Comparison(policy)
        self.now = NOW
        self._tallies: dict[str, Tally | None] = {}

    def call(self, function: str, node: str, *, fails: bool) -> None:
        if fails:
            self._tallies[function] = self.comparison.failed(function, node, self.now)
            return
        tally = self._tallies.get(function)
        if tally is not None and not tally.succeeded(node, self.now):
            self._tallies[function] = None

    def mix(self, counts: Mapping[str, tuple[int, int]], function: str = "/default/f") -> None:
        """Make answered and failed calls of nodes in turn."""
        left = {
            node: [True] * failed + [False] * answered
            for node, (answered, failed) in counts.items()
        }
        while any(left.values()):
            for node, fails in left.items():
                if fails:
                    self.call(function, node, fails=fails.pop(0))

    def outliers(self, nodes: Iterable[str]) -> set[str]:
        self.now += 0.2  # a look at a node is not repeated at once
        return {node for node in nodes if self.comparison.find(node, self.now) is not None}


def outliers(counts: Mapping[str, tuple[int, int]]) -> set[str]:
    calls = Calls()
    calls.mix(counts)
    return calls.outliers(counts)


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        ({"a": (0, 20), "b": (20, 0)}, {"a"}),  # of two
        ({"a": (0, 5), "b": (40, 0)}, {"a"}),
        ({"a": (0, 4), "b": (200, 0)}, set()),  # too few
        ({"a": (0, 5), "b": (5, 0)}, set()),  # the others have too few
        ({"a": (0, 5)}, set()),  # alone
        ({"a": (0, 50), "b": (0, 50), "c": (0, 50)}, set()),  # all
        ({"a": (25, 25), "b": (25, 25), "c": (25, 25)}, set()),  # all, a half
        ({"a": (50, 50), "b": (95, 5), "c": (95, 5), "d": (95, 5), "e": (95, 5)}, {"a"}),
        ({"a": (92, 8), "b": (100, 0), "c": (100, 0)}, set()),  # by less than a tenth
        ({"a": (70, 30), "b": (100, 0), "c": (100, 0)}, {"a"}),
        ({"a": (0, 50), "b": (0, 50), "c": (50, 0), "d": (50, 0), "e": (50, 0)}, {"a", "b"}),
        ({"a": (0, 99), "b": (0, 99), "c": (0, 99), "d": (99, 0)}, {"a", "b", "c"}),
    ],
)
def test_a_node_is_an_outlier_that_fails_far_more_calls_than_the_others(
    counts: dict[str, tuple[int, int]], found: set[str]
) -> None:
    assert outliers(counts) == found


def test_a_finding_says_what_was_compared() -> None:
    calls = Calls()
    calls.mix({"a": (1, 20), "b": (40, 1)})
    calls.mix({"a": (0, 2), "b": (2, 0)}, "/default/g")
    finding = calls.comparison.find("a", calls.now)
    assert finding == Finding(22, 23, 1, 43, "/default/f")
    text = "22 of 23 calls failed, most of /default/f; at other servers 1 of 43"
    assert str(finding) == text


def test_a_function_that_fails_everywhere_hides_no_node_that_fails_another() -> None:
    calls = Calls()
    calls.mix({"a": (0, 50), "b": (0, 50), "c": (0, 50)}, "/default/bad")
    assert calls.outliers("abc") == set()
    calls.mix({"a": (0, 50), "b": (50, 0), "c": (50, 0)})
    assert calls.outliers("abc") == {"a"}


def test_a_function_that_only_one_node_is_asked_for_says_nothing() -> None:
    calls = Calls()
    calls.mix({"a": (0, 100)}, "/default/only")
    calls.mix({"a": (100, 1), "b": (100, 1), "c": (100, 1)})
    assert calls.outliers("abc") == set()


def test_an_outage_before_a_node_was_there_says_nothing() -> None:
    calls = Calls()
    calls.mix({"a": (0, 100)})
    calls.now += 6.0
    calls.mix({"a": (100, 1), "new": (100, 0)})
    assert calls.outliers(["a", "new"]) == set()


def test_uneven_shares_do_not_matter() -> None:
    calls = Calls()
    calls.mix({"a": (900, 100), "b": (9, 1), "c": (90, 10)})
    assert calls.outliers("abc") == set()


def test_rare_calls_are_compared_over_a_minute() -> None:
    calls, seconds = Calls(), 0
    while not calls.outliers("ab"):
        for node in "ab":
            calls.call("/default/f", node, fails=node == "a")
        calls.now += 2.0
        seconds += 2
        assert seconds < 60
    assert seconds >= 20


def test_what_is_older_than_a_minute_is_forgotten() -> None:
    calls = Calls()
    calls.mix({"a": (0, 20), "b": (20, 0)})
    calls.now += 61.0
    calls.call("/default/f", "a", fails=True)
    assert calls.outliers("ab") == set()


def test_a_node_that_was_ejected_begins_anew() -> None:
    calls = Calls()
    calls.mix({"a": (0, 20), "b": (20, 0)})
    assert calls.outliers("a") == {"a"}
    calls.comparison.forget("a")
    assert calls.outliers("a") == set()
    calls.mix({"a": (20, 0), "b": (20, 0)})
    assert calls.outliers("ab") == set()


def test_answers_are_counted_until_no_call_has_failed_for_a_minute() -> None:
    tally = Comparison().failed("/default/f", "a", NOW)
    assert tally is not None
    assert tally.succeeded("a", NOW + 30.0)
    assert tally.succeeded("b", NOW + 59.0)
    assert not tally.succeeded("a", NOW + 70.0)


def test_a_look_at_a_node_is_not_repeated_at_once() -> None:
    calls = Calls()
    calls.mix({"a": (0, 20), "b": (20, 0)})
    assert calls.comparison.find("a", calls.now) is not None
    assert calls.comparison.find("a", calls.now) is None
    assert calls.comparison.find("a", calls.now + 0.1) is not None


def test_only_so_many_functions_are_counted_and_old_ones_make_room() -> None:
    comparison = Comparison()
    for n in range(256):
        assert comparison.failed(f"/default/f{n}", "a", NOW) is not None
    assert comparison.failed("/default/more", "a", NOW + 1.0) is None
    assert comparison.failed("/default/f1", "a", NOW + 1.0) is not None
    assert comparison.failed("/default/more", "a", NOW + 60.5) is not None


@pytest.mark.parametrize(
    ("counts", "common"),
    [
        ({"a": (0, 3), "b": (0, 3)}, True),
        ({"a": (0, 3), "b": (3, 0)}, False),
        ({"a": (0, 3)}, False),
        ({"a": (0, 3), "b": (1, 2), "c": (2, 1)}, True),
        ({"a": (0, 3), "b": (2, 1), "c": (1, 0)}, False),
    ],
)
def test_a_function_that_fails_at_others_too_is_at_fault_itself(
    counts: dict[str, tuple[int, int]], common: bool
) -> None:
    calls = Calls()
    calls.mix(counts)
    assert calls.comparison.is_common("/default/f", "a") is common
    assert not calls.comparison.is_common("/default/g", "a")


@given(
    seed=st.integers(0, 2**32),
    nodes=st.integers(2, 6),
    rate=st.floats(0.0, 1.0),
    functions=st.integers(1, 4),
    skew=st.integers(1, 20),
)
def test_nodes_that_fail_alike_are_no_outliers(
    seed: int, nodes: int, rate: float, functions: int, skew: int
) -> None:
    """Each function fails with a chance of its own; nodes have very different shares."""
    rng, calls = Random(seed), Calls()
    names = [str(n) for n in range(nodes)]
    weights = [rng.randint(1, skew) for _ in names]
    chances = [rate * rng.random() for _ in range(functions)]
    for _ in range(400):
        function = rng.randrange(functions)
        (node,) = rng.choices(names, weights)
        calls.call(f"/default/{function}", node, fails=rng.random() < chances[function])
        calls.now += rng.random() * 0.1
    assert calls.outliers(names) == set()


def test_in_an_hour_of_calls_that_fail_by_chance_no_node_is_found() -> None:
    """A look after each failure, at 20 calls a second, of which 3 % fail; bursts among them."""
    rng, calls, names = Random(7), Calls(), ["a", "b", "c", "d", "e"]
    for second in range(3600):
        chance = 0.5 if second % 300 < 4 else 0.03  # something behind all of them is down
        for _ in range(20):
            calls.now += 0.05
            node = rng.choice(names)
            fails = rng.random() < chance
            calls.call("/default/f", node, fails=fails)
            if fails:
                assert calls.comparison.find(node, calls.now) is None
