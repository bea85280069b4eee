"""The whole family of pydantic: what is dumped can be validated, or is refused at registration."""

import datetime
import ipaddress
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    AwareDatetime,
    Base64Bytes,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    FilePath,
    HttpUrl,
    IPvAnyAddress,
    Json,
    PositiveInt,
    PostgresDsn,
    RootModel,
    SecretBytes,
    SecretStr,
    SerializeAsAny,
    computed_field,
)
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass as checked_dataclass

from rap.errors import InvalidArgument, RegistrationError
from rap.schema.function import decode_any, raw_encoder
from tests.schema.test_function import Color, of_type

T = TypeVar("T")


class Item(BaseModel):
    number: int
    price: Decimal = Decimal("1.50")
    since: datetime.datetime
    tags: tuple[str, ...] = ()


class Aliased(BaseModel):
    number: int = Field(alias="n")
    text: str = Field(default="", validation_alias="in", serialization_alias="out")
    deep: int = Field(default=0, validation_alias=AliasPath("deep_", 0))


class OneWay(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True)
    some: int = Field(validation_alias="in", serialization_alias="out")


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, serialize_by_alias=True, extra="forbid")
    some_name: int


class Choice(BaseModel):
    a: int = Field(validation_alias=AliasChoices("x", "y"))


class Keys(BaseModel):
    by_id: dict[UUID, int]
    by_color: dict[Color, int]
    by_number: dict[int, str]


class Branch(RootModel[dict[str, "Branch"]]):
    pass


class Scalars(BaseModel):
    value: bool | int | float | str


class Swapped(BaseModel):
    a: int = Field(alias="b")
    b: int = Field(alias="a")


class Outer(BaseModel):
    inner: Aliased
    all: list[Aliased] = Field(default_factory=list)


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> int:
        return self.width**2


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    width: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> int:
        return self.width**2


class Shown(BaseModel):
    width: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> int:
        return self.width**2


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    id: UUID
    at: datetime.datetime
    price: Decimal
    tags: tuple[str, ...] = ()
    names: frozenset[int] = frozenset()
    share: float = float("inf")
    by_number: dict[int, str] = Field(default_factory=dict)
    inner: "Strict | None" = None


class StrictPlain(BaseModel):
    model_config = ConfigDict(strict=True)
    n: int
    data: bytes


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)
    n: int


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    lives: int = 1


class Home(BaseModel):
    pet: Cat | Dog = Field(discriminator="kind")
    pets: list[Cat | Dog] = Field(default_factory=list)


class Generic_(BaseModel, Generic[T]):
    content: T


class Numbers(RootModel[list[int]]):
    pass


class Excluded(BaseModel):
    n: int
    cached: int = Field(default=0, exclude=True)


class Network(BaseModel):
    url: HttpUrl
    dsn: PostgresDsn | None = None
    any_ip: IPvAnyAddress = ipaddress.IPv4Address("10.0.0.1")
    net: ipaddress.IPv4Network = ipaddress.IPv4Network("10.0.0.0/8")
    path: Path = Path("/tmp")
    size: ByteSize = ByteSize(1)
    secret: SecretStr = SecretStr("x")
    hidden: SecretBytes = SecretBytes(b"x")
    pattern: re.Pattern[str] = re.compile("a+")
    positive: PositiveInt = 1
    short: Annotated[str, Field(max_length=3)] = "abc"
    raw: Json[list[int]]
    queue: deque[int] = Field(default_factory=deque)
    wait: datetime.timedelta = datetime.timedelta(days=-1, seconds=1)
    color: Color = Color.RED


class Unions(BaseModel):
    value: int | str | list[int] | None = None
    model: Cat | Dog | None = None


class Ordered(BaseModel):
    n: int
    children: list["Ordered"] = Field(default_factory=list)


@checked_dataclass
class Checked:
    n: PositiveInt
    url: HttpUrl | None = None


@dataclass
class Mixed:
    pet: Cat | Dog
    box: Generic_[int] | None = None
    checked: Checked | None = None


NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
NETWORK = Network.model_validate(
    {"url": "http://a.b/c", "dsn": "postgres://u:p@h/db", "raw": "[1]"}
)
FAMILY: list[tuple[Any, Any]] = [
    (Aliased, Aliased.model_validate({"n": 1, "in": "a", "deep_": [3]})),
    (Swapped, Swapped(**{"b": 1, "a": 2})),
    (Outer, Outer(inner=Aliased(n=1), all=[Aliased(n=2)])),
    (OneWay, OneWay.model_validate({"in": 1})),
    (Camel, Camel.model_validate({"someName": 1})),
    (Choice, Choice.model_validate({"y": 1})),
    (Keys, Keys(by_id={UUID(int=1): 1}, by_color={Color.RED: 1}, by_number={1: "a"})),
    (Branch, Branch({"a": Branch({})})),
    (Scalars, Scalars(value="1")),
    (Scalars, Scalars(value=True)),
    (Scalars, Scalars(value=1.0)),
    (AwareDatetime, NOW),
    (FilePath, Path(__file__)),
    (Computed, Computed(width=3)),
    (Extra, Extra.model_validate({"width": 3, "more": 1})),
    (Shown, Shown(width=3)),
    (Strict, Strict(id=UUID(int=1), at=NOW, price=Decimal("1.0"), by_number={1: "a"})),
    (Strict, Strict(id=UUID(int=1), at=NOW.replace(tzinfo=None), price=Decimal(1), tags=("a",),
                    inner=Strict(id=UUID(int=2), at=NOW, price=Decimal(1)))),
    (StrictPlain, StrictPlain(n=1, data=b"\xff")),
    (Frozen, Frozen(n=1)),
    (Home, Home(pet=Dog(lives=2), pets=[Cat(), Dog()])),
    (Cat | Dog, Dog(lives=3)),
    (list[Cat | Dog | int], [Dog(), Cat(), 1]),
    (Annotated[Cat | Dog, Field(discriminator="kind")], Dog()),
    (Generic_[int], Generic_[int](content=1)),
    (Generic_[list[Dog]], Generic_[list[Dog]](content=[Dog()])),
    (Numbers, Numbers([1, 2])),
    (Numbers | Cat, Numbers([1, 2])),
    (Excluded, Excluded(n=1)),
    (Network, NETWORK),
    (Unions, Unions(value="a", model=Dog())),
    (Unions, Unions(value=[1])),
    (Ordered, Ordered(n=1, children=[Ordered(n=2)])),
    (Checked, Checked(1, HttpUrl("http://a.b"))),
    (list[Checked], [Checked(1)]),
    (Mixed, Mixed(Dog(), Generic_[int](content=1), Checked(2))),
    (HttpUrl, HttpUrl("http://a.b/")),
    (SecretStr, SecretStr("x")),
    (PositiveInt, 5),
    (list[PositiveInt], [5]),
]  # fmt: skip


@pytest.mark.parametrize(("hint", "value"), FAMILY, ids=lambda each: str(each)[:50])
def test_what_is_dumped_can_be_validated(hint: Any, value: Any) -> None:
    function = of_type(hint)
    (argument,) = function.decode_args(function.encode_args((value,)))
    result = function.decode_result(function.encode_result(value))
    for arrived in (argument, result):
        assert arrived == value
        assert type(arrived) is type(value)


def test_what_a_reader_without_the_model_sees_stays_the_same() -> None:
    plain = decode_any(of_type(Shown).encode_result(Shown(width=3)))
    assert plain == {"width": 3, "area": 9}
    assert decode_any(of_type(Aliased).encode_result(Aliased(n=1)))["number"] == 1


def test_a_model_may_also_be_given_by_its_aliases() -> None:
    (found,) = of_type(Aliased).decode_args(raw_encoder("/default/f")([{"n": 1, "in": "a"}]))
    assert found == Aliased.model_validate({"n": 1, "in": "a"})


class Callback(BaseModel):
    back: Callable[[], int]


