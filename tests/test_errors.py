"""The tree of errors, their way over the wire, and what they say about a node."""

import asyncio
import builtins
import copy
import inspect
import json
import pickle
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rap import errors
from rap.errors import (
    MAX_MESSAGE_CHARS,
    RAISED,
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
    Unimplemented,
    Verdict,
    VersionMismatch,
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


class Quota(ValueError):
    """A user's exception that is also a builtin one."""


class MissingName(KeyError, AttributeError):
    """As mappings with attribute access raise it."""


class Odd(KeyError, OSError):
    """Not even Python can combine every pair, but this one it can."""


class Refused(CallError):
    """A user's error of a call whose constructor takes other arguments."""

    def __init__(self, who: str, why: str) -> None:
        super().__init__(f"{who}: {why}", code=Code.ABORTED)
        self.who = who


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


def test_a_code_prints_as_its_name_and_is_its_number_elsewhere() -> None:
    code = Code.ABORTED
    assert f"{code} {code:>8} {code!s} {code:s}" == "ABORTED  ABORTED ABORTED ABORTED"
    assert "%s %d" % (code, code) == "ABORTED 10"  # noqa: UP031  # as `logging` formats
    assert f"{code:d} {code:03d} {code:#x} {code:.1f}" == "10 010 0xa 10.0"
    assert (code, int(code), repr(code)) == (10, 10, "<Code.ABORTED: 10>")
    assert json.dumps({"code": code, code: 1}) == '{"code": 10, "10": 1}'
    assert msgspec.json.encode(code) == b"10"
    assert (pickle.loads(pickle.dumps(code)), {10: "same"}[code]) == (code, "same")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CallError("sold out", code=Code.ABORTED), 409),
        (CallError("nothing failed", code=Code.OK), 500),
        (HandlerError("KeyError: 'hat'"), 500),
        (ResourceExhausted("too many"), 429),
        (Unimplemented("not yet", remote=True), 501),
        (Unimplemented("no server has it", unserved=True), 404),
    ],
)
def test_an_error_has_the_http_status_of_its_code(error: CallError, status: int) -> None:
    assert error.http_status == status


def test_every_code_of_an_error_has_an_http_status() -> None:
    statuses = [CallError(code=code).http_status for code in Code if code is not Code.OK]
    assert all(400 <= status < 600 for status in statuses)


def test_a_handler_may_choose_a_code_that_has_no_class() -> None:
    error = CallError("version changed", code=Code.ABORTED)
    assert error.code is Code.ABORTED
    assert CallError.code is Code.UNKNOWN


def test_a_deadline_is_a_timeout_for_those_who_only_know_the_standard_library() -> None:
    with pytest.raises(TimeoutError):
        raise DeadlineExceeded("the call took longer than 9 s")


@pytest.mark.parametrize("kind", CALL_ERRORS)
def test_a_call_error_arrives_as_the_class_of_its_code(kind: type[CallError]) -> None:
    error = sent(kind("no", details={"a": 1}))
    assert type(error) is (Unavailable if kind is VersionMismatch else kind)
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
        Exception("none left"),
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


class SoldOut(CallError):
    """What a user's handler may raise to choose the code."""

    code = Code.FAILED_PRECONDITION


class Busy(Unavailable):
    """A user's error with the code of one of rap's."""


def test_an_own_call_error_arrives_as_its_type_with_its_code_and_details() -> None:
    types = ExceptionTypes()
    types.load([SoldOut, Busy])
    error = sent(SoldOut("none left", details={"sku": "hat"}), types)
    assert type(error) is SoldOut
    assert (str(error), error.code) == ("none left", Code.FAILED_PRECONDITION)
    assert error.details == {"sku": "hat"}
    assert error.remote
    assert error.type_name == ""
    unknown = sent(SoldOut("none left", details={"sku": "hat"}))
    assert (type(unknown), unknown.type_name) == (CallError, "SoldOut")
    assert unknown.details == {"sku": "hat"}
    assert type(sent(error, types)) is SoldOut  # also if a service lets it through
    assert type(sent(Busy("later"), types)) is Busy
    assert type(sent(Busy("later"))) is Unavailable
    assert pickle.loads(pickle.dumps(error)).details == error.details


def test_an_own_call_error_that_a_service_does_not_know_passes_through_it() -> None:
    types = ExceptionTypes()
    types.load([SoldOut])
    assert type(sent(sent(SoldOut("none left")), types)) is SoldOut


def test_the_details_of_a_call_error_may_have_a_type_themselves() -> None:
    types = ExceptionTypes()
    types.load([SoldOut])
    details = {"type": "tent", "sku": "hat"}
    for error in (SoldOut("none left", details=details), CallError("no", details=details)):
        for arrived in (sent(error, types), sent(error)):
            assert arrived.details == details
            assert isinstance(arrived, CallError)
            assert not isinstance(arrived, HandlerError)
            assert sent(arrived, types).details == details
    named = CallError("no", details={"type": "SoldOut"})
    assert type(sent(named, types)) is CallError  # that one is no class of the handler


