"""The service `catalog`: items, and how many are left."""

from asyncio import sleep, to_thread
from collections.abc import AsyncIterator

from rap import Server
from shop import contract, stock
from shop.contract import Item
from shop.settings import LISTEN, REGISTRY
from shop.telemetry import processors

SLOW = ("mug", "rug")  # they are in a store from where they come later

server = Server(
    LISTEN,
    service="catalog",
    registry=REGISTRY,
    processor_list=processors("catalog"),
)


@server.register
class Catalog(contract.Catalog):
    async def item(self, sku: str) -> Item:
        return await to_thread(stock.find, sku)

    async def reserve(self, sku: str, count: int, key: str) -> Item:
        item = await to_thread(stock.take, sku, count, key)
        if sku in SLOW:
            await sleep(0.4)
        return item

    async def restock(self, items: AsyncIterator[Item]) -> int:
        total = 0
        async for item in items:
            await to_thread(stock.add, item)
            total += 1
        return total
