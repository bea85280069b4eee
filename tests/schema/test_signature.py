from __future__ import annotations  # the hints of this file are text, as in much user code

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator
from typing import Any, AsyncIterable, Protocol  # noqa: UP035  (both spellings must work)
from typing import Iterator as OldIterator  # noqa: UP035

import pytest

from rap.call import StreamType
from rap.errors import RegistrationError
from rap.schema.function import Function


class Channel:
    __rap_channel__ = True


def add(a: int, b: int) -> int:
    """Return the sum."""
    return a + b


async def add_soon(a: int, b: int) -> int:
    return a + b


async def numbers(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


async def bare_numbers(n: int) -> AsyncIterator:  # type: ignore[type-arg]  # a bare hint is legal
    yield n


def plain_numbers(n: int) -> Generator[int, None, None]:
    yield n


def old_numbers(n: int) -> OldIterator[int]:
    return iter(range(n))


def many(n: int) -> Iterable[int]:
    return range(n)


def later(n: int) -> AsyncGenerator[int, None]:
    return bare_numbers(n)  # type: ignore[return-value]  # only the hint matters


async def echo(channel: Channel) -> None: ...


async def quoted_echo(channel: "Channel") -> None: ...  # noqa: UP037


class Counter:
    """Counts."""

    def count(self, by: int) -> int:
        """Count on."""
        return by

    @classmethod
    def start(cls, at: int) -> int:
        return at

    @staticmethod
    def twice(n: int) -> int:
        return 2 * n

    async def __call__(self, n: int) -> str:
        return str(n)


class Stub(Protocol):
    def listen(self, n: int) -> AsyncIterable[int]: ...


@pytest.mark.parametrize(
    ("func", "stream_type", "is_async"),
    [
        (add, StreamType.UNARY, False),
        (add_soon, StreamType.UNARY, True),
        (numbers, StreamType.STREAM, True),
        (bare_numbers, StreamType.STREAM, True),
        (plain_numbers, StreamType.STREAM, False),
        (old_numbers, StreamType.STREAM, False),
        (many, StreamType.STREAM, False),
        (later, StreamType.STREAM, True),
        (Stub.listen.__get__(object()), StreamType.STREAM, True),
        (echo, StreamType.CHANNEL, True),
        (quoted_echo, StreamType.CHANNEL, True),
    ],
)
def test_annotations_tell_the_stream_type(
    func: Any, stream_type: StreamType, is_async: bool
) -> None:
    function = Function.of(func)
    assert (function.stream_type, function.is_async) == (stream_type, is_async)


@pytest.mark.parametrize(
    ("func", "name", "is_async", "signature"),
    [
        (Counter().count, "count", False, "(by: int) -> int"),
        (Counter.start, "start", False, "(at: int) -> int"),
        (Counter.twice, "twice", False, "(n: int) -> int"),
        (Counter.__dict__["twice"], "twice", False, "(n: int) -> int"),
        (Counter(), "Counter", True, "(n: int) -> str"),
        (functools.partial(add, 1), "add", False, "(b: int) -> int"),
        (functools.partial(add, b=1), "add", False, "(a: int, *, b: int = 1) -> int"),
        (functools.partial(functools.partial(add_soon, 1), 2), "add_soon", True, "() -> int"),
        (functools.partial(Counter(), 3), "Counter", True, "() -> str"),
        (functools.partial(Counter().count, 3), "count", False, "() -> int"),
    ],
)
def test_what_is_bound_is_not_a_parameter(
    func: Any, name: str, is_async: bool, signature: str
) -> None:
    function = Function.of(func)
    assert (function.name, function.is_async) == (name, is_async)
    assert str(function.signature) == signature


def test_a_decorator_that_wraps_shows_what_it_wraps() -> None:
    @functools.wraps(add)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return add(*args, **kwargs)

    assert str(Function.of(wrapper).signature) == "(a: int, b: int) -> int"


def test_hints_are_resolved_in_the_module_of_the_function() -> None:
    assert Function.of(add).type_hints == {"a": int, "b": int, "return": int}
    assert Function.of(quoted_echo).type_hints == {"channel": Channel, "return": None}


def test_a_function_is_described_for_a_list() -> None:
    assert Function.of(add).describe() == {
        "func_name": "add",
        "shape": "unary",
        "signature": "(a: int, b: int) -> int",
        "doc": "Return the sum.",
    }


def test_another_name_is_used_in_errors() -> None:
    function = Function.of(add, name="plus")
    assert function.name == "plus"
    assert repr(function) == "Function(plus(a: int, b: int) -> int, UNARY)"


# --- what is refused


def no_hint(a, b: int) -> int: ...  # type: ignore[no-untyped-def,empty-body]


def no_return(a: int): ...  # type: ignore[no-untyped-def]


def unknown(a: Nowhere) -> int: ...  # type: ignore[name-defined,empty-body]  # noqa: F821


def broken(a: 1 / 0) -> int: ...  # type: ignore[valid-type,empty-body]


def unknown_return(a: int) -> Nowhere: ...  # type: ignore[name-defined]  # noqa: F821


def wrong_generator() -> int:  # type: ignore[misc]  # the mistake of this test
    yield 1


async def wrong_async_generator() -> list[int]:  # type: ignore[misc]
    yield [1]


async def crowded(channel: Channel, other: Channel) -> None: ...


def takes_iterator(items: list[Iterator[int]]) -> None: ...


def takes_callback(back: Callable[[int], None]) -> None: ...


@pytest.mark.parametrize(
    ("func", "message"),
    [
        (no_hint, r"no_hint\(\): parameter 'a' has no type hint"),
        (no_return, r"no_return\(\): return value has no type hint"),
        (unknown, r"unknown\(\): parameter 'a': cannot resolve 'Nowhere'"),
        (broken, r"broken\(\): parameter 'a': cannot resolve '1 / 0': division by zero"),
        (unknown_return, r"unknown_return\(\): return value: cannot resolve 'Nowhere'"),
        (wrong_generator, r"wrong_generator\(\): return value: .* Iterator.*, got int"),
        (wrong_async_generator, r"return value: .* Iterator.*, got list\[int\]"),
        (crowded, r"crowded\(\): parameter .channel. is a Channel and .other. is a Channel"),
        (takes_iterator, r"takes_iterator\(\): parameter 'items': type list\[.*Iterator"),
        (takes_callback, r"takes_callback\(\): parameter 'back': type collections.abc.Callable"),
        (Counter.count, r"count\(\): parameter 'self' has no type hint"),
        (Counter, "is a class"),
        (Counter.__dict__["start"], "is a classmethod"),
        (3, "3 is a int"),
        (len, r"len\(\): parameter 'obj' has no type hint"),
        (min, r"min\(\): it has no signature"),
    ],
)
def test_a_function_that_cannot_be_called_from_afar_is_refused(func: Any, message: str) -> None:
    with pytest.raises(RegistrationError, match=message):
        Function.of(func)