def as_of_0_9(details: dict[str, Any]) -> dict[str, Any]:
    """Return what a server of an earlier release would have sent."""
    return {name: value for name, value in details.items() if name != RAISED}


def test_own_call_errors_pass_between_this_release_and_earlier_ones() -> None:
    types = ExceptionTypes()
    types.load([SoldOut])
    code, message, details = encode_error(SoldOut("none left", details={"sku": "hat"}))
    assert details["type"] == "SoldOut"  # where earlier clients look
    error = decode_error(code, message, as_of_0_9(details), types)
    assert (type(error), error.details) == (SoldOut, {"sku": "hat"})
    # A service of an earlier release passes all details on as they came.
    error = decode_error(code, message, details, types)
    assert (type(error), error.details) == (SoldOut, {"sku": "hat"})
    # And one of this release passes on what it got from an earlier one.
    older = decode_error(code, message, as_of_0_9(details), ExceptionTypes())
    assert type(sent(older, types)) is SoldOut


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
        (Unimplemented(unserved=True), Verdict.ANSWERED),
        (HandlerError("boom"), Verdict.ANSWERED),
    ],
)
def test_the_end_of_a_call_judges_its_node(error: BaseException | None, verdict: Verdict) -> None:
    assert verdict_of(error) is verdict


PORTABLE = sorted(errors._PORTABLE)


@pytest.mark.parametrize("name", PORTABLE)
def test_every_builtin_exception_of_one_message_arrives_as_its_type(name: str) -> None:
    error = sent(getattr(builtins, name)("no luck"))
    assert isinstance(error, getattr(builtins, name))
    assert str(error) == "no luck"
    assert "no luck" in "".join(traceback.format_exception(error))


def test_the_builtin_exceptions_that_do_not_arrive_as_their_type_are_these() -> None:
    every = {
        kind.__name__
        for kind in vars(builtins).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    }
    assert {name for name in every if not name.startswith("_")} - set(PORTABLE) == {
        "Exception",
        "ExceptionGroup",
        "StopAsyncIteration",
        "StopIteration",
        "UnicodeDecodeError",
        "UnicodeEncodeError",
        "UnicodeTranslateError",
    }


