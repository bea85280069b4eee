"""Types that msgspec cannot decode even with `from_plain`: unions of such types, or what holds one.

`prepare` replaces each of them by a class: a stand-in whose values are converted as a whole. Few
functions have such types, so this module is loaded for the first of them.
"""

import collections
import dataclasses
import datetime
import decimal
import enum
import inspect
import sys
import types
import typing
import uuid
from collections import abc
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Union

import msgspec
from msgspec import inspect as nodes
from msgspec.msgpack import Decoder

from rap.schema.models import make_adapter
from rap.schema.plain import (
    from_plain,
    has_schema,
    is_model,
    model_of,
    pydantic_metadata,
    text_types,
)
from rap.schema.shapes import ANY_FORM, Member, Record, Shape, form_of_value, make_chooser

__all__ = ["prepare"]

_UNIONS = (Union, types.UnionType)
# Returns the description of a type. It raises an exception for one that msgspec cannot decode, or
# that cannot be converted afterwards.
Check = Callable[[Any], nodes.Type]


def prepare(hint: Any, check: Check, scope: Mapping[str, Any]) -> Any:
    """Return a type that msgspec can decode with `from_plain`, whose values are those of `hint`.

    Args:
        hint: The type.
        check: Raises an exception for a type that cannot be decoded as it is.
        scope: The names that a recursive type may use.

    Raises:
        Exception: It cannot be sent.
    """
    preparation = _Preparation(check, scope)
    prepared = preparation.prepare(hint)
    preparation.finish()
    return prepared


# Values of a flag that are decoded: Python keeps each combination for ever, with some 500 bytes.
_MOST_FLAGS = 65_536


class _StandIn(type):
    """The metaclass of classes that stand for a type; `isinstance` accepts any converted value."""

    rap_convert: Callable[[Any], Any]
    rap_keeps_offsets: bool = False

    def __instancecheck__(cls, value: object) -> bool:
        return True


class _Field(NamedTuple):
    """A field of a class: its names, its type, and whether it is required and always sent."""

    name: str
    sent_as: str
    hint: Any
    required: bool
    sent: bool


