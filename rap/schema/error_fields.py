"""The fields of error classes: values that a constructor takes, and that travel with the error.

The constructor of ``class SoldOut(CallError)`` may be ``__init__(self, sku: str, left: int)``, or
made by `dataclasses.dataclass`. A server reads the attributes of the names `sku` and `left`. A
client checks and converts what arrives by the annotations before it calls the constructor.
"""

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

from rap.call import StreamType
from rap.errors import CallError, RegistrationError
from rap.schema.function import Function
from rap.schema.signature import signature_of
from rap.wire.codec import pack, unpack

__all__ = ["ErrorFields", "fields_of", "sent_fields"]

# Parameters that get what every error has, and words of the types that these may be declared with.
_GIVEN = {
    "message": "str|object|Any",
    "code": "Code|int|object|Any",
    "details": "Mapping|dict|object|Any",
    "remote": "bool|object|Any",
    "unserved": "bool|object|Any",
}
_STARRED = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_IN_ORDER = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


class ErrorFields:
    """What the constructor of an error class takes, and the codec of it.

    Args:
        kind: The class, which has its own constructor.
        init: Its constructor.

    Attributes:
        names: The fields.
        required: Those of them that the constructor needs.

    Raises:
        RegistrationError: A parameter can be no field.
    """

    def __init__(self, kind: type[CallError], init: Callable[..., None]) -> None:
        self._name = kind.__name__
        signature = _signature(kind, init)
        self._parameters = [*signature.parameters.values()][1:]
        # It may take what `CallError` takes, and pass it on.
        self._passes_on = _can_bind(signature, None, "", **dict.fromkeys([*_GIVEN][1:]))
        first = self._parameters[0] if self._parameters else None
        self._first = first.name if first is not None and first.kind in _IN_ORDER else None
        declared = [each for each in self._parameters if self._is_field(each)]
        self.names = tuple(each.name for each in declared)
        self.required = tuple(
            each.name
            for each in declared
            if each.default is each.empty and not (self._passes_on and each.name == self._first)
        )
        declared = [
            each if each.name in self.required else each.replace(default=None) for each in declared
        ]
        self._function = _codec(self._name, init, declared)
        self._has_warned = False

    def read(self, error: CallError, warn: Callable[[str], object]) -> dict[str, Any]:
        """Return the fields of an error as values for msgpack; none if one is missing.

        Args:
            error: The error.
            warn: Told, once for the class, why they cannot be sent.
        """
        found = {name: getattr(error, name) for name in self.names if hasattr(error, name)}
        if not found or any(name not in found for name in self.required):
            return {}
        try:
            sent = unpack(self._function.encode_args((), found))
        except Exception as exc:  # a user's type may raise any exception
            if not self._has_warned:
                self._has_warned = True
                warn(f"an error is sent without its fields: {exc}")
            return {}
        return sent["kwargs"] if isinstance(sent, dict) else {}

    def arguments(
        self, given: Mapping[str, Any], sent: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments for the constructor.

        Args:
            given: Message, code, details, remote and unserved.
            sent: What arrived for the fields, which may be anything.

        Raises:
            Exception: A field is missing, or is not of its type.
        """
        missing = [name for name in self.required if name not in sent]
        if missing:
            name = missing[0]
            text = f"it came without {name!r}: {self._name}.__init__ on the server has to keep it"
            text += f" as self.{name}, of the declared type, and all details have to fit into 8 KiB"
            raise ValueError(text)
        body = pack({"args": [], "kwargs": {n: sent[n] for n in self.names if n in sent}})
        _, fields = self._function.decode_call(body)
        values = {**given, **(fields or {})}
        if self._passes_on and self._first is not None and self._first not in values:
            values[self._first] = given["message"]
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for each in self._parameters:
            if each.kind is Parameter.VAR_POSITIONAL and self._passes_on and self._first is None:
                args.append(given["message"])
            elif each.kind is Parameter.VAR_KEYWORD and self._passes_on:
                kwargs |= {n: v for n, v in given.items() if n != "message" and n not in kwargs}
            elif each.kind in _STARRED or each.name not in values:
                continue
            elif each.kind is Parameter.POSITIONAL_ONLY:
                args.append(values[each.name])
            else:
                kwargs[each.name] = values[each.name]
        return args, kwargs

    def _is_field(self, parameter: Parameter) -> bool:
        """Return whether a parameter is a field.

        Raises:
            RegistrationError: It can be neither that nor anything else.
        """
        name, hint = parameter.name, parameter.annotation
        where = f"parameter {name!r} of {self._name}.__init__"
        if parameter.kind in _STARRED:
            return False
        if name in _GIVEN:
            shown = inspect.formatannotation(hint)
            if hint is not parameter.empty and not re.search(rf"\b({_GIVEN[name]})\b", shown):
                text = f"gets the {name} of the error, which is no {shown}"
                raise RegistrationError(f"{where} {text}; give the field another name")
            return False
        if hint is parameter.empty:
            if self._passes_on and (name == self._first or parameter.default is not hint):
                return False
            remedy = f"write one, such as `{name}: str`, and keep the value as self.{name}"
            raise RegistrationError(f"{where} has no type hint to check its values by; {remedy}")
        if hasattr(CallError, name):
            text = "has the name of an attribute that every error has"
            raise RegistrationError(f"{where} {text}; give the field another name")
        return True


def fields_of(kind: type[CallError]) -> ErrorFields | None:
    """Return the fields of an error class; `None` if it does not have its own constructor.

    Raises:
        RegistrationError: A parameter of its constructor can be no field.
    """
    owner = next(each for each in kind.__mro__ if "__init__" in vars(each))
    init = vars(owner)["__init__"]
    if owner.__module__ == CallError.__module__ or not isinstance(init, FunctionType):
        return None
    return ErrorFields(kind, init)


def sent_fields(error: CallError, warn: Callable[[str], object]) -> dict[str, Any]:
    """Return the fields of an error as values for msgpack; see `ErrorFields.read`."""
    kind = type(error)
    if kind.__module__ == CallError.__module__:  # as of refused calls, of which there are many
        return {}
    if kind not in _known:
        try:
            _known[kind] = fields_of(kind)
        except Exception:  # of hints, which are code; a client that loads the class is told
            _known[kind] = None
    fields = _known[kind]
    return {} if fields is None else fields.read(error, warn)


# Of the classes that were raised.
_known: WeakKeyDictionary[type[CallError], ErrorFields | None] = WeakKeyDictionary()


def _signature(kind: type[CallError], init: Callable[..., None]) -> Signature:
    try:
        return inspect.signature(init)
    except Exception:  # from Python 3.14 on, hints are code that runs here
        try:
            return signature_of(init)
        except Exception as exc:  # hints are code
            raise RegistrationError(f"{kind.__name__}.__init__ has no signature: {exc}") from exc


def _can_bind(signature: Signature, *args: Any, **kwargs: Any) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _codec(name: str, init: Callable[..., None], declared: list[Parameter]) -> Function:
    """Return the codec of fields: that of a function which takes them as keywords."""

    def stand_in(**fields: Any) -> None:
        raise AssertionError("it is not called")

    keywords = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in declared]
    # It has the module of the class, where names in hints are looked up.
    func: Callable[..., None] = functools.wraps(init)(stand_in)
    func.__signature__ = Signature(keywords, return_annotation=None)  # type: ignore[attr-defined]
    function = Function(func, name=name)
    if function.stream_type is not StreamType.UNARY:
        raise RegistrationError(f"{name}(): an error cannot carry a Channel or an iterator")
    return function
