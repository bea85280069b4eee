"""Reflection: functions and their types as data, for tools and generated stubs."""

import builtins
import dataclasses
import enum
import inspect
import sys
import types
import typing
from inspect import Parameter
from typing import Any, NewType, Protocol

from rap.call import StreamType
from rap.schema.description import (
    FieldEntry,
    FunctionDescription,
    ParameterEntry,
    TypeEntry,
)
from rap.schema.function import Function

__all__ = [
    "TypeReflector",
    "describe",
]


_PLAIN = {
    list: "list[typing.Any]",
    dict: "dict[typing.Any, typing.Any]",
    tuple: "tuple[typing.Any, ...]",
    set: "set[typing.Any]",
    frozenset: "frozenset[typing.Any]",
}
_QUALIFIERS = (typing.Annotated, typing.Required, typing.NotRequired, typing.Final, typing.ClassVar)
_UNION = (typing.Union, types.UnionType)
_ENUMS = (enum.StrEnum, enum.IntFlag, enum.IntEnum, enum.Flag, enum.Enum)
_CONSTANTS = (bool, int, str, bytes, types.NoneType)
_OPAQUE = "..."  # a default without a literal


_KINDS = {
    Parameter.POSITIONAL_ONLY: "positional",
    Parameter.POSITIONAL_OR_KEYWORD: "",
    Parameter.VAR_POSITIONAL: "rest",
    Parameter.KEYWORD_ONLY: "keyword",
    Parameter.VAR_KEYWORD: "names",
}


class Registered(Protocol):
    """A registered function of a server."""

    @property
    def group(self) -> str:
        """Group of the function."""
        ...

    @property
    def name(self) -> str:
        """Name of the function within its group."""
        ...

    @property
    def function(self) -> Function:
        """Its signature and codecs."""
        ...

    @property
    def stream_type(self) -> StreamType:
        """How many messages each side may send."""
        ...

    @property
    def doc(self) -> str:
        """Its documentation."""
        ...

    @property
    def is_private(self) -> bool:
        """Whether only peers on the same machine may call it."""
        ...

    @property
    def idempotent(self) -> bool:
        """Whether calling it twice has the effect of calling it once."""
        ...


def describe(handler: Registered) -> FunctionDescription:
    """Return the description of a function for its callers."""
    texts = TypeReflector()
    function, stream_type = handler.function, handler.stream_type
    signature = function.signature
    parameters = [
        ParameterEntry(
            name=each.name,
            kind=_KINDS[each.kind],
            type=texts.text(each.annotation),
            default=None if each.default is Parameter.empty else texts.default(each.default),
        )
        for each in signature.parameters.values()
    ]
    return {
        "group": handler.group,
        "func_name": handler.name,
        "shape": stream_type.value,
        "doc": handler.doc,
        "is_private": handler.is_private,
        "idempotent": handler.idempotent,
        "parameters": parameters,
        "stream_parameter": function.stream_parameter,
        "channel_parameter": function.channel_parameter,
        "request": texts.text(function.request_type) if stream_type.client_streams else None,
        "response": texts.text(function.response_type) if stream_type.server_streams else None,
        "returns": texts.text(signature.return_annotation),
        "types": texts.entries,
    }


