"""A user function as callers and servers see it: its stream type and the codecs of its values.

Everything is prepared once per function. A call only encodes or decodes a body with msgspec, which
is compiled for the annotated types. Both sides make the same check: a client decodes what it has
encoded, which takes no longer than a look at the type of each argument.

A body of arguments, a result or an item nests at most `MAX_DEPTH` levels and holds at most
`MAX_ELEMENTS` values.
"""

import enum
import inspect
import typing
from collections.abc import Callable, Mapping
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
    cause_of,
    check_levels,
    check_size,
    joined,
    reason,
    strictest,
)
from rap.schema.costs import NEVER_SLOW, all_types, cost_of, inner_types
from rap.schema.keys import declares_keys, key_guard
from rap.schema.plain import can_convert, from_plain, refuse_constraints, to_plain
from rap.schema.signature import (
    ASYNC_ITERATORS,
    Streams,
    callable_of,
    resolve_signature,
    streams_of,
)
from rap.wire.codec import MAX_DEPTH, MAX_ELEMENTS, check_body

__all__ = [
    "Function",
    "decode_any",
    "decode_any_items",
    "encode_any",
    "encode_written",
    "raw_encoder",
    "split_items",
]

Codec = tuple[Callable[[Any], bytes], Callable[[Body], Any]]

_SWAPPED = (
    ": Channel[In, Out] is written from the view of its own side, which reads In; if both sides"
    " declare the same, swap In and Out on the client (docs/how-to/typing.md)"
)


