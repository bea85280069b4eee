"""Upload items: `python -m shop.supply items.csv`."""

import asyncio
import csv
import sys
from collections.abc import AsyncIterator
from typing import TextIO

from rap import Client
from shop.contract import Catalog, Item
from shop.settings import REGISTRY

client = Client(service="catalog", registry=REGISTRY)
catalog = client.bind(Catalog)


async def rows(file: TextIO) -> AsyncIterator[Item]:
    for sku, name, cents, left in csv.reader(file):
        yield Item(sku, name, int(cents), int(left))


async def main(file: TextIO) -> None:
    async with client:
        print("items uploaded:", await catalog.restock(rows(file)))


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        asyncio.run(main(file))
