"""What the values of types are taken to cost, compared with what they do cost."""

import enum
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from rap.errors import InvalidArgument
from rap.schema.costs import NEVER_SLOW, SLOW_FROM
from rap.schema.function import Function
from rap.wire.codec import decoded_size, pack

COUNT = 9_000


@dataclass
class Small:
    a: int = 0


@dataclass
class Large:
    a: int = 0
    b: list[int] = field(default_factory=list)
    c: dict[str, int] = field(default_factory=dict)
    d: set[int] = field(default_factory=set)
    e: int = 0


@dataclass
class Checked:
    a: int = 0

    def __post_init__(self) -> None:
        self.b = self.a + 1


class Record(msgspec.Struct):
    a: int = 0
    b: list[int] = msgspec.field(default_factory=list)


class Pair(NamedTuple):
    a: int = 0
    b: int = 0


class Color(enum.Enum):
    RED = "r"


class Lenient(enum.Enum):
    RED = "r"

    @classmethod
    def _missing_(cls, value: object) -> "Lenient":
        return cls.RED


class Rights(enum.IntFlag):
    READ = 1
    WRITE = 2


def array_of(value: Any) -> bytes:
    packed = pack(value)
    return b"\x91\xdd" + COUNT.to_bytes(4, "big") + packed * COUNT


CASES: list[tuple[Any, Any]] = [
    (Any, {}),
    (Any, []),
    (Any, {"a": 1}),
    (Any, {1: 1}),
    (Any, "ab"),
    (list[float], 1),
    (list[int], 70_000),
    (list[set[int]], []),
    (list[dict[int, int]], {1: 1}),
    (list[Small], {}),
    (list[Large], {}),
    (list[Checked], {}),
    (list[Record], {}),
    (list[Pair], []),
    (list[Path], "a/b"),
    (list[Decimal], "1"),
]


def named(value: Any) -> str:
    return str(value).replace("tests.schema.test_costs.", "")


@pytest.mark.parametrize(("hint", "value"), CASES, ids=named)
def test_decoded_values_take_no_more_memory_than_estimated(hint: Any, value: Any) -> None:
    def take(values: hint) -> None: ...

    function = Function(take)
    body = array_of(value)
    function.decode_call(b"\x91\x90")  # what is made once is not counted
    tracemalloc.start()
    kept = function.decode_call(body)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    estimate = decoded_size(body, function.argument_sizes)
    assert kept
    most = 4 if sys.version_info < (3, 13) else 5  # objects have become smaller
    assert 0.9 * held <= estimate <= most * held + len(body)


@pytest.mark.parametrize(
    ("hint", "is_slow"),
    [
        *((hint, True) for hint in (Path, Decimal, Large, Checked, Record, Lenient, Rights)),
        *((hint, False) for hint in (int, str, bytes, Color, Any, list[str], dict[str, int])),
    ],
    ids=named,
)
def test_which_types_are_slow(hint: Any, is_slow: bool) -> None:
    def take(first: int, value: list[hint]) -> None: ...

    assert Function(take).slow_from == (SLOW_FROM if is_slow else NEVER_SLOW)


def test_plain_records_and_sets_are_slow_only_if_they_are_many() -> None:
    for hint in (Small, Pair, set[int]):

        def take(values: list[hint]) -> None: ...  # type: ignore[valid-type]

        assert SLOW_FROM < Function(take).slow_from < NEVER_SLOW


def test_a_recursive_type_has_a_cost() -> None:
    assert Function(tree).slow_from == SLOW_FROM


@dataclass
class Tree:
    children: "list[Tree]" = field(default_factory=list)


def tree(value: Tree) -> None: ...


def decoder(function: Callable[..., Any]) -> Callable[[Any], Any]:
    decode = Function(function).decode_call
    return lambda value: decode(pack([value]))[0][0]


def test_a_flag_arrives_with_all_its_bits() -> None:
    def take(value: Rights) -> None: ...

    decode = decoder(take)
    assert decode(3) == Rights.READ | Rights.WRITE
    assert isinstance(decode(1), Rights)
    assert decode(8) == 8  # a bit that another version may know
    with pytest.raises(InvalidArgument, match="a `Rights` is an int, got 'x'"):
        decode("x")


def test_only_so_many_different_values_of_a_flag_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    class Many(enum.IntFlag):
        ONE = 1

    def take(value: Many) -> None: ...

    monkeypatch.setattr("rap.schema.conversion._MOST_FLAGS", 10)
    decode = decoder(take)
    made = [decode(number) for number in range(2, 12)]
    assert [decode(number) for number in range(2, 12)] == made
    with pytest.raises(InvalidArgument, match=r"10 different values of `.*Many` have come already"):
        decode(12)