class Function:
    """A user function as its callers and its server see it.

    It does not keep the function itself. Its callable attributes are safe to use from any thread.

    Args:
        func: A function, a bound method, a `functools.partial`, a static method, or an object
            with `__call__`.
        name: The name in errors; by default the name of the function.

    Attributes:
        name: See above.
        stream_type: `CHANNEL` for a function with a Channel parameter, `CLIENT_STREAM` for one
            with a request stream, `BIDI` if that returns an iterator, `STREAM` for other functions
            that return one, `UNARY` for the rest.
        stream_parameter: Name of the parameter that is the request stream, or `None`.
        channel_parameter: Name of the parameter that is the Channel, or `None`.
        is_async: Whether it is an ``async def`` or returns an asynchronous iterator.
        has_keywords: Whether it has keyword-only parameters or ``**kwargs``, which need
            `decode_call`.
        has_typed_messages: Whether it is a channel function whose Channel has types.
        request_type, response_type: Type of the items of the request stream and of the response.
            For a ``Channel[In, Out]``, ``In`` and ``Out``. Any type if there are no items.
        signature: Without bound parameters, annotations resolved.
        doc: Its docstring, or an empty string.
        type_hints: Parameter name, and ``return``, to resolved type.
        encode_args: Positional and keyword arguments → body. It raises `InvalidArgument` for
            arguments that are missing, unexpected, of the wrong type, or impossible to send.
        encode_args_unchecked: The same without a check of types.
        decode_args: Body → positional arguments, with the defaults of those that were left out
            before a given one. It raises `InvalidArgument` for any other body.
        decode_call: Body → positional arguments, and keyword arguments or `None`.
        argument_sizes: What the values of the arguments become when they are decoded.
        slow_from: Bytes of a body with arguments from which a thread decodes it.
        slow_message: Bytes of a message that a channel reads, or of items of the request stream,
            from which a thread decodes them.
        encode_result, decode_result: The result of a call that has one: unary, client streaming or
            channel. They raise `Internal` if it does not match the annotation.
        encode_item, decode_item, decode_items: One item of a response stream, and a body with an
            array of items; they raise `Internal` as above.
        encode_request_item, decode_request_item, decode_request_items: The same for the items of a
            request stream; they raise `InvalidArgument`.
        client_messages, server_messages: Encode and decode the messages of a channel whose Channel
            has types, on a client or a server that declares it so. What a client writes raises
            `InvalidArgument` if it does not match the annotation, what a server writes `Internal`.
        unsendable: Why the value of a channel function cannot be sent, or `None`. A client may
            declare such a function, a server may not.

    Raises:
        RegistrationError: A hint is missing or cannot be resolved, or a type cannot be sent.
    """

    __slots__ = (
        "_place",
        "argument_sizes",
        "channel_parameter",
        "client_messages",
        "decode_args",
        "decode_call",
        "decode_item",
        "decode_items",
        "decode_request_item",
        "decode_request_items",
        "decode_result",
        "doc",
        "encode_args",
        "encode_args_unchecked",
        "encode_item",
        "encode_request_item",
        "encode_result",
        "has_keywords",
        "has_typed_messages",
        "is_async",
        "name",
        "request_type",
        "response_type",
        "server_messages",
        "signature",
        "slow_from",
        "slow_message",
        "stream_parameter",
        "stream_type",
        "type_hints",
        "unsendable",
    )

    def __init__(self, func: Callable[..., Any], *, name: str | None = None) -> None:
        func, target, own_name = callable_of(func)
        self.name = name or own_name
        self.doc = inspect.getdoc(target) or ""
        self.signature = resolve_signature(self.name, func, target)
        scope = getattr(inspect.unwrap(target), "__globals__", {})
        parameters = self.signature.parameters
        returns = self.signature.return_annotation
        self.type_hints = {p.name: p.annotation for p in parameters.values()} | {"return": returns}
        streams = streams_of(self.name, target, self.signature)
        self.stream_type = streams.stream_type
        self.stream_parameter = streams.stream_parameter
        self.channel_parameter = streams.channel_parameter
        self.request_type, self.response_type = streams.request, streams.response
        self.is_async = (
            inspect.iscoroutinefunction(target)
            or inspect.isasyncgenfunction(target)
            or (typing.get_origin(returns) or returns) in ASYNC_ITERATORS
        )
        self.has_typed_messages = self.stream_type is StreamType.CHANNEL and not (
            streams.request is Any and streams.response is Any
        )
        given = self.stream_parameter or self.channel_parameter
        self._place = _place_of(parameters, given)
        arguments = self._arguments({k: p for k, p in parameters.items() if k != given}, scope)
        self.argument_sizes, self.slow_from = arguments.cost
        self.has_keywords = arguments.has_keywords
        self.encode_args, self.encode_args_unchecked = arguments.encoders()
        self.decode_args, self.decode_call = arguments.decoders()

        self.unsendable: RegistrationError | None = None
        is_channel = self.stream_type is StreamType.CHANNEL
        where = f"{self.name}(): return value"
        has_items = self.stream_type in (StreamType.STREAM, StreamType.BIDI)
        if is_channel:
            kind, self.unsendable = _channel_result(returns, where, scope)
        else:
            kind = _kind(Any if has_items else returns, where, scope)
        self.encode_result, self.decode_result = _value_codec(kind, where, Internal)

        self.encode_item, self.decode_item = encode_any, decode_any
        self.decode_items = decode_any_items
        self.client_messages = self.server_messages = encode_any, decode_any
        self.slow_message = NEVER_SLOW
        if is_channel:
            where = f"{self.name}(): message"
            kinds = _kind(streams.request, where, scope), _kind(streams.response, where, scope)
            self.slow_message = kinds[0].cost.slow_from
            self.client_messages = _message_codec(where, streams, *kinds, "client")
            self.server_messages = _message_codec(where, streams, *kinds, "server")
        else:
            where = f"{self.name}(): item"
            kind = _kind(streams.response, where, scope)
            self.encode_item, self.decode_item = _value_codec(kind, where, Internal)
            self.decode_items = _items_decoder(kind, where, Internal)
        self.encode_request_item, self.decode_request_item = encode_any, decode_any
        self.decode_request_items = decode_any_items
        if self.stream_parameter:
            where = f"{self.name}(): item of {self.stream_parameter!r}"
            kind = _kind(streams.request, where, scope)
            self.slow_message = kind.cost.slow_from
            codec = _value_codec(kind, where, InvalidArgument)
            self.encode_request_item, self.decode_request_item = codec
            self.decode_request_items = _items_decoder(kind, where, InvalidArgument)

    @classmethod
    def of(cls, func: Callable[..., Any], *, name: str | None = None) -> "Function":
        """Return the `Function` of `func`; it is cached as long as a plain function exists."""
        if not isinstance(func, FunctionType):
            return cls(func, name=name)
        known = _known.setdefault(func, {})
        found = known.get(name)
        if found is None:
            found = known[name] = cls(func, name=name)
        return found

    def join_arguments(
        self, args: Args, kwargs: Kwargs | None, given: Any
    ) -> tuple[Args, Kwargs | None]:
        """Return the arguments with the request stream or the Channel in its place.

        Args:
            args: Positional arguments, as `decode_call` returns them.
            kwargs: Keyword arguments, or `None`.
            given: The request stream or the Channel.
        """
        place = self._place
        if isinstance(place, str) or place > len(args):  # others before it are given by name
            name = self.stream_parameter or self.channel_parameter or ""
            return args, {**(kwargs or {}), name: given}
        return [*args[:place], given, *args[place:]], kwargs

    def split_arguments(
        self, args: Args, kwargs: Kwargs | None
    ) -> tuple[tuple[Any, ...], Kwargs | None, Any]:
        """Return the other arguments, and the request stream or the Channel among them.

        Raises:
            InvalidArgument: It is not among them.
        """
        name = self.stream_parameter or self.channel_parameter or ""
        place = self._place
        by_position = self.signature.parameters[name].kind is Parameter.POSITIONAL_ONLY
        if kwargs and name in kwargs and not by_position:
            rest = {key: value for key, value in kwargs.items() if key != name}
            return tuple(args), rest, kwargs[name]
        if isinstance(place, int) and place < len(args):
            return (*args[:place], *args[place + 1 :]), kwargs, args[place]
        raise InvalidArgument(
            f"{self.name}(): missing a required argument: {name!r};"
            f" expected {self.name}{self.signature}"
        )

    def describe(self) -> dict[str, str]:
        """Return name, stream type, signature and docstring, for lists of functions."""
        return {
            "func_name": self.name,
            "shape": self.stream_type.value,
            "signature": str(self.signature),
            "doc": self.doc,
        }

    def __repr__(self) -> str:
        return f"Function({self.name}{self.signature}, {self.stream_type.name})"

    def _arguments(
        self, parameters: Mapping[str, Parameter], scope: Mapping[str, Any]
    ) -> ArgumentCodec:
        kinds = {
            name: _kind(parameter.annotation, f"{self.name}(): parameter {name!r}", scope)
            for name, parameter in parameters.items()
        }
        return ArgumentCodec(self.name, parameters, kinds, _SERIALIZER)


