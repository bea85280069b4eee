"""What the annotations of a user function say: the stream type of its calls, and how values travel.

Everything is worked out once per function. What is left for each call is to encode or decode with
msgspec, compiled for the annotated types, straight to and from the bytes of a body. Both sides
make the same check by the same means: a client decodes what it has just encoded, which takes no
longer than looking at the type of each argument.

A body of arguments, a result or an item nests at most `MAX_DEPTH` levels and holds at most
`MAX_ELEMENTS` values.
"""

import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from inspect import Parameter
from types import FunctionType, NoneType
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
from msgspec import inspect as nodes
from msgspec.msgpack import Decoder, Encoder

from rap.call import StreamType
from rap.errors import CallError, Internal, InvalidArgument, RegistrationError
from rap.schema.arguments import (
    Args,
    ArgumentCodec,
    Body,
    Guard,
    Kind,
    Kwargs,
    Serializer,
    check_size,
    reason,
    strictest,
)
from rap.schema.signature import (
    ASYNC_ITERATORS,
    callable_of,
    resolve_signature,
    split_unions,
    stream_type_of,
)
from rap.wire.codec import MAX_DEPTH, MAX_ELEMENTS, check_body

__all__ = ["Function", "decode_any", "encode_any", "encode_raw_args", "encode_written"]


class Function:
    """One user function as its callers and its server see it.

    It does not keep the function itself. The callables among its attributes are made once, and
    safe to use from any thread.

    Args:
        func: A function, a bound method, a `functools.partial`, a static method, or an object
            with `__call__`.
        name: How errors call it; its own name by default.

    Attributes:
        name: See above.
        stream_type: `STREAM` for generator functions and functions that return an iterator,
            `CHANNEL` for a function whose only parameter is a Channel, `UNARY` for the others.
        is_async: It is an ``async def``, or what it returns is an asynchronous iterator.
        has_keywords: It has keyword-only parameters or ``**kwargs``, so `decode_call` is needed.
        signature: Without bound parameters, annotations resolved.
        doc: Its docstring, or an empty string.
        type_hints: Parameter name, and ``return``, to resolved type.
        encode_args: Positional and keyword arguments → body. `InvalidArgument` names what is
            missing, too much, of the wrong type or impossible to send.
        encode_args_unchecked: The same without looking at types.
        decode_args: Body → positional arguments, with the defaults of those that were left out
            before a given one. `InvalidArgument` for any other body.
        decode_call: Body → positional arguments, and keyword arguments or `None`.
        encode_result, decode_result: The returned value of a unary call; `Internal` if it is not
            what the annotation says.
        encode_item, decode_item, decode_items: One item of a generator, and a body that is an
            array of items; `Internal` likewise. Or a message of a channel, of any type;
            `InvalidArgument` if it cannot be sent or read.

    Raises:
        RegistrationError: A hint is missing or cannot be resolved, or a type cannot be sent.
    """

    __slots__ = (
        "decode_args",
        "decode_call",
        "decode_item",
        "decode_items",
        "decode_result",
        "doc",
        "encode_args",
        "encode_args_unchecked",
        "encode_item",
        "encode_result",
        "has_keywords",
        "is_async",
        "name",
        "signature",
        "stream_type",
        "type_hints",
    )

    def __init__(self, func: Callable[..., Any], *, name: str | None = None) -> None:
        func, target, own_name = callable_of(func)
        self.name = name or own_name
        self.doc = inspect.getdoc(target) or ""
        self.signature = resolve_signature(self.name, func, target)
        parameters = self.signature.parameters
        returns = self.signature.return_annotation
        self.type_hints = {p.name: p.annotation for p in parameters.values()} | {"return": returns}
        self.stream_type = stream_type_of(self.name, target, self.signature)
        self.is_async = (
            inspect.iscoroutinefunction(target)
            or inspect.isasyncgenfunction(target)
            or (typing.get_origin(returns) or returns) in ASYNC_ITERATORS
        )
        arguments = self._arguments({} if self.stream_type is StreamType.CHANNEL else parameters)
        self.has_keywords = arguments.has_keywords
        self.encode_args, self.encode_args_unchecked = arguments.encoders()
        self.decode_args, self.decode_call = arguments.decoders()

        result = returns if self.stream_type is StreamType.UNARY else Any
        item = (
            next(iter(typing.get_args(returns)), Any)
            if self.stream_type is StreamType.STREAM
            else Any
        )
        item_error = InvalidArgument if self.stream_type is StreamType.CHANNEL else Internal
        where = f"{self.name}(): return value"
        self.encode_result, self.decode_result = _value_codec(_kind(result, where), where, Internal)
        where = f"{self.name}(): item"
        kind = _kind(item, where)
        self.encode_item, self.decode_item = _value_codec(kind, where, item_error)
        self.decode_items = _items_decoder(kind, where, item_error)

    @classmethod
    def of(cls, func: Callable[..., Any], *, name: str | None = None) -> "Function":
        """Return the `Function` of `func`; the same one as long as a plain function lives."""
        if not isinstance(func, FunctionType):
            return cls(func, name=name)
        known = _known.setdefault(func, {})
        found = known.get(name)
        if found is None:
            found = known[name] = cls(func, name=name)
        return found

    def describe(self) -> dict[str, str]:
        """Return name, shape, signature and docstring, for people who list functions."""
        return {
            "func_name": self.name,
            "shape": self.stream_type.value,
            "signature": str(self.signature),
            "doc": self.doc,
        }

    def __repr__(self) -> str:
        return f"Function({self.name}{self.signature}, {self.stream_type.name})"

    def _arguments(self, parameters: Mapping[str, Parameter]) -> ArgumentCodec:
        kinds = {
            name: _kind(parameter.annotation, f"{self.name}(): parameter {name!r}")
            for name, parameter in parameters.items()
        }
        return ArgumentCodec(self.name, parameters, kinds, _SERIALIZER)