class _Preparation:
    """The preparation of one type and of the types in it.

    Args:
        check, scope: See `prepare`.
    """

    def __init__(self, check: Check, scope: Mapping[str, Any]) -> None:
        self._check = check
        self._scope = scope
        self._made: dict[Any, Any] = {}  # type → its stand-in, which may contain itself
        self._stand_ins: list[_StandIn] = []
        self._types: set[type] = set()  # of the descriptions of the parts
        self._seen: dict[int, Any] = {}

    def prepare(self, hint: Any) -> Any:
        """Return a type that msgspec can decode."""
        hint = type(None) if hint is None else hint
        try:
            self._note(self._check(hint))
        except Exception as exc:  # of msgspec, or of the annotations in a user's class
            error = exc
        else:
            return hint
        try:
            known = self._made.get(hint)
        except TypeError:  # metadata that has no hash
            known = None
        return self._replaced(hint, error) if known is None else known

    def finish(self) -> None:
        """Note for each stand-in whether its datetimes can keep their offset."""
        if nodes.DateTimeType in self._types and nodes.AnyType not in self._types:
            for each in self._stand_ins:
                each.rap_keeps_offsets = True

    def _note(self, node: Any) -> None:
        if isinstance(node, nodes.AnyType | nodes.DateTimeType):
            self._types.add(type(node))
        elif isinstance(node, nodes.CollectionType):
            self._note(node.item_type)
        elif isinstance(node, nodes.DictType):
            self._note(node.value_type)
        elif isinstance(node, nodes.UnionType):
            for each in node.types:
                self._note(each)
        elif id(node) not in self._seen:
            self._seen[id(node)] = node
            for each in getattr(node, "fields", ()):
                self._note(each.type)
            for each in getattr(node, "item_types", ()):
                self._note(each)

    def _replaced(self, hint: Any, error: Exception) -> Any:
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if isinstance(hint, typing.ForwardRef):
            return self._stand_in(hint, lambda: self._converter(self._named(hint)))
        if hasattr(origin or hint, "__value__"):  # made by `type X = …`
            return self._stand_in(hint, lambda: self._converter(_value_of(hint)))
        if isinstance(hint, typing.NewType):
            return self.prepare(hint.__supertype__)
        if origin is typing.Annotated:
            return self._annotated(hint)
        if origin in _UNIONS:
            return self._stand_in(hint, lambda: make_chooser(self._members(hint)))
        kind = origin or hint
        if not isinstance(kind, type):
            raise error
        made = self._container(hint, kind, args)
        if made is not None:
            return made
        if issubclass(kind, enum.Flag):
            return self._stand_in(hint, lambda: _flag_converter(kind))
        if issubclass(kind, enum.Enum):
            return self._stand_in(hint, lambda: _enum_converter(kind))
        if has_schema(kind) and not is_model(kind):
            return self._of_pydantic(hint)
        if fields := _fields_of(hint):
            return self._record(hint, kind, fields)
        raise error

    def _named(self, name: typing.ForwardRef) -> Any:
        """Return the type that a recursive type names inside itself."""
        return _evaluated(name.__forward_arg__, self._scope)

    def _stand_in(self, hint: Any, make: Callable[[], Callable[[Any], Any]]) -> Any:
        """Return the stand-in of a type; it is known before the types inside it are prepared."""
        made = _StandIn(inspect.formatannotation(hint), (), {})
        self._stand_ins.append(made)
        try:
            self._made[hint] = made
        except TypeError:  # as above
            pass
        made.rap_convert = make()  # pyright: ignore[reportAttributeAccessIssue]  # not a method
        return made

    def _converter(self, hint: Any) -> Callable[[Any], Any]:
        """Return the function that converts a plain value to a type."""
        prepared = self.prepare(hint)
        if isinstance(prepared, _StandIn):
            return lambda value: prepared.rap_convert(value)
        Decoder(prepared, dec_hook=from_plain)  # raises for a type that cannot be decoded
        return lambda value: msgspec.convert(
            value, prepared, builtin_types=(bytes,), dec_hook=from_plain
        )

    def _annotated(self, hint: Any) -> Any:
        base, *metadata = typing.get_args(hint)
        if not pydantic_metadata(hint):
            kept = [each for each in metadata if isinstance(each, msgspec.Meta)]
            prepared = self.prepare(base)
            for each in kept:
                prepared = typing.Annotated[prepared, each]
            return prepared
        return self._of_pydantic(hint)

    def _of_pydantic(self, hint: Any) -> Any:
        """Return the stand-in of a type that pydantic validates."""

        def make() -> Callable[[Any], Any]:
            model = model_of(hint)
            if model.problem:
                raise TypeError(model.problem)
            if model.parses and hasattr(hint, "__metadata__"):
                raise TypeError("its value is sent as it is, and would be parsed again")
            base = hint.__origin__ if hasattr(hint, "__metadata__") else hint
            try:
                first = None if base is hint else self._plain_converter(base)
            except TypeError:
                first = None  # pydantic alone can tell
            if first is None:
                return model.validate
            adapter = make_adapter(hint)
            return lambda value: adapter.validate_python(first(value))

        return self._stand_in(hint, make)

    def _plain_converter(self, base: Any) -> Callable[[Any], Any]:
        if typing.get_origin(base) in _UNIONS:
            raise TypeError("pydantic chooses the member")
        return self._converter(base)

    def _container(self, hint: Any, kind: type, args: tuple[Any, ...]) -> Any:
        """Return the type or stand-in of a collection, or `None` for any other type."""
        item = args[0] if args else Any
        if kind is collections.deque:
            return self._wrapped(hint, list.__class_getitem__(item), collections.deque)
        if kind in (abc.Iterable, abc.Container, abc.Reversible):
            return self._wrapped(hint, list.__class_getitem__(item), None)
        if kind is collections.OrderedDict:
            pair = args or (Any, Any)
            return self._wrapped(hint, dict.__class_getitem__(pair), collections.OrderedDict)
        if kind is collections.Counter:
            return self._wrapped(hint, dict.__class_getitem__((item, int)), collections.Counter)
        if kind in (collections.defaultdict, collections.ChainMap):
            raise TypeError(f"`{kind.__name__}` cannot be made from what is sent; declare a dict")
        builtin = kind in (list, dict, tuple, set, frozenset) or kind.__module__ == abc.__name__
        if not args or not builtin or kind.__name__ == "Callable":
            return None
        prepared = tuple(each if each is ... else self.prepare(each) for each in args)
        made = kind[prepared]  # type: ignore[index]  # it is generic
        self._check(made)
        return made

    def _wrapped(self, hint: Any, inner: Any, wrap: Callable[[Any], Any] | None) -> Any:
        def make() -> Callable[[Any], Any]:
            convert, outer = self._converter(inner), wrap
            return convert if outer is None else lambda value: outer(convert(value))

        return self._stand_in(hint, make)

    # Unions.

    def _members(self, hint: Any) -> list[Member]:
        """Return the members of a union, without unions among them."""
        found: dict[Any, Member] = {}

        def add(each: Any) -> None:
            origin = typing.get_origin(each)
            if hasattr(origin or each, "__value__"):
                inner = _value_of(each)
                if typing.get_origin(inner) in _UNIONS and each not in self._made:
                    return add(inner)
            if origin in _UNIONS:
                for member in typing.get_args(each):
                    add(member)
                return None
            if origin is typing.Annotated and not pydantic_metadata(each):
                inner = typing.get_args(each)[0]
                if typing.get_origin(inner) in _UNIONS:
                    return add(inner)
            name = "None" if each is type(None) else inspect.formatannotation(each)
            name = each.__qualname__ if isinstance(each, type) and "[" not in name else name
            found[each] = (name, self._shape(each), self._converter(each))
            return None

        for member in typing.get_args(hint):
            add(member)
        return _without_literals_of_others([*found.values()])

    def _shape(self, hint: Any) -> Shape:
        """Return what the values of a type look like when they are sent."""
        if isinstance(hint, typing.ForwardRef):
            return self._shape(self._named(hint))
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if hasattr(origin or hint, "__value__"):
            return self._shape(_value_of(hint))
        if isinstance(hint, typing.NewType):
            return self._shape(hint.__supertype__)
        if origin is typing.Literal:
            return _shape_of_values(args)
        if origin in _UNIONS:
            forms = (self._shape(each).forms for each in args)
            return Shape(frozenset().union(*forms))
        if origin is typing.Annotated and typing.get_origin(args[0]) not in _UNIONS:
            return self._shape(args[0])
        kind = origin or hint
        if kind in _FORMS:
            return Shape(frozenset(_FORMS[kind].split()))
        if not isinstance(kind, type):
            return Shape(ANY_FORM)
        if issubclass(kind, enum.Enum):
            return _shape_of_values([each.value for each in kind])
        if issubclass(kind, text_types()):
            return Shape(frozenset({"str"}))
        if is_model(kind) or has_schema(kind):
            model: Any = hint if origin is None else kind
            return model_of(model).shape
        if _is_array(kind):
            return Shape(frozenset({"array"}))
        fields = _fields_of(hint)
        if fields is None:
            return Shape(frozenset({"map"}) if issubclass(kind, Mapping) else ANY_FORM)
        return Shape(frozenset({"map"}), None, self._record_shape(kind, fields))

    def _record_shape(self, kind: Any, fields: list[_Field]) -> Record:
        literals = {}
        for each in fields:
            shape = self._shape_of_literal(each.hint)
            if shape is not None:
                literals[each.sent_as] = shape
        known = {each.sent_as for each in fields}
        sent = {each.sent_as for each in fields if each.sent}
        required = {each.sent_as for each in fields if each.required}
        config = getattr(kind, "__struct_config__", None)
        if config is not None and config.tag is not None:
            literals[config.tag_field] = frozenset({(form_of_value(config.tag), config.tag)})
            known.add(config.tag_field)
            sent.add(config.tag_field)
        name = kind.__qualname__
        return Record(name, frozenset(known), frozenset(sent), frozenset(required), literals)

    def _shape_of_literal(self, hint: Any) -> frozenset[tuple[str, Any]] | None:
        origin = typing.get_origin(hint)
        if origin is typing.Annotated:
            return self._shape_of_literal(typing.get_args(hint)[0])
        is_enum = isinstance(hint, type) and issubclass(hint, enum.Enum)
        return self._shape(hint).values if origin is typing.Literal or is_enum else None

    # Classes with fields.

    def _record(self, hint: Any, kind: Any, fields: list[_Field]) -> Any:
        """Return the stand-in of a class one of whose fields msgspec cannot decode."""

        def make() -> Callable[[Any], Any]:
            types_of = {each.name: self.prepare(each.hint) for each in fields}
            if _is_array(kind):
                return _array_converter(kind, fields, types_of)
            return _map_converter(kind, fields, types_of)

        return self._stand_in(hint, make)


