"""The tree of errors, their way over the wire, and what they say about a node."""

import builtins
import inspect

import pytest

from rap import errors
from rap.errors import (
    MAX_MESSAGE_CHARS,
    CallError,
    Cancelled,
    Code,
    ConnectionClosed,
    DeadlineExceeded,
    ExceptionTypes,
    HandlerError,
    Internal,
    InvalidArgument,
    NotFound,
    RapError,
    ResourceExhausted,
    Unavailable,
    Verdict,
    decode_error,
    encode_error,
    verdict_of,
)

CALL_ERRORS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, CallError) and kind not in (CallError, HandlerError)
]


class OutOfStock(Exception):
    """What a user's handler may raise."""


def sent(exc: BaseException, types: ExceptionTypes | None = None) -> CallError:
    """Return the error that a client gets for what a handler raised."""
    code, message, details = encode_error(exc)
    return decode_error(code, message, details, types or ExceptionTypes())


def test_every_exception_of_the_module_is_in_the_tree_and_exported() -> None:
    kinds = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, BaseException)
    ]
    assert all(issubclass(kind, RapError) for kind in kinds)
    assert {kind.__name__ for kind in kinds} <= set(errors.__all__)


def test_codes_have_the_numbers_of_grpc() -> None:
    assert [code.value for code in Code] == list(range(17))
    assert Code(14) is Code.UNAVAILABLE


def test_an_error_carries_what_programs_need() -> None:
    error = ResourceExhausted("too many", details={"retry_after": 2.5}, unserved=True)
    assert error.code is Code.RESOURCE_EXHAUSTED
    assert error.message == str(error) == "too many"
    assert error.details == {"retry_after": 2.5}
    assert (error.remote, error.unserved) == (False, True)
    assert repr(error) == "ResourceExhausted('too many', code=RESOURCE_EXHAUSTED)"


def test_a_handler_may_choose_a_code_that_has_no_class() -> None:
    error = CallError("version changed", code=Code.ABORTED)
    assert error.code is Code.ABORTED
    assert CallError.code is Code.UNKNOWN


def test_a_deadline_is_a_timeout_for_those_who_only_know_the_standard_library() -> None:
    with pytest.raises(TimeoutError):
        raise DeadlineExceeded("the call took longer than 9 s")


@pytest.mark.parametrize("kind", CALL_ERRORS)
def test_a_call_error_arrives_as_its_class(kind: type[CallError]) -> None:
    error = sent(kind("no", details={"a": 1}))
    assert type(error) is kind
    assert (error.message, error.details, error.remote) == ("no", {"a": 1}, True)


def test_a_code_without_a_class_arrives_with_that_code() -> None:
    error = sent(CallError("no", code=Code.DATA_LOSS))
    assert type(error) is CallError
    assert error.code is Code.DATA_LOSS


def test_a_code_of_the_future_is_unknown() -> None:
    assert decode_error(99, "no", {}, ExceptionTypes()).code is Code.UNKNOWN


def test_unserved_comes_from_the_frame() -> None:
    error = decode_error(14, "draining", {}, ExceptionTypes(), unserved=True)
    assert isinstance(error, Unavailable)
    assert error.unserved


@pytest.mark.parametrize("kind", [ZeroDivisionError, ValueError, KeyError, OSError, RecursionError])
def test_a_builtin_exception_arrives_as_itself_and_as_a_handler_error(
    kind: type[Exception],
) -> None:
    error = sent(kind("no luck"))
    assert isinstance(error, kind)
    assert isinstance(error, HandlerError)
    assert (error.code, str(error)) == (Code.UNKNOWN, "no luck")
    assert error.details["type"] == kind.__name__


@pytest.mark.parametrize(
    "exc",
    [
        OutOfStock("none left"),
        StopIteration("none left"),
        SystemExit("none left"),
        UnicodeError("none left"),
        ExceptionGroup("none left", [ValueError()]),
    ],
)
def test_any_other_exception_arrives_as_a_handler_error_with_its_name(exc: BaseException) -> None:
    error = sent(exc)
    assert type(error) is HandlerError
    assert error.details["type"] == type(exc).__name__
    assert "none left" in error.message


def test_the_message_of_a_key_error_is_its_key_not_quoted_twice() -> None:
    assert sent(KeyError("name")).message == "name"


def test_a_client_may_let_its_own_types_through() -> None:
    types = ExceptionTypes()
    types.load([OutOfStock])
    assert isinstance(sent(OutOfStock("none left"), types), OutOfStock)
    assert type(sent(OutOfStock("none left"), ExceptionTypes())) is HandlerError


@pytest.mark.parametrize("wrong", [OutOfStock("an instance"), "OutOfStock", int, KeyboardInterrupt])
def test_only_exception_classes_can_be_loaded(wrong: object) -> None:
    with pytest.raises(TypeError, match="load_exception takes exception classes"):
        ExceptionTypes().load([wrong])  # type: ignore[list-item]  # on purpose


@pytest.mark.parametrize(
    "name", ["eval", "exit", "SystemExit", "object", "__import__", 7, None, []]
)
def test_a_name_that_a_server_sends_is_never_looked_up(name: object) -> None:
    assert not isinstance(name, str) or name == "OutOfStock" or hasattr(builtins, name)
    error = decode_error(Code.UNKNOWN, "no", {"type": name}, ExceptionTypes())
    assert type(error) is HandlerError


def test_a_traceback_crosses_only_in_debug() -> None:
    with pytest.raises(ValueError, match="secret") as caught:
        raise ValueError("secret line")
    assert "traceback" not in encode_error(caught.value)[2]
    details = encode_error(caught.value, debug=True)[2]
    assert 'raise ValueError("secret line")' in details["traceback"]


def test_a_long_message_is_cut() -> None:
    assert len(encode_error(ValueError("x" * 10_000))[1]) == MAX_MESSAGE_CHARS


def test_encoding_leaves_the_details_of_the_error_alone() -> None:
    error = InvalidArgument("no", details={"a": 1})
    encode_error(error, debug=True)[2]["b"] = 2
    assert error.details == {"a": 1}


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (None, Verdict.SUCCESS),
        (Unavailable(), Verdict.FAILURE),
        (DeadlineExceeded(), Verdict.FAILURE),
        (Internal(), Verdict.FAILURE),
        (ResourceExhausted(unserved=True), Verdict.FAILURE),
        (ResourceExhausted(), Verdict.IGNORED),
        (Cancelled(), Verdict.IGNORED),
        (ConnectionClosed(), Verdict.IGNORED),
        (NotFound(), Verdict.ANSWERED),
        (HandlerError("boom"), Verdict.ANSWERED),
    ],
)
def test_the_end_of_a_call_judges_its_node(error: BaseException | None, verdict: Verdict) -> None:
    assert verdict_of(error) is verdict