_known: WeakKeyDictionary[Callable[..., Any], dict[str | None, Function]] = WeakKeyDictionary()


# --- values as bytes


def _to_plain(value: Any) -> Any:
    """Return what msgspec can encode for a value that it does not know."""
    if _is_model(type(value)):
        return value.model_dump()
    raise TypeError(f"an object of type `{type(value).__qualname__}` cannot be sent")


def _from_plain(kind: Any, value: Any) -> Any:
    """Return the model that was sent as `value`."""
    return kind.model_validate(value)


def _is_model(kind: type) -> bool:
    """Whether it is a pydantic model, told by its methods so that pydantic need not be there."""
    return callable(getattr(kind, "model_validate", None)) and hasattr(kind, "model_dump")


class _KeywordCall(msgspec.Struct, forbid_unknown_fields=True):
    """Arguments of which some only have a name."""

    args: list[msgspec.Raw]
    kwargs: dict[str, msgspec.Raw]


_decode_call = Decoder(list[msgspec.Raw] | _KeywordCall).decode


def _split(body: Body) -> tuple[Args, Kwargs]:
    call = _decode_call(body)
    return (call, {}) if isinstance(call, list) else (call.args, call.kwargs)


def _tuple_decoder(hints: tuple[Any, ...]) -> Callable[[Body], Args]:
    return Decoder(tuple.__class_getitem__(hints), dec_hook=_from_plain).decode


_encode = Encoder(enc_hook=_to_plain).encode
_SERIALIZER = Serializer(_encode, _tuple_decoder, _split)


def _value_codec(
    kind: Kind, where: str, error: type[CallError]
) -> tuple[Callable[[Any], bytes], Callable[[Body], Any]]:
    """Return the functions that turn one value into a body and back."""
    typed, guard, fitting = kind.decode, kind.guard, kind.fitting

    def encode(value: Any) -> bytes:
        try:
            body = _encode(value)
            if guard is not None and len(body) > MAX_DEPTH:  # else it can break no limit
                guard(body)
            if fitting is not None and type(value) not in fitting:
                typed(body)
        except Exception as exc:  # a user's type may raise anything when it is dumped or made
            raise error(f"{where}: {reason(exc)}") from exc
        return body

    def decode(body: Body) -> Any:
        try:
            if guard is not None and len(body) > MAX_DEPTH:
                guard(body)
            return typed(body)
        except Exception as exc:  # likewise
            raise error(f"{where}: {reason(exc)}") from exc

    return encode, decode


def _items_decoder(kind: Kind, where: str, error: type[CallError]) -> Callable[[Body], list[Any]]:
    """Return the function that reads a body with the flag BATCH.

    Its array is one more level. A sender adds items to a batch only while it is short (64 KiB),
    so beside the elements of its last item it has room for no more than an item may have.
    """
    typed = Decoder(list.__class_getitem__(kind.hint), dec_hook=_from_plain).decode
    is_open = kind.guard is check_body

    def decode_items(body: Body) -> list[Any]:
        try:
            if is_open or len(body) > MAX_ELEMENTS:
                check_body(body, max_depth=MAX_DEPTH + 1, max_elements=2 * MAX_ELEMENTS)
            items: list[Any] = typed(body)
        except Exception as exc:  # likewise
            raise error(f"{where}: {reason(exc)}") from exc
        return items

    return decode_items


