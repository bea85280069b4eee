"""Unions of classes, told apart by their fields, values or form; what cannot be is refused."""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Reversible
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Interface
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar
from uuid import UUID

import msgspec
import pytest
from typing_extensions import TypeAliasType

from rap.errors import Internal, InvalidArgument, RegistrationError
from rap.schema.function import Function
from rap.wire.codec import pack
from tests.schema.test_function import items_of_type, of_type

T = TypeVar("T")


@dataclass
class Circle:
    radius: float


@dataclass(frozen=True)
class Square:
    side: float
    name: str = "square"


@dataclass
class Named:
    name: str


@dataclass
class Colored(Named):
    color: str


@dataclass
class Text:
    body: str = ""
    kind: Literal["text"] = "text"


@dataclass
class Image:
    body: str = ""
    kind: Literal["image"] = "image"


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Tagged(msgspec.Struct, tag="tagged"):
    x: int


class Other(msgspec.Struct, tag="other"):
    x: int


class Options(TypedDict, total=False):
    depth: int


class Search(TypedDict):
    words: str


class Mixed(Enum):
    ONE = 1
    TWO = "two"
    YES = True
    HALF = 0.5
    NONE = None


class Number(IntEnum):
    TEN = 10


class Fruit(Enum):
    APPLE = "apple"


class Car(Enum):
    BEETLE = "beetle"


class Pair(NamedTuple):
    shape: Circle | Square
    note: str = "no"


@dataclass
class Drawing:
    shapes: list[Circle | Square]
    best: Circle | Square | None = None
    at: Path | int = 0
    mixed: Mixed = Mixed.ONE
    children: list["Drawing"] = field(default_factory=list)
    made: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.made = True


@dataclass
class Box(Generic[T]):
    content: T | Circle