def _place_of(parameters: Mapping[str, Parameter], given: str | None) -> int | str:
    """Return the position of the parameter `given`, or its name if it has no position."""
    if given is None or parameters[given].kind is Parameter.KEYWORD_ONLY:
        return given or ""
    return [*parameters].index(given)


_known: WeakKeyDictionary[Callable[..., Any], dict[str | None, Function]] = WeakKeyDictionary()


class _KeywordCall(msgspec.Struct, forbid_unknown_fields=True):
    """The wire form of arguments if some of them are keyword arguments."""

    args: list[msgspec.Raw]
    kwargs: dict[str, msgspec.Raw]


_decode_call = Decoder(list[msgspec.Raw] | _KeywordCall).decode


def _split(body: Body) -> tuple[Args, Kwargs]:
    call = _decode_call(body)
    return (call, {}) if isinstance(call, list) else (call.args, call.kwargs)


_decode_raw_items = Decoder(list[msgspec.Raw]).decode


def split_items(body: Body, where: str) -> list[bytes]:
    """Return the items of a batch, each still encoded.

    Raises:
        InvalidArgument: It is not an array with at least one item; the message begins with `where`.
    """
    try:
        # The decoder of an item checks its keys.
        check_body(body, max_depth=MAX_DEPTH + 1, max_elements=2 * MAX_ELEMENTS, any_keys=True)
        items = [bytes(each) for each in _decode_raw_items(body)]
    except (ValueError, RecursionError) as exc:
        raise InvalidArgument(f"{where}: a batch of items is an array: {exc}") from exc
    if not items:
        raise InvalidArgument(f"{where}: a batch of items is empty")
    return items


def _tuple_decoder(hints: tuple[Any, ...]) -> Callable[[Body], Args]:
    return Decoder(tuple.__class_getitem__(hints), dec_hook=from_plain).decode


_encode = Encoder(enc_hook=to_plain).encode
_SERIALIZER = Serializer(_encode, _tuple_decoder, _split)