# --- types


def _kind(hint: Any, where: str) -> Kind:
    """Return how values of a type travel; msgspec judges whether they can.

    Raises:
        RegistrationError: They cannot; the message begins with `where`.
    """
    try:
        return _kind_of(hint, where)
    except RegistrationError:
        try:
            split = split_unions(hint, _converter)
        except TypeError:
            split = hint
        if split is hint:
            raise
        return _kind_of(split, where)


def _converter(hint: Any) -> Callable[[Any], Any]:
    """Return what makes of a value that msgpack gave one of a type."""
    Decoder(hint, dec_hook=_from_plain)  # refuses what no value can be
    return functools.partial(
        msgspec.convert, type=hint, builtin_types=(bytes,), dec_hook=_from_plain
    )


def _kind_of(hint: Any, where: str) -> Kind:
    try:
        node = nodes.type_info(hint)
        guard = _guard(node, {})
        decode = Decoder(hint, dec_hook=_from_plain).decode
    except Exception as exc:  # of msgspec, or of the annotations in a user's class
        name = inspect.formatannotation(hint)
        raise RegistrationError(f"{where}: type {name} cannot be sent: {exc}") from exc
    return Kind(hint, decode, guard, _fitting(node))


_CONTAINERS = (
    nodes.CollectionType
    | nodes.TupleType
    | nodes.DictType
    | nodes.StructType
    | nodes.TypedDictType
    | nodes.NamedTupleType
    | nodes.DataclassType
)


def _guard(node: nodes.Type, pending: dict[int, bool]) -> Guard | None:
    """Return what must look at a body before it is decoded as this type.

    A type that nests without end, because it is anything or holds itself, needs its depth checked.

    Args:
        node: The type.
        pending: By id, whether a type met before is one that holds this one.
    """
    if isinstance(node, nodes.CustomType):
        if _is_model(node.cls):
            return check_body
        raise TypeError(f"`{node.cls.__qualname__}` has no form in msgpack")
    if isinstance(node, nodes.RawType | nodes.ExtType):
        raise TypeError("it means nothing outside msgpack")
    if isinstance(node, nodes.AnyType) or pending.get(id(node)):
        return check_body
    if id(node) in pending:
        return None
    pending[id(node)] = True
    guards = [_guard(inner, pending) for inner in _inner(node)]
    pending[id(node)] = False
    return strictest([*guards, check_size if isinstance(node, _CONTAINERS) else None])


def _inner(node: Any) -> Iterator[nodes.Type]:
    """Yield the types that a type is made of."""
    for name in ("item_type", "key_type", "value_type"):
        if hasattr(node, name):
            yield getattr(node, name)
    for name in ("types", "item_types"):
        yield from getattr(node, name, ())
    for field in getattr(node, "fields", ()):
        yield field.type


_SIMPLE: tuple[tuple[nodes.Type, tuple[type, ...]], ...] = (
    (nodes.NoneType(), (NoneType,)),
    (nodes.BoolType(), (bool,)),
    (nodes.IntType(), (int,)),
    (nodes.FloatType(), (float, int)),
    (nodes.StrType(), (str,)),
    (nodes.BytesType(), (bytes,)),
    (nodes.ListType(nodes.AnyType()), (list, tuple)),
    (nodes.DictType(nodes.AnyType(), nodes.AnyType()), (dict,)),
)


def _fitting(node: nodes.Type) -> frozenset[type] | None:
    """Return the types whose values need no look; see `Kind`."""
    if isinstance(node, nodes.AnyType):
        return None
    members = node.types if isinstance(node, nodes.UnionType) else (node,)
    return frozenset(
        t for member in members for known, ts in _SIMPLE if member == known for t in ts
    )


# --- calls without a signature

_ANYTHING = _kind(Any, "value")
encode_any, decode_any = _value_codec(_ANYTHING, "value", InvalidArgument)
# The same for a server: that what it writes cannot be sent is no fault of the caller.
encode_written, _ = _value_codec(_ANYTHING, "value", Internal)
_encode_raw, _ = _value_codec(_ANYTHING, "arguments", InvalidArgument)


def encode_raw_args(args: Args, kwargs: Kwargs | None = None) -> bytes:
    """Return the body for arguments of a function of which nothing but the name is known.

    Raises:
        InvalidArgument: One of them cannot be sent.
    """
    return _encode_raw({"args": args, "kwargs": kwargs} if kwargs else args)
