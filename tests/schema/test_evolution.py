"""docs/schema-evolution.md: each row, with an old and a new declaration against each other."""

import enum
import re
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

import msgspec
import pydantic
import pytest

from rap.errors import CallError, Internal, InvalidArgument, Unimplemented
from tests.loopback import calling, serving

PAGE = Path(__file__).parents[2] / "docs" / "schema-evolution.md"
Function = Callable[..., Any]
# A call by a stub, and its result or its error.
Case = tuple[Callable[[Any], Any], Any]


class Row(NamedTuple):
    """A change: both declarations, and what happens to old and to new clients."""

    change: str
    old: Function
    new: Function
    old_client: list[Case]
    new_client: list[Case]


def f(*args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    """Return a call with these arguments."""
    return lambda stub: stub(*args, **kwargs)


@dataclass
class User:
    name: str


@dataclass
class UserAged:
    name: str
    age: int = 0


@dataclass
class UserMustAge:
    name: str
    age: int


@dataclass
class UserNicked:
    name: str
    years: int = 0


@dataclass
class UserRenamed:
    label: str


class UserStruct(msgspec.Struct):
    name: str


class UserModel(pydantic.BaseModel):
    name: str


class UserDict(TypedDict):
    name: str


@dataclass
class Cat:
    lives: int


@dataclass
class Dog:
    legs: int


@dataclass
class Bird:
    wings: int


@dataclass
class Kind:
    kind: Literal["a"] = "a"


@dataclass
class KindRenamed:
    kind: Literal["b"] = "b"


class Color(enum.Enum):
    RED = "red"


class MoreColor(enum.Enum):
    RED = "red"
    BLUE = "blue"


async def none(n: int) -> None: ...


async def number(n: int) -> int:
    return n


async def numbers(n: int) -> AsyncIterator[int]:
    yield n


async def with_default(n: int, times: int = 1) -> int:
    return n * times


async def with_required(n: int, times: int) -> int:
    return n * times


async def renamed_parameter(count: int) -> int:
    return count


async def keyword(n: int = 1, times: int = 1, plus: int = 0) -> int:
    return n * times + plus


async def keyword_renamed(n: int = 1, times: int = 1, more: int = 0) -> int:
    return n * times + more


async def minus(a: int, b: int) -> int:
    return a - b


async def minus_swapped(b: int, a: int) -> int:
    return a - b


async def takes_user(user: User) -> str:
    return repr(user)


async def takes_aged(user: UserAged) -> str:
    return repr(user)


async def takes_must_age(user: UserMustAge) -> str:
    return repr(user)


async def takes_nicked(user: UserNicked) -> str:
    return repr(user)


async def takes_renamed(user: UserRenamed) -> str:
    return repr(user)


async def gives_user() -> User:
    return User("a")


async def gives_must_age() -> UserMustAge:
    return UserMustAge("a", 3)


async def takes_float(n: float) -> str:
    return repr(n)


async def takes_int(n: int) -> str:
    return repr(n)


async def takes_int_or_str(n: int | str) -> str:
    return repr(n)


async def takes_optional(n: int | None) -> str:
    return repr(n)


async def gives_optional(n: int) -> int | None:
    return n or None


async def takes_color(color: Color) -> str:
    return color.name


async def takes_more_color(color: MoreColor) -> str:
    return color.name


async def takes_pet(pet: Cat | Dog) -> str:
    return type(pet).__name__


async def takes_more_pets(pet: Cat | Dog | Bird) -> str:
    return type(pet).__name__


async def takes_kind(kind: Kind) -> str:
    return kind.kind


async def takes_kind_renamed(kind: KindRenamed) -> str:
    return kind.kind


async def takes_list(values: list[int]) -> int:
    return sum(values)


async def takes_tuple(values: tuple[int, ...]) -> int:
    return sum(values)


async def takes_iterable(values: Iterable[int]) -> int:
    return sum(values)


async def takes_struct(user: UserStruct) -> str:
    return user.name


async def takes_model(user: UserModel) -> str:
    return user.name


async def takes_dict(user: UserDict) -> str:
    return user["name"]


async def takes_dataclass(user: User) -> str:
    return user.name


ADD_DEFAULT = "add a parameter with a default, last"
RESULT_OF_NONE = "a result where there was `None`"
SAME_LIST = "`list[T]` becomes `tuple[T, ...]`, `Sequence[T]` or `Iterable[T]`"
SAME_CLASS = "a dataclass becomes a Struct, `TypedDict` or model with the same fields"
ROWS = [
    Row(ADD_DEFAULT, number, with_default, [(f(2), 2)], [(f(2), 2), (f(2, 3), InvalidArgument)]),
    Row("add a required parameter", number, with_required, [(f(2), InvalidArgument)],
        [(f(2, 3), InvalidArgument)]),
    Row("remove a parameter that has a default", with_default, number,
        [(f(2), 2), (f(2, 3), InvalidArgument)], [(f(2), 2)]),
    Row("rename a parameter, given by position", number, renamed_parameter,
        [(f(2), 2), (f(n=2), 2)], [(f(2), 2), (f(count=2), 2)]),
    Row("rename a parameter, given by keyword behind one that is left out", keyword,
        keyword_renamed, [(f(plus=2), InvalidArgument)], [(f(more=2), InvalidArgument)]),
    Row("swap two parameters of one type", minus, minus_swapped, [(f(5, 2), -3)], [(f(5, 2), 3)]),
    Row("add a field with a default to a class in an argument", takes_user, takes_aged,
        [(f(User("a")), "UserAged(name='a', age=0)")], [(f(UserAged("a", 3)), "User(name='a')")]),
    Row("add a required field to a class in an argument", takes_user, takes_must_age,
        [(f(User("a")), InvalidArgument)], [(f(UserMustAge("a", 3)), "User(name='a')")]),
    Row("add a required field to a class in a result", gives_user, gives_must_age,
        [(f(), User("a"))], [(f(), Internal)]),
    Row("remove a field that has a default", takes_aged, takes_user,
        [(f(UserAged("a", 3)), "User(name='a')")], [(f(User("a")), "UserAged(name='a', age=0)")]),
    Row("remove a required field of a class in an argument", takes_must_age, takes_user,
        [(f(UserMustAge("a", 3)), "User(name='a')")], [(f(User("a")), InvalidArgument)]),
    Row("rename a field that has a default", takes_aged, takes_nicked,
        [(f(UserAged("a", 3)), "UserNicked(name='a', years=0)")],
        [(f(UserNicked("a", 3)), "UserAged(name='a', age=0)")]),
    Row("rename a required field", takes_user, takes_renamed,
        [(f(User("a")), InvalidArgument)], [(f(UserRenamed("a")), InvalidArgument)]),
    Row("`int` becomes `float` in an argument", takes_int, takes_float,
        [(f(2), "2.0")], [(f(2), "2"), (f(2.5), InvalidArgument)]),
    Row("`int` becomes `int | str` in an argument", takes_int, takes_int_or_str,
        [(f(2), "2")], [(f(2), "2"), (f("a"), InvalidArgument)]),
    Row("`T` becomes `T | None` in an argument", takes_int, takes_optional,
        [(f(2), "2")], [(f(2), "2"), (f(None), InvalidArgument)]),
    Row("`T` becomes `T | None` in a result", number, gives_optional,
        [(f(2), 2), (f(0), Internal)], [(f(2), 2), (f(0), 0)]),
    Row("add a member to an enum in an argument", takes_color, takes_more_color,
        [(f(Color.RED), "RED")], [(f(MoreColor.RED), "RED"), (f(MoreColor.BLUE), InvalidArgument)]),
    Row("add a class to a union in an argument", takes_pet, takes_more_pets,
        [(f(Dog(4)), "Dog")], [(f(Dog(4)), "Dog"), (f(Bird(2)), InvalidArgument)]),
    Row("change the tag of a Struct, or the `Literal` of a field", takes_kind, takes_kind_renamed,
        [(f(Kind()), InvalidArgument)], [(f(KindRenamed()), InvalidArgument)]),
    Row(RESULT_OF_NONE, none, number, [(f(1), Internal)], [(f(1), Internal)]),
    Row("one result becomes a generator", number, numbers, [(f(1), InvalidArgument)],
        [(f(1), InvalidArgument)]),
    Row(SAME_LIST, takes_list, takes_tuple, [(f([1, 2]), 3)], [(f((1, 2)), 3)]),
    Row(SAME_LIST, takes_list, takes_iterable, [(f([1, 2]), 3)], [(f(range(3)), 3)]),
    Row(SAME_CLASS, takes_dataclass, takes_struct, [(f(User("a")), "a")],
        [(f(UserStruct("a")), "a")]),
    Row(SAME_CLASS, takes_dataclass, takes_model, [(f(User("a")), "a")],
        [(f(UserModel(name="a")), "a")]),
    Row(SAME_CLASS, takes_dataclass, takes_dict, [(f(User("a")), "a")], [(f({"name": "a"}), "a")]),
]  # fmt: skip
# Rows about which functions there are: on the old server, on the new one.
NAMES = {
    "add a function": (["f"], ["f", "g"]),
    "remove a function": (["f", "g"], ["f"]),
    "rename a function": (["f"], ["g"]),
}


async def outcome(call: Callable[[Any], Any], stub: Any) -> Any:
    """Return the result of a call, the items of a generator, or the class of its error."""
    try:
        pending = call(stub)
        if hasattr(pending, "__aiter__"):
            return [item async for item in pending]
        return await pending
    except CallError as error:
        return type(error)


async def run(server_has: Function, client_has: Function, cases: list[Case]) -> None:
    async with serving() as server:
        server.register(server_has, name="f")
        async with calling(server) as client:
            stub = client.register(name="f")(client_has)
            for call, expected in cases:
                assert await outcome(call, stub) == expected


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.change)
async def test_old_and_new_declarations_call_each_other(row: Row) -> None:
    await run(row.new, row.old, row.old_client)
    await run(row.old, row.new, row.new_client)


