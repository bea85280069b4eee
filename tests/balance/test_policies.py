"""picker_from_name: built-in names, names of other packages, and objects."""

from importlib.metadata import EntryPoint, EntryPoints
from random import Random

import pytest

from rap.balance import (
    PowerOfTwoChoices,
    Rendezvous,
    RoundRobin,
    SmoothWeighted,
    WeightedRandom,
    picker_from_name,
)
from tests.balance.nodes import fixed_nodes


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("p2c", PowerOfTwoChoices),
        ("smooth_weighted", SmoothWeighted),
        ("weighted_random", WeightedRandom),
        ("round_robin", RoundRobin),
        ("rendezvous", Rendezvous),
    ],
)
def test_each_name_gives_its_picker(name: str, kind: type) -> None:
    picker = picker_from_name(name, Random(1))
    nodes = fixed_nodes(1, 2, 3)
    assert isinstance(picker, kind)
    assert picker.pick(nodes, "key") in nodes


def test_a_picker_is_returned_as_it_is() -> None:
    picker = RoundRobin(Random(1))
    assert picker_from_name(picker, Random(2)) is picker


def test_a_wrong_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"picker must be one of p2c, .*rendezvous.*got 'p3c'"):
        picker_from_name("p3c", Random(1))


@pytest.mark.parametrize("wrong", [None, 7, PowerOfTwoChoices])
def test_what_cannot_pick_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="name or an object with a pick method"):
        picker_from_name(wrong, Random(1))  # type: ignore[arg-type]  # on purpose


def test_another_package_adds_a_name_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("turns", "rap.balance.weighted:RoundRobin", "rap.balance")
    monkeypatch.setattr(
        "importlib.metadata.entry_points", lambda group: EntryPoints([entry]).select(group=group)
    )
    assert isinstance(picker_from_name("turns", Random(1)), RoundRobin)
    with pytest.raises(ValueError, match="turns"):
        picker_from_name("tuns", Random(1))
