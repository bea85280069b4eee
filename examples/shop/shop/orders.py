"""The service `orders`: sells what `catalog` has."""

from asyncio import sleep, to_thread
from collections.abc import AsyncIterator

from rap import Client, Server, context
from shop import contract, ledger
from shop.contract import Catalog, Event, Order
from shop.settings import LISTEN, REGISTRY
from shop.telemetry import processors

client = Client(service="catalog", registry=REGISTRY, processor_list=processors("orders"))
catalog = client.bind(Catalog, timeout=5)

server = Server(
    LISTEN,
    service="orders",
    registry=REGISTRY,
    start_event_list=[client.connect],
    stop_event_list=[client.close],
    processor_list=processors("orders"),
)


@server.register
class Orders(contract.Orders):
    async def place(self, sku: str, count: int, key: str) -> Order:
        item = await catalog.reserve(sku, count, key)
        order = Order(key, sku, count, count * item.cents)
        await to_thread(ledger.add, order)
        return order

    async def ship(self, key: str) -> None:
        await to_thread(ledger.ship, key)

    async def events(self, key: str, after: int = 0) -> AsyncIterator[Event]:
        while not context.draining:
            for event in await to_thread(ledger.events, key, after):
                yield event
                after = event.number
                if event.text == "shipped":
                    return
            await sleep(0.1)