def _value_codec(
    kind: Kind, where: str, error: type[CallError], hint: Callable[[Body], str] = lambda _: ""
) -> Codec:
    """Return the functions that encode and decode one value.

    Args:
        kind: Its type.
        where: What it is, for errors.
        error: Their class.
        hint: Returns what to add to the error for a body of another type.
    """
    typed, guard, fitting = kind.decode, kind.guard, kind.fitting
    full_guard = joined(guard, [kind.keys])

    def encode(value: Any) -> bytes:
        try:
            body = _encode(value)
            if guard is not None and len(body) > MAX_DEPTH:  # a shorter body cannot exceed a limit
                guard(body)
            if fitting is not None and type(value) not in fitting:
                typed(body)
        except Exception as exc:  # a user's type may raise any exception
            raise error(f"{where}: {reason(exc)}{hint(_body_of(value))}") from cause_of(exc)
        return body

    def decode(body: Body) -> Any:
        try:
            if full_guard is not None and len(body) > MAX_DEPTH:
                full_guard(body)
            return typed(body)
        except Exception as exc:  # as above
            raise error(f"{where}: {reason(exc)}{hint(body)}") from cause_of(exc)

    keep = kind.keep_offsets
    if keep is None:
        return encode, decode
    return lambda value: encode(keep(value)), decode


def _message_codec(where: str, streams: Streams, read: Kind, written: Kind, side: str) -> Codec:
    """Return the functions that encode and decode one message of a channel.

    Args:
        where: What it is, for errors.
        streams: The types of the messages.
        read: That of those which this side reads.
        written: That of those which it writes.
        side: ``client`` or ``server``.
    """
    reads, writes = (f"reads {_shown(streams.request)}", f"writes {_shown(streams.response)}")

    def wrong_to_write(body: Body) -> str:
        swapped = f" and {reads}, which this is{_SWAPPED}" * _fits(read, body)
        return f"; the {side} {writes}{swapped}"

    def wrong_to_read(body: Body) -> str:
        swapped = f" and {writes}, which this is{_SWAPPED}" * _fits(written, body)
        return f"; the {side} {reads}{swapped}"

    faults = (InvalidArgument, Internal) if side == "client" else (Internal, InvalidArgument)
    encode, _ = _value_codec(written, where, faults[0], wrong_to_write)
    _, decode = _value_codec(read, where, faults[1], wrong_to_read)
    return encode, decode


def _body_of(value: Any) -> bytes:
    """Return a value encoded without a check; empty if it cannot be."""
    try:
        return _encode(value)
    except Exception:  # a user's type may raise any exception
        return b""


def _fits(kind: Kind, body: Body) -> bool:
    """Return whether a body is of a type, which is not any type."""
    if kind.hint is Any or not body:
        return False
    try:
        _value_codec(kind, "", Internal)[1](body)
    except Internal:
        return False
    return True


def _shown(hint: Any) -> str:
    """Return the name of a type, without its module if it is a class."""
    is_class = isinstance(hint, type) and not typing.get_args(hint)
    return hint.__qualname__ if is_class else inspect.formatannotation(hint)


def _items_decoder(kind: Kind, where: str, error: type[CallError]) -> Callable[[Body], list[Any]]:
    """Return the function that decodes a body with the flag BATCH.

    Its array adds one level. A sender adds items to a batch only while it is shorter than 64 KiB,
    so the batch has at most twice the elements of an item.
    """
    typed = Decoder(list.__class_getitem__(kind.hint), dec_hook=from_plain).decode
    any_keys = kind.guard is not check_body
    is_deep = kind.guard in (check_body, check_levels)
    check_declared = kind.keys

    def decode_items(body: Body) -> list[Any]:
        try:
            if is_deep or len(body) > MAX_ELEMENTS:
                check_body(
                    body,
                    max_depth=MAX_DEPTH + 1,
                    max_elements=2 * MAX_ELEMENTS,
                    any_keys=any_keys,
                )
            if check_declared is not None:
                check_declared(body)
            items: list[Any] = typed(body)
        except Exception as exc:  # as above
            raise error(f"{where}: {reason(exc)}") from cause_of(exc)
        return items

    return decode_items


def _kind(hint: Any, where: str, scope: Mapping[str, Any]) -> Kind:
    """Return the codec of a type; msgspec decides whether it can be sent.

    Args:
        hint: The type.
        where: What it is the type of.
        scope: The names that a recursive type may use.

    Raises:
        RegistrationError: It cannot be sent; the message starts with `where`.
    """
    prepared = NoneType if hint is None else hint
    try:
        try:
            node = _check(prepared)
        except Exception:  # of msgspec, or of the annotations in a user's class
            from rap.schema.conversion import prepare  # few functions have such types

            prepared = prepare(hint, _check, scope)
            node = _check(prepared)
        decode = Decoder(prepared, dec_hook=from_plain).decode
    except Exception as exc:  # as above; hints are code
        name = inspect.formatannotation(hint)
        raise RegistrationError(f"{where}: type {name} cannot be sent: {exc}") from exc
    guard = _guard(node, {})
    if guard is check_body and declares_keys(node):
        guard = check_levels
    keys = key_guard(node)
    cost = cost_of(node)
    return Kind(prepared, decode, guard, _fitting(node), _offset_keeper(node), keys, cost)


