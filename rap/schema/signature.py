"""What a function's signature says: its parameters, their types, and its stream type."""

import contextlib
import functools
import inspect
import operator
import sys
import types
import typing
from collections import abc
from collections.abc import Callable
from inspect import Parameter, Signature
from types import NoneType, SimpleNamespace
from typing import Any, NamedTuple, Union

from rap.call import StreamType
from rap.errors import RegistrationError

__all__ = [
    "ASYNC_ITERATORS",
    "ITERATORS",
    "PLAIN_ITERATORS",
    "Streams",
    "asking_for",
    "callable_of",
    "is_plain_iterator",
    "resolve_signature",
    "signature_of",
    "streams_of",
]

if sys.version_info >= (3, 14):
    from annotationlib import Format

    _AS_TEXT = {"annotation_format": Format.STRING}
else:
    _AS_TEXT: dict[str, Any] = {}

ASYNC_ITERATORS = (abc.AsyncIterator, abc.AsyncGenerator, abc.AsyncIterable)
PLAIN_ITERATORS = (abc.Iterator, abc.Generator)
ITERATORS = (*PLAIN_ITERATORS, abc.Iterable, *ASYNC_ITERATORS)


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


def signature_of(func: Callable[..., Any]) -> Signature:
    """Return the parameters of a function, whatever its hints name.

    From Python 3.14 on, hints are evaluated when they are read. They may name what only a type
    checker imports, so they are not read here, but are given as text.

    Raises:
        TypeError, ValueError: It has no signature.
    """
    return inspect.signature(func, **_AS_TEXT)


def asking_for(
    func: Callable[..., Any], count: int, name: str, *, option: str
) -> Callable[..., Any] | None:
    """Return a callback that takes one more argument, if the callback asks for it.

    It asks for it with a parameter that has the name of the argument, or that comes next and has no
    default. Other parameters do not ask for it, nor do ``*args`` and ``**kwargs``: what the
    function does with them is unknown. ``dict.get``, for example, returns its second argument.

    Args:
        func: The callback.
        count: Number of positional arguments that it always gets.
        name: Name of the optional argument, which comes after these.
        option: Which callback it is, for the error.

    Returns:
        A function of `count` + 1 positional arguments. `None`: the callback does not ask for the
        last one. A function without a signature, as some built-in ones are, does not either.

    Raises:
        TypeError: The callback cannot be called with these arguments.
    """
    try:
        signature = signature_of(func)
    except ValueError:
        return None
    places = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    in_order = [p for p in signature.parameters.values() if p.kind in places]
    following = in_order[count:]
    named = signature.parameters.get(name)
    given = [None] * count
    try:
        if named in in_order[:count]:
            raise TypeError(f"`{name}` comes after the other arguments")
        if following and (following[0].default is Parameter.empty or following[0].name == name):
            signature.bind(*given, None)
            return func
        if named is not None and named.kind in (places[1], Parameter.KEYWORD_ONLY):
            signature.bind(*given, **{name: None})
            return lambda *args: func(*args[:-1], **{name: args[-1]})
        signature.bind(*given)
    except TypeError as exc:
        what = f"{count} arguments" if count > 1 else "one argument"
        text = f"{option} gets {what}, and `{name}` if it asks for it"
        shown = getattr(func, "__qualname__", repr(func))
        raise TypeError(f"{text}; {shown} cannot be called so: {exc}") from exc
    return None


def resolve_signature(name: str, func: Callable[..., Any], target: Callable[..., Any]) -> Signature:
    """Return the signature of `func` with resolved annotations.

    Raises:
        RegistrationError: A hint is missing or cannot be resolved.
    """
    heart = inspect.unwrap(target)
    scope = getattr(heart, "__globals__", {})
    try:
        signature = inspect.signature(func)
    except Exception:  # from Python 3.14 on, hints are code that runs here
        try:
            signature = signature_of(func)
        except Exception as exc:  # hints are code
            raise RegistrationError(f"{name}(): it has no signature: {exc}") from exc
        scope = {**scope, **_names_in_hints(heart)}  # to name the hint that cannot be resolved

    def resolve(hint: Any, where: str) -> Any:
        if hint is Signature.empty:
            raise RegistrationError(f"{name}(): {where} has no type hint; {_hint_for(where)}")
        try:
            holder = SimpleNamespace(__annotations__={"hint": hint})
            found = typing.get_type_hints(holder, scope, include_extras=True)["hint"]
        except Exception as exc:  # a hint is code
            text = f"{name}(): {where}: cannot resolve {hint!r}: {exc}"
            if isinstance(exc, NameError):
                text += "; import it, or define it outside of functions and `if TYPE_CHECKING`"
            raise RegistrationError(text) from exc
        return None if found is NoneType else found

    parameters = [
        p.replace(annotation=resolve(p.annotation, f"parameter {p.name!r}"))
        for p in signature.parameters.values()
    ]
    returns = resolve(signature.return_annotation, "return value")
    return Signature(parameters, return_annotation=returns)


def _hint_for(where: str) -> str:
    """Return what to do for a parameter or a return value without a type hint."""
    name = where.partition("'")[2].rstrip("'")
    if name in ("self", "cls"):
        return "to register a method, register an object of its class, or the class"
    return f"write one, such as `{name}: int`" if name else "write one, such as `-> None`"


