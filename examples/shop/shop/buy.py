"""Place many orders: `python -m shop.buy hat 300`."""

import asyncio
import sys
from uuid import uuid4

from rap import CallError, Client
from shop.contract import Orders, SoldOut
from shop.settings import REGISTRY

client = Client(service="orders", registry=REGISTRY)
client.load_exception([SoldOut])
orders = client.bind(Orders)

at_a_time = asyncio.Semaphore(10)
done = failed = 0


async def buy(sku: str) -> None:
    global done, failed
    async with at_a_time:
        try:
            await orders.place(sku, 1, key=uuid4().hex)
        except CallError as error:
            failed += 1
            print(f"{type(error).__name__}: {error}")
    done += 1
    if done % 100 == 0:
        print(f"{done} orders, {failed} failed", flush=True)


async def main(sku: str, count: int) -> None:
    async with client, asyncio.TaskGroup() as tasks:
        for _ in range(count):
            tasks.create_task(buy(sku))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