class Sheet(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    main_shape: Circle | Square
    mixed: Mixed = Mixed.TWO


class Query(TypedDict):
    shape: Circle | Square


UserId = NewType("UserId", int)
# mypy wants the statement `type` of Python 3.12 for them.
Json: Any = TypeAliasType(
    "Json",
    dict[str, "Json"] | list["Json"] | str | int | float | bool | None,  # type: ignore[misc]
)
Tree: Any = TypeAliasType("Tree", list["Tree | Circle | Square"])  # type: ignore[misc]
Named_ = TypeAliasType("Named_", Circle | Square)
OldJson = dict[str, "OldJson"] | list["OldJson"] | str | None


class Nested(NamedTuple):
    a: deque[int]


VALUES: list[tuple[Any, list[Any]]] = [
    (Circle | Square, [Circle(1.0), Square(2.0), Square(2.0, "x")]),
    (Circle | Square | None, [Circle(1.0), None]),
    (list[Circle | Square], [[Circle(1.0), Square(2.0)]]),
    (dict[str, Circle | int], [{"a": Circle(1.0), "b": 3}]),
    (Named | Colored, [Named("a"), Colored("a", "red")]),
    (Colored | Named, [Named("a"), Colored("a", "red")]),
    (Text | Image, [Text("a"), Image("a"), Image()]),
    (Circle | Point | Search, [Circle(1.0), Point(1), {"words": "a"}]),
    (Tagged | Circle, [Tagged(1), Circle(2.0)]),
    (Tagged | Other, [Tagged(1), Other(2)]),
    (Tagged | Other | Circle, [Tagged(1), Other(2), Circle(1.0)]),
    (Circle | str | bytes | list[int], [Circle(1.0), "a", b"a", [1]]),
    (datetime | int, [datetime(2024, 1, 1), 5]),
    (int | float | Circle, [1, 1.5, Circle(1.0)]),
    (Fruit | Car, [Fruit.APPLE, Car.BEETLE]),
    (Fruit | Number | Circle, [Fruit.APPLE, Number.TEN, Circle(1.0)]),
    (Fruit | Literal["pear"], [Fruit.APPLE, "pear"]),
    (Literal["a"] | str | Circle, ["a", "b", Circle(1.0)]),
    (Mixed, [*Mixed]),
    (Mixed | Circle, [Mixed.YES, Circle(1.0)]),
    (Path | int, [Path("/a/b"), 5]),
    (Path, [Path("/a")]),
    (Path | None, [Path("a"), None]),
    (PurePosixPath, [PurePosixPath("/a")]),
    (IPv4Address, [IPv4Address("10.0.0.1")]),
    (list[IPv6Address], [[IPv6Address("::1")]]),
    (IPv4Network, [IPv4Network("10.0.0.0/8")]),
    (dict[str, IPv6Interface], [{"a": IPv6Interface("::1/64")}]),
    (deque, [deque([1, "a"])]),
    (deque[Circle], [deque([Circle(1.0)])]),
    (dict[str, deque[int]], [{"a": deque([1])}]),
    (OrderedDict[str, int], [OrderedDict(b=1, a=2)]),
    (Counter[str], [Counter("aab")]),
    (Pair, [Pair(Circle(1.0)), Pair(Square(1.0), "x")]),
    (Nested, [Nested(deque([1]))]),
    (Drawing, [Drawing([Circle(1.0)], Square(2.0), Path("x"), Mixed.HALF, [Drawing([])])]),
    (Box[int], [Box(1), Box(Circle(1.0))]),
    (list[Box[Square]], [[Box(Square(1.0)), Box(Circle(1.0))]]),
    (Sheet, [Sheet(Circle(1.0)), Sheet(Square(1.0), Mixed.ONE)]),
    (Query, [{"shape": Circle(1.0)}]),
    (UserId | Circle, [5, Circle(1.0)]),
    (Json, [{"a": [1, None, {"b": 2.5}], "c": True}, "x", []]),
    (list[Json], [[1, [2]]]),
    (Tree, [[Circle(1.0), [Square(2.0), []]]]),
    (Named_ | int, [Circle(1.0), 4]),
    (Annotated[Circle | Square, "why"], [Circle(1.0)]),
    (Annotated[list[Circle | Square], msgspec.Meta(max_length=1)], [[Circle(1.0)]]),
    (tuple[Circle | Square, ...], [(Circle(1.0), Square(1.0))]),
    (tuple[Path | int, str], [(Path("a"), "b")]),
    (UUID | int, [UUID(int=1), 1]),
    (Decimal | int, [Decimal("1"), 1]),
    (set[Path], [{Path("a")}]),
]  # fmt: skip


@pytest.mark.parametrize(("hint", "values"), VALUES, ids=lambda each: str(each)[:60])
def test_each_member_arrives_as_what_it_was(hint: Any, values: list[Any]) -> None:
    function, items = of_type(hint), items_of_type(hint)
    for value in values:
        (argument,) = function.decode_args(memoryview(function.encode_args((value,))))
        result = function.decode_result(memoryview(function.encode_result(value)))
        (item,) = items.decode_items(b"\x91" + items.encode_item(value))
        for arrived in (argument, result, item):
            assert arrived == value
            assert type(arrived) is type(value)
            assert repr(arrived) == repr(value)


@dataclass
class Same:
    radius: float


@dataclass
class Wider:
    radius: float
    more: int = 0


@dataclass
class Empty:
    a: int = 0


class Plain: ...


class Tuples(Enum):
    A = (1, 2)


@pytest.mark.parametrize(
    ("hint", "reason"),
    [
        (Circle | Same, "`Circle` and `Same` cannot be told apart .*: the fields of one fit"),
        (Circle | Wider, "`Circle` and `Wider` cannot be told apart"),
        (Circle | dict[str, float], r"`Circle` and `dict\[str, float\]` cannot be told .*`object`"),
        (Options | Empty, "`.*Options` and `Empty` cannot be told apart"),
        (list[Circle | Same | int], "`Circle` and `Same` cannot be told apart"),
        (str | datetime, "`str` and `datetime` cannot be told apart .*: both can be `str`"),
        (date | datetime, "`date` and `datetime` cannot be told apart"),
        (Path | str, "`Path` and `str` cannot be told apart"),
        (Fruit | str, "`Fruit` and `str` cannot be told apart"),
        (Fruit | Literal["apple"], "cannot be told apart when they are sent: they have the same"),
        (list[int] | set[int], "both can be `array`"),
        (Box[int] | Box[str], "cannot be told apart"),
        (Circle | Plain, "`Plain` has no form in msgpack"),
        (Path | Callable[[], int], "has no form"),
        (deque[Plain], "`Plain` has no form in msgpack"),
        (Tuples, r"`Tuples.A` is \(1, 2\); the values of an enum that is sent are str, int"),
        (Box[Plain], "`Plain` has no form in msgpack"),
    ],
)
def test_members_that_look_alike_are_refused_by_name_at_registration(
    hint: Any, reason: str
) -> None:
    with pytest.raises(RegistrationError, match=f"parameter 'value': type .* cannot be.*{reason}"):
        of_type(hint)


@pytest.mark.parametrize(
    ("hint", "plain", "reason"),
    [
        (Circle | Square, {"other": 1}, r"expected `Circle \| Square`, got an object that fits no"),
        (Circle | Square, {"radius": 1.0, "side": 2.0}, "fits more than one member"),
        (Circle | Square, {"radius": "x"}, r"expected `float`, got `str` - at `\$.radius`"),
        (Circle | Square, 3, "expected `object`, got `int`"),
        (Text | Image, {"kind": "film"}, "fits no member"),
        (Text | Image, {"kind": ["film"]}, "fits no member"),
        (Fruit | Car, "pear", "invalid enum value 'pear'"),
        (Mixed, 2, "invalid enum value 2"),
        (Mixed, [1], r"invalid enum value \[1\]"),
        (Path, 3, "expected `str`, got `int`"),
        (IPv4Address, 5, "expected `str`, got `int`"),
        (IPv4Address, "300.1.1.1", "octet 300"),
        (deque[int], ["a"], "expected `int`, got `str`"),
        (Drawing, {"shapes": [{"radius": "x"}]}, "expected `float`, got `str`"),
        (Drawing, {}, "missing required field `shapes`"),
        (Sheet, {"mainShape": {"radius": 1.0}, "more": 1}, "unknown field `more`"),
        (Pair, [], "expected `array` of length 2, got 0"),
        (Json, {"a": b"x"}, "got `bytes`"),
        (Counter[str], {"a": "b"}, "expected `int`, got `str`"),
    ],
)
def test_a_value_that_fits_no_member_is_refused_by_its_receiver(
    hint: Any, plain: Any, reason: str
) -> None:
    with pytest.raises(InvalidArgument, match=rf"argument 'value': .*{reason}"):
        of_type(hint).decode_call(b"\x91" + pack(plain))
    with pytest.raises(Internal):
        of_type(hint).decode_result(pack(plain))


@pytest.mark.parametrize("hint", [Circle | Square, Json, Tree, deque, Path | int, Drawing, Path])
def test_nothing_deep_is_built_for_a_union(hint: Any) -> None:
    for body in (b"\x91" * 50_000 + b"\x90", b"\x91\x81\xa6shapes" + b"\x91" * 50_000 + b"\x90"):
        with pytest.raises(InvalidArgument, match="nested too deep"):
            of_type(hint).decode_call(body)


def test_an_iterable_argument_takes_any_collection_and_arrives_as_a_list() -> None:
    for hint in (Iterable[int], Reversible[int]):
        function = of_type(hint)
        for given in ([1, 2], (1, 2), {1, 2}, range(1, 3), deque([1, 2]), {1: 0, 2: 0}.keys()):
            assert function.decode_args(function.encode_args((given,))) == ([1, 2],)
        with pytest.raises(InvalidArgument, match="`generator` can be read only once; pass a list"):
            function.encode_args(((n for n in [1, 2]),))
        with pytest.raises(InvalidArgument, match="expected `int`, got `str`"):
            function.encode_args((["a"],))


def test_a_recursive_alias_may_be_written_as_text() -> None:
    def walk(value: OldJson) -> OldJson:
        return value

    function = Function.of(walk)
    value: Any = {"a": ["b", None, {"c": "d"}]}
    assert function.decode_args(function.encode_args((value,))) == (value,)
    with pytest.raises(InvalidArgument):
        function.encode_args(({"a": [1]},))
