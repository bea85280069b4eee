"""What a function's signature says: its parameters, their types, and its stream type."""

import functools
import inspect
import operator
import types
import typing
from collections import abc
from collections.abc import Callable
from inspect import Signature
from types import NoneType, SimpleNamespace
from typing import Any, Union

from rap.call import StreamType
from rap.errors import RegistrationError

__all__ = [
    "ASYNC_ITERATORS",
    "ITERATORS",
    "callable_of",
    "resolve_signature",
    "split_unions",
    "stream_type_of",
]


ASYNC_ITERATORS = (abc.AsyncIterator, abc.AsyncGenerator, abc.AsyncIterable)
ITERATORS = (abc.Iterator, abc.Generator, abc.Iterable, *ASYNC_ITERATORS)


def callable_of(func: Any) -> tuple[Callable[..., Any], Callable[..., Any], str]:
    """Return the callable, the plain function inside it, and its name.

    Raises:
        RegistrationError: It is a class, or not callable.
    """
    if isinstance(func, staticmethod):
        func = func.__func__
    if isinstance(func, type) or not callable(func):
        what = "a class" if isinstance(func, type) else f"a {type(func).__name__}"
        raise RegistrationError(f"{func!r} is {what}; a function or a bound method is needed")
    target = func
    while isinstance(target, functools.partial):
        target = target.func
    if not inspect.isroutine(target):
        return func, type(target).__call__, type(target).__name__
    return func, getattr(target, "__func__", target), target.__name__


def resolve_signature(name: str, func: Callable[..., Any], target: Callable[..., Any]) -> Signature:
    """Return the signature of `func` with resolved annotations.

    Raises:
        RegistrationError: A hint is missing or cannot be resolved.
    """
    try:
        signature = inspect.signature(func)
    except (TypeError, ValueError) as exc:
        raise RegistrationError(f"{name}(): it has no signature: {exc}") from exc
    heart = inspect.unwrap(target)
    scope = getattr(heart, "__globals__", {})

    def resolve(hint: Any, where: str) -> Any:
        if hint is Signature.empty:
            raise RegistrationError(f"{name}(): {where} has no type hint")
        try:
            holder = SimpleNamespace(__annotations__={"hint": hint})
            found = typing.get_type_hints(holder, scope, include_extras=True)["hint"]
        except Exception as exc:  # a hint is code
            raise RegistrationError(f"{name}(): {where}: cannot resolve {hint!r}: {exc}") from exc
        return None if found is NoneType else found

    parameters = [
        p.replace(annotation=resolve(p.annotation, f"parameter {p.name!r}"))
        for p in signature.parameters.values()
    ]
    returns = resolve(signature.return_annotation, "return value")
    return Signature(parameters, return_annotation=returns)


def stream_type_of(name: str, target: Callable[..., Any], signature: Signature) -> StreamType:
    """Return the stream type of a function.

    Raises:
        RegistrationError: It has a Channel and other parameters, or it is a generator whose return
            annotation is not an iterator.
    """
    for parameter in signature.parameters.values():
        kind = typing.get_origin(parameter.annotation) or parameter.annotation
        if getattr(kind, "__rap_channel__", False) is True:
            if len(signature.parameters) == 1:
                return StreamType.CHANNEL
            raise RegistrationError(
                f"{name}(): parameter {parameter.name!r} is a Channel, so it must be the only one,"
                f" got {len(signature.parameters)} parameters"
            )
    returns = signature.return_annotation
    if (typing.get_origin(returns) or returns) in ITERATORS:
        return StreamType.STREAM
    if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        raise RegistrationError(
            f"{name}(): return value: a generator is declared as Iterator[...] or"
            f" AsyncIterator[...], got {inspect.formatannotation(returns)}"
        )
    return StreamType.UNARY


# Type → function from a msgpack value to a value of that type. It raises `TypeError` for a type
# that cannot be decoded.
Converter = Callable[[Any], Callable[[Any], Any]]


def split_unions(hint: Any, converter: Converter) -> Any:
    """Return a type whose unions of str and bytes can be decoded, or the same object without any.

    msgspec refuses a union with both str and bytes, so the bytes are kept apart.

    Args:
        hint: The type.
        converter: Returns the converter of the rest of a union.
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
    if is_union:
        return functools.reduce(operator.or_, split)
    return origin[split]  # pyright: ignore[reportInvalidTypeArguments]  # not a union here


class _Union(type):
    """The metaclass of union types, whose `isinstance` accepts any validated value."""

    def __instancecheck__(cls, value: object) -> bool:
        return True


def _beside_bytes(name: str, convert: Callable[[Any], Any]) -> type:
    """Return a class that validates like a model: it keeps bytes and converts the rest."""

    def validate(value: Any) -> Any:
        return value if isinstance(value, bytes) else convert(value)

    return _Union(name, (), {"model_validate": staticmethod(validate), "model_dump": None})
