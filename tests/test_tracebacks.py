"""Tracebacks that take long to write are cut down before."""

import re
import sys
import traceback
from collections.abc import Callable

import pytest

from rap.errors import encode_error
from rap.tracebacks import compact


class Odd(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__()

    def __str__(self) -> str:
        return "an odd one"


def raised(exc: BaseException, depth: int = 0) -> BaseException:
    def raise_it(depth: int) -> None:
        if depth:
            raise_it(depth - 1)
        raise exc

    try:
        raise_it(depth)
    except BaseException as found:  # it is returned
        return found
    raise AssertionError


def chained(count: int, *, by_cause: bool) -> BaseException:
    last = raised(ValueError("0"))
    for number in range(1, count):
        following = Odd(number, number)
        if by_cause:
            following.__cause__ = last
        else:
            following.__context__ = last
        last = raised(following)
    return last


def nested(levels: int) -> BaseException:
    group: ExceptionGroup[Exception] = ExceptionGroup("innermost", [ValueError("x")])
    for _ in range(levels):
        group = ExceptionGroup("both", [group, group])  # the innermost is there 2**levels times
    return group


def wide(count: int) -> BaseException:
    inner = [raised(Odd(number, number)) for number in range(count)]
    return raised(BaseExceptionGroup("some", inner))


def text_of(exc: BaseException) -> str:
    return "".join(traceback.format_exception(exc))


def steps_of(func: Callable[[], object]) -> int:
    """Return the number of calls, of functions in C too, that a function makes."""
    calls = 0

    def count(_: object, event: str, __: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        func()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize(
    "exc",
    [raised(ValueError("x")), raised(Odd(1, 2), 100), wide(10), chained(10, by_cause=True)],
)
def test_an_ordinary_exception_is_left_as_it_is(exc: BaseException) -> None:
    assert compact(exc) is exc


@pytest.mark.parametrize(
    ("exc", "left_out"),
    [
        (raised(Odd(1, 2), 900), "(870 calls in the middle of the traceback are left out)"),
        (wide(10_000), "(9,985 more are left out)"),
        (nested(200), "(1 more are left out)"),
        (chained(900, by_cause=True), "(884 exceptions between it and the first are left out)"),
        (chained(900, by_cause=False), "(884 exceptions between it and the first are left out)"),
    ],
    ids=["deep", "wide", "nested", "causes", "contexts"],
)
def test_an_exception_that_takes_long_is_cut_down_and_says_so(
    exc: BaseException, left_out: str
) -> None:
    text = text_of(compact(exc))
    assert left_out in text
    assert f"{type(exc).__name__}: {exc}" in text
    assert len(text) < 20_000
    assert steps_of(lambda: encode_error(exc, debug=True)) < 60_000


@pytest.mark.parametrize("by_cause", [True, False])
def test_the_first_exception_of_a_long_chain_is_shown(by_cause: bool) -> None:
    text = text_of(compact(chained(900, by_cause=by_cause)))
    assert text.startswith("Traceback (most recent call last):\n")
    assert "\nValueError: 0\n" in text


def test_what_is_cut_down_looks_like_the_original() -> None:
    exc = raised(Odd(1, 2), 900)
    exc.add_note("a note of its own")
    lines, original = text_of(compact(exc)).splitlines(), text_of(exc).splitlines()
    assert lines[:4] == original[:4]
    assert [line for line in lines if "left out" not in line][-4:] == original[-4:]
    assert exc.__traceback__ is not None
    assert text_of(exc).splitlines() == original


def test_an_exception_without_a_text_is_cut_down_too() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("none")

    assert "Mute: <exception str() failed>" in text_of(compact(raised(Mute(), 900)))


def test_the_text_of_nested_groups_is_bounded() -> None:
    _, message, _ = encode_error(nested(200))
    assert message.startswith("both (2 sub-exceptions): ValueError: x; ValueError: x; ")
    assert re.search(r"; and at least \d+ more$", message)
