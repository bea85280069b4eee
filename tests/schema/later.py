"""Functions and classes whose hints name what is defined later, or never.

Only Python 3.14 and newer can import it. There, hints are evaluated when they are read.
"""

# ruff: noqa: F821  # that is what it shows

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import msgspec

if TYPE_CHECKING:
    from decimal import Decimal as Missing


def before_its_type(value: Later) -> list[Later]:
    return [value]


@dataclass
class Later:
    below: list[Other]


@dataclass
class Other:
    above: Later | None


def missing(first: int, second: Missing) -> int:

    raise NotImplementedError


def missing_inside(first: int, second: list[Missing | None]) -> int:

    raise NotImplementedError


def missing_result(first: int) -> dict[str, Missing]:

    raise NotImplementedError


def of_a_missing_attribute(first: msgspec.Nothing) -> int:  # type: ignore[name-defined]

    raise NotImplementedError


def without_value(first: 1 / 0) -> int:  # type: ignore[valid-type]

    raise NotImplementedError


@dataclass
class Incomplete:
    field: Missing


def incomplete(value: Incomplete) -> int:

    raise NotImplementedError


def of_local_classes() -> list[tuple[Callable[..., Any], Any]]:
    """Return functions of classes of this function, and values of their types."""

    @dataclass
    class Data:
        one: Plain | None

    @dataclass
    class Plain:
        data: list[Data]

    class Typed(TypedDict):
        data: Data
        typed: list[Typed]  # type: ignore[misc]

    class Tuple(NamedTuple):
        data: Data
        more: Tuple | None = None  # type: ignore[misc]

    class Struct(msgspec.Struct):
        data: Data
        more: Struct | None = None

    def data(value: Data) -> Data:

        raise NotImplementedError

    def typed(value: Typed) -> Typed:

        raise NotImplementedError

    def named(value: Tuple) -> Tuple:

        raise NotImplementedError

    def struct(value: Struct) -> Struct:

        raise NotImplementedError

    one = Data(Plain([Data(None)]))
    return [
        (data, one),
        (typed, Typed(data=one, typed=[])),
        (named, Tuple(one, Tuple(one))),
        (struct, Struct(one, Struct(one))),
    ]


def local_and_missing() -> Callable[..., Any]:
    """Return a function of a class of this function, and of a name that exists nowhere."""

    class Local(msgspec.Struct):
        n: int

    def mixed(known: Local, unknown: Missing) -> Local:

        raise NotImplementedError

    return mixed


def verify(token: str, peer: Missing) -> str:
    return token


def verify_token_only(token: Missing) -> str:

    raise NotImplementedError


async def accept(conn: Missing, call_next: Missing) -> None:

    raise NotImplementedError


def make() -> Missing:

    raise NotImplementedError
