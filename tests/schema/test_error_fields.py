"""Fields of error classes: what a constructor takes arrives, checked, as the same attributes."""

import pickle
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any, cast

import pytest

from rap.errors import CallError, Code, ExceptionTypes, HandlerError, decode_error, encode_error
from rap.schema.error_fields import fields_of, sent_fields


class Size(Enum):
    SMALL = "s"


@dataclass
class Item:
    sku: str
    sizes: list[Size]


class SoldOut(CallError):
    """As most people write it."""

    code = Code.FAILED_PRECONDITION

    def __init__(self, sku: str, left: int) -> None:
        super().__init__(f"only {left} of {sku!r} are left")
        self.sku = sku
        self.left = left
        self.is_empty = left == 0


@dataclass
class Busy(CallError):
    """A dataclass, whose constructor does not call that of `CallError`."""

    item: Item
    until: datetime
    waiting: int = 0
    tags: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.item.sku} is busy"


class Plain(CallError):
    """It does not call the constructor of `CallError` either."""

    def __init__(self, sku: str) -> None:
        self.sku = sku


class Rejected(CallError, ValueError):
    """Takes what every error has, and more."""

    def __init__(self, message: str = "", *, rule: str = "", **rest: Any) -> None:
        super().__init__(message, **rest)
        self.rule = rule


class Renamed(CallError):
    """Names its message differently, and passes the rest on."""

    def __init__(self, text: str, **rest: Any) -> None:
        super().__init__(text, **rest)


class Starred(CallError):
    def __init__(self, *args: Any, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self.sku = self.details.get("sku")


class ByPlace(CallError):
    def __init__(self, sku: str, /, message: str) -> None:
        super().__init__(message)
        self.sku = sku


class Forgetful(CallError):
    """Keeps nothing."""

    def __init__(self, sku: str) -> None:
        super().__init__(f"{sku} is not there")


class Late(CallError):
    """A failing constructor."""

    def __init__(self, count: int) -> None:
        super().__init__("late")
        self.count = count
        if count > 9:
            raise RuntimeError(f"{count} are too many")


def types_of(*kinds: type[Exception]) -> ExceptionTypes:
    types = ExceptionTypes(fields_of)
    types.load(kinds)
    return types


def wire(error: CallError) -> tuple[Code, str, dict[str, Any]]:
    return encode_error(error, sent_fields(error, pytest.fail))


def sent(error: CallError, *kinds: type[Exception]) -> CallError:
    return decode_error(*wire(error), types_of(*kinds))


def notes_of(error: CallError) -> str:
    return "\n".join(getattr(error, "__notes__", []))


def test_arguments_of_a_constructor_arrive_as_attributes() -> None:
    error = sent(SoldOut("hat", 0), SoldOut)
    assert isinstance(error, SoldOut)
    assert (error.sku, error.left, error.is_empty) == ("hat", 0, True)
    assert str(error) == "only 0 of 'hat' are left"
    assert (error.code, error.remote, error.details) == (Code.FAILED_PRECONDITION, True, {})
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.sku, str(again)) == (SoldOut, "hat", str(error))
    passed_on = sent(error, SoldOut)
    assert isinstance(passed_on, SoldOut)
    assert passed_on.left == 0


def test_the_text_is_that_of_the_server() -> None:
    error = SoldOut("hat", 3)
    error.restate("other words")
    assert str(sent(error, SoldOut)) == "other words"


def test_dataclasses_are_errors_too() -> None:
    now = datetime.now(UTC)
    error = sent(Busy(Item("hat", [Size.SMALL]), now, tags=["a"]), Busy)
    assert isinstance(error, Busy)
    assert error == Busy(Item("hat", [Size.SMALL]), now, 0, ["a"])
    assert (str(error), error.message, error.code) == ("hat is busy", "hat is busy", Code.UNKNOWN)
    assert (error.details, error.remote, error.unserved) == ({}, True, False)
    plain = Plain("hat")
    assert (plain.message, plain.details, plain.remote, str(plain)) == ("", {}, False, "hat")
    assert plain.details is plain.details
    assert str(sent(plain, Plain)) == "hat"


@pytest.mark.parametrize("known", [True, False])
def test_a_service_passes_errors_on_whether_it_knows_the_class_or_not(known: bool) -> None:
    between = sent(SoldOut("hat", 3), *([SoldOut] if known else []))
    assert isinstance(between, SoldOut) is known
    error = sent(between, SoldOut)
    assert isinstance(error, SoldOut)
    assert (error.sku, error.left, error.code) == ("hat", 3, Code.FAILED_PRECONDITION)


def test_a_client_without_the_class_has_the_fields_in_the_details() -> None:
    error = sent(SoldOut("hat", 3))
    assert (type(error), error.type_name) == (CallError, "SoldOut")
    assert error.details == {"sku": "hat", "left": 3}


def test_constructors_may_take_what_every_error_has() -> None:
    given = Rejected("no", rule="7", code=Code.ABORTED, details={"a": 1, "rule": "other"})
    error = sent(given, Rejected)
    assert isinstance(error, Rejected)
    assert isinstance(error, ValueError)
    assert (str(error), error.rule, error.code) == ("no", "7", Code.ABORTED)
    assert error.details == {"a": 1, "rule": "other"}
    assert sent(given).details == {"a": 1, "rule": "other"}
    assert str(sent(Renamed("no"), Renamed)) == "no"
    starred = sent(Starred("no", details={"sku": "hat"}), Starred)
    assert isinstance(starred, Starred)
    assert (str(starred), starred.sku) == ("no", "hat")
    placed = sent(ByPlace("hat", "no"), ByPlace)
    assert isinstance(placed, ByPlace)
    assert (str(placed), placed.sku) == ("no", "hat")


