"""Verdicts on changes of functions, against what encoding and decoding really does."""

import dataclasses
import enum
import json
import typing
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rap import Channel
from rap.errors import CallError
from rap.schema.compatibility import (
    Compatibility,
    Level,
    compare,
    compare_all,
    signature_hash,
)
from rap.schema.description import FunctionDescription
from rap.schema.function import Function
from rap.schema.reflection import describe
from rap.server.router import Router
from tests.schema.test_evolution import ROWS, TABLE, Row


def described(func: Callable[..., Any], name: str = "f", **options: Any) -> FunctionDescription:
    """Return the description of a function as a client gets it, through JSON."""
    handler = Router(None).make(func, name, **options)
    found: FunctionDescription = json.loads(json.dumps(describe(handler)))
    return found


def judged(old: Callable[..., Any], new: Callable[..., Any]) -> Compatibility:
    return compare(described(old), described(new))


# What the page says of a pair, as verdicts. A rename by keyword fails only where it is used.
SAYS = {
    "works": {Level.WORKS},
    "error": {Level.FAILS},
    "error if": {Level.SOME},
    "error unless": {Level.SOME},
    "**wrong values**": {Level.WRONG},
    "**the value is lost**": {Level.WRONG},
}
BY_KEYWORD = "rename a parameter, given by keyword behind one that is left out"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.change)
def test_the_verdict_on_each_row_of_the_page_is_that_of_the_page(row: Row) -> None:
    found = judged(row.old, row.new)
    both = found.old_clients, found.new_clients
    for text, verdict in zip(TABLE[row.change], both, strict=True):
        key = max((each for each in SAYS if text.startswith(each)), key=len)
        wanted = {Level.SOME} if row.change == BY_KEYWORD else SAYS[key]
        assert verdict.level in wanted, (row.change, text, verdict)


async def unary(n: int) -> int:
    return n


async def stream(n: int) -> AsyncIterator[int]:
    yield n


async def stream_of_text(n: int) -> AsyncIterator[str]:
    yield str(n)


async def upload(values: AsyncIterator[int]) -> int:
    return 0


async def upload_text(values: AsyncIterator[str]) -> int:
    return 0


async def talk(channel: Channel[int, str]) -> None: ...


async def talk_text(channel: Channel[str, str]) -> None: ...


async def keyword_only(n: int, *, loud: bool = False) -> int:
    return n


async def keyword_must(n: int, *, loud: bool) -> int:
    return n


async def all_of(*values: int, **named: int) -> int:
    return 0


@pytest.mark.parametrize(
    ("old", "new", "old_clients", "new_clients"),
    [
        (unary, unary, Level.WORKS, Level.WORKS),
        (stream, stream_of_text, Level.SOME, Level.SOME),
        (upload, upload_text, Level.SOME, Level.SOME),
        (talk, talk_text, Level.SOME, Level.SOME),
        (stream, upload, Level.FAILS, Level.FAILS),
        (unary, keyword_only, Level.WORKS, Level.SOME),
        (unary, keyword_must, Level.FAILS, Level.FAILS),
        (keyword_only, keyword_must, Level.SOME, Level.WORKS),
        (unary, all_of, Level.WORKS, Level.FAILS),
    ],
)
def test_streams_channels_and_keywords_are_judged(
    old: Callable[..., Any], new: Callable[..., Any], old_clients: Level, new_clients: Level
) -> None:
    found = judged(old, new)
    assert (found.old_clients.level, found.new_clients.level) == (old_clients, new_clients)


def test_functions_come_and_go() -> None:
    one, other = described(unary, "a"), described(unary, "b")
    gone, new = compare_all([one], [other])
    assert (gone.function, gone.change, new.function, new.change) == (
        "default/a",
        "removed",
        "default/b",
        "added",
    )
    assert (gone.old_clients.level, gone.new_clients.level) == (Level.FAILS, Level.WORKS)
    assert (new.old_clients.level, new.new_clients.level) == (Level.WORKS, Level.FAILS)


def test_a_function_that_becomes_private_is_no_longer_for_all() -> None:
    found = compare(described(unary), described(unary, is_private=True))
    assert (found.old_clients.level, found.new_clients.level) == (Level.SOME, Level.WORKS)
    assert "private" in found.old_clients.reasons[0]


def test_the_reasons_say_where_and_what() -> None:
    (row,) = (row for row in ROWS if row.change == "add a required field to a class in an argument")
    found = judged(row.old, row.new)
    assert found.old_clients.reasons == ("user.age is required, and is not sent",)
    assert found.new_clients.reasons == ("user: age is dropped",)


def test_the_reasons_name_the_fields_of_what_is_answered_and_streamed() -> None:
    """A client of the new version meets a server of the old one, and calls it."""

    class Old(msgspec.Struct):
        n: int

    class New(msgspec.Struct):
        n: int
        urgent: bool

    class OldPage(msgspec.Struct):
        first: Old

    class NewPage(msgspec.Struct):
        first: New

    async def old() -> Old:
        raise NotImplementedError

    async def new() -> New:
        raise NotImplementedError

    async def old_page() -> OldPage:
        raise NotImplementedError

    async def new_page() -> NewPage:
        raise NotImplementedError

    async def old_items(items: AsyncIterator[New]) -> AsyncIterator[Old]:
        yield Old(1)

    async def new_items(items: AsyncIterator[New]) -> AsyncIterator[New]:
        yield New(1, True)

    lacks = "is required, and is not sent"
    for one, other, text in (
        (old, new, f"urgent of the result {lacks}"),
        (old_page, new_page, f"first.urgent of the result {lacks}"),
        (old_items, new_items, f"urgent of an item of the answer {lacks}"),
    ):
        assert text in judged(one, other).new_clients.reasons[0]


