"""Keys of maps and items of sets that a type declares, and that a peer may choose to collide.

Text and bytes have hashes with a secret. The hashes of numbers, tuples, UUIDs, decimals and times
have none. Where a type declares such keys, a peer may send any number of them, so their hashes are
checked before they are decoded.
"""

import datetime
import decimal
import functools
import typing
import uuid
from typing import Any

from msgspec import inspect as nodes
from msgspec.msgpack import Decoder

from rap.schema.arguments import Guard
from rap.schema.costs import all_types
from rap.schema.plain import from_plain, text_types
from rap.wire.codec import check_keys

__all__ = ["declares_keys", "key_guard"]


def key_guard(node: nodes.Type) -> Guard | None:
    """Return the check that refuses bodies with keys that collide.

    It is `None` for a type without such keys, and for one that leaves its keys open, which
    `check_body` checks.
    """
    keys, items, open_types = _declared(node)
    # A class, such as a pydantic model, may make anything of its values.
    is_converted = nodes.CustomType in open_types
    if not (keys or items or is_converted):
        return None
    hints = [_hint(each) for each in [*keys, *items] if _is_sent_as_something_else(each)]
    if is_converted:
        hints += [uuid.UUID, decimal.Decimal, datetime.timedelta]
    if open_types:
        hints.append(datetime.datetime)
    return functools.partial(
        check_keys,
        arrays=bool(items) or is_converted,
        as_tuples=is_converted or any(_may_be_array(each) for each in items),
        readers=[
            Decoder(list.__class_getitem__(hint), dec_hook=from_plain).decode for hint in hints
        ],
    )


def declares_keys(node: nodes.Type) -> bool:
    """Return whether a type has a map that is declared to have keys which `check_body` limits."""
    keys, _, _ = _declared(node)
    return any(isinstance(each, _LIMITED) for key in keys for each in _alternatives(key))


_ARRAYS = nodes.CollectionType | nodes.TupleType | nodes.NamedTupleType
# Keys that `check_body` limits, because they are sent as numbers, times or arrays.
_LIMITED = nodes.IntType | nodes.FloatType | nodes.DateTimeType | _ARRAYS
_NUMBERS = nodes.IntType | nodes.FloatType
# Types whose hashes have a secret, or that have few values.
_SAFE = (
    nodes.AnyType
    | nodes.NoneType
    | nodes.BoolType
    | nodes.StrType
    | nodes.BytesType
    | nodes.ByteArrayType
    | nodes.MemoryViewType
    | nodes.DateType
    | nodes.TimeType
    | nodes.EnumType
    | nodes.LiteralType
    | nodes.CustomType
)


def _declared(
    node: nodes.Type,
) -> tuple[list[nodes.Type], list[nodes.Type], set[type[nodes.Type]]]:
    """Return the types of keys, and of items of sets, that can be chosen to collide.

    The third value has the kinds of types whose values may hold any keys.
    """
    keys: list[nodes.Type] = []
    items: list[nodes.Type] = []
    open_types: set[type[nodes.Type]] = set()
    for each in all_types(node):
        if isinstance(each, nodes.AnyType) or _is_converted(each):
            open_types.add(type(each))
        if isinstance(each, nodes.DictType) and not _is_safe(each.key_type):
            keys.append(each.key_type)
        if isinstance(each, nodes.SetType | nodes.FrozenSetType):
            item = each.item_type
            if isinstance(item, nodes.AnyType) or not _is_safe(item):
                items.append(item)
    return keys, items, open_types


def _is_converted(node: nodes.Type) -> bool:
    return isinstance(node, nodes.CustomType) and not (
        isinstance(node.cls, type) and issubclass(node.cls, text_types())
    )


def _alternatives(node: nodes.Type) -> tuple[nodes.Type, ...]:
    return node.types if isinstance(node, nodes.UnionType) else (node,)


def _is_safe(node: nodes.Type) -> bool:
    return all(isinstance(each, _SAFE) for each in _alternatives(node))


def _may_be_array(node: nodes.Type) -> bool:
    return any(isinstance(each, _ARRAYS | nodes.AnyType) for each in _alternatives(node))


def _is_sent_as_something_else(node: nodes.Type) -> bool:
    """Return whether its values have other hashes than the numbers and arrays that are sent."""
    return any(
        any(map(_is_sent_as_something_else, each.item_types))
        if isinstance(each, nodes.TupleType)
        else _is_sent_as_something_else(each.item_type)
        if isinstance(each, nodes.VarTupleType)
        else not isinstance(each, _NUMBERS | _SAFE)
        for each in _alternatives(node)
    )


_HINTS: dict[type[nodes.Type], Any] = {
    nodes.AnyType: Any,
    nodes.NoneType: None,
    nodes.BoolType: bool,
    nodes.IntType: int,
    nodes.FloatType: float,
    nodes.StrType: str,
    nodes.BytesType: bytes,
    nodes.UUIDType: uuid.UUID,
    nodes.DecimalType: decimal.Decimal,
    nodes.DateTimeType: datetime.datetime,
    nodes.DateType: datetime.date,
    nodes.TimeType: datetime.time,
    nodes.TimeDeltaType: datetime.timedelta,
}


def _hint(node: Any) -> Any:
    """Return a type with this description; bounds of its values are left out."""
    match node:
        case nodes.UnionType():
            return typing.Union[tuple(map(_hint, node.types))]  # noqa: UP007  # made of a tuple
        case nodes.TupleType():
            return tuple.__class_getitem__(tuple(map(_hint, node.item_types)))
        case nodes.VarTupleType():
            return tuple.__class_getitem__((_hint(node.item_type), ...))
        case nodes.FrozenSetType():
            return frozenset.__class_getitem__(_hint(node.item_type))
        case nodes.LiteralType():
            return typing.Literal[tuple(node.values)]
        case _:
            return _HINTS[type(node)] if type(node) in _HINTS else node.cls
