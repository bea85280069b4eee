"""Keys and items of declared types that a peer has chosen to collide."""

import collections
import dataclasses
import datetime
import decimal
import enum
import ipaddress
import typing
import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pydantic
import pytest

from faults.colliding import colliding_tuples, colliding_uuids
from rap.errors import CallError
from rap.schema.function import Function
from rap.server import Channel

_encode = msgspec.msgpack.Encoder().encode
_N = 3_000
_PAIRS = colliding_tuples(_N)
_UUIDS = colliding_uuids(_N)
# The hash of a decimal is that of an integer.
_DECIMALS = [decimal.Decimal((n + 1) * ((1 << 61) - 1) + 5) for n in range(_N)]


class Model(pydantic.BaseModel):
    names: dict[uuid.UUID, int] = {}
    found: set[uuid.UUID] = set()


class Row(msgspec.Struct):
    found: set[tuple[int, int]]
    name: str = ""


@dataclasses.dataclass
class Table:
    cells: dict[tuple[int, int], Any]
    children: "list[Table]" = dataclasses.field(default_factory=list)


_PAIR_MAP = b"\xdf" + _N.to_bytes(4, "big") + b"".join(_encode(p) + b"\xc0" for p in _PAIRS)
_TEXTS = {str(each): 1 for each in _UUIDS}


@pytest.mark.parametrize(
    ("hint", "body"),
    [
        (dict[tuple[int, int], None], _PAIR_MAP),
        (dict[tuple[int, ...], Any], _PAIR_MAP),
        (dict[str, dict[tuple[int, int], Any]], b"\x81\xa1a" + _PAIR_MAP),
        (list[dict[tuple[float, float], Any]], b"\x91" + _PAIR_MAP),
        (dict[uuid.UUID, int], _encode(_TEXTS)),
        (dict[uuid.UUID | int, int], _encode(_TEXTS)),
        (dict[uuid.UUID, int], _encode({each.bytes: 1 for each in _UUIDS})),
        (dict[decimal.Decimal, int], _encode({str(each): 1 for each in _DECIMALS})),
        (set[uuid.UUID], _encode(list(_TEXTS))),
        (frozenset[decimal.Decimal], _encode([str(each) for each in _DECIMALS])),
        (set[tuple[int, int]], _encode(_PAIRS)),
        (set[tuple[uuid.UUID, str]], _encode([(str(each), "a") for each in _UUIDS])),
        (set, _encode(_PAIRS)),
        (set[Any], _encode(_PAIRS)),
        (Row, _encode({"found": _PAIRS})),
        (Table, b"\x81\xa5cells" + _PAIR_MAP),
        (Model, _encode({"names": _TEXTS})),
        (Model, _encode({"found": list(_TEXTS)})),
    ],
)
def test_keys_that_collide_are_refused_wherever_they_are_decoded(hint: Any, body: bytes) -> None:
    async def take(value: Any) -> Any: ...

    async def items() -> AsyncIterator[Any]:
        yield None

    async def talk(channel: Any) -> None: ...

    take.__annotations__ = {"value": hint, "return": hint}
    items.__annotations__ = {"return": AsyncIterator[hint]}
    talk.__annotations__ = {"channel": Channel[hint, hint], "return": None}
    function = Function.of(take)
    for refused in (
        lambda: function.decode_args(b"\x91" + body),
        lambda: function.decode_call(b"\x82\xa4args\x90\xa6kwargs\x81\xa5value" + body),
        lambda: function.decode_result(body),
        lambda: Function.of(items).decode_item(body),
        lambda: Function.of(items).decode_items(b"\x91" + body),
        lambda: Function.of(talk).server_messages[1](body),
    ):
        with pytest.raises(CallError, match="have hashes that collide"):
            refused()


class Colour(enum.IntEnum):
    RED = 1


_TIMES = [datetime.datetime.fromtimestamp(n, datetime.UTC) for n in range(_N)]


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (dict[int, str], dict.fromkeys(range(_N), "x")),
        (dict[float, int], {n / 3: n for n in range(_N)}),
        (dict[uuid.UUID, int], {uuid.UUID(int=n): n for n in range(_N)}),
        (dict[tuple[int, uuid.UUID], int], {(n, uuid.UUID(int=n)): n for n in range(_N)}),
        (dict[datetime.datetime, int], dict.fromkeys(_TIMES, 1)),
        (dict[datetime.timedelta, int], {datetime.timedelta(n): 1 for n in range(_N)}),
        (dict[frozenset[int], int], {frozenset((n,)): 1 for n in range(_N)}),
        (dict[decimal.Decimal | None, int], {decimal.Decimal(n): 1 for n in range(_N)}),
        (dict[typing.Literal[1, "a"], int], {1: 1, "a": 1}),
        (dict[Colour, int], {Colour.RED: 5}),
        (set[int], set(range(_N))),
        (set[str], {f"text {n}" for n in range(_N)}),
        (list[dict[str, set[float]]], [{f"text {n}": {n * 0.5} for n in range(_N)}]),
        (collections.Counter[int], collections.Counter(range(_N))),
        (dict[ipaddress.IPv4Address, int], {ipaddress.IPv4Address(n): n for n in range(_N)}),
        (Model, Model(found={uuid.UUID(int=n) for n in range(_N)})),
        (Row, Row({(n, 1) for n in range(_N)})),
        (Table, Table({(n, 1): {"any": n} for n in range(_N)})),
    ],
)
def test_other_keys_arrive(hint: Any, value: Any) -> None:
    def take(value: Any) -> None: ...

    take.__annotations__ = {"value": hint, "return": None}
    function = Function.of(take)
    assert function.decode_args(function.encode_args((value,)))[0] == value


def test_a_type_without_such_keys_has_no_check_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rap.wire.codec._walk", None)

    def take(a: list[int], b: dict[str, int], c: set[str], d: list[str]) -> None: ...

    function = Function.of(take)
    args = ([1] * _N, {f"k{n}": n for n in range(_N)}, {f"{n}" for n in range(_N)}, ["x"] * _N)
    assert tuple(function.decode_args(function.encode_args(args))) == args


def test_small_maps_and_sets_are_decoded_without_a_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rap.wire.codec._walk", None)

    def take(a: dict[int, str], b: set[int], c: list[dict[int, int]]) -> None: ...

    function = Function.of(take)
    args = (dict.fromkeys(range(63), "x"), set(range(63)), [{n: n} for n in range(63)])
    assert tuple(function.decode_args(function.encode_args(args))) == args