class Arbitrary(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    lock: threading.Event


class OfClass(BaseModel):
    kind: type[int]


class Lazy(BaseModel):
    items: Iterable[int]


class Lost(BaseModel):
    n: int
    never: int = Field(exclude=True)


class StrictBytes(BaseModel):
    model_config = ConfigDict(strict=True)
    id: UUID
    data: bytes


class SetOfModels(BaseModel):
    all: set[Frozen]


class Alike(BaseModel):
    when: datetime.date | str


class SameFields(BaseModel):
    pet: Frozen | Excluded


class Numbered(BaseModel):
    value: float | Decimal


class Texts(BaseModel):
    value: bytes | UUID


class AnyModel(BaseModel):
    model: SerializeAsAny[BaseModel]


class TupleKeys(BaseModel):
    by_place: dict[tuple[int, int], str]


class Deep(BaseModel):
    inner: list[Callback]


@pytest.mark.parametrize(
    ("hint", "reason"),
    [
        (Callback, "field 'back' is a callable"),
        (Arbitrary, "field 'lock' is an arbitrary type"),
        (OfClass, "field 'kind' is a class"),
        (Lazy, "field 'items' is an Iterable, which pydantic reads only once"),
        (Lost, r"field 'never' is a required field that is never sent \(exclude=True\)"),
        (StrictBytes, "it is strict, and has bytes or Any together with types"),
        (SetOfModels, "field 'all' is a set of models"),
        (Alike, "field 'when' is a union whose members look alike when sent: both can be `str`"),
        (SameFields, "field 'pet' is a union whose members look alike when sent: the fields"),
        (Deep, "field 'inner.back' is a callable"),
        (Numbered, "field 'value' is a union of Decimal and a number"),
        (Texts, "field 'value' is a union of bytes and a type that is sent as text"),
        (AnyModel, "it is a model of any class"),
        (TupleKeys, "field 'by_place' is a dict whose keys are arrays or maps"),
        (Base64Bytes, "its value is sent as it is, and would be parsed again"),
        (Json[list[int]], "its value is sent as it is, and would be parsed again"),
        (list[Callback], "field 'back' is a callable"),
        (Frozen | Excluded, "`Frozen` and `Excluded` cannot be told apart"),
    ],
)
def test_a_model_that_no_call_could_carry_is_refused_at_registration(
    hint: Any, reason: str
) -> None:
    with pytest.raises(RegistrationError, match=rf"parameter 'value': type .* cannot be.*{reason}"):
        of_type(hint)


@pytest.mark.parametrize(
    ("hint", "value", "reason"),
    [
        (PositiveInt, -1, "greater than 0"),
        (PositiveInt, "1", "expected `int`, got `str`"),
        (Checked, {"n": -1}, "greater than 0"),
        (Strict, {"id": 1, "at": "x", "price": "1"}, "3 validation errors|2 validation errors"),
        (StrictPlain, {"n": "1", "data": b""}, "valid integer"),
        (Annotated[Cat | Dog, Field(discriminator="kind")], {"kind": "cow"}, "'cow'"),
        (Annotated[str, Field(max_length=3)], "abcd", "at most 3"),
    ],
)
def test_constraints_of_pydantic_hold(hint: Any, value: Any, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"argument 'value': (.|\n)*({reason})"):
        of_type(hint).decode_call(raw_encoder("/default/f")([value]))


def test_a_datetime_in_a_model_keeps_its_offset() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=3))
    item = Item(number=1, since=NOW.astimezone(zone))
    function = of_type(Item)
    (found,) = function.decode_args(function.encode_args((item,)))
    assert found == item
    assert found.since.utcoffset() == datetime.timedelta(hours=3)


def test_rap_does_not_import_pydantic_by_itself() -> None:
    code = (
        "import sys, rap, rap.client, rap.server\n"
        "from rap.schema.function import Function\n"
        "def f(a: int | None) -> list[str]: ...\n"
        "Function.of(f)\n"
        "assert 'pydantic' not in sys.modules and 'annotated_types' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
