"""Unions of text and bytes: msgpack tells the two apart, where msgspec takes them for one."""

import functools
import operator
import types
import typing
from collections.abc import Callable
from typing import Any, Union

__all__ = ["split_unions"]

# A type → what makes values of it out of what msgpack gave; `TypeError` if it is none.
Converter = Callable[[Any], Callable[[Any], Any]]


def split_unions(hint: Any, converter: Converter) -> Any:
    """Return a type in which bytes stand beside the rest of their unions; else the same object.

    Args:
        hint: The type.
        converter: For the rest of a union.
    """
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if not members or origin in (typing.Annotated, typing.Literal):
        return hint
    split = tuple(split_unions(each, converter) for each in members)
    is_union = origin in (Union, types.UnionType)
    if is_union and {str, bytes} <= {*members}:
        rest = functools.reduce(operator.or_, (each for each in split if each is not bytes))
        return _beside_bytes(str(hint), converter(rest))
    if all(new is old for new, old in zip(split, members, strict=True)):
        return hint
    return functools.reduce(operator.or_, split) if is_union else origin[split]


class _Union(type):
    """Class of classes whose instances are whatever they have let pass."""

    def __instancecheck__(cls, value: object) -> bool:
        return True


def _beside_bytes(name: str, convert: Callable[[Any], Any]) -> type:
    """Return a class that makes values as a model does: bytes as they are, the rest converted."""

    def validate(value: Any) -> Any:
        return value if isinstance(value, bytes) else convert(value)

    return _Union(name, (), {"model_validate": staticmethod(validate), "model_dump": None})
