"""Datetimes that keep their offset from UTC.

The timestamp of msgpack is a point in time without an offset, so msgspec sends a datetime of any
zone in UTC. Where a datetime is declared, one with another offset is sent as text (PROTOCOL.md
§8.2), which each receiver of a datetime reads. A place that takes anything has no such declaration:
there the point in time arrives, in UTC.
"""

import datetime
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import inspect as nodes

from rap.schema.plain import keeps_offsets, to_plain
from rap.schema.shapes import with_offsets

__all__ = ["offset_keeper"]

_BUILTIN = (bytes, bytearray, memoryview, datetime.datetime)
# Plain value → the same object, or a copy with text for some datetimes.
Walk = Callable[[Any], Any]


def offset_keeper(node: nodes.Type) -> Walk | None:
    """Return what replaces datetimes in a value of a type by text; `None` if it has none.

    A value without such datetimes, or of another type, is returned as it is.
    """
    walk = _Walks().of(node)
    if walk is None:
        return None

    def keep(value: Any) -> Any:
        try:
            plain = msgspec.to_builtins(value, builtin_types=_BUILTIN, enc_hook=to_plain)
            found = walk(plain)
        except Exception:  # the encoder says what is wrong with it
            return value
        return value if found is plain else found

    return keep


class _Walks:
    """The walks of the types inside one type, which may contain itself."""

    def __init__(self) -> None:
        self._known: dict[int, list[Walk | None]] = {}

    def of(self, node: Any) -> Walk | None:
        """Return the walk of a type, or `None` if it holds no datetime."""
        if isinstance(node, nodes.DateTimeType):
            return with_offsets
        if isinstance(node, nodes.CustomType):
            return with_offsets if keeps_offsets(node.cls) else None
        if isinstance(node, nodes.UnionType):
            return _union([(each, self.of(each)) for each in node.types])
        if id(node) in self._known:
            held = self._known[id(node)]
            return lambda value: held[0](value) if held and held[0] else value
        held = self._known[id(node)] = []
        held.append(self._container(node))
        return held[0]

    def _container(self, node: Any) -> Walk | None:
        if isinstance(node, nodes.CollectionType):
            item = self.of(node.item_type)
            return item and _each(item)
        if isinstance(node, nodes.TupleType):
            return _places([self.of(each) for each in node.item_types])
        if isinstance(node, nodes.DictType):
            value = self.of(node.value_type)
            return value and _values(value)
        fields = getattr(node, "fields", ())
        if isinstance(node, nodes.NamedTupleType) or getattr(node, "array_like", False):
            tag: list[Walk | None] = [None] if getattr(node, "tag", None) is not None else []
            return _places(tag + [self.of(each.type) for each in fields])
        return _keys({each.encode_name: self.of(each.type) for each in fields})


def _each(walk: Walk) -> Walk:
    def walk_list(value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        found = [walk(each) for each in value]
        return found if _differ(found, value) else value

    return walk_list


def _places(walks: list[Walk | None]) -> Walk | None:
    if not any(walks):
        return None

    def walk_places(value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        found = [*value]
        for place, walk in enumerate(walks[: len(found)]):
            if walk is not None:
                found[place] = walk(found[place])
        return found if _differ(found, value) else value

    return walk_places


def _values(walk: Walk) -> Walk:
    def walk_values(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        found = {key: walk(each) for key, each in value.items()}
        return found if _differ(found.values(), value.values()) else value

    return walk_values


def _keys(walks: dict[str, Walk | None]) -> Walk | None:
    having = {name: walk for name, walk in walks.items() if walk is not None}
    if not having:
        return None

    def walk_keys(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        found = {key: having[key](each) if key in having else each for key, each in value.items()}
        return found if _differ(found.values(), value.values()) else value

    return walk_keys


def _union(members: list[tuple[Any, Walk | None]]) -> Walk | None:
    if not any(walk for _, walk in members):
        return None

    def walk_union(value: Any) -> Any:
        for node, walk in members:
            tag = getattr(node, "tag", None)
            if tag is not None and _tag_of(node, value) != tag:
                continue
            if walk is not None:
                found = walk(value)
                if found is not value:
                    return found
        return value

    return walk_union


def _tag_of(node: Any, value: Any) -> Any:
    if node.array_like:
        return value[0] if isinstance(value, list | tuple) and value else None
    return value.get(node.tag_field) if isinstance(value, dict) else None


def _differ(found: Any, value: Any) -> bool:
    return any(one is not other for one, other in zip(found, value, strict=True))
