"""The payloads of the larger workloads: records of twenty fields, and bytes."""

import random
from collections.abc import Callable
from typing import Any

__all__ = ["FIELDS", "KIB", "record", "rows"]

KIB = b"\xa5" * 1024

# Name and type of each field, in the order in which schemas number them.
FIELDS: tuple[tuple[str, type], ...] = (
    ("id", int), ("account", int), ("created", int), ("updated", int), ("version", int),
    ("quantity", int), ("name", str), ("email", str), ("street", str), ("city", str),
    ("country", str), ("phone", str), ("note", str), ("price", float), ("discount", float),
    ("latitude", float), ("longitude", float), ("active", bool), ("verified", bool),
    ("archived", bool),
)  # fmt: skip


def record(number: int) -> dict[str, Any]:
    """Return a record of an application; the same number gives the same record."""
    rng = random.Random(number)
    make: dict[type, Callable[[], object]] = {
        int: lambda: rng.randrange(1 << rng.choice((7, 15, 31))),
        str: lambda: "".join(rng.choices("abcdefghij klmnop", k=rng.randrange(4, 28))),
        float: rng.random,
        bool: lambda: rng.random() < 0.5,
    }
    return {"id": number} | {name: make[kind]() for name, kind in FIELDS[1:]}


def rows(count: int) -> list[dict[str, Any]]:
    """Return the first records."""
    return [record(number) for number in range(count)]