def test_the_hash_is_that_of_the_signature() -> None:
    async def documented(n: int) -> int:
        """Return a number."""
        return n

    assert signature_hash(described(unary)) == signature_hash(described(documented))
    assert signature_hash(described(unary)) != signature_hash(described(stream))
    assert len(signature_hash(described(unary))) == 12


# Properties: pairs of types made at random, and values that are really sent.


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


LEAVES: list[Any] = [
    *(int, float, bool, str, bytes, None, Any, Color, Colour, Size),
    *(Literal["red", "blue"], Literal["red"], Literal[1, 2]),
]
EXAMPLES = 150  # `--hypothesis-profile=explore` does not change it
FIELDS = ["a", "b", "c"]


def classes(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Make classes of all kinds, with some of the same fields."""
    fields = st.lists(
        st.tuples(st.sampled_from(FIELDS), inner, st.booleans()),
        min_size=1,
        max_size=3,
        unique_by=lambda field: field[0],
    )
    return st.builds(_make_class, fields, st.sampled_from(["data", "struct", "array", "tuple"]))


def _make_class(fields: list[tuple[str, Any, bool]], kind: str) -> Any:
    if kind == "tuple":
        rows = [(name, hint) for name, hint, _ in fields]
        return NamedTuple("Tuple", rows)
    required: list[Any] = [(name, hint) for name, hint, has_default in fields if not has_default]
    names = [(name, hint) for name, hint, has_default in fields if has_default]
    others = [(name, hint if hint is None else hint | None) for name, hint in names]
    if kind == "data":
        rest = [(name, hint, dataclasses.field(default=None)) for name, hint in others]
        made = dataclasses.make_dataclass("Data", required + rest)
        made.__module__ = __name__  # it would pass for a class of the standard library
        return made
    entries = [*required, *((name, hint, None) for name, hint in others)]
    return msgspec.defstruct("Struct", entries, array_like=kind == "array", module=__name__)


def hints() -> st.SearchStrategy[Any]:
    def extend(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        known = inner.filter(lambda hint: hint is not None)
        return st.one_of(
            st.builds(lambda hint: list[hint], known),  # type: ignore[valid-type]  # at run time
            st.builds(lambda hint: Sequence[hint], known),  # type: ignore[valid-type]  # likewise
            st.builds(lambda hint: dict[str, hint], known),  # type: ignore[valid-type]  # likewise
            st.builds(lambda hint: Mapping[str, hint], known),  # type: ignore[valid-type]  # likewise
            st.builds(lambda one, two: tuple[one, two], known, known),  # type: ignore[valid-type]  # likewise
            st.builds(lambda hint: hint | None, st.sampled_from([int, str, float, Color])),
            st.sampled_from([int | str, float | bytes, str | None]),
            classes(inner),
        )

    return st.recursive(st.sampled_from(LEAVES), extend, max_leaves=4)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Return values of a type that its own declaration takes."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return st.one_of(st.integers(-9, 9), st.text(max_size=2), st.none())
    if hint is float:
        return st.floats(allow_nan=False, allow_infinity=False, width=32)
    if hint is int:
        return st.integers(-(2**31), 2**31)
    if hint in (bool, None, Color, Colour, Size) or origin is Literal:
        return st.from_type(hint if hint is not None else type(None))
    if hint in (str, bytes):
        return (st.text if hint is str else st.binary)(max_size=3)
    if origin in (list, Sequence) or origin is typing.get_origin(Sequence[int]):
        return st.lists(values(args[0]), max_size=2)
    if origin is tuple:
        return st.tuples(*map(values, args))
    if origin in (dict, typing.get_origin(Mapping[str, int])):
        return st.dictionaries(st.text(max_size=2), values(args[1]), max_size=2)
    if args:
        return st.one_of(*map(values, args))
    fields = typing.get_type_hints(hint)
    return st.builds(hint, **{name: values(each) for name, each in fields.items()})


def function_of(hint: Any) -> Callable[..., Any]:
    async def f(value: Any) -> Any:
        return value

    f.__annotations__ = {"value": hint, "return": hint}
    return f


def arrives(sender: Any, receiver: Any, value: Any) -> bool:
    """Return whether a value that is sent as one type is taken as another one."""
    sent = Function(function_of(sender)).encode_args((value,), None)
    try:
        Function(function_of(receiver)).decode_args(sent)
    except CallError:
        return False
    return True


def check(data: st.DataObject, old: Any, new: Any) -> None:
    """Send values of both types, and compare what happens with the verdicts."""
    found = judged(function_of(old), function_of(new))
    there, back = data.draw(values(old)), data.draw(values(new))
    # An old client sends arguments of the old type, and gets results of the new one.
    arrive = arrives(old, new, there), arrives(new, old, back)
    for verdict in (found.old_clients, found.new_clients):
        if verdict.level is Level.WORKS:
            assert all(arrive), (there, back, verdict)
        elif verdict.level is Level.FAILS:
            assert not all(arrive), (there, back, verdict)


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(st.data(), hints(), hints())
def test_values_arrive_where_the_verdict_says_so(data: st.DataObject, old: Any, new: Any) -> None:
    check(data, old, new)


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(st.data(), classes(st.sampled_from(LEAVES)), classes(st.sampled_from(LEAVES)))
def test_so_do_values_of_classes(data: st.DataObject, old: Any, new: Any) -> None:
    check(data, old, new)
