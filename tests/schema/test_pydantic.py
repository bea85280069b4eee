"""Real models of pydantic travel, alone and inside other types."""

import datetime
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from rap.errors import InvalidArgument
from tests.loopback import calling, serving

pydantic = pytest.importorskip("pydantic")


class Item(pydantic.BaseModel):  # type: ignore[misc,name-defined,unused-ignore]  # may be absent
    number: int
    price: Decimal = Decimal("1.50")
    since: datetime.datetime
    tags: tuple[str, ...] = ()


class Order(pydantic.BaseModel):  # type: ignore[misc,name-defined,unused-ignore]
    id: UUID
    items: list[Item]


@dataclass
class Cart:
    best: Item
    rest: list[Item]


ITEM = Item(number=7, since=datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC))
ORDER = Order(id=UUID(int=1), items=[ITEM, ITEM])


async def order(value: Order, more: Item | None = None) -> Order:
    assert type(value) is Order
    assert type(value.items[0]) is Item
    return Order(id=value.id, items=[*value.items, *([more] if more else [])])


async def cart(value: Cart) -> list[Item]:
    return [value.best, *value.rest]


async def items(value: Item) -> AsyncIterator[Item]:
    for number in range(3):
        yield value.model_copy(update={"number": number})


async def test_models_travel_both_ways() -> None:
    async with serving(order, cart, items) as server, calling(server) as client:
        remote: Any = client.register()(order)
        assert await remote(ORDER, ITEM) == Order(id=ORDER.id, items=[ITEM] * 3)
        assert await client.call(cart, Cart(ITEM, [ITEM])) == [ITEM, ITEM]
        found = [each async for each in client.iterator_call(items, ITEM)]
        assert [each.number for each in found] == [0, 1, 2]
        assert {type(each) for each in found} == {Item}


@pytest.mark.parametrize(
    ("value", "reason"),
    [({"id": "no", "items": []}, "valid UUID"), (5, "valid dictionary"), ({}, "Field required")],
)
async def test_what_is_no_model_is_refused_by_the_server(value: Any, reason: str) -> None:
    async with serving(order) as server, calling(server) as client:
        with pytest.raises(InvalidArgument, match=reason):
            await client.raw_call("order", value)
