import gc
import weakref
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from math import inf, isnan, nan
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypedDict, TypeVar, Union
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rap.errors import Internal, InvalidArgument, RegistrationError
from rap.schema.function import Function, decode_any, encode_any, raw_encoder
from rap.wire.codec import MAX_ELEMENTS, batch_header, pack, unpack

T = TypeVar("T")


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1


class Mood(StrEnum):
    GOOD = "good"


class Point(NamedTuple):
    x: int
    y: int = 0


class Options(TypedDict, total=False):
    depth: int


@dataclass
class Tree:
    name: str
    branches: list["Tree"] = field(default_factory=list)


class Event(msgspec.Struct):
    at: datetime
    what: str = ""


@dataclass
class Edge:
    start: Point
    end: Point


class Page(msgspec.Struct, Generic[T]):
    items: list[T]


class Model:
    """What rap knows of a pydantic model: these two methods."""

    def __init__(self, n: int) -> None:
        self.n = n

    @classmethod
    def model_validate(cls, plain: Any) -> "Model":
        if not isinstance(plain, dict) or plain.keys() != {"n"}:
            raise ValueError("a model has the field n")
        return cls(plain["n"])

    def model_dump(self) -> dict[str, int]:
        return {"n": self.n}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and other.n == self.n

    __hash__ = None  # type: ignore[assignment]  # it can be changed


def of_type(hint: Any) -> Function:
    """Return a function that takes and returns a value of this type."""

    def func(value: Any) -> Any: ...

    func.__annotations__ = {"value": hint, "return": hint}
    return Function.of(func)


def items_of_type(hint: Any) -> Function:
    def func() -> Any: ...

    func.__annotations__ = {"return": Iterator[hint]}
    return Function.of(func)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


VALUES = [
    (bool, True),
    (int, -(2**63)),
    (int, 2**64 - 1),
    (float, 1.5),
    (float, inf),
    (float, 3),
    (str, "grüße"),
    (bytes, b"\x00\xff"),
    (None, None),
    (list, [1, "two", [3.0]]),
    (dict, {"a": {"b": None}}),
    (tuple, (1, "two")),
    (list[int], [1, 2]),
    (dict[str, float], {"a": 1.0}),
    (dict[int, str], {1: "a"}),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a"})),
    (Any, {"a": [1, 2.5, None, b"x"]}),
    (int | str, "a"),
    (str | bytes, "a"),
    (str | bytes, b"a"),
    (str | bytes, "a" * 5000),
    (Optional[Union[int, str, bytes]], None),  # noqa: UP007, UP045
    (list[str | bytes], ["a", b"\xff"]),
    (dict[str, tuple[int | str | bytes, ...]], {"k": (1, "a", b"a")}),
    (Tree | str | bytes, Tree("x", [])),
    (list[str | bytes] | None, [b"a"]),
    (Model | str | bytes, Model(1)),
    (Annotated[str | bytes, "why"], b"a"),
    (Optional[int], None),  # noqa: UP045
    (Union[int, list[int]], [1]),  # noqa: UP007
    (Literal["a", 1], 1),
    (Annotated[int, msgspec.Meta(ge=1)], 1),
    (Color, Color.BLUE),
    (Level, Level.LOW),
    (Mood, Mood.GOOD),
    (Point, Point(1, 2)),
    (Options, {"depth": 3}),
    (Tree, Tree("root", [Tree("leaf")])),
    (Edge, Edge(Point(1), Point(2))),
    (Event, Event(datetime(2024, 2, 29, 12, tzinfo=UTC), "leap")),
    (Page[Tree], Page([Tree("a")])),
    (datetime, datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=3)))),
    (datetime, datetime(1, 1, 1)),
    (date, date(2024, 1, 2)),
    (time, time(1, 2, 3)),
    (timedelta, timedelta(days=-1, microseconds=1)),
    (UUID, UUID("12345678123456781234567812345678")),
    (Decimal, Decimal("1.10")),
    (Model, Model(3)),
    (list[Model | None], [Model(1), None]),
]


@pytest.mark.parametrize(("hint", "value"), VALUES)
def test_a_value_arrives_as_what_it_was(hint: Any, value: Any) -> None:
    function = of_type(hint)
    (argument,) = function.decode_args(memoryview(function.encode_args((value,))))
    result = function.decode_result(memoryview(function.encode_result(value)))
    items = items_of_type(hint)
    item = items.decode_item(items.encode_item(value))
    for arrived in (argument, result, item):
        assert arrived == value
        assert type(arrived) is (float if hint is float else type(value))


