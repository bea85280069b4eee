"""A server with a function for every type that rap supports, and with awkward names."""

import dataclasses
import datetime
import decimal
import enum
import typing
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Generic, Literal, NamedTuple, NewType, NotRequired, TypedDict, TypeVar
from uuid import UUID

import msgspec
import pydantic

from rap.server import Channel, Server

T = TypeVar("T")
Id = NewType("Id", int)

server = Server("127.0.0.1:0", close_timeout=0.2)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    S = 1
    M = 2


class Day(enum.StrEnum):
    MON = "mon"


@dataclasses.dataclass
class Item:
    name: str
    color: Color = Color.RED
    tags: list[str] = dataclasses.field(default_factory=list)
    made: datetime.date = datetime.date(2020, 1, 1)
    uuid: UUID | None = None
    dt: datetime.date | None = None
    field: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    x: float = 0.0
    y: float = 0.0


class Row(TypedDict):
    a: int
    b: NotRequired[Item]


Odd = TypedDict("Odd", {"class": int, "two words": str})


class Pair(NamedTuple):
    x: int
    y: float = 0.5


class Node(msgspec.Struct, rename="camel", tag="node"):
    value: int
    left_side: "Node | None" = None
    items: list[Item] = msgspec.field(default_factory=list)


class Leaf(msgspec.Struct, tag="leaf", frozen=True, omit_defaults=True):
    size: Size = Size.S


class Page(msgspec.Struct, Generic[T]):
    rows: list[T]
    next: int | None = None


class Model(pydantic.BaseModel):
    name: str
    ages: list[int] = pydantic.Field(default_factory=list)
    item: Item | None = None


@server.register
async def plain(a: bool, b: int, c: float, d: str, e: bytes, f: None = None) -> None:
    """Take the plain types."""


@server.register
def bare(a: list, b: dict, c: tuple, d: set, e: Any = None) -> list:  # type: ignore[type-arg]
    return [a, b, c, sorted(d), e]


@server.register
async def nested(
    a: dict[str, list[tuple[int, ...]]],
    b: tuple[int, str] | None = None,
    c: Sequence[int] = (),
    d: Mapping[str, int] | None = None,
    e: frozenset[int] = frozenset(),
) -> dict[str, list[tuple[int, ...]]]:
    return a


@server.register
async def older(
    a: typing.Optional[int],  # noqa: UP045  # as older programs have it
    b: typing.List[int],  # noqa: UP006
    c: typing.Union[int, str] = 1,  # noqa: UP007
) -> typing.Dict[str, int]:  # noqa: UP006
    return {"a": a or 0}


@server.register
async def literal(a: Literal["x", "it's", 1], b: Id = Id(3)) -> Literal["x", "it's", 1]:
    return a


@server.register
async def times(
    a: datetime.datetime, b: datetime.date, c: datetime.time, d: datetime.timedelta
) -> tuple[datetime.datetime, datetime.date, datetime.time, datetime.timedelta]:
    return a, b, c, d


@server.register
async def numbers(a: decimal.Decimal, b: UUID) -> tuple[decimal.Decimal, UUID]:
    return a, b


@server.register
async def enums(a: Color, b: Size = Size.M, c: Day = Day.MON) -> tuple[Color, Size, Day]:
    return a, b, c


@server.register
async def item(item: Item, point: Point = Point()) -> Item:
    """Take a "quoted" \\ item, and say so in a line that is long enough to be broken in two.

    With more below.
    """
    return item


@server.register(idempotent=True)
async def row(row: Row, odd: Odd | None = None) -> Row:
    """Ends with "quotes\""""
    return row


class Same(msgspec.Struct):
    Same: int


@server.register(name="Row")
async def named_like_a_type(row: Row, same: Same | None = None) -> Row:
    return row


@server.register
async def pair(pair: Pair) -> Pair:
    return pair


@server.register
async def tree(node: Node | Leaf) -> Node | Leaf:
    return node


@server.register
async def page(page: Page[Item]) -> Page[int]:
    return Page([len(page.rows)])


@server.register
async def model(model: Model) -> Model:
    return model


@server.register
async def kinds(a: int, /, b: int = 1, *rest: int, c: int = 2, **more: int) -> list[int]:
    return [a, b, *rest, c, *more.values()]


@server.register
async def only_named(
    *, a_parameter_with_a_long_name: int, another_one_with_a_long_name: str = "x"
) -> int:
    return a_parameter_with_a_long_name


@server.register
async def items(n: int) -> AsyncIterator[Item]:
    for i in range(n):
        yield Item(str(i))


@server.register
def numbers_in_turn(n: int) -> Iterator[int]:
    yield from range(n)


@server.register
async def anything() -> AsyncIterator:  # type: ignore[type-arg]
    yield 1


@server.register
async def talk(channel: Channel) -> None:
    """Answer once."""
    await channel.write([await channel.read_body()])


@server.register
async def upload(name: str, rows: AsyncIterator[Pair], limit: int = 10) -> int:
    """Take the items of a caller."""
    return len([row async for row in rows][:limit]) + len(name)


@server.register
def total(numbers: Iterator[int]) -> int:
    return sum(numbers)


@server.register
async def doubled(numbers: AsyncIterator[int], *, by: int = 2) -> AsyncIterator[int]:
    async for number in numbers:
        yield number * by


@server.register
async def chat(channel: Channel[Pair, str], room: str, *rest: int, client: int = 1) -> Pair | None:
    """Answer each pair; return the last one."""
    pair = None
    async for pair in channel:
        await channel.write(f"{room} {pair.x} {[*rest, client]}")
    return pair


@server.register
async def tally(channel: Channel[int], step: int = 1) -> int:
    return step * len([number async for number in channel])


@server.register
async def relay(channel: Channel) -> Any:
    return [each async for each in channel]


@server.register(group="a_group_with_a_long_name")
async def wide(channel: Channel[Item, dict[str, list[int]]], a_parameter: int) -> dict[str, int]:
    return {"a": a_parameter}


async def _list(n: int) -> list[int]:
    return list(range(n))


server.register(_list, name="list", group="awkward-names")
server.register(_list, name="int", group="awkward-names")
server.register(_list, name="two words", group="awkward-names")
server.register(_list, name="class", group="awkward-names")
server.register(talk, name="talk", group="awkward-names")
server.register(_list, name="secret", is_private=True)
