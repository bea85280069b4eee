import itertools
from contextlib import suppress
from dataclasses import dataclass
from inspect import signature
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faults.colliding import colliding_integers
from rap.errors import InvalidArgument
from rap.schema.arguments import ArgumentCodec, Kind, Serializer
from rap.schema.function import Function, raw_encoder
from rap.wire.codec import pack, unpack

any_keys = msgspec.msgpack.Encoder()  # as a hostile peer sends them


def add(a: int, b: int) -> int:
    return a + b


def greet(name: str, greeting: str = "hello", times: int = 1) -> str:
    return f"{greeting} {name}" * times


def total(*numbers: int) -> int:
    return sum(numbers)


def everything(a: int, /, b: int = 2, *rest: str, c: float, d: str = "x", **more: int) -> None: ...


def options(*, verbose: bool = False, **more: Any) -> None: ...


def many(a: int = 0, b: int = 0, c: int = 0, d: int = 0, e: int = 0, f: int = 0, g: int = 0,
         h: int = 0, i: int = 0, j: int = 0, k: int = 0, m: int = 0, n: int = 0, o: int = 0,
         p: int = 0, q: int = 0, r: int = 0) -> int:  # fmt: skip
    return a + r


def nothing() -> None: ...


def store(data: bytes, tags: list, extra: Any, note: str | None = None) -> None:  # type: ignore[type-arg]
    ...


