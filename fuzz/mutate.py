"""Mutations for where the guided fuzzer cannot be installed: blind, but always the same."""

import random
from collections.abc import Callable, Sequence

__all__ = ["Mutator"]

_LONGEST = 65536
_PLACES = (b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff")
# msgpack's containers and long scalars, that claim more than there is.
_TYPES = (b"\xdf\xff\xff\xff\xff", b"\xdd\x00\x10\x00\x00", b"\xdb\x00\x00\xff\xff", b"\x91" * 40)


class Mutator:
    """Makes inputs from those it knows.

    Args:
        seeds: Inputs to begin with.
        rng: Source of chance.
    """

    def __init__(self, seeds: Sequence[bytes], rng: random.Random) -> None:
        self._seeds = list(seeds)
        self._rng = rng
        self._steps: tuple[Callable[[bytearray], None], ...] = (
            self._flip, self._put, self._insert, self._cut, self._repeat, self._splice,
        )  # fmt: skip

    def next(self) -> bytes:
        """Return one more input: a seed, changed one to eight times."""
        data = bytearray(self._rng.choice(self._seeds))
        for _ in range(self._rng.randint(1, 8)):
            self._rng.choice(self._steps)(data)
        return bytes(data[:_LONGEST])

    def _at(self, data: bytearray) -> int:
        return self._rng.randrange(len(data) + 1)

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)

    def _put(self, data: bytearray) -> None:
        at, value = self._at(data), self._rng.choice(_PLACES)
        data[at : at + len(value)] = value

    def _insert(self, data: bytearray) -> None:
        at = self._at(data)
        data[at:at] = self._rng.choice((*_TYPES, self._rng.randbytes(self._rng.randint(1, 16))))

    def _cut(self, data: bytearray) -> None:
        at = self._at(data)
        del data[at : at + self._rng.randint(1, 32)]

    def _repeat(self, data: bytearray) -> None:
        at = self._at(data)
        part = data[at : at + self._rng.randint(1, 64)]
        data[at:at] = part * self._rng.randint(1, 8)

    def _splice(self, data: bytearray) -> None:
        other = self._rng.choice(self._seeds)
        data[self._at(data) :] = other[self._rng.randrange(len(other)) :]