def _names_in_hints(func: Any) -> dict[str, Any]:
    """Return the local names of outer functions that the hints of a function use (Python 3.14)."""
    annotate = getattr(func, "__annotate__", None)
    if not isinstance(annotate, types.FunctionType):
        return {}
    found = {}
    for name, cell in zip(annotate.__code__.co_freevars, annotate.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # it has no value yet
            found[name] = cell.cell_contents
    return found


class Streams(NamedTuple):
    """What a signature says of the messages of a call.

    Args:
        stream_type: How many messages each side sends.
        stream_parameter: The parameter that is the request stream, or `None`.
        channel_parameter: The parameter that is the Channel, or `None`.
        request: The type of a request, of the stream or the channel as the declaring side sees it.
        response: The type of an item of the response, or of a message that this side writes.
    """

    stream_type: StreamType
    stream_parameter: str | None = None
    channel_parameter: str | None = None
    request: Any = Any
    response: Any = Any


def streams_of(name: str, target: Callable[..., Any], signature: Signature) -> Streams:
    """Return what the messages of a call are.

    A Channel makes a channel. An (async) iterator among the parameters is the request stream, and
    one as the return value is the response stream.

    Raises:
        RegistrationError: It has more than one Channel or request stream, or one that cannot be
            passed; or it is a generator whose return annotation is not an iterator.
    """
    returns = _unwrapped(signature.return_annotation)
    returned = typing.get_origin(returns) or returns
    is_async = (
        inspect.iscoroutinefunction(target)
        or inspect.isasyncgenfunction(target)
        or returned in ASYNC_ITERATORS
    )
    found: list[tuple[str, str, Any]] = []  # what, parameter, types
    for parameter in signature.parameters.values():
        hint = _unwrapped(parameter.annotation)
        kind = typing.get_origin(hint) or hint
        if getattr(kind, "__rap_channel__", False) is True:
            found.append(("a Channel", parameter.name, typing.get_args(hint)))
        elif (items := _request_items(hint, is_async)) is not None:
            found.append(("a request stream", parameter.name, items))
        else:
            continue
        what = found[-1][0]
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise RegistrationError(f"{name}(): {parameter} is {what}, so it cannot have a star")
        if parameter.default is not parameter.empty:
            text = f"parameter {parameter.name!r} is {what}, so it cannot have a default"
            raise RegistrationError(f"{name}(): {text}")
    if len(found) > 1:
        (one, first, _), (other, second, _) = found[:2]
        raise RegistrationError(
            f"{name}(): parameter {first!r} is {one} and {second!r} is {other};"
            f" a function has at most one of them"
        )
    answers = returned in ITERATORS
    item = next(iter(typing.get_args(returns)), Any) if answers else Any
    is_generator = inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target)
    if found and found[0][0] == "a Channel":
        if is_generator:
            raise RegistrationError(
                f"{name}(): it has a Channel and a `yield`; send messages with"
                f" `await {found[0][1]}.write(...)` instead"
            )
        incoming, outgoing = (*found[0][2], Any, Any)[:2]
        return Streams(StreamType.CHANNEL, None, found[0][1], incoming, outgoing)
    if not answers and is_generator:
        raise RegistrationError(
            f"{name}(): return value: a generator is declared as Iterator[...] or"
            f" AsyncIterator[...], got {inspect.formatannotation(signature.return_annotation)}"
        )
    if found:
        stream_type = StreamType.BIDI if answers else StreamType.CLIENT_STREAM
        return Streams(stream_type, found[0][1], None, found[0][2], item)
    return Streams(StreamType.STREAM if answers else StreamType.UNARY, response=item)


def is_plain_iterator(hint: Any) -> bool:
    """Return whether the type of a request stream allows a plain iterator, for a ``def``."""
    hint = _unwrapped(hint)
    is_union = typing.get_origin(hint) in (Union, types.UnionType)
    members = [_unwrapped(each) for each in typing.get_args(hint)] if is_union else [hint]
    plain = (*PLAIN_ITERATORS, abc.Iterable)
    return any((typing.get_origin(each) or each) in plain for each in members)


def _unwrapped(hint: Any) -> Any:
    """Return a type without the names that `type X = …` and `Annotated` give it."""
    while True:
        if typing.get_origin(hint) is typing.Annotated:
            hint = typing.get_args(hint)[0]
        elif hasattr(hint, "__value__"):
            hint = hint.__value__
        else:
            return hint


def _request_items(hint: Any, is_async: bool) -> Any:
    """Return the type of the items if `hint` is a request stream, else `None`.

    A union counts if each member is an iterator, or an Iterable with one. A plain iterator counts
    only in a ``def``; an Iterable alone is an ordinary value, for example a list.

    Args:
        hint: The type of a parameter.
        is_async: Whether the function runs on the event loop, where a plain iterator cannot wait.
    """
    is_union = typing.get_origin(hint) in (Union, types.UnionType)
    members = [_unwrapped(each) for each in typing.get_args(hint)] if is_union else [hint]
    kinds = [typing.get_origin(each) or each for each in members]
    streams = ASYNC_ITERATORS if is_async else (*ASYNC_ITERATORS, *PLAIN_ITERATORS)
    if not any(kind in streams for kind in kinds):
        return None
    if not all(kind in streams or kind is abc.Iterable for kind in kinds):
        return None
    items = [next(iter(typing.get_args(each)), Any) for each in members]
    return functools.reduce(operator.or_, dict.fromkeys(items)) if Any not in items else Any
