"""Follow an order: `python -m shop.watch KEY`."""

import asyncio
import sys

from rap import Client, Unavailable
from shop.contract import Orders
from shop.settings import REGISTRY

client = Client(service="orders", registry=REGISTRY)
orders = client.bind(Orders)


async def main(key: str) -> None:
    after = 0
    async with client:
        while True:
            try:
                async for event in orders.events(key, after):
                    print(f"{key}: {event.text}", flush=True)
                    after = event.number
                    if event.text == "shipped":
                        return
            except Unavailable as error:
                print(f"{key}: {error}", flush=True)
            await asyncio.sleep(1)  # and go on


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