_FORMS: dict[Any, str] = {
    None: "nil",
    type(None): "nil",
    bool: "bool",
    int: "int",
    float: "float int",
    str: "str",
    bytes: "bin",
    bytearray: "bin",
    memoryview: "bin",
    dict: "map",
    datetime.datetime: "time str",
    **dict.fromkeys((datetime.date, datetime.time, datetime.timedelta), "str"),
    **dict.fromkeys((uuid.UUID, decimal.Decimal), "str"),
    **dict.fromkeys((list, tuple, set, frozenset, collections.deque), "array"),
    **dict.fromkeys((abc.Iterable, abc.Container, abc.Reversible, abc.Collection), "array"),
    **dict.fromkeys((abc.Sequence, abc.MutableSequence, abc.Set, abc.MutableSet), "array"),
}


def _evaluated(hint: Any, scope: Mapping[str, Any]) -> Any:
    """Return a type whose names are replaced by what they name."""
    holder = types.SimpleNamespace(__annotations__={"hint": hint})
    return typing.get_type_hints(holder, {**scope}, include_extras=True)["hint"]


def _value_of(alias: Any) -> Any:
    """Return the type that `type X = …` names, with its type arguments."""
    origin, args = typing.get_origin(alias), typing.get_args(alias)
    named = origin or alias
    value = _evaluated(named.__value__, vars(sys.modules.get(named.__module__, typing)))
    if origin is None:
        return value
    return _substituted(value, dict(zip(origin.__type_params__, args, strict=False)))