@pytest.mark.parametrize(("hint", "value"), VALUES)
def test_items_of_a_batch_arrive_as_what_they_were(hint: Any, value: Any) -> None:
    function = items_of_type(hint)
    for n in (0, 1, 40):
        body = batch_header(n) + function.encode_item(value) * n
        assert function.decode_items(memoryview(body)) == [value] * n


def test_nan_is_a_float() -> None:
    function = of_type(float)
    assert isnan(function.decode_result(function.encode_result(nan)))


@pytest.mark.parametrize(
    ("hint", "value", "reason"),
    [
        (int, "1", "expected `int`, got `str`"),
        (int, True, "expected `int`, got `bool`"),
        (int, 1.0, "expected `int`, got `float`"),
        (int, 2**64, "can't serialize ints < -2"),
        (float, "1", "expected `float`, got `str`"),
        (str, b"a", "expected `str`, got `bytes`"),
        (str, "\ud800", "'utf-8' codec can't encode"),
        (bytes, 1, "expected `bytes`, got `int`"),
        (None, 0, "expected `null`, got `int`"),
        (list[int], [1, "x"], r"expected `int`, got `str` - at `\$\[1\]`"),
        (tuple[int, str], (1,), "expected `array` of length 2, got 1"),
        (int | None, "x", r"expected `int \| null`, got `str`"),
        (str | bytes, 1, r"expected `str \| bytes`, got `int`"),
        (int | str | bytes | None, 1.5, r"expected `null \| int \| str \| bytes`, got `float`"),
        (list[str | bytes], ["a", 1], r"expected `str \| bytes`, got `int`"),
        (Literal["a"], "b", "invalid enum value 'b'"),
        (Annotated[int, msgspec.Meta(ge=1)], 0, "expected `int` >= 1"),
        (Color, "green", "invalid enum value 'green'"),
        (Tree, Tree("x", [Tree(3)]), r"expected `str`, got `int` - at `\$.branches\[0\].name`"),  # type: ignore[arg-type]
        (Options, {"depth": "x"}, r"expected `int`, got `str` - at `\$.depth`"),
        (Model, {"m": 1}, "a model has the field n"),
        (Any, object(), "an object of type `object` cannot be sent"),
        (Any, {"a": [1j]}, "an object of type `complex` cannot be sent"),
        (list, nested(33), "nested too deep: more than 32 levels, the limit is 32"),
        (list[int], [0] * (MAX_ELEMENTS + 1), "too many elements: 100001 or more, the limit is"),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_sender(
    hint: Any, value: Any, reason: str
) -> None:
    with pytest.raises(InvalidArgument, match=r"func\(\): argument"):
        of_type(hint).encode_args((value,))
    with pytest.raises(Internal, match=rf"func\(\): return value: {reason}"):
        of_type(hint).encode_result(value)
    with pytest.raises(Internal, match=rf"func\(\): item: {reason}"):
        items_of_type(hint).encode_item(value)


@pytest.mark.parametrize(
    ("hint", "plain", "reason"),
    [
        (int, "1", "expected `int`, got `str`"),
        (list[int], [1, "x"], r"expected `int`, got `str` - at `\$\[1\]`"),
        (Tree, {"branches": []}, "object missing required field `name`"),
        (Model, 3, "a model has the field n"),
        (str | bytes, 1, r"expected `str \| bytes`, got `int`"),
        (Any, nested(34), "nested too deep"),
        (Tree, {"name": "x", "branches": [nested(40)]}, "nested too deep"),
        (list[int], [0] * (MAX_ELEMENTS + 1), "too many elements"),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_receiver(
    hint: Any, plain: Any, reason: str
) -> None:
    body = pack(plain)
    with pytest.raises(InvalidArgument, match=r"func\(\): argument"):
        of_type(hint).decode_call(batch_header(1) + body)
    with pytest.raises(Internal, match=rf"func\(\): return value: {reason}"):
        of_type(hint).decode_result(body)
    with pytest.raises(Internal, match=rf"func\(\): item: {reason}"):
        items_of_type(hint).decode_item(body)
    if not isinstance(plain, list) or len(plain) < MAX_ELEMENTS:
        with pytest.raises(Internal, match=r"func\(\): item: "):
            items_of_type(hint).decode_items(batch_header(1) + body)


def test_a_field_that_a_class_does_not_know_costs_nothing() -> None:
    body = pack({"at": "2024-01-01T00:00:00", "more": 1})
    assert of_type(Event).decode_result(body) == Event(datetime(2024, 1, 1))
    bomb = body[:-1] + b"\x91" * 5_000_000 + b"\x90"  # Python 3.14 has room for 50,000 levels
    with pytest.raises(Internal, match="nested too deep"):
        of_type(Event).decode_result(bomb)


def test_a_batch_holds_the_elements_of_a_full_item_and_of_those_before_it() -> None:
    function = items_of_type(list)
    items = [[0]] * 20_000 + [[0] * (MAX_ELEMENTS - 1)]
    body = batch_header(len(items)) + b"".join(map(function.encode_item, items))
    assert function.decode_items(body) == items
    with pytest.raises(Internal, match="the limit is 200000"):
        function.decode_items(batch_header(3) + function.encode_item([0] * 90_000) * 3)


def test_the_items_of_a_bare_iterator_are_anything() -> None:
    async def anything() -> AsyncIterator:  # type: ignore[type-arg]
        yield 1

    function = Function.of(anything)
    assert function.decode_items(b"\x92" + function.encode_item({"a": 1}) + b"\x01") == [
        {"a": 1},
        1,
    ]


@given(st.binary(max_size=80))
def test_any_bytes_are_a_result_or_an_internal_error(body: bytes) -> None:
    for hint in (int, Any, Tree, list[Color], Model):
        for decode in (of_type(hint).decode_result, items_of_type(hint).decode_items):
            with suppress(Internal):
                decode(body)


# --- types that cannot be sent


class Plain: ...


class Holder(msgspec.Struct):
    plain: Plain


@dataclass
class Lost:
    other: "Nowhere"  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("hint", "reason"),
    [
        (complex, "type complex cannot be sent: `complex` has no form in msgpack"),
        (object, "`object` has no form"),
        (Plain, "`Plain` has no form"),
        (list[Plain], "`Plain` has no form"),
        (dict[str, Plain | None], "`Plain` has no form"),
        (Holder, "`Plain` has no form"),
        (Lost, "Nowhere"),
        (list | tuple, "`list` and `tuple` cannot be told apart when they are sent: both can be"),
        (int | Plain, "`Plain` has no form"),
        (list[Plain | str | bytes], "`Plain` has no form"),
        (msgspec.Raw, "has no meaning outside msgpack"),
        (type[int], "has no form"),
        (Iterable[Plain], "has no form"),
    ],
)
def test_a_type_that_cannot_be_sent_is_refused_by_name(hint: Any, reason: str) -> None:
    def takes(value: Any) -> None: ...

    def gives() -> Any: ...

    takes.__annotations__["value"] = hint
    gives.__annotations__["return"] = list[hint]
    with pytest.raises(RegistrationError, match=rf"takes\(\): parameter 'value': .*{reason}"):
        Function.of(takes)
    with pytest.raises(RegistrationError, match=r"gives\(\): return value: type list\["):
        Function.of(gives)


# --- channels, and calls without a signature


class Channel:
    __rap_channel__ = True


async def talk(channel: Channel) -> None: ...


def test_a_channel_carries_anything() -> None:
    function = Function.of(talk)
    for value in (1, "two", [3.0], {"four": None}):
        assert function.decode_item(function.encode_item(value)) == value
    assert function.encode_args(()) == b"\x90"
    assert [*function.decode_args(b"\x90")] == []
    with pytest.raises(InvalidArgument, match="`object` cannot be sent"):
        function.encode_item(object())
    with pytest.raises(InvalidArgument, match="too many positional"):
        function.encode_args((1,))


@given(st.recursive(st.none() | st.integers(0, 9) | st.text(max_size=3), st.lists, max_leaves=9))
def test_anything_arrives_without_a_signature(value: Any) -> None:
    assert decode_any(memoryview(encode_any(value))) == value


@given(st.binary(max_size=80) | st.just(b"\x91" * 33) | st.just(b"\xdd\x00\x0f\x42\x40"))
def test_any_bytes_are_a_value_or_an_invalid_argument(body: bytes) -> None:
    with suppress(InvalidArgument):
        decode_any(body)


def test_arguments_travel_without_a_signature() -> None:
    assert unpack(raw_encoder("/default/f")((1, "a"))) == [1, "a"]
    assert unpack(raw_encoder("/default/f")([1], {"b": 2})) == {"args": [1], "kwargs": {"b": 2}}
    with pytest.raises(InvalidArgument, match="`object` cannot be sent"):
        raw_encoder("/default/f")((object(),))


# --- one Function for one function


def test_a_plain_function_is_looked_at_once() -> None:
    def func() -> None: ...

    assert Function.of(func) is Function.of(func)
    assert Function.of(func, name="other") is Function.of(func, name="other")
    assert Function.of(func, name="other") is not Function.of(func)


def test_a_function_can_go_though_its_function_stays() -> None:
    def func(value: list[int]) -> None: ...

    function = Function.of(func)
    gone = weakref.ref(func)
    del func
    gc.collect()
    assert gone() is None
    assert function.decode_args(function.encode_args(([1],))) == ([1],)
