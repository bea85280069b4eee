import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from faults.colliding import colliding_integers, colliding_tuples, colliding_uuids
from rap.collisions import CollidingKeysError, Kind, Trial, rounds_of


def slow() -> Trial:
    """Return a trial in which everything seems to take long."""
    return Trial((step**3 for step in itertools.count()).__next__)


@pytest.mark.parametrize("kind", [dict, set])
def test_keys_with_the_same_hash_are_refused(kind: Kind) -> None:
    for keys in (colliding_tuples(500), colliding_uuids(500)):
        assert rounds_of(keys, kind) >= 500 * 499 // 2
        with pytest.raises(CollidingKeysError, match=r"500 (keys of a map|items of a set) have"):
            slow().check(keys, kind)


def test_integers_that_share_the_slots_they_try_are_refused() -> None:
    keys = colliding_integers(13)
    assert len({hash(key) for key in keys}) == len(keys)
    with pytest.raises(CollidingKeysError, match="5461 keys of a map"):
        slow().check(keys, dict)
    random.Random(1).shuffle(keys)
    slow().check(keys[:500], dict)


@pytest.mark.parametrize("kind", [dict, set])
@pytest.mark.parametrize(
    "key",
    [
        lambda n: n,
        lambda n: -n,
        lambda n: n * 1000,
        lambda n: n << 13,
        lambda n: (1_700_000_000_000 + n) << 22,
        lambda n: n << 29,
        lambda n: n / 20_000,
        lambda n: n * 2.0**-32,
        lambda n: (n // 100, n % 100),
        lambda n: str(n),
    ],
)
def test_keys_of_good_faith_are_accepted_even_if_they_take_long(
    key: Callable[[int], Any], kind: Kind
) -> None:
    slow().check([key(n) for n in range(20_000)], kind)


def test_equal_keys_do_not_collide() -> None:
    for kind in (dict, set):
        slow().check([7] * 20_000, kind)
        slow().check([*range(500), *map(float, range(500))] * 20, kind)


class Counted:
    """A key that counts how often it is compared with one that has the same hash."""

    compared = 0

    def __init__(self, hashed: int) -> None:
        self.hashed = hashed

    def __hash__(self) -> int:
        return self.hashed

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return self is other


def test_the_interpreter_compares_a_key_with_all_that_have_its_hash() -> None:
    """The count of `rounds_of` is what the interpreter does, as far as that can be seen."""
    for kind in (dict, set):
        keys = [Counted(5) for _ in range(5)]  # no table grows
        Counted.compared = 0
        dict.fromkeys(keys) if kind is dict else set(keys)
        seen = Counted.compared
        Counted.compared = 0
        assert seen == 5 * 4 // 2


def test_the_count_ends_soon_after_its_limit() -> None:
    assert 100 < rounds_of(colliding_tuples(2_000), dict, 100) < 200


def test_fast_keys_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rap.collisions.rounds_of", None)
    Trial(lambda: 0.0).check(colliding_tuples(500), dict)


def test_the_time_of_all_maps_of_a_body_counts() -> None:
    """Each map takes less than is allowed for one."""
    now = itertools.count(0.0, 0.0002)
    trial = Trial(now.__next__)
    keys = colliding_tuples(65)
    trial.check(keys, dict)
    with pytest.raises(CollidingKeysError):
        any(map(trial.check, [keys] * 10, [dict] * 10))