def _check(hint: Any) -> nodes.Type:
    """Return the description of a type; raise for one that cannot be decoded as it is."""
    refuse_constraints(hint)
    node = nodes.type_info(hint)
    _guard(node, {})
    Decoder(hint, dec_hook=from_plain)
    return node


def _offset_keeper(node: nodes.Type) -> Callable[[Any], Any] | None:
    """Return what lets the datetimes in a value keep their offset; see `Kind`."""
    # The values of other types may be sent as datetimes.
    if not any(isinstance(each, nodes.DateTimeType | nodes.CustomType) for each in all_types(node)):
        return None
    from rap.schema.offsets import offset_keeper  # many programs have no datetimes

    return offset_keeper(node)


def _channel_result(
    hint: Any, where: str, scope: Mapping[str, Any]
) -> tuple[Kind, RegistrationError | None]:
    """Return the codec of a channel function's value, and why there is none for its type."""
    if hint in (typing.NoReturn, typing.Never):
        hint = None
    try:
        return _kind(hint, where, scope), None
    except RegistrationError as exc:
        return _ANYTHING, exc


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
    """Return the check that a body needs before it is decoded as this type.

    The depth must be checked for a type without a maximum depth: any value, or a recursive type.

    Args:
        node: The type.
        pending: Id of each visited type to whether it contains this one.
    """
    if isinstance(node, nodes.CustomType):
        if can_convert(node.cls):
            return check_body
        raise TypeError(
            f"`{node.cls.__qualname__}` has no form in msgpack; make it a dataclass, a TypedDict or"
            f" a msgspec.Struct, or send its values"
        )
    if isinstance(node, nodes.EnumType) and issubclass(node.cls, enum.Flag):
        raise TypeError("each combination that was ever decoded would be kept")
    if isinstance(node, nodes.DataclassType) and hasattr(node.cls, "__pydantic_validator__"):
        raise TypeError("pydantic validates it")
    if isinstance(node, nodes.RawType | nodes.ExtType):
        raise TypeError("it has no meaning outside msgpack")
    if isinstance(node, nodes.AnyType) or pending.get(id(node)):
        return check_body
    if id(node) in pending:
        return None
    pending[id(node)] = True
    guards = [_guard(inner, pending) for inner in inner_types(node)]
    pending[id(node)] = False
    return strictest([*guards, check_size if isinstance(node, _CONTAINERS) else None])


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
    """Return the Python types whose values need no check; see `Kind`."""
    if isinstance(node, nodes.AnyType):
        return None
    members = node.types if isinstance(node, nodes.UnionType) else (node,)
    return frozenset(
        t for member in members for known, ts in _SIMPLE if member == known for t in ts
    )


_ANYTHING = _kind(Any, "value", {})
encode_any, decode_any = _value_codec(_ANYTHING, "value", InvalidArgument)
decode_any_items = _items_decoder(_ANYTHING, "value", InvalidArgument)
# The same for a server: a message that cannot be sent is not the fault of the caller.
encode_written, _ = _value_codec(_ANYTHING, "value", Internal)


def raw_encoder(method: str) -> Callable[..., bytes]:
    """Return what makes the body for arguments of a function without a declaration.

    It takes the positional and the keyword arguments, if any. It raises `InvalidArgument` for
    arguments that cannot be sent.

    Args:
        method: Full name of the function, for errors.
    """

    def encode(args: Args, kwargs: Kwargs | None = None) -> bytes:
        try:
            body = _encode({"args": args, "kwargs": kwargs} if kwargs else args)
            if len(body) > MAX_DEPTH:  # a shorter body cannot exceed a limit
                check_body(body)
        except Exception as exc:  # a user's type may raise any exception
            raise InvalidArgument(f"{method}: arguments: {reason(exc)}") from cause_of(exc)
        return body

    return encode
