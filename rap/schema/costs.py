"""What it costs to decode a body as a type: the memory of the values, and whether it takes long.

A body of 99 KB can hold 99,000 values. A dataclass that is decoded from an empty map takes up to
800 bytes and five microseconds, because its defaults are made. So the memory that a server counts
for its clients, and the bodies that a thread decodes, depend on the types of a function.
"""

import enum
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from typing import Any, NamedTuple

from msgspec import NODEFAULT
from msgspec import inspect as nodes

from rap.wire.codec import PLAIN_SIZES, ValueSizes

__all__ = ["NEVER_SLOW", "SLOW_FROM", "Cost", "all_types", "cost_of", "dearest", "inner_types"]

NEVER_SLOW = 1 << 62
SLOW_FROM = 4096  # bytes: Python code runs for each value, and takes microseconds
_DEAR = 16 * 1024  # bytes: each value takes some 200 ns
_FLOAT = 32
_SET = 232
_DEFAULTS = {list: 56, dict: 64, set: _SET, frozenset: _SET, bytearray: 56}
_OTHER_DEFAULT = 256
_CUSTOM = 256  # a path takes most of the usual ones
_DECIMAL = 112
_RECORD = 160  # an instance with a dict
_OWN_DICT = 420  # one whose dict is not shared, because code of the class fills it
_FIELD = 8


class Cost(NamedTuple):
    """What the values of a type cost.

    Args:
        sizes: Bytes of the objects that values become.
        slow_from: Bytes of a body from which a thread decodes it.
    """

    sizes: ValueSizes = PLAIN_SIZES
    slow_from: int = NEVER_SLOW


def inner_types(node: Any) -> Iterator[nodes.Type]:
    """Yield the types that a type contains."""
    for name in ("item_type", "key_type", "value_type"):
        if hasattr(node, name):
            yield getattr(node, name)
    for name in ("types", "item_types"):
        yield from getattr(node, name, ())
    for field in getattr(node, "fields", ()):
        yield field.type


def all_types(node: nodes.Type) -> Iterator[nodes.Type]:
    """Yield a type and all types in it, each once: a type may contain itself."""
    seen: set[int] = set()
    waiting = [node]
    while waiting:
        each = waiting.pop()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += inner_types(each)


def dearest(costs: Iterable[Cost]) -> Cost:
    """Return the cost of a body with values of all these costs."""
    found = Cost()
    for sizes, slow_from in costs:
        found = Cost(ValueSizes(*map(max, found.sizes, sizes)), min(found.slow_from, slow_from))
    return found


def cost_of(node: nodes.Type) -> Cost:
    """Return the cost of a type and all types in it."""
    return dearest(map(_own_cost, all_types(node)))


def _own_cost(node: nodes.Type) -> Cost:
    if isinstance(node, nodes.FloatType):
        return Cost(ValueSizes(number=_FLOAT))
    if isinstance(node, nodes.CustomType):
        return Cost(ValueSizes(_CUSTOM, _CUSTOM, _CUSTOM, _CUSTOM), SLOW_FROM)
    if isinstance(node, nodes.DecimalType):
        return Cost(ValueSizes(text=_DECIMAL, number=_DECIMAL), SLOW_FROM)
    if isinstance(node, nodes.EnumType):
        is_lookup = node.cls._missing_.__func__ is enum.Enum._missing_.__func__  # type: ignore[attr-defined]
        return Cost() if is_lookup else Cost(slow_from=SLOW_FROM)
    if isinstance(node, nodes.SetType | nodes.FrozenSetType):
        return Cost(ValueSizes(array=_SET), _DEAR)
    if isinstance(node, nodes.StructType | nodes.DataclassType | nodes.NamedTupleType):
        return _cost_of_record(node)
    return Cost()


def _cost_of_record(node: Any) -> Cost:
    """Return the cost of a class with fields, whose defaults are made for each instance."""
    factories = [
        field.default_factory for field in node.fields if field.default_factory is not NODEFAULT
    ]
    has_code = hasattr(node.cls, "__post_init__")
    is_plain = is_dataclass(node.cls) and not hasattr(node.cls, "__slots__")
    size = _FIELD * len(node.fields) + (_RECORD if is_plain else 64)
    if is_plain and (has_code or factories):
        size = max(size, _OWN_DICT)
    size += sum(_DEFAULTS.get(make, _OTHER_DEFAULT) for make in factories)
    sizes = ValueSizes(empty=size, map=max(size, PLAIN_SIZES.map), array=size)
    return Cost(sizes, SLOW_FROM if has_code or factories else _DEAR)