def record(func: Any) -> Any:
    """Return a function that gives back what `func` would be called with."""
    function = Function.of(func)

    def over_the_wire(*args: Any, **kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
        got, named = function.decode_call(function.encode_args(args, kwargs))
        return [*got], {**(named or {})}

    return over_the_wire


@pytest.mark.parametrize(
    ("func", "args", "kwargs", "got", "named"),
    [
        (add, (1, 2), {}, [1, 2], {}),
        (add, (1,), {"b": 2}, [1, 2], {}),
        (add, (), {"b": 2, "a": 1}, [1, 2], {}),
        (nothing, (), {}, [], {}),
        (greet, ("bo",), {}, ["bo"], {}),
        (greet, ("bo", "hi"), {}, ["bo", "hi"], {}),
        (greet, ("bo", "hi", 2), {}, ["bo", "hi", 2], {}),
        (greet, ("bo",), {"times": 3}, ["bo", "hello", 3], {}),
        (total, (), {}, [], {}),
        (total, (1, 2, 3), {}, [1, 2, 3], {}),
        (many, (1,) * 15, {}, [1] * 15, {}),
        (many, (1,) * 16, {}, [1] * 16 + [0], {}),
        (many, (1,) * 17, {}, [1] * 17, {}),
        (everything, (1,), {"c": 3}, [1, 2], {"c": 3.0, "d": "x"}),
        (everything, (1, 5, "r", "s"), {"c": 0.5}, [1, 5, "r", "s"], {"c": 0.5, "d": "x"}),
        (everything, (1,), {"c": 1.0, "a": 7}, [1, 2], {"c": 1.0, "d": "x", "a": 7}),
        (options, (), {}, [], {}),
        (options, (), {"verbose": True}, [], {"verbose": True}),
        (options, (), {"self": [1], "func": None}, [],
         {"verbose": False, "self": [1], "func": None}),
    ],
)  # fmt: skip
def test_arguments_arrive_where_they_belong(
    func: Any, args: tuple[Any, ...], kwargs: Any, got: list[Any], named: Any
) -> None:
    assert record(func)(*args, **kwargs) == (got, named)
    received, given_names = Function.of(func).decode_call(raw_encoder("/default/f")(args, kwargs))
    assert ([*received], given_names or {}) == (got, named)


@given(st.lists(st.integers(0, 9), max_size=20))
def test_a_call_is_refused_on_both_sides_alike(values: list[int]) -> None:
    function = Function.of(greet)
    with pytest.raises(InvalidArgument) as here:
        function.encode_args(tuple(values))
    with pytest.raises(InvalidArgument) as there:
        function.decode_call(raw_encoder("/default/f")(values))
    assert str(here.value) == str(there.value)


@pytest.mark.parametrize(
    ("func", "args", "kwargs", "message"),
    [
        (add, (1, "x"), {}, r"add\(\): argument 'b': expected `int`, got `str`"),
        (add, (1,), {"b": "x"}, r"add\(\): argument 'b': expected `int`, got `str`"),
        (add, (True, 2), {}, r"argument 'a': expected `int`, got `bool`"),
        (add, (1, 2.0), {}, r"argument 'b': expected `int`, got `float`"),
        (add, (1, None), {}, r"argument 'b': expected `int`, got `None`"),
        (add, (1,), {}, r"missing a required argument: 'b'; expected add\(a: int, b: int\), got 1"),
        (add, (1, 2, 3), {}, r"add\(\): too many positional arguments; .*, got 3 by position"),
        (add, (1, 2), {"c": 3}, r"unexpected keyword argument 'c'; .* and \['c'\]"),
        (add, (1, 2), {"timeuot": 3}, r"argument 'timeuot'; did you mean 'timeout'\?; expected"),
        (total, (), {"number": 3}, r"argument 'number'; did you mean 'numbers'\?; expected"),
        (add, (1, 2), {"b": 3}, r"multiple values for argument 'b'"),
        (total, (1, "x"), {}, r"argument 'numbers': expected `int`, got `str`"),
        (
            everything,
            (),
            {"c": 1.0, "a": 1},
            r"everything\(\): missing .*positional-only argument: 'a'",
        ),
        (everything, (1,), {}, r"missing a required argument: 'c'"),
        (everything, (1, 2, 3), {"c": 1.0}, r"argument 'rest': expected `str`, got `int`"),
        (everything, (1,), {"c": 1.0, "z": "s"}, r"argument 'more': expected `int`, got `str`"),
        (greet, (), {"times": 2}, r"missing a required argument: 'name'"),
    ],
)
def test_wrong_arguments_are_named_on_both_sides(
    func: Any, args: tuple[Any, ...], kwargs: Any, message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        Function.of(func).encode_args(args, kwargs)
    with pytest.raises(InvalidArgument, match=message):
        Function.of(func).decode_call(raw_encoder("/default/f")(args, kwargs))


@pytest.mark.parametrize("encode", ["encode_args", "encode_args_unchecked"])
@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((1, object()), {}, r"add\(\): argument 'b': an object of type `object` cannot be sent"),
        ((object(),), {"b": 1}, r"add\(\): argument 'a': an object of type `object`"),
        ((2**64, 1), {}, r"argument 'a': can't serialize ints < -2\*\*63 or > 2\*\*64 - 1"),
        ((1, "\ud800"), {}, r"argument 'b': 'utf-8' codec can't encode"),
        ((1,), {}, r"missing a required argument: 'b'"),
        ((1, 2, 3), {}, r"too many positional arguments"),
        ((1, 2), {"x": 1}, r"unexpected keyword argument 'x'"),
    ],
)
def test_what_cannot_be_sent_is_named(
    encode: str, args: tuple[Any, ...], kwargs: Any, message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        getattr(Function.of(add), encode)(args, kwargs)


def test_unchecked_arguments_are_bound_but_not_looked_at() -> None:
    function = Function.of(add)
    assert unpack(function.encode_args_unchecked((1,), {"b": "x"})) == [1, "x"]
    assert unpack(function.encode_args_unchecked(("x", None))) == ["x", None]
    body = Function.of(greet).encode_args_unchecked(("bo",), {"times": "x"})
    assert unpack(body) == {"args": ["bo"], "kwargs": {"times": "x"}}


def test_keyword_arguments_travel_as_a_map_only_where_they_must() -> None:
    function = Function.of(greet)
    assert unpack(function.encode_args(("bo",), {"greeting": "hi"})) == ["bo", "hi"]
    body = function.encode_args(("bo",), {"times": 2})
    assert unpack(body) == {"args": ["bo"], "kwargs": {"times": 2}}


def test_decode_args_is_enough_without_keyword_only_parameters() -> None:
    function = Function.of(greet)
    assert not function.has_keywords
    args = function.decode_args(function.encode_args(("bo",), {"times": 2}))
    assert [*args] == ["bo", "hello", 2]
    assert Function.of(total).has_keywords is False


def test_decode_args_refuses_arguments_that_only_have_names() -> None:
    function = Function.of(options)
    assert function.has_keywords
    assert [*function.decode_args(b"\x90")] == []
    with pytest.raises(InvalidArgument, match=r"options\(\): these .* names: \['verbose'\]"):
        function.decode_args(function.encode_args((), {"verbose": True}))


def test_large_arguments_are_checked_too() -> None:
    function = Function.of(store)
    large = b"x" * 100_000
    for args in [(large, [], None), (large, ["a"], {"b": [1]}, "note")]:
        assert function.decode_args(memoryview(function.encode_args(args))) == args
    wrong_calls: list[tuple[Any, ...]] = [(large, 3, 1), (large, [], 1, 5), (large,), (large,) * 5]
    for wrong in wrong_calls:
        with pytest.raises(InvalidArgument, match=r"store\(\): "):
            function.encode_args(wrong)


def test_bytes_do_not_hold_on_to_the_buffer_they_came_in() -> None:
    function = Function.of(store)
    buffer = bytearray(function.encode_args((b"data", [b"tag"], b"extra")))
    args = function.decode_args(memoryview(buffer))
    buffer.clear()  # refused while somebody has a view of it
    assert args == (b"data", [b"tag"], b"extra")


@pytest.mark.parametrize("func", [add, greet, total, everything, options, many, nothing, store])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc0",
        b"\xc1",
        b"\x80",
        b"\x91" * 1_000_000,
        b"\x91" * 33,
        b"\x91" * 32 + b"\x90",
        b"\xdd\xff\xff\xff\xff",
        b"\xdd" + (1_000_000).to_bytes(4, "big") + b"\x80" * 1_000_000,
        b"\xdf\xff\xff\xff\xff",
        pack({"args": [1], "kwargs": {}, "more": 1}),
        pack({"args": {}, "kwargs": {}}),
        pack({"args": [[]], "kwargs": {"args": [], "self": 1, "": 2, "\x00": 3}}),
        b"\x82\xa4args\x90\xa6kwargs\x81\x01\x02",
        b"\x82\xa4args\x90\xa6kwargs\x81\xa1\xff\x02",
        b"\x92\xc4\xff",
        pack([1, 2]) + b"\x00",
    ],
)
def test_a_hostile_body_is_an_invalid_argument(func: Any, body: bytes) -> None:
    function = Function.of(func)
    for data in (body, memoryview(body)):
        with pytest.raises(InvalidArgument):
            function.decode_call(data)
        with pytest.raises(InvalidArgument):
            function.decode_args(data)


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda b: b"\x92" + b))
def test_any_bytes_are_arguments_or_an_invalid_argument(body: bytes) -> None:
    for func in (add, greet, everything, store):
        with suppress(InvalidArgument):
            Function.of(func).decode_call(body)


