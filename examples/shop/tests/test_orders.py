"""The service `orders`, with a fake `catalog`."""

import pytest

from rap.testing import TestClient, fake
from shop import orders
from shop.contract import Event, Item, Orders, SoldOut

HAT = Item("hat", "Straw hat", 1250, 3)


async def test_an_order_reserves_its_items_and_is_shipped() -> None:
    async with fake(orders.client, reserve=HAT) as fakes, TestClient(orders.server) as client:
        desk = client.bind(Orders)
        order = await desk.place("hat", 2, "order-1")
        assert order.cents == 2500
        fakes.reserve.assert_called_once_with("hat", 2, "order-1")

        await desk.ship("order-1")
        events = [event async for event in desk.events("order-1")]
        assert events == [Event(1, "placed"), Event(2, "shipped")]
        assert [event async for event in desk.events("order-1", after=1)] == events[1:]


async def test_the_buyer_learns_that_an_item_is_sold_out() -> None:
    sold_out = SoldOut("Straw hat", 1)
    async with fake(orders.client, reserve=sold_out), TestClient(orders.server) as client:
        client.load_exception([SoldOut])
        with pytest.raises(SoldOut, match="only 1 of 'Straw hat' are left"):
            await client.bind(Orders).place("hat", 2, "order-1")
