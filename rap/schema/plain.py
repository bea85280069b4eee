"""Values that msgspec does not know: how they are sent, and how a plain value becomes one again.

msgspec calls `to_plain` for a value that it cannot encode, and `from_plain` for a type that it
cannot decode. Where that is not enough, `rap.schema.conversion` replaces a type by a stand-in.

This module imports neither pydantic, `pathlib` nor `ipaddress`: a program that uses their types has
imported them.
"""

import collections
import functools
import re
import sys
import typing
from collections import abc
from collections.abc import Mapping
from io import IOBase
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rap.schema.models import Model

__all__ = [
    "can_convert",
    "from_plain",
    "has_schema",
    "is_model",
    "keeps_offsets",
    "model_of",
    "pydantic_metadata",
    "refuse_constraints",
    "text_types",
    "to_plain",
]

_AS_LISTS = (collections.deque, range, abc.KeysView, abc.ValuesView, abc.ItemsView)
_PACKAGES = ("annotated_types", "pydantic", "pydantic_core", "pydantic_extra_types")
# Modules of classes whose objects are sent as their text, and the names of the classes.
_TEXT_TYPES = {
    "pathlib": ("PurePath",),
    "ipaddress": (
        "IPv4Address",
        "IPv6Address",
        "IPv4Network",
        "IPv6Network",
        "IPv4Interface",
        "IPv6Interface",
    ),
}


def to_plain(value: Any) -> Any:
    """Return a value that msgspec can encode, for one that it does not know.

    Raises:
        TypeError: There is none.
    """
    kind: Any = type(value)
    if is_model(kind):
        return model_of(kind).dump(value)
    if isinstance(value, text_types()):
        return str(value)
    if isinstance(value, _AS_LISTS):
        return [*value]
    if isinstance(value, Mapping):
        return {**value} if all(isinstance(key, str) for key in value) else dict(value)
    if isinstance(value, re.Pattern) and value.flags == re.compile(value.pattern).flags:
        return value.pattern
    if has_schema(kind):  # a type of pydantic itself
        get_secret = getattr(value, "get_secret_value", None)
        if get_secret is not None:
            return get_secret()
        if isinstance(value, str | int | float):
            return value.__reduce_ex__(2)[1][-1] if not isinstance(value, str) else str(value)
        return str(value)
    what = f"an object of type `{kind.__qualname__}`"
    if isinstance(value, IOBase):
        raise TypeError(f"{what} cannot be sent; read it, and send what it holds")
    if isinstance(value, abc.Iterator | abc.AsyncIterator):
        raise TypeError(f"{what} can be read only once; pass a list of it")
    if isinstance(value, abc.Awaitable):
        raise TypeError(f"{what} cannot be sent; await it first")
    raise TypeError(f"{what} cannot be sent; send a dict, a dataclass or a msgspec.Struct instead")


def from_plain(kind: Any, value: Any) -> Any:
    """Return the value of a type that was sent as `value`.

    Raises:
        Exception: It is not such a value.
    """
    convert = getattr(kind, "rap_convert", None)
    if convert is not None:
        return convert(value)
    if is_model(kind):
        return model_of(kind).validate(value)
    if not isinstance(value, str):
        raise TypeError(f"expected `str`, got `{type(value).__name__}`")
    return kind(value)


def can_convert(kind: Any) -> bool:
    """Whether `from_plain` knows a class.

    Raises:
        TypeError: It is a model that cannot be sent.
    """
    if is_model(kind):
        if problem := model_of(kind).problem:
            raise TypeError(problem)
        return True
    return isinstance(kind, type) and (
        hasattr(kind, "rap_keeps_offsets") or issubclass(kind, text_types())
    )


def keeps_offsets(kind: Any) -> bool:
    """Whether all datetimes in the values of a class may be sent as text."""
    return getattr(kind, "rap_keeps_offsets", False)


def is_model(kind: Any) -> bool:
    """Whether it is a pydantic model; checks its methods, so that pydantic is not imported."""
    return callable(getattr(kind, "model_validate", None)) and hasattr(kind, "model_dump")


def has_schema(kind: Any) -> bool:
    """Whether pydantic validates this class itself: a network type, a secret, its dataclass."""
    return "pydantic" in sys.modules and (
        hasattr(kind, "__get_pydantic_core_schema__") or hasattr(kind, "__pydantic_validator__")
    )


def pydantic_metadata(hint: Any) -> tuple[Any, ...]:
    """Return what an `Annotated` says to pydantic, which msgspec would ignore."""
    if "pydantic" not in sys.modules:
        return ()
    metadata = getattr(hint, "__metadata__", ())
    return tuple(each for each in metadata if type(each).__module__.partition(".")[0] in _PACKAGES)


def refuse_constraints(hint: Any) -> None:
    """Check that pydantic reads nothing in a type that msgspec would ignore.

    Raises:
        TypeError: It does.
    """
    if pydantic_metadata(hint):
        raise TypeError("it has constraints of pydantic")
    for each in typing.get_args(hint):
        if not isinstance(each, str | int):
            refuse_constraints(each)


@functools.lru_cache(maxsize=4096)
def model_of(kind: Any) -> "Model":
    """Return how the values of a model, or of another type of pydantic, are sent."""
    from rap.schema.models import Model  # few programs have models

    return Model.of_class(kind) if is_model(kind) else Model.of_type(kind)


def text_types() -> tuple[type, ...]:
    """Return the classes whose objects are sent as their text."""
    return _text_types(sys.modules.get("pathlib"), sys.modules.get("ipaddress"))


@functools.cache
def _text_types(*modules: ModuleType | None) -> tuple[type, ...]:
    return tuple(
        getattr(module, name)
        for module in modules
        if module is not None
        for name in _TEXT_TYPES[module.__name__]
    )
