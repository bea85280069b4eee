"""Follow an order: `python -m shop.watch KEY`."""

import asyncio
import sys

from rap import Client
from shop.contract import Orders
from shop.settings import REGISTRY

client = Client(service="orders", registry=REGISTRY)
orders = client.bind(Orders)


async def main(key: str) -> None:
    async with client:
        async for event in orders.events(key):
            print(f"{key}: {event.text}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
