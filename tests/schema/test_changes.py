"""What a value becomes on the way: it stays as it is, is refused, or docs/types.md says so."""

import enum
import math
from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest

from rap.errors import Internal, InvalidArgument
from rap.schema.function import Function, decode_any, encode_any
from rap.wire.codec import pack
from tests.schema.test_function import items_of_type, of_type

EAST = timezone(timedelta(hours=3))
WEST = timezone(timedelta(hours=-9, minutes=-30))
TIME = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=EAST)


@dataclass
class Meeting:
    at: datetime
    notes: Any = None
    later: "Meeting | None" = None


class Stamp(msgspec.Struct, array_like=True):
    n: int
    at: datetime


class First(msgspec.Struct, tag=True):
    at: datetime


class Second(msgspec.Struct, tag=True):
    at: str


class Span(NamedTuple):
    begin: datetime
    end: datetime | None = None


class Row(TypedDict):
    at: datetime


@dataclass
class Left:
    left: datetime
    path: Path | int = 0


@dataclass
class Right:
    right: datetime


def offsets(value: Any) -> list[Any]:
    """Return the offsets of all datetimes in a value."""
    if isinstance(value, datetime):
        return [value.utcoffset()]
    if isinstance(value, dict):
        value = value.values()
    elif hasattr(value, "__dataclass_fields__"):
        value = vars(value).values()
    elif isinstance(value, msgspec.Struct):
        value = msgspec.structs.astuple(value)
    elif not isinstance(value, list | tuple | set | deque):
        return []
    return sorted(each for inner in value for each in offsets(inner) if each is not None)


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (datetime, TIME),
        (datetime | None, TIME),
        (datetime, TIME.astimezone(WEST)),
        (datetime, TIME.astimezone(ZoneInfo("Europe/Berlin"))),
        (list[datetime], [TIME, TIME.astimezone(UTC), TIME.replace(tzinfo=None)]),
        (dict[str, datetime], {"a": TIME}),
        (tuple[int, datetime], (1, TIME)),
        (set[datetime], {TIME}),
        (Meeting, Meeting(TIME, None, Meeting(TIME.astimezone(WEST)))),
        (list[Meeting | None], [Meeting(TIME), None]),
        (Stamp, Stamp(1, TIME)),
        (First | Second, First(TIME)),
        (Span, Span(TIME)),
        (Row, {"at": TIME}),
        (Left | Right, Left(TIME, Path("a"))),
        (Left | Right, Right(TIME)),
        (datetime | int, TIME),
        (deque[datetime], deque([TIME])),
    ],
)
def test_an_aware_datetime_keeps_its_offset(hint: Any, value: Any) -> None:
    function, items = of_type(hint), items_of_type(hint)
    (by_place,) = function.decode_args(function.encode_args((value,)))
    (by_name,) = function.decode_args(function.encode_args((), {"value": value}))
    (unchecked,) = function.decode_args(function.encode_args_unchecked((value,)))
    result = function.decode_result(function.encode_result(value))
    item = items.decode_item(items.encode_item(value))
    for arrived in (by_place, by_name, unchecked, result, item):
        assert arrived == value
        assert type(arrived) is type(value)
        assert offsets(arrived) == offsets(value)


def test_starred_parameters_keep_offsets_too() -> None:
    def plan(first: int, *times: datetime, **named: datetime) -> None: ...

    function = Function.of(plan)
    args, kwargs = function.decode_call(function.encode_args((1, TIME), {"end": TIME}))
    assert offsets(args) == offsets((TIME,))
    assert offsets(kwargs) == offsets((TIME,))


@pytest.mark.parametrize("value", [TIME.astimezone(UTC), TIME.replace(tzinfo=None)])
def test_other_datetimes_are_sent_as_before(value: datetime) -> None:
    assert of_type(datetime).encode_result(value) == msgspec.msgpack.encode(value)
    assert of_type(Meeting).encode_result(Meeting(value)) == msgspec.msgpack.encode(Meeting(value))


def test_a_value_of_another_type_is_refused_as_before() -> None:
    for wrong in ("x", 5, [TIME], {"at": "x"}, object()):
        with pytest.raises(InvalidArgument, match=r"argument 'value': "):
            of_type(Meeting).encode_args((wrong,))


class Color(enum.Enum):
    RED = "red"


@dataclass
class Base:
    name: str


@dataclass
class Derived(Base):
    more: int = 0


# The table of docs/types.md: declared type, what is sent, what arrives.
CHANGES: list[tuple[Any, Any, Any]] = [
    (Any, (1, 2), [1, 2]),
    (Any, {1}, [1]),
    (Any, Base("a"), {"name": "a"}),
    (Any, Color.RED, "red"),
    (Any, UUID(int=1), str(UUID(int=1))),
    (Any, Decimal("1.0"), "1.0"),
    (Any, Path("a"), "a"),
    (Any, TIME.replace(tzinfo=None), "2026-01-02T03:04:05.000006"),
    (Any, TIME, TIME.astimezone(UTC)),
    (float, 2**53 + 1, float(2**53)),
    (float, 3, 3.0),
    (Base, Derived("a", 1), Base("a")),
    (list, (1, 2), [1, 2]),
    (tuple, [1, 2], (1, 2)),
    (dict, OrderedDict(a=1), {"a": 1}),
    (deque, deque([1], maxlen=1), deque([1])),
]


@pytest.mark.parametrize(("hint", "sent", "arrives"), CHANGES)
def test_each_change_of_the_table_is_as_it_says(hint: Any, sent: Any, arrives: Any) -> None:
    function = of_type(hint)
    (found,) = function.decode_args(function.encode_args((sent,)))
    assert found == arrives
    assert type(found) is type(arrives)
    assert offsets(found) == offsets(arrives)
    assert getattr(found, "maxlen", None) is None


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30])
@pytest.mark.parametrize("hint", [int, float, Any, list[int], dict[str, int], int | str])
def test_an_int_that_is_too_large_is_refused_with_the_limits(hint: Any, number: int) -> None:
    value: Any = number
    if hint == list[int]:
        value = [number]
    if hint == dict[str, int]:
        value = {"a": number}
    limits = r"can't serialize ints < -2\*\*63 or > 2\*\*64 - 1"
    with pytest.raises(InvalidArgument, match=rf"argument 'value': {limits}"):
        of_type(hint).encode_args((value,))
    with pytest.raises(Internal, match=limits):
        of_type(hint).encode_result(value)
    with pytest.raises(InvalidArgument, match=limits):
        encode_any(value)


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63)])
def test_an_int_at_its_limit_arrives(number: int) -> None:
    assert of_type(int).decode_result(of_type(int).encode_result(number)) == number
    assert decode_any(encode_any(number)) == number


def test_floats_are_64_bit() -> None:
    for number in (0.1, math.inf, -0.0, 5e-324, 1.7976931348623157e308):
        found = of_type(float).decode_result(of_type(float).encode_result(number))
        assert math.copysign(1, found) == math.copysign(1, number)
        assert found == number
    assert of_type(float).decode_result(pack(0.1)) == 0.1
