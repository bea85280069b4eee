"""From Python 3.14 on, the names in hints may be defined later: hints are evaluated lazily."""

import importlib
import re
import sys
from typing import Any

import pytest

from rap.errors import RegistrationError
from rap.schema.function import Function
from rap.schema.signature import signature_of
from rap.server import Server

pytestmark = pytest.mark.skipif(sys.version_info < (3, 14), reason="hints are lazy from 3.14 on")


@pytest.fixture
def later() -> Any:
    return importlib.import_module("tests.schema.later")


def test_a_type_may_be_defined_after_the_function(later: Any) -> None:
    function = Function(later.before_its_type)
    value = later.Later([later.Other(None), later.Other(later.Later([]))])
    assert function.decode_args(function.encode_args((value,))) == (value,)
    assert function.decode_result(function.encode_result([value])) == [value]


def test_classes_of_an_outer_function_may_name_each_other(later: Any) -> None:
    for func, value in later.of_local_classes():
        function = Function(func)
        assert function.decode_result(function.encode_result(value)) == value


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "missing(): parameter 'second': cannot resolve 'Missing': name 'Missing'"),
        ("missing_inside", "parameter 'second': cannot resolve 'list[Missing | None]': name"),
        ("missing_result", "return value: cannot resolve 'dict[str, Missing]': name 'Missing'"),
        ("of_a_missing_attribute", "parameter 'first': cannot resolve 'msgspec.Nothing': module"),
        ("without_value", "without_value(): it has no signature: division by zero"),
        (
            "incomplete",
            "type tests.schema.later.Incomplete cannot be sent: name 'Missing'",
        ),
    ],
)
def test_a_hint_that_names_nothing_is_refused_with_its_place(
    later: Any, name: str, reason: str
) -> None:
    with pytest.raises(RegistrationError, match=re.escape(reason)):
        Server().register(getattr(later, name))


def test_hints_that_can_be_resolved_are_not_blamed(later: Any) -> None:
    with pytest.raises(RegistrationError, match="parameter 'unknown': cannot resolve 'Missing'"):
        Function(later.local_and_missing())


def test_what_is_not_sent_may_have_hints_for_type_checkers_only(later: Any) -> None:
    for func in (later.verify, later.verify_token_only):
        Server(verify_token=func)
    assert list(signature_of(later.make).parameters) == []
    signature_of(later.accept).bind("conn", "call_next")