class TypeReflector:
    """Describes types as text, and collects the classes that they contain."""

    def __init__(self) -> None:
        self._entries: dict[Any, TypeEntry] = {}  # by class and type arguments
        self._names: set[str] = set(dir(builtins))
        self._aliases: list[Any] = []  # that are being described

    @property
    def entries(self) -> list[TypeEntry]:
        """The classes collected so far."""
        return list(self._entries.values())

    def text(self, hint: Any, known: dict[Any, Any] | None = None) -> str:
        """Return the text of a type.

        Args:
            hint: The type, resolved.
            known: Type variable to type.
        """
        known = known or {}
        if hint in (None, types.NoneType):
            return "None"
        if isinstance(hint, typing.TypeVar):
            return self.text(known.get(hint, hint.__bound__ or Any))
        if isinstance(hint, NewType):
            return self.text(hint.__supertype__, known)
        if hasattr(hint, "__value__"):  # made by `type X = …`
            if hint in self._aliases:  # it contains itself
                return "typing.Any"
            self._aliases.append(hint)
            variables = zip(hint.__type_params__, typing.get_args(hint), strict=False)
            found = self.text(hint.__value__, {one: known.get(it, it) for one, it in variables})
            self._aliases.pop()
            return found
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin in _QUALIFIERS or (origin is None and hint in _QUALIFIERS):
            return self.text(args[0] if args else Any, known)
        if origin in _UNION:
            return " | ".join(dict.fromkeys(self.text(each, known) for each in args))
        if origin is typing.Literal:
            return f"typing.Literal[{', '.join(map(repr, args))}]"
        if origin is not None:
            return self._generic(origin, args, known)
        if hint is Any or hint is object or not isinstance(hint, type):
            return "typing.Any"
        return self._class(hint, ())

    def default(self, value: Any) -> str:
        """Return the literal of a default, or `_OPAQUE`."""
        if isinstance(value, enum.Enum):
            entry = self._entries.get((type(value), ()))
            return f"{entry['name']}.{value.name}" if entry and value.name else _OPAQUE
        if isinstance(value, float):
            return repr(value) if value - value == 0 else _OPAQUE  # neither infinite nor NaN
        if type(value) in _CONSTANTS:
            return repr(value)
        if type(value) is tuple and all(type(each) in _CONSTANTS for each in value):
            return repr(value)
        return _OPAQUE

    def _generic(self, origin: Any, args: tuple[Any, ...], known: dict[Any, Any]) -> str:
        if dataclasses.is_dataclass(origin) or hasattr(origin, "__struct_fields__"):
            return self._class(origin, tuple(known.get(each, each) for each in args))
        name = self._class(origin, ()).partition("[")[0]
        inner = [self.text(each, known) if each is not ... else "..." for each in args]
        if origin is tuple and not args:
            return "tuple[()]"
        return f"{name}[{', '.join(inner)}]"

    def _class(self, kind: Any, args: tuple[Any, ...]) -> str:
        if kind in _PLAIN:
            return _PLAIN[kind]
        if kind.__module__ == "builtins":
            return str(kind.__name__)
        if kind.__module__ == "collections.abc":
            return _abstract(kind)
        if kind.__module__.partition(".")[0] in sys.stdlib_module_names or _is_own(kind):
            return f"{kind.__module__}.{kind.__qualname__}"
        entry = self._entries.get((kind, args))
        if entry is None:
            entry = TypeEntry(
                name=self._name(kind, args),
                origin=_origin(kind, args),
                kind="",
                options={},
                fields=[],
            )
            self._entries[kind, args] = entry  # before its fields, because it may be recursive
            self._fill(
                entry, kind, dict(zip(kind.__parameters__, args, strict=True)) if args else {}
            )
            if not entry["kind"]:
                del self._entries[kind, args]
                return "typing.Any"
        return entry["name"]

    def _name(self, kind: type, args: tuple[Any, ...]) -> str:
        parts = [part for each in args for part in _words(self.text(each))]
        plain = kind.__name__ + "".join(
            part.capitalize() if part.islower() else part for part in parts
        )
        name, number = plain, 1
        while name in self._names:
            number += 1
            name = f"{plain}{number}"
        self._names.add(name)
        return name

    def _fill(self, entry: TypeEntry, kind: Any, known: dict[Any, Any]) -> None:
        if issubclass(kind, enum.Enum):
            base = next(each for each in _ENUMS if issubclass(kind, each))
            mixed = next((each for each in (str, int) if issubclass(kind, each)), None)
            if base is enum.Enum and mixed is not None:
                entry["options"] = {"mixed": mixed.__name__}
            entry["options"]["base"] = base.__name__
            entry["kind"] = "enum"
            entry["fields"] = [
                FieldEntry(name=name, type="", default=repr(each.value))
                for name, each in kind.__members__.items()
            ]
            return
        fields = _fields_of(kind)
        if fields is None:
            return
        entry["kind"], entry["options"], rows = fields
        hints = _hints_of(kind)
        for name, default in rows:
            text = self.text(hints.get(name, Any), known)
            if entry["kind"] == "typed_dict":
                text = text if default is _NONE else f"typing.NotRequired[{text}]"
                default = _NONE
            entry["fields"].append(FieldEntry(name=name, type=text, default=self._field(default)))

    def _field(self, default: Any) -> str | None:
        if default is _NONE:
            return None
        if isinstance(default, _Factory):
            made = default.by
            return made.__name__ if made in (list, dict, set, tuple, bytearray) else _OPAQUE
        return self.default(default)


_NONE = object()


@dataclasses.dataclass(frozen=True)
class _Factory:
    """A default that a factory creates for each instance."""

    by: Any


_Fields = tuple[str, dict[str, str], list[tuple[str, Any]]]


