"""Types as text, and the classes among them as data."""

import dataclasses
import datetime
import decimal
import enum
import math
import sys
import typing
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from types import GenericAlias
from typing import Any, Generic, NamedTuple, NewType, NotRequired, TypedDict, TypeVar

import msgspec
import pydantic
import pytest

from rap.schema.reflection import TypeReflector

T = TypeVar("T")
Id = NewType("Id", int)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    S = 1


class Word(str, enum.Enum):  # noqa: UP042  # as older programs have it
    YES = "yes"


@dataclasses.dataclass(frozen=True)
class Item:
    name: str
    color: Color = Color.RED
    tags: list[str] = dataclasses.field(default_factory=list)
    made: datetime.date = datetime.date(2020, 1, 1)


class Row(TypedDict):
    a: int
    b: NotRequired[Item]


class Pair(NamedTuple):
    x: int
    y: float = 0.5


class Node(msgspec.Struct, rename="camel", tag="node", frozen=True):
    left_side: "Node | None" = None
    items: list[Item] = msgspec.field(default_factory=list)


class Page(msgspec.Struct, Generic[T], kw_only=True):
    rows: list[T]


class Model(pydantic.BaseModel):
    name: str
    age: int | None = None


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (int, "int"),
        (None, "None"),
        (type(None), "None"),
        (Any, "typing.Any"),
        (object, "typing.Any"),
        (list, "list[typing.Any]"),
        (dict, "dict[typing.Any, typing.Any]"),
        (tuple, "tuple[typing.Any, ...]"),
        (tuple[int, ...], "tuple[int, ...]"),
        (tuple[()], "tuple[()]"),
        (typing.List[int], "list[int]"),  # noqa: UP006  # as older programs have it
        (typing.Optional[int], "int | None"),  # noqa: UP045  # likewise
        (int | str | None, "int | str | None"),
        (dict[str, list[bytes]], "dict[str, list[bytes]]"),
        (typing.Literal["a", 1], "typing.Literal['a', 1]"),
        (typing.Annotated[int, msgspec.Meta(gt=0)], "int"),
        (Id, "int"),
        (T, "typing.Any"),
        (AsyncIterator, "collections.abc.AsyncIterator[typing.Any]"),
        (Iterator[int], "collections.abc.Iterator[int]"),
        (typing.Iterator[int], "collections.abc.Iterator[int]"),
        (Mapping[str, int], "collections.abc.Mapping[str, int]"),
        (datetime.datetime, "datetime.datetime"),
        (uuid.UUID, "uuid.UUID"),
        (decimal.Decimal | None, "decimal.Decimal | None"),
        (list[Item], "list[Item]"),
        (Page[Item], "PageItem"),
        (Page[list[int]], "PageListInt"),
    ],
)
def test_a_type_has_a_text(hint: Any, text: str) -> None:
    assert TypeReflector().text(hint) == text


def entry(kind: Any) -> dict[str, Any]:
    texts = TypeReflector()
    name = texts.text(kind)
    (found,) = [each for each in texts.entries if each["name"] == name]
    return {**found, "fields": [tuple(each.values()) for each in found["fields"]]}


def test_a_dataclass_keeps_defaults_that_have_a_text() -> None:
    found = entry(Item)
    assert (found["kind"], found["options"]) == ("dataclass", {"frozen": "True"})
    assert found["fields"] == [
        ("name", "str", None),
        ("color", "Color", "Color.RED"),
        ("tags", "list[str]", "list"),
        ("made", "datetime.date", "..."),
    ]


def test_a_typed_dict_says_what_may_be_left_out() -> None:
    assert entry(Row)["fields"] == [("a", "int", None), ("b", "typing.NotRequired[Item]", None)]


def test_a_named_tuple_has_its_defaults() -> None:
    assert entry(Pair)["fields"] == [("x", "int", None), ("y", "float", "0.5")]


def test_a_struct_that_holds_itself_says_how_it_travels() -> None:
    found = entry(Node)
    assert found["options"] == {
        "frozen": "True",
        "tag": "'node'",
        "tag_field": "'type'",
        "rename": "{'left_side': 'leftSide'}",
    }
    assert found["fields"] == [
        ("left_side", "Node | None", "None"),
        ("items", "list[Item]", "list"),
    ]


def test_a_generic_struct_is_one_for_its_arguments() -> None:
    assert entry(Page[Item])["fields"] == [("rows", "list[Item]", None)]
    assert entry(Page[Item])["options"] == {"kw_only": "True"}


@pytest.mark.parametrize(
    ("kind", "options", "members"),
    [
        (Color, {"base": "Enum"}, [("RED", "", "'red'"), ("BLUE", "", "'blue'")]),
        (Size, {"base": "IntEnum"}, [("S", "", "1")]),
        (Word, {"base": "Enum", "mixed": "str"}, [("YES", "", "'yes'")]),
    ],
)
def test_an_enum_has_its_members(kind: Any, options: Any, members: Any) -> None:
    found = entry(kind)
    assert (found["kind"], found["options"], found["fields"]) == ("enum", options, members)


def test_a_model_of_pydantic_has_its_fields() -> None:
    found = entry(Model)
    assert found["kind"] == "model"
    assert found["fields"] == [("name", "str", None), ("age", "int | None", "None")]


def test_two_classes_of_one_name_are_told_apart() -> None:
    other = dataclasses.make_dataclass("Item", [("n", int)])
    other.__module__ = __name__
    texts = TypeReflector()
    assert texts.text(tuple[Item, other]) == "tuple[Item, Item2]"  # type: ignore[valid-type]
    clash = dataclasses.make_dataclass("int", [("n", int)])
    clash.__module__ = __name__
    assert texts.text(clash) == "int2"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "1.5"),
        (math.inf, "..."),
        (math.nan, "..."),
        ("a'b", '"a\'b"'),
        (b"a", "b'a'"),
        ((1, "a"), "(1, 'a')"),
        (([],), "..."),
        ([], "..."),
        (Color.RED, "..."),  # it was not named by a type
    ],
)
def test_a_default_has_a_text_or_not(value: Any, text: str) -> None:
    assert TypeReflector().default(value) == text


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the statement `type` is of Python 3.12")
def test_an_alias_stands_for_its_value() -> None:
    scope: dict[str, Any] = {}
    exec("type Maybe[T] = T | None\ntype Rows[T] = list[Maybe[T]]\ntype Plain = int | str", scope)
    texts = TypeReflector()
    assert texts.text(scope["Plain"]) == "int | str"
    assert texts.text(scope["Rows"][bytes]) == "list[bytes | None]"
    assert texts.text(GenericAlias(dict, (str, scope["Maybe"][int]))) == "dict[str, int | None]"


def test_a_recursive_alias_is_described_down_to_itself() -> None:
    class Alias:
        __type_params__ = ()

    alias: Any = Alias()
    alias.__value__ = list[alias] | int
    assert TypeReflector().text(alias) == "list[typing.Any] | int"
    assert TypeReflector().text(dict[str, alias]) == "dict[str, list[typing.Any] | int]"