def test_a_field_that_the_server_did_not_keep_is_told() -> None:
    error = sent(Forgetful("hat"), Forgetful)
    assert (type(error), str(error)) == (CallError, "hat is not there")
    assert "Forgetful.__init__ on the server has to keep it as self.sku" in notes_of(error)


def test_a_field_that_is_not_of_its_type_is_told_once_on_the_server() -> None:
    told: list[str] = []
    wrong = SoldOut("hat", cast("int", "three"))
    for _ in range(2):
        assert sent_fields(wrong, told.append) == {}
    (text,) = told
    assert text.startswith(
        "an error is sent without its fields: SoldOut(): argument 'left': expected"
    )


HOSTILE: list[Any] = [
    None,
    7,
    [],
    {},
    {"fields": None},
    {"fields": []},
    {"fields": {}},
    {"fields": {"count": "x"}},
    {"fields": {"count": [[[]]]}},
    {"fields": {"count": None, "self": 1, "__class__": 2}},
    {"fields": {"count": 10}},
    {"type": 5},
]


@pytest.mark.parametrize("raised", HOSTILE)
@pytest.mark.parametrize("name", ["Late", 5, None, "os.system"])
@pytest.mark.parametrize("code", [Code.UNKNOWN, Code.ABORTED])
def test_whatever_a_server_sends_is_an_error(raised: Any, name: Any, code: Code) -> None:
    for details in ({"type": name, ":error": raised}, {":error": raised}, {"count": raised}):
        error = decode_error(code, "no", details, types_of(Late))
        assert type(error) in (CallError, HandlerError)
        assert str(error).endswith("no")
        assert error.code is code


def test_why_an_error_did_not_arrive_as_its_class_is_a_note() -> None:
    def note(fields: Any) -> str:
        details = {"type": "Late", ":error": {"fields": fields}}
        error = decode_error(Code.ABORTED, "no", details, types_of(Late))
        assert error.type_name == "Late"
        return notes_of(error)

    assert note({"count": "x"}).startswith("it did not arrive as Late: Late(): argument 'count'")
    assert note({"count": 10}) == "it did not arrive as Late: 10 are too many"
    assert "it came without 'count'" in note({})


class Untyped(CallError):
    def __init__(self, sku) -> None:  # type: ignore[no-untyped-def]  # the mistake
        super().__init__("no")
        self.sku = sku


class Shadowing(CallError):
    def __init__(self, args: str) -> None:
        super().__init__("no")


class OtherCode(CallError):
    def __init__(self, code: str) -> None:
        super().__init__("no")


class Unsendable(CallError):
    def __init__(self, made: int, how: type) -> None:
        super().__init__("no")


class Unresolved(CallError):
    def __init__(self, sku: "Nowhere") -> None:  # type: ignore[name-defined]  # noqa: F821
        super().__init__("no")


@dataclass(frozen=True)
class Frozen(CallError):
    sku: str


class Two(ValueError):
    def __init__(self, sku: str, left: int) -> None:
        super().__init__(f"{sku}: {left}")


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Untyped, "parameter 'sku' of Untyped.__init__ has no type hint .*`sku: str`.*self.sku"),
        (Shadowing, "parameter 'args' of Shadowing.__init__ has the name .* another name"),
        (OtherCode, "parameter 'code' of OtherCode.__init__ gets the code .* another name"),
        (Unsendable, r"Unsendable\(\): parameter 'how': type type .*cannot be sent"),
        (Unresolved, r"Unresolved\(\): parameter 'sku': cannot resolve 'Nowhere'"),
        (Frozen, "cannot assign to field"),
        (Two, "missing a required argument: 'left'; only classes derived from CallError carry"),
    ],
)
def test_a_class_that_cannot_arrive_is_refused_when_it_is_loaded(
    kind: type[Exception], why: str
) -> None:
    with pytest.raises(TypeError, match=f"load_exception: .*{kind.__name__}.*: .*{why}"):
        types_of(kind)


def test_a_server_sends_errors_of_such_classes_without_fields() -> None:
    for error in (Untyped("hat"), Unsendable(1, int), OtherCode("x")):
        assert sent_fields(error, pytest.fail) == {}
    arrived = sent(Untyped("hat"))
    assert (str(arrived), arrived.details, arrived.type_name) == ("no", {}, "Untyped")


class One(ValueError):
    def __init__(self, sku: str) -> None:
        super().__init__(f"no {sku}")
        self.sku = sku


def test_an_attribute_of_another_exception_says_why_it_did_not_arrive() -> None:
    error: Any = decode_error(*encode_error(One("hat")), types_of(One))
    assert isinstance(error, One)
    assert str(error) == "no hat"
    with pytest.raises(AttributeError, match=r"'sku': .* only if its class is derived from Call"):
        error.sku  # noqa: B018  # reading it is the mistake
    assert not hasattr(error, "sku")
    assert pickle.loads(pickle.dumps(error)).args == ("no hat",)


def test_a_code_that_is_none_is_unknown() -> None:
    error = CallError("no", code=cast("Code", "gone"))
    assert encode_error(error)[0] is Code.UNKNOWN