def _is_named_tuple(kind: Any) -> bool:
    return issubclass(kind, tuple) and hasattr(kind, "_fields")


def _fields_of(kind: Any) -> _Fields | None:
    """Return kind, options and fields with defaults; `None` for any other class."""
    if typing.is_typeddict(kind):
        required = kind.__required_keys__
        return (
            "typed_dict",
            {},
            [(name, _NONE if name in required else None) for name in kind.__annotations__],
        )
    if _is_named_tuple(kind):
        defaults = kind._field_defaults
        return "named_tuple", {}, [(name, defaults.get(name, _NONE)) for name in kind._fields]
    if hasattr(kind, "__struct_fields__"):
        return _struct(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind)
    if hasattr(kind, "__attrs_attrs__"):
        rows = [(each.name, _attrs_default(each.default)) for each in kind.__attrs_attrs__]
        return "dataclass", {"kw_only": "True"}, rows
    if hasattr(kind, "model_fields") and hasattr(kind, "model_validate"):
        return (
            "model",
            {},
            [(name, _model_default(each)) for name, each in kind.model_fields.items()],
        )
    return None


def _hints_of(kind: Any) -> dict[str, Any]:
    """Return the types of fields; empty if they cannot be resolved."""
    if hasattr(kind, "model_fields"):
        return {name: each.annotation for name, each in kind.model_fields.items()}
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except Exception:  # hints are code
        return {}


def _dataclass(kind: Any) -> _Fields:
    rows: list[tuple[str, Any]] = []
    for each in dataclasses.fields(kind):
        default = _NONE
        if each.default is not dataclasses.MISSING:
            default = each.default
        elif each.default_factory is not dataclasses.MISSING:
            default = _Factory(each.default_factory)
        rows.append((each.name, default))
    options = {"frozen": "True"} if kind.__dataclass_params__.frozen else {}
    if any(each.kw_only for each in dataclasses.fields(kind)):
        options["kw_only"] = "True"
    return "dataclass", options, rows


def _struct(kind: Any) -> _Fields:
    names, config = kind.__struct_fields__, kind.__struct_config__
    known = kind.__struct_defaults__
    defaults = [_NONE] * (len(names) - len(known)) + [_struct_default(each) for each in known]
    options = {
        name: "True"
        for name in ("frozen", "array_like", "omit_defaults", "forbid_unknown_fields")
        if getattr(config, name)
    }
    if config.tag is not None:
        options |= {"tag": repr(config.tag), "tag_field": repr(config.tag_field)}
    if len(inspect.signature(kind).parameters) and any(
        each.kind is each.KEYWORD_ONLY for each in inspect.signature(kind).parameters.values()
    ):
        options["kw_only"] = "True"
    renamed = {
        name: sent
        for name, sent in zip(names, kind.__struct_encode_fields__, strict=True)
        if name != sent
    }
    if renamed:
        options["rename"] = repr(renamed)
    return "struct", options, list(zip(names, defaults, strict=True))


def _struct_default(default: Any) -> Any:
    if repr(default) == "NODEFAULT":
        return _NONE
    return _Factory(default.factory) if type(default).__name__ == "Factory" else default


def _attrs_default(default: Any) -> Any:
    if repr(default) == "NOTHING":
        return _NONE
    return _Factory(default.factory) if type(default).__name__ == "Factory" else default


def _model_default(field: Any) -> Any:
    if field.is_required():
        return _NONE
    return field.default if field.default_factory is None else _Factory(field.default_factory)


def _origin(kind: type, args: tuple[Any, ...]) -> str:
    inner = f"[{', '.join(map(repr, args))}]" if args else ""
    return f"{kind.__module__}:{kind.__qualname__}{inner}"


def _abstract(kind: type) -> str:
    parameters = {"Mapping": 2, "MutableMapping": 2, "Generator": 3, "AsyncGenerator": 2}
    count = parameters.get(kind.__name__, 1)
    return f"collections.abc.{kind.__name__}[{', '.join(['typing.Any'] * count)}]"


def _is_own(kind: type) -> bool:
    """Whether it is a class of rap or msgspec, which stubs can import."""
    return getattr(kind, "__rap_channel__", False) is True or kind.__module__ == "msgspec"


def _words(text: str) -> list[str]:
    """Return the identifiers in the text of a type, without the modules of abstract types."""
    parts = "".join(c if c.isalnum() else " " for c in text).split()
    return [part for part in parts if part not in ("typing", "Any", "collections", "abc")]