def raised_by(function: Callable[..., Any], *args: Any) -> Exception:
    """Return what a function raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  # any
        function(*args)
    return caught.value


@pytest.mark.parametrize(
    ("exc", "kinds"),
    [
        (raised_by(json.loads, "{"), [ValueError]),
        (raised_by(b"\xff".decode), [UnicodeError, ValueError]),
        (Quota("used up"), [ValueError]),
        (MissingName("used up"), [KeyError, LookupError, AttributeError]),
        (Odd("used up"), [KeyError, OSError]),
        (asyncio.IncompleteReadError(b"", 1), [EOFError]),
        (asyncio.QueueEmpty("empty"), []),
    ],
)
def test_except_of_a_builtin_base_catches_a_class_that_the_client_does_not_know(
    exc: Exception, kinds: list[type[Exception]]
) -> None:
    error = sent(exc)
    assert all(isinstance(error, kind) for kind in kinds)
    assert error.details["type"] == type(exc).__name__
    assert str(error).startswith(type(exc).__name__)
    assert str(exc.args[0] if len(exc.args) == 1 else exc) in str(error)


def test_a_loaded_class_goes_before_its_builtin_base() -> None:
    types = ExceptionTypes()
    types.load([Quota])
    error = sent(Quota("used up"), types)
    assert isinstance(error, Quota)
    assert str(error) == "used up"


@pytest.mark.parametrize(
    "bases",
    [["eval"], ["StopIteration"], ["SystemExit"], "ValueError", [7, None], {"ValueError": 1}, 7],
)
def test_bases_that_a_server_sends_are_looked_up_in_the_fixed_table_only(bases: object) -> None:
    details = {"type": "Own", "bases": bases}
    assert type(decode_error(Code.UNKNOWN, "no", details, ExceptionTypes())) is HandlerError


def test_bases_that_cannot_be_combined_are_left_out() -> None:
    details = {"type": "Own", "bases": ["OSError", "SyntaxError", "ValueError"]}
    error = decode_error(Code.UNKNOWN, "no", details, ExceptionTypes())
    assert isinstance(error, OSError)
    assert isinstance(error, ValueError)
    assert not isinstance(error, SyntaxError)


def test_a_handler_error_says_the_name_of_the_type() -> None:
    assert str(sent(OutOfStock("none left"))) == "OutOfStock: none left"
    assert str(sent(OutOfStock())) == "OutOfStock"
    assert sent(OutOfStock("none left")).message == "none left"


def test_an_os_error_keeps_number_text_and_file_name(tmp_path: Path) -> None:
    error = sent(raised_by((tmp_path / "none").read_text))
    assert isinstance(error, FileNotFoundError)
    assert (error.errno, error.strerror) == (2, "No such file or directory")
    assert error.filename == str(tmp_path / "none")
    assert str(error) == f"[Errno 2] No such file or directory: '{tmp_path / 'none'}'"


@pytest.mark.parametrize("name", [b"\xff", "\udcff"])
def test_a_file_name_that_is_no_text_arrives_escaped(name: Any) -> None:
    error = sent(FileNotFoundError(2, "none", name))
    assert isinstance(error, FileNotFoundError)
    assert error.filename == "\\udcff"


def test_an_import_error_keeps_the_name_of_the_module() -> None:
    error = sent(raised_by(__import__, "nosuch"))
    assert isinstance(error, ModuleNotFoundError)
    assert error.name == "nosuch"


def test_details_of_a_wrong_type_are_no_attributes() -> None:
    details = {"type": "OSError", "errno": "2", "filename": [1], "strerror": 7}
    error = decode_error(Code.UNKNOWN, "no", details, ExceptionTypes())
    assert isinstance(error, OSError)
    assert (error.errno, error.strerror, error.filename) == (None, None, None)


def test_an_exception_group_says_what_is_in_it() -> None:
    group = ExceptionGroup(
        "two", [ValueError("a"), ExceptionGroup("one", [KeyError("b"), EOFError()])]
    )
    assert str(sent(group)) == (
        "ExceptionGroup: two (2 sub-exceptions): ValueError: a; KeyError: 'b'; EOFError"
    )


def test_the_text_of_a_large_exception_group_is_bounded() -> None:
    group = ExceptionGroup("all", [ValueError("x" * 1000) for _ in range(1000)])
    text = sent(group).message
    assert text.endswith("; and 990 more")
    assert len(text) < 4000


def test_a_client_shows_the_traceback_of_a_debugging_server_under_its_own() -> None:
    code, message, details = encode_error(raised_by(json.loads, "{"), debug=True)
    error = decode_error(code, message, details, ExceptionTypes())
    text = "".join(traceback.format_exception(error))
    assert "On the server:\n  Traceback (most recent call last):" in text
    assert "in raw_decode" in text


def loaded(exc: Exception) -> CallError:
    """Return the error of a client that has loaded the class of `exc`."""
    types = ExceptionTypes()
    types.load([type(exc)])
    return sent(exc, types)


def errors_of_every_kind() -> list[Exception]:
    own = [kind("no", details={"a": 1}, remote=True, unserved=True) for kind in CALL_ERRORS]
    twins = [sent(getattr(builtins, name)("no luck")) for name in PORTABLE]
    other = [
        CallError("no", code=Code.DATA_LOSS),
        Refused("door", "closed"),
        HandlerError("no"),
        sent(OutOfStock("none left")),
        sent(Quota("used up")),
        sent(MissingName("used up")),
        sent(FileNotFoundError(2, "none", "/x")),
        loaded(OutOfStock("none left")),
        loaded(Quota("used up")),
        ConnectionClosed("gone"),
        errors.ChannelClosed("gone"),
        errors.RegistryError("gone"),
        errors.RegistrationError("gone"),
        errors.LocalProtocolError("gone"),
        errors.RemoteProtocolError("gone"),
    ]
    return [*own, *twins, *other]


def state_of(error: Exception) -> tuple[Any, ...]:
    """Return what two equal errors have in common."""
    fields = [getattr(error, name, None) for name in ("errno", "strerror", "filename", "name")]
    return type(error), error.args, str(error), repr(error), vars(error), fields


def raise_it(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("error", errors_of_every_kind(), ids=lambda error: type(error).__name__)
def test_every_error_can_be_copied_and_pickled(error: Exception) -> None:
    error.add_note("a note")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert state_of(pickle.loads(pickle.dumps(error, protocol))) == state_of(error)
    assert state_of(copy.copy(error)) == state_of(error)
    assert state_of(copy.deepcopy(error)) == state_of(error)


def test_every_error_passes_a_process_pool() -> None:
    every = errors_of_every_kind()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for error, future in [(each, pool.submit(raise_it, each)) for each in every]:
            arrived = future.exception(timeout=60)
            assert isinstance(arrived, Exception)
            assert state_of(arrived)[:4] == state_of(error)[:4]


def test_a_connection_whose_peer_was_silent_does_not_eject_its_server() -> None:
    details = {"limit": "ping_timeout"}
    assert verdict_of(Unavailable("silent", details=details)) is Verdict.IGNORED
    assert verdict_of(Unavailable("silent", details=details, remote=True)) is Verdict.FAILURE
    assert verdict_of(Unavailable("lost")) is Verdict.FAILURE


def test_the_traceback_of_a_server_is_indented_and_cut() -> None:
    lines = "x" * 100_000 + "\n2026-01-01 ERROR root: forged\x1b[2J"
    error = decode_error(2, "it failed", {"traceback": lines}, ExceptionTypes())
    (note,) = error.__notes__
    assert len(note) < 7_000
    assert note.endswith("\n  2026-01-01 ERROR root: forged\\x1b[2J")