@pytest.mark.parametrize("change", NAMES)
async def test_functions_come_and_go(change: str) -> None:
    old, new = NAMES[change]
    wanted = TABLE[change]
    for called, there, says in ((old, new, wanted[0]), (new, old, wanted[1])):
        async with serving() as server:
            for name in there:
                server.register(number, name=name)
            async with calling(server) as client:
                found = [
                    await outcome(lambda stub: stub(1), client.register(name=name)(number))
                    for name in called
                ]
        assert (Unimplemented in found) == (says == "error")


def _table() -> dict[str, tuple[str, str]]:
    text = PAGE.read_text().replace(r"\|", "¦")
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \| .+ \|$", text, re.MULTILINE)
    return {change.replace("¦", "|"): (old, new) for change, old, new in rows[1:]}


TABLE = _table()


def _says(cases: list[Case]) -> tuple[bool, bool]:
    """Return whether some call works, and whether some call fails."""
    failed = [isinstance(expected, type) for _, expected in cases]
    return not all(failed), any(failed)


def test_the_page_says_what_the_rows_show() -> None:
    assert {row.change for row in ROWS} | NAMES.keys() == TABLE.keys() - {"---"}
    for row in ROWS:
        for text, cases in zip(TABLE[row.change], (row.old_client, row.new_client), strict=True):
            works, fails = _says(cases)
            assert fails == text.startswith("error"), row.change
            assert works == (not fails or " if " in text or " unless " in text), row.change
