"""Keys that are chosen so that they collide in a dict or a set."""

import random
import uuid

__all__ = ["colliding_integers", "colliding_tuples", "colliding_uuids"]

_MASK, _P1, _P2, _P5 = (
    (1 << 64) - 1,
    11400714785074694791,
    14029467366897019727,
    2870177450012600261,
)
_MODULUS = (1 << 61) - 1  # of the hash of an integer
_BITS = 60  # of the integers
_SHIFT = 5  # bits that a dict shifts out with each slot that is occupied


def colliding_tuples(n: int) -> list[tuple[int, int]]:
    """Return pairs of integers that have the same hash.

    The hash of a tuple is xxHash with constants of CPython, and each of its rounds can be inverted.
    """
    target = _rotated(0x1234567 * pow(_P1, -1, 1 << 64) & _MASK, 33)
    inverse = pow(_P2, -1, 1 << 64)
    pairs: list[tuple[int, int]] = []
    first = 0
    while len(pairs) < n:
        first += 1
        state = _rotated(_P5 + first * _P2 & _MASK, 31) * _P1 & _MASK
        second = (target - state) * inverse & _MASK
        second -= 1 << 64 if second >> 63 else 0
        if abs(second) < _MODULUS and second != -1:
            pairs.append((first, second))
    return pairs


def colliding_uuids(n: int) -> list[uuid.UUID]:
    """Return UUIDs that have the same hash, which is that of their integer."""
    return [uuid.UUID(int=(k + 1) * _MODULUS + 5) for k in range(n)]


def colliding_integers(bits: int, seed: int = 1) -> list[int]:
    """Return the integers that fill two thirds of a dict with `1 << bits` slots, slowly.

    The first half fills a run of slots in the order in which a dict tries them once all bits of a
    hash are used up. All slots that each of the others tries before are in this run, and so is the
    slot where it enters the run: it has to walk to the end.
    """
    rng = random.Random(seed)
    mask = (1 << bits) - 1
    length = 1 << (bits - 1)
    run = [0]
    while len(run) < length:
        run.append((5 * run[-1] + 1) & mask)
    place = {slot: at for at, slot in enumerate(run)}
    walkers: dict[int, None] = {}
    while len(run) + len(walkers) < (2 << bits) // 3:
        number = _walker(place, bits, rng)
        if number not in place:
            walkers[number] = None
    return [*run, *walkers]


def _walker(place: dict[int, int], bits: int, rng: random.Random) -> int:
    """Return a number that enters the run in its first half, after occupied slots only."""
    mask = (1 << bits) - 1
    while True:
        slot = number = rng.choice([*place]) if len(place) < 64 else rng.randrange(mask + 1)
        if slot not in place:
            continue
        known, step = bits, 1  # bits of the number that are chosen
        while slot in place and (known < _BITS or number >> (_SHIFT * step)):
            if known < _BITS:
                fresh = min(_SHIFT, _BITS - known)
                start = 5 * slot + (number >> (_SHIFT * step)) + 1
                fitting = [
                    digit
                    for digit in range(1 << fresh)
                    if (start + (digit << (known - _SHIFT * step))) & mask in place
                ]
                number |= (rng.choice(fitting) if fitting else 0) << known
                known += fresh
            slot = (5 * slot + (number >> (_SHIFT * step)) + 1) & mask
            step += 1
        if place.get(slot, len(place)) < len(place) // 2:
            return number


def _rotated(x: int, by: int) -> int:
    return (x << by | x >> (64 - by)) & _MASK