def _substituted(hint: Any, known: Mapping[Any, Any]) -> Any:
    """Return a type with other types in the place of its type variables."""
    if isinstance(hint, typing.TypeVar):
        return known.get(hint, Any)
    if isinstance(hint, type):
        return hint
    parameters = getattr(hint, "__parameters__", ())
    return hint[tuple(known.get(each, Any) for each in parameters)] if parameters else hint


def _without_literals_of_others(members: list[Member]) -> list[Member]:
    """Return the members without literals that a wider member, as str, accepts anyway."""
    wide = {
        form
        for name, shape, _ in members
        if shape.values is None
        for form in shape.forms
        if name in ("int", "str", "bool")
    }
    return [
        each
        for each in members
        if not (each[0].startswith("typing.Literal") and each[1].forms <= wide)
    ]


def _shape_of_values(values: Any) -> Shape:
    keys = frozenset((form_of_value(each), each) for each in values)
    return Shape(frozenset(form for form, _ in keys), keys)


def _flag_converter(kind: type[enum.Flag]) -> Callable[[Any], Any]:
    made: dict[int, enum.Flag] = {}

    def convert(value: Any) -> Any:
        if type(value) is not int:
            raise ValueError(f"a `{kind.__qualname__}` is an int, got {value!r}")
        flag = made.get(value)
        if flag is None:
            if len(made) >= _MOST_FLAGS:
                raise ValueError(
                    f"{len(made)} different values of `{kind.__qualname__}` have come already, and"
                    f" Python keeps each; send an int instead"
                )
            flag = made[value] = kind(value)
        return flag

    return convert


def _enum_converter(kind: type[enum.Enum]) -> Callable[[Any], Any]:
    by_value: dict[Any, enum.Enum] = {}
    for each in kind:
        form = form_of_value(each.value)
        if form in ("", "array", "map", "time"):
            raise TypeError(
                f"`{kind.__qualname__}.{each.name}` is {each.value!r}; the values of an enum that"
                f" is sent are str, int, float, bool, bytes or None"
            )
        by_value[form, each.value] = each

    def convert(value: Any) -> Any:
        form = form_of_value(value)
        if form in ("", "array", "map") or (form, value) not in by_value:
            raise ValueError(f"invalid enum value {value!r}")
        return by_value[form, value]

    return convert


def _is_array(kind: Any) -> bool:
    config = getattr(kind, "__struct_config__", None)
    return _is_named_tuple(kind) or bool(config is not None and config.array_like)


def _is_named_tuple(kind: Any) -> bool:
    return issubclass(kind, tuple) and hasattr(kind, "_fields")


def _hints_of(hint: Any) -> dict[str, Any]:
    """Return the types of the fields of a class, with the type arguments of a generic one."""
    origin = typing.get_origin(hint)
    kind = origin or hint
    known = dict(zip(getattr(kind, "__parameters__", ()), typing.get_args(hint), strict=False))
    for base in getattr(kind, "__orig_bases__", ()):
        above = typing.get_origin(base)
        for name, arg in zip(
            getattr(above, "__parameters__", ()), typing.get_args(base), strict=False
        ):
            known.setdefault(name, _substituted(arg, known))
    hints = typing.get_type_hints(kind, include_extras=True)
    return {name: _substituted(each, known) for name, each in hints.items()}


