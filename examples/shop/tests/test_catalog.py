"""The service `catalog`."""

from collections.abc import AsyncIterator

import pytest

from rap import NotFound
from rap.testing import TestClient
from shop.catalog import server
from shop.contract import Catalog, Item, SoldOut


async def hats(count: int) -> AsyncIterator[Item]:
    yield Item("hat", "Straw hat", 1250, count)


async def test_an_order_takes_items_off_the_shelf() -> None:
    async with TestClient(server) as client:
        catalog = client.bind(Catalog)
        assert await catalog.restock(hats(5)) == 1
        assert (await catalog.reserve("hat", 2, "order-1")).left == 3
        assert (await catalog.item("hat")).left == 3


async def test_a_repeated_order_takes_items_once() -> None:
    async with TestClient(server) as client:
        catalog = client.bind(Catalog)
        await catalog.restock(hats(5))
        for _ in range(3):
            assert (await catalog.reserve("hat", 2, "order-1")).left == 3


async def test_what_is_sold_out_cannot_be_reserved() -> None:
    async with TestClient(server) as client:
        client.load_exception([SoldOut])
        catalog = client.bind(Catalog)
        await catalog.restock(hats(1))
        with pytest.raises(SoldOut, match="only 1 of 'Straw hat' are left"):
            await catalog.reserve("hat", 2, "order-1")
        with pytest.raises(NotFound):
            await catalog.item("cat")
