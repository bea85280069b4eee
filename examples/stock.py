"""The stock of a shop: the service behind ``fastapi_front`` and ``flask_front``.

::

    rap serve examples.stock:server
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import AsyncIterator

from rap import CallError, Code, NotFound, Server

server = Server(os.environ.get("STOCK_ADDRESS", "localhost:9000"))
left = {"hat": 3, "scarf": 1}
watchers: dict[str, set[asyncio.Queue[int]]] = defaultdict(set)


@server.register
class Stock:
    """What is left of each article."""

    async def left(self, sku: str) -> int:
        """Return how many items are left."""
        if sku not in left:
            raise NotFound(f"there is no {sku}")
        return left[sku]

    async def reserve(self, sku: str, count: int) -> int:
        """Reserve items; return how many are left."""
        if await self.left(sku) < count:
            raise CallError(f"only {left[sku]} left", code=Code.ABORTED)
        left[sku] -= count
        for queue in watchers[sku]:
            queue.put_nowait(left[sku])
        return left[sku]

    async def watch(self, sku: str) -> AsyncIterator[int]:
        """Yield how many items are left, and again after each change."""
        queue = asyncio.Queue[int]()
        queue.put_nowait(await self.left(sku))
        watchers[sku].add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            watchers[sku].discard(queue)

    async def watchers(self, sku: str) -> int:
        """Return how many callers watch an article."""
        return len(watchers[sku])