def _fields_of(hint: Any) -> list[_Field] | None:
    """Return the fields of a class whose instances are sent, or `None` for any other type."""
    kind: Any = typing.get_origin(hint) or hint
    if typing.is_typeddict(kind):
        hints = _hints_of(hint)
        required = kind.__required_keys__
        return [_Field(n, n, _bare(h), n in required, n in required) for n, h in hints.items()]
    if _is_named_tuple(kind):
        hints, defaults = _hints_of(hint), kind._field_defaults
        return [_Field(n, n, hints.get(n, Any), n not in defaults, True) for n in kind._fields]
    if hasattr(kind, "__struct_fields__"):
        hints, config = _hints_of(hint), kind.__struct_config__
        return [
            _Field(
                each.name,
                each.encode_name,
                hints[each.name],
                each.required,
                each.required or not config.omit_defaults,
            )
            for each in msgspec.structs.fields(kind)
        ]
    if dataclasses.is_dataclass(kind):
        hints = _hints_of(hint)
        missing = dataclasses.MISSING
        return [
            _Field(
                f.name,
                f.name,
                hints[f.name],
                f.default is missing and f.default_factory is missing,
                True,
            )
            for f in dataclasses.fields(kind)
        ]
    if hasattr(kind, "__attrs_attrs__"):
        hints = _hints_of(hint)
        return [
            _Field(f.name, f.name, hints.get(f.name, Any), repr(f.default) == "NOTHING", True)
            for f in kind.__attrs_attrs__
        ]
    return None


def _bare(hint: Any) -> Any:
    """Return the type of a key of a TypedDict without Required and NotRequired."""
    is_marked = typing.get_origin(hint) in (typing.Required, typing.NotRequired)
    return typing.get_args(hint)[0] if is_marked else hint


def _struct_of(kind: Any, fields: list[_Field], hints: Mapping[str, Any]) -> type[msgspec.Struct]:
    """Return a Struct with the fields of a class, whose types msgspec can decode."""
    config = getattr(kind, "__struct_config__", None)
    rows: list[Any] = []
    for number, each in enumerate(sorted(fields, key=lambda field: not field.required)):
        default = {} if each.required else {"default": msgspec.UNSET}
        # Names of the Struct's own, because a field may have the name of a method of it.
        hint = hints[each.name] if each.required else Union[hints[each.name], msgspec.UnsetType]  # noqa: UP007
        rows.append((f"f{number}", hint, msgspec.field(name=each.sent_as, **default)))
    return msgspec.defstruct(
        kind.__name__,
        rows,
        forbid_unknown_fields=bool(config and config.forbid_unknown_fields),
        tag=config.tag if config else None,
        tag_field=config.tag_field if config and config.tag is not None else None,
    )


def _map_converter(
    kind: Any, fields: list[_Field], hints: Mapping[str, Any]
) -> Callable[[Any], Any]:
    struct = _struct_of(kind, fields, hints)
    names = [each.name for each in sorted(fields, key=lambda field: not field.required)]
    build = _builder(kind)

    def convert(value: Any) -> Any:
        found = msgspec.convert(value, struct, builtin_types=(bytes,), dec_hook=from_plain)
        given = {
            name: each
            for name, each in zip(names, msgspec.structs.astuple(found), strict=True)
            if each is not msgspec.UNSET
        }
        return build(given)

    return convert


def _array_converter(
    kind: Any, fields: list[_Field], hints: Mapping[str, Any]
) -> Callable[[Any], Any]:
    config = getattr(kind, "__struct_config__", None)
    if config is not None:
        raise TypeError("an array_like Struct cannot have a field of such a type")
    all_types = tuple(hints[each.name] for each in fields)
    least = sum(each.required for each in fields)

    def convert(value: Any) -> Any:
        if not isinstance(value, list) or not least <= len(value) <= len(all_types):
            msgspec.convert(value, tuple.__class_getitem__(all_types))  # raises
        given = tuple.__class_getitem__(all_types[: len(value)])
        return kind(*msgspec.convert(value, given, builtin_types=(bytes,), dec_hook=from_plain))

    return convert


def _builder(kind: Any) -> Callable[[dict[str, Any]], Any]:
    """Return what makes an instance from its fields, as msgspec does: without ``__init__``."""
    if typing.is_typeddict(kind):
        return lambda given: given
    if hasattr(kind, "__struct_fields__"):
        return lambda given: kind(**given)
    if not dataclasses.is_dataclass(kind):
        return lambda given: kind(**{name.lstrip("_"): value for name, value in given.items()})
    known: dict[str, Any] = {each.name: each for each in dataclasses.fields(kind)}
    after = getattr(kind, "__post_init__", None)

    def build(given: dict[str, Any]) -> Any:
        made: Any = object.__new__(typing.cast(Any, kind))
        for name, field in known.items():
            if name in given:
                value = given[name]
            elif field.default is not dataclasses.MISSING:
                value = field.default
            else:
                value = field.default_factory()
            object.__setattr__(made, name, value)
        if after is not None:
            after(made)
        return made

    return build
