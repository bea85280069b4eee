"""Both services, while a replica of `catalog` dies."""

from asyncio import gather

from rap.testing import Fleet, TestClient
from shop import catalog, orders, stock
from shop.contract import Item, Orders


async def test_orders_are_placed_exactly_once_although_a_replica_dies() -> None:
    stock.add(Item("hat", "Straw hat", 1250, 50))
    async with (
        Fleet(catalog.server, 3, client=orders.client) as fleet,
        TestClient(orders.server) as client,
    ):
        desk = client.bind(Orders)
        placing = gather(*[desk.place("hat", 1, f"order-{n}") for n in range(30)])
        fleet["a"].kill()
        assert len(await placing) == 30
        assert stock.find("hat").left == 20