@dataclass
class Grumpy:
    n: int

    def __post_init__(self) -> None:
        raise KeyError("no")


def grumble(grumpy: Grumpy) -> None: ...


def test_whatever_a_type_of_the_user_raises_is_an_invalid_argument() -> None:
    with pytest.raises(InvalidArgument, match=r"grumble\(\): argument 'grumpy': KeyError: 'no'"):
        Function.of(grumble).decode_call(pack([{"n": 1}]))


def test_arguments_that_hold_themselves_are_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(InvalidArgument, match=r"store\(\): argument 'tags': nested too deep"):
        Function.of(store).encode_args((b"", cycle, None))


def test_arguments_too_deep_for_the_server_are_refused_by_the_client() -> None:
    deep: list[Any] = []
    for _ in range(31):
        deep = [deep]
    with pytest.raises(InvalidArgument, match=r"store\(\): arguments: .* the limit is 32"):
        Function.of(store).encode_args((b"", [], deep))
    Function.of(store).encode_args((b"", [], deep[0]))


_NUMBERS = dict.fromkeys(range(5_000), "x")
_CROWD = dict.fromkeys(colliding_integers(13), "x")
_PAIRS = {(n, n): "x" for n in range(5_000)}


def beside_any(table: dict[int, str], extra: Any = None, **more: Any) -> None: ...


