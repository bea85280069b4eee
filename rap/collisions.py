"""Keys that were chosen to collide: how long they take to insert is tried out, within a bound.

Hashes of text and bytes have a secret, those of numbers and tuples have none. A peer can choose
40,000 integers whose insertion into a dict takes 2 s instead of 3 ms. No property of the numbers
tells them from others. So they are inserted step by step, and if that takes long, the slots that
the interpreter looks at are counted. Only the count decides: a slow machine refuses no keys.
"""

from collections.abc import Callable, Sequence
from math import inf
from time import thread_time
from typing import Any

__all__ = ["CollidingKeysError", "Kind", "Trial", "rounds_of"]

Kind = type[dict[Any, Any]] | type[set[Any]]

_STEP = 32  # keys that are inserted between two looks at the clock
_SLACK = 0.001  # seconds that all keys of a body may take until they are counted
_PER_KEY = 0.5e-6  # and for each key; the slowest keys of good faith take 0.4 us
# Rounds for each key. Multiples of 2^22, as in Snowflake ids, need 17, and those of 2^29 need 41.
# Keys that take longer, because they were chosen to collide, need more than a hundred.
_ROUNDS = 48
# Rounds for one key; the most for any of 50,000 keys of good faith were 446.
_LONGEST = 1024
_TOO_LONG = 1 << 62
_HASH_MASK = (1 << 64) - 1


class CollidingKeysError(ValueError):
    """The keys of a map, or the items of a set, collide."""


class Trial:
    """Inserts the keys of one body in dicts and sets, as its decoder will do.

    Args:
        clock: Returns the seconds that this thread has run.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or thread_time
        self._left = _SLACK

    def check(self, keys: Sequence[Any], kind: Kind) -> None:
        """Insert keys in a dict or a set, which is dropped.

        Args:
            keys: What can be hashed, in the order in which it will be inserted.
            kind: `dict` or `set`, which look for a free slot in different ways.

        Raises:
            CollidingKeysError: The keys collide far more often than other keys.
        """
        insert = _inserter(kind)
        clock = self._clock
        began = clock()
        most = self._left
        for start in range(0, len(keys), _STEP):
            insert(keys[start : start + _STEP])
            taken = clock() - began
            if taken > most + start * _PER_KEY:
                tried = keys[: start + _STEP]
                if rounds_of(tried, kind, _ROUNDS * len(tried)) > _ROUNDS * len(tried):
                    what = "keys of a map" if kind is dict else "items of a set"
                    raise CollidingKeysError(
                        f"{len(keys)} {what} have hashes that collide; use text, or a list"
                    )
                most = 2 * taken  # keeps the number of counts small
        self._left = max(0.0, most + len(keys) * _PER_KEY - (clock() - began))


def rounds_of(keys: Sequence[Any], kind: Kind, most: float = inf) -> int:
    """Return how often CPython finds a slot occupied and goes on to another one, to insert keys.

    A set looks at ten neighbours at once. One key that takes too long ends the count with a large
    number. The rules are those of `dictobject.c` and `setobject.c` of CPython 3.11 to 3.15.

    Args:
        keys: The keys in their order; equal ones count once.
        kind: See `Trial.check`.
        most: Stop counting soon after so many.
    """
    is_dict = kind is dict
    neighbours = 1 if is_dict else 10
    table = bytearray(8)  # 1 for each slot that is occupied
    hashes: list[int] = []
    # By the bytes of the hash: their hash has a secret.
    groups: dict[bytes, list[Any]] = {}
    rounds = 0
    for key in keys:
        hashed = hash(key)
        equal = groups.setdefault(hashed.to_bytes(8, "little", signed=True), [])
        rounds += len(equal)
        if rounds > most:
            break
        if key in equal:
            continue
        equal.append(key)
        used = len(hashes)
        if used >= len(table) * 2 // 3 if is_dict else used * 5 >= (len(table) - 1) * 3:
            # The next power of two; that of a set is larger than what it is asked for.
            table = bytearray(1 << ((used * 3 - 1) if is_dict else used * 4).bit_length())
            for each in hashes:
                rounds += _occupy(table, each, neighbours)
                if rounds > most:
                    return rounds
        hashes.append(hashed)
        rounds += _occupy(table, hashed, neighbours)
    return rounds


def _inserter(kind: Kind) -> Callable[[Sequence[Any]], object]:
    if kind is set:
        return set[Any]().update
    put = dict[Any, Any]().__setitem__
    return lambda keys: any(map(put, keys, keys))


def _occupy(table: bytearray, hashed: int, neighbours: int) -> int:
    """Take a free slot for a hash; return the rounds, or `_TOO_LONG`."""
    last = len(table) - neighbours
    mask = len(table) - 1
    perturb = hashed & _HASH_MASK
    slot = perturb & mask
    rounds = 0
    while (free := table.find(0, slot, slot + (neighbours if slot <= last else 1))) < 0:
        rounds += 1
        if rounds > _LONGEST:
            return _TOO_LONG
        perturb >>= 5
        slot = (slot * 5 + perturb + 1) & mask
    table[free] = 1
    return rounds
