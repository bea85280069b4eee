"""The codec of arguments: bound to the parameters, encoded as one body, checked on both sides.

On the wire, arguments are an array, or ``{"args": [...], "kwargs": {...}}`` if some keyword
arguments cannot be sent by position. The serializer encodes the values.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from inspect import Parameter, Signature
from typing import Any, NamedTuple

from msgspec import MsgspecError

from rap.call import CALL_OPTIONS
from rap.errors import InvalidArgument
from rap.schema.costs import Cost, dearest
from rap.wire.codec import MAX_ELEMENTS, check_body

__all__ = [
    "ArgumentCodec",
    "Kind",
    "Serializer",
    "cause_of",
    "check_levels",
    "check_size",
    "joined",
    "reason",
    "strictest",
]

Body = bytes | memoryview
Guard = Callable[[Body], None]
Args = Sequence[Any]
Kwargs = Mapping[str, Any]

# A sender does not decode larger bodies as a check if the types alone prove that they are valid.
_LARGE = 4096
_MAX_NAME = 64  # characters of an unknown keyword that are compared with the known ones


class Kind(NamedTuple):
    """The codec of one annotated type.

    Args:
        hint: The type.
        decode: Body → value; it raises an exception if the body is not of this type.
        guard: The check that a body needs first; `None` if no body is costly to decode.
        fitting: Python types whose values can always be decoded as this type; `None` means all
            types.
        keep_offsets: Value → a value whose datetimes keep their offset when it is encoded; `None`
            if it has no datetimes.
        keys: The check of the keys that the type declares, for whoever decodes; `None` if they
            cannot be chosen so that they collide. See `rap.schema.keys`.
        cost: What its values cost.
    """

    hint: Any
    decode: Callable[[Body], Any]
    guard: Guard | None
    fitting: frozenset[type] | None
    keep_offsets: Callable[[Any], Any] | None = None
    keys: Guard | None = None
    cost: Cost = Cost()

    def decode_checked(self, body: Body) -> Any:
        """Decode one argument of a body whose depth and elements are checked, but not its keys."""
        view = memoryview(body)  # a `msgspec.Raw` has no items
        if self.guard is check_body:
            check_body(view)
        if self.keys is not None:
            self.keys(view)
        return self.decode(body)


class Serializer(NamedTuple):
    """The functions of a serializer that arguments need.

    Args:
        encode: Value → body.
        tuple_decoder: Types → decoder of an array with one value for each type.
        split: Body → positional and keyword arguments, each still encoded. It raises `ValueError`
            or `RecursionError` if the body is neither an array nor a map of ``args`` and
            ``kwargs``.
    """

    encode: Callable[[Any], bytes]
    tuple_decoder: Callable[[tuple[Any, ...]], Callable[[Body], Args]]
    split: Callable[[Body], tuple[Args, Kwargs]]


class ArgumentCodec:
    """The codec of the arguments of one function.

    The fast path decodes all positional arguments at once. If it fails, the slow path decodes value
    by value; it supports all calls and can name the invalid parameter. The functions that
    `encoders` and `decoders` return are closures, because they run in each call.

    Args:
        name: The name of the function in errors.
        parameters: Parameter name to parameter.
        kinds: Parameter name to the codec of its type; for ``*args`` and ``**kwargs`` that of one
            value.
        serializer: Encodes and decodes values.
    """

    def __init__(
        self,
        name: str,
        parameters: Mapping[str, Parameter],
        kinds: Mapping[str, Kind],
        serializer: Serializer,
    ) -> None:
        self._name = name
        self._signature = Signature(list(parameters.values()))
        self._kinds = kinds
        self._serializer = serializer
        by_place = [p for p in parameters.values() if p.kind <= Parameter.POSITIONAL_OR_KEYWORD]
        others = {p.kind: p for p in parameters.values() if p not in by_place}
        self._by_place = [kinds[p.name] for p in by_place]
        # `None` for a positional-only parameter, which cannot be given by name.
        self._names = [None if p.kind is p.POSITIONAL_ONLY else p.name for p in by_place]
        required = [p for p in by_place if p.default is p.empty]
        self._nameless = [p.name for p in required if p.kind is p.POSITIONAL_ONLY]
        self._least = len(required)
        self._rest = others.get(Parameter.VAR_POSITIONAL)
        self._needs_names = any(
            p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters.values()
        )
        self._guard = strictest(
            [kind.guard for kind in kinds.values()] + [check_size] * bool(others)
        )
        self._full_guard = joined(self._guard, [kind.keys for kind in kinds.values()])
        self._short = self._short_decoder()
        self.has_keywords = len(others) > (self._rest is not None)
        self.cost = dearest([kind.cost for kind in kinds.values()])

    def encoders(self) -> tuple[Callable[..., bytes], Callable[..., bytes]]:
        """Return the functions that encode arguments, with and without a check of types."""
        guard, short, long = self._guard, self._short, self._encode
        encode, place, accepts = self._serializer.encode, self._place, self._accepts

        def encode_args(args: tuple[Any, ...], kwargs: Kwargs | None = None) -> bytes:
            if kwargs:
                args, kwargs = place(args, kwargs)
                if kwargs:
                    return long(args, kwargs)
            try:
                body = encode(args)
                if guard is not None:
                    guard(body)
                if len(body) < _LARGE or not self._fits(args):
                    short(body)
            except Exception:  # the slow path raises the right error
                return long(args, {})
            return body

        def encode_args_unchecked(args: tuple[Any, ...], kwargs: Kwargs | None = None) -> bytes:
            if kwargs:
                args, kwargs = place(args, kwargs)
            if kwargs or not accepts(len(args)):
                return long(args, kwargs or {}, False)
            try:
                return encode(args)
            except Exception:  # as above
                return long(args, {}, False)

        if any(kind.keep_offsets for kind in self._kinds.values()):
            return self._keeping_offsets(encode_args), self._keeping_offsets(encode_args_unchecked)
        return encode_args, encode_args_unchecked

    def _keeping_offsets(self, encode: Callable[..., bytes]) -> Callable[..., bytes]:
        """Return an encoder that lets datetimes keep their offset."""
        by_place = [kind.keep_offsets for kind in self._by_place]
        rest = None if self._rest is None else self._kinds[self._rest.name].keep_offsets
        names = {name: kind.keep_offsets for name, kind in self._kinds.items()}
        parameters = self._signature.parameters.values()
        others = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)

        def encode_keeping(args: tuple[Any, ...], kwargs: Kwargs | None = None) -> bytes:
            keepers = [*by_place, *[rest] * (len(args) - len(by_place))]
            kept = tuple(
                each if keep is None else keep(each)
                for each, keep in zip(args, keepers, strict=False)
            )
            if kwargs:
                other = names.get(others) if others else None
                kwargs = {
                    name: value if (keep := names.get(name, other)) is None else keep(value)
                    for name, value in kwargs.items()
                }
            return encode(kept, kwargs)

        return encode_keeping

    def decoders(
        self,
    ) -> tuple[Callable[[Body], Args], Callable[[Body], tuple[Args, Kwargs | None]]]:
        """Return the functions that decode positional arguments, and all arguments."""
        name, guard, short, long = self._name, self._full_guard, self._short, self._decode

        def decode_args(body: Body) -> Args:
            try:
                if guard is not None:
                    guard(body)
                return short(body)
            except Exception:  # as above
                args, kwargs = long(body)
            if kwargs:
                raise InvalidArgument(f"{name}(): these arguments only have names: {[*kwargs]}")
            return args

        def decode_call(body: Body) -> tuple[Args, Kwargs | None]:
            try:
                if guard is not None:
                    guard(body)
                return short(body), None
            except Exception:  # as above
                return long(body)

        return decode_args, decode_call

    def _short_decoder(self) -> Callable[[Body], Args]:
        """Return a decoder for arrays of positional arguments; it may refuse valid arrays."""
        make = self._serializer.tuple_decoder
        hints = tuple(kind.hint for kind in self._by_place)
        if self._least == len(hints) and self._rest is None and not self._needs_names:
            return make(hints)
        if self._rest is not None and not hints and not self._needs_names:
            return make((self._kinds[self._rest.name].hint, ...))
        # The first byte of a short array contains its length.
        lengths = () if self._needs_names else range(self._least, min(len(hints), 15) + 1)
        by_header = {0x90 | n: make(hints[:n]) for n in lengths}
        return lambda body: by_header[body[0]](body)

    def _accepts(self, n: int) -> bool:
        """Whether `n` positional arguments and nothing else are a valid call."""
        enough = n >= self._least and not self._needs_names
        return enough and (self._rest is not None or n <= len(self._by_place))

    def _fits(self, args: Args) -> bool:
        """Whether the types of the arguments alone prove that the server can decode them."""
        return (
            len(args) <= len(self._by_place)
            and self._accepts(len(args))
            and all(
                kind.fitting is None or type(value) in kind.fitting
                for value, kind in zip(args, self._by_place, strict=False)
            )
        )

    def _place(self, args: Args, kwargs: Kwargs) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with as many as possible by position."""
        values, named = [*args], {**kwargs}
        for name in self._names[len(args) :]:
            if name is None or name not in named:
                break
            values.append(named.pop(name))
        return tuple(values), named

    def _bind(self, args: Args, kwargs: Kwargs) -> inspect.BoundArguments:
        try:
            missing = self._nameless[len(args) :]
            if missing:  # which `bind` of Python 3.13.0 overlooks if **kwargs takes the name
                raise TypeError(f"missing a required positional-only argument: {missing[0]!r}")
            return self._signature.bind(*args, **kwargs)
        except TypeError as exc:
            got = f"{len(args)} by position" + (f" and {[*kwargs]}" if kwargs else "")
            text = str(exc)
            if "unexpected keyword" in text:
                text += self._suggestion(kwargs)
            expected = f"expected {self._name}{self._signature}, got {got}"
            raise InvalidArgument(f"{self._name}(): {text}; {expected}") from None

    def _suggestion(self, kwargs: Kwargs) -> str:
        """Return the parameter or the option of calls that an unknown keyword may stand for."""
        from difflib import get_close_matches  # few programs need it

        parameters = self._signature.parameters
        name = next((each for each in kwargs if each not in parameters), "")
        known = [each for each in parameters if each not in kwargs]
        close = get_close_matches(name[:_MAX_NAME], [*known, *CALL_OPTIONS], 1)
        return f"; did you mean {close[0]!r}?" if close else ""

    def _encode(self, args: Args, kwargs: Kwargs, check: bool = True) -> bytes:
        """Encode and check like the server; the error names the invalid argument."""
        bound = self._bind(args, kwargs)
        try:
            body = self._serializer.encode({"args": args, "kwargs": kwargs} if kwargs else args)
        except Exception as exc:  # a user's type may raise anything
            raise self._culprit(bound.arguments, exc) from cause_of(exc)
        if check:
            self._decode(body)
        return body

    def _culprit(self, arguments: Mapping[str, Any], error: Exception) -> InvalidArgument:
        """Return the error that names the argument which cannot be encoded."""
        for name, value in arguments.items():
            try:
                self._serializer.encode(value)
            except Exception as exc:  # as above
                return self._wrong(name, exc)
        return InvalidArgument(f"{self._name}(): arguments: {reason(error)}")

    def _decode(self, body: Body) -> tuple[Args, Kwargs | None]:
        try:
            check_levels(body)
            args, kwargs = self._serializer.split(body)
        except (ValueError, RecursionError) as exc:
            raise InvalidArgument(f"{self._name}(): arguments: {reason(exc)}") from cause_of(exc)
        if kwargs:
            args, kwargs = self._place(args, kwargs)
            if not kwargs:
                with suppress(Exception):  # then the rest of this says why
                    body = self._serializer.encode(args)
                    if self._full_guard is not None:
                        self._full_guard(body)
                    return self._short(body), None
        bound = self._bind(args, kwargs)
        for name, value in bound.arguments.items():
            decode = self._kinds[name].decode_checked
            try:
                if isinstance(value, tuple):  # *args
                    bound.arguments[name] = tuple(map(decode, value))
                elif isinstance(value, dict):  # **kwargs
                    bound.arguments[name] = {key: decode(each) for key, each in value.items()}
                else:
                    bound.arguments[name] = decode(value)
            except Exception as exc:  # a user's type may raise anything when it is made
                raise self._wrong(name, exc) from cause_of(exc)
        bound.apply_defaults()
        return bound.args, bound.kwargs or None

    def _wrong(self, name: str, exc: Exception) -> InvalidArgument:
        return InvalidArgument(f"{self._name}(): argument {name!r}: {reason(exc)}")