def values_are_open(
    table: dict[int, Any], rows: dict[int, dict[str, Any]], pairs: dict[tuple[int, int], Any]
) -> None: ...


def keys_are_open(data: Any, plain: dict, texts: dict[str, Any], *, note: Any = None) -> None:  # type: ignore[type-arg]
    ...


def test_declared_keys_may_be_any_number_beside_open_parts_and_around_them() -> None:
    function = Function.of(beside_any)
    for args in [(_NUMBERS,), (_NUMBERS, {"a": [1]})]:
        assert function.decode_args(function.encode_args(args))[0] == _NUMBERS
    body = function.encode_args((_NUMBERS,), {"extra": 1, "other": {"a": 1}})
    assert function.decode_call(body)[1] == {"other": {"a": 1}}
    function = Function.of(values_are_open)
    tables = (_NUMBERS, {n: {"name": "x"} for n in range(5_000)}, _PAIRS)
    assert tuple(function.decode_args(function.encode_args(tables))) == tables


def test_large_values_that_are_open_are_given_by_name() -> None:
    function = Function.of(keys_are_open)
    for large in (b"x" * 200_000, ["text"] * 60_000):
        body = function.encode_args(([], {}, {}), {"note": large})
        assert function.decode_call(body)[1] == {"note": large}


@pytest.mark.parametrize("is_slow", [False, True])
def test_numbers_that_do_not_collide_may_be_keys_that_hints_leave_open(
    is_slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_slow:
        monkeypatch.setattr("rap.collisions.thread_time", itertools.count().__next__)
    function = Function.of(keys_are_open)
    args = ([_NUMBERS], _NUMBERS, {"a": _NUMBERS})
    assert tuple(function.decode_args(function.encode_args(args))) == args


@pytest.mark.parametrize("table", [_CROWD, _PAIRS])
@pytest.mark.parametrize("name", ["data", "plain", "texts", "note"])
@pytest.mark.parametrize("by_name", [False, True])
def test_keys_that_hints_leave_open_are_checked_in_arguments_of_any_form(
    name: str, table: dict[Any, str], by_name: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = (1.1**step for step in itertools.count())
    monkeypatch.setattr("rap.collisions.thread_time", now.__next__)
    function = Function.of(keys_are_open)
    values: dict[str, Any] = {"data": {}, "plain": {}, "texts": {}}
    values[name] = {"inner": table} if name == "texts" else table
    note = {"note": values.pop("note")} if name == "note" else {}
    args, kwargs = ((), {**values, **note}) if by_name else (tuple(values.values()), note)
    message = rf"argument '{name}': .* ?(have hashes that collide|key of a map is an array)"
    with pytest.raises(InvalidArgument, match=message):
        function.encode_args(args, kwargs)
    hostile = any_keys.encode({"args": args, "kwargs": kwargs} if kwargs else args)
    with pytest.raises(InvalidArgument, match=message):
        function.decode_call(hostile)


def test_arguments_that_can_be_sent_alone_but_not_together_are_refused() -> None:
    def encode(value: Any) -> bytes:
        if value == (1, 2):
            raise OverflowError("Too much")
        return pack(value)

    kind = Kind(int, unpack, None, frozenset())
    serializer = Serializer(encode, lambda hints: unpack, lambda body: ([], {}))  # type: ignore[arg-type,return-value]
    arguments = ArgumentCodec("add", signature(add).parameters, {"a": kind, "b": kind}, serializer)
    with pytest.raises(InvalidArgument, match=r"add\(\): arguments: too much"):
        arguments.encoders()[0]((1, 2))