def check_levels(body: Body) -> None:
    """Guard a type with open parts that declares maps whose keys are numbers, times or arrays.

    Such keys are checked by `Kind.keys`, in the open parts too.

    Raises:
        ValueError: The body is nested too deep, or holds too many elements.
    """
    check_body(body, any_keys=True)


def check_size(body: Body) -> None:
    """Guard a type whose own depth is bounded: nothing deeper than it is ever built.

    It declares the keys of its maps, too.

    Raises:
        ValueError: The body holds too many elements.
    """
    if len(body) > MAX_ELEMENTS:
        check_body(body, any_keys=True)


def joined(guard: Guard | None, others: Sequence[Guard | None]) -> Guard | None:
    """Return a guard that does the work of all."""
    guards = [each for each in (guard, *dict.fromkeys(others)) if each is not None]
    if len(guards) < 2:
        return guards[0] if guards else None

    def check_all(body: Body) -> None:
        for each in guards:
            each(body)

    return check_all


def strictest(guards: Sequence[Guard | None]) -> Guard | None:
    """Return the guard that does the work of all: the first of `check_body` and so on."""
    return next((each for each in (check_body, check_levels, check_size) if each in guards), None)


def cause_of(exc: Exception) -> BaseException | None:
    """Return what to name as the cause of an error whose text ends with `reason`.

    An exception of msgspec tells nothing more than its text. One that is raised in a user's type is
    a cause.
    """
    return exc.__cause__ if isinstance(exc, MsgspecError) else exc


def reason(exc: Exception) -> str:
    """Return the text of an error, to follow a colon."""
    text = str(exc)
    if isinstance(exc, RecursionError):
        return "nested too deep, or in itself; send a flat value"
    if isinstance(exc, OverflowError):  # of an integer
        text += "; send a larger one as a str"
    elif isinstance(exc, UnicodeEncodeError):
        text += "; send bytes, or a str that UTF-8 can encode"
    if not isinstance(exc, ValueError | TypeError | OverflowError):
        return f"{type(exc).__name__}: {text}"
    return text[:1].lower() + text[1:]
