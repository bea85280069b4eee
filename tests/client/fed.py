"""A resolver that yields what a test feeds it, and numbered servers to list there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from rap.registry import Endpoint, Snapshot
from rap.server import Server
from tests.loopback import serving

__all__ = ["Resolver", "listed", "numbered"]


class Resolver:
    """Yields the snapshots that a test gives it, or raises."""

    def __init__(self) -> None:
        self.given: asyncio.Queue[Snapshot | Exception] = asyncio.Queue()
        self.watches = 0

    async def watch(self, service: str) -> AsyncIterator[Snapshot]:
        self.watches += 1
        while True:
            snapshot = await self.given.get()
            if isinstance(snapshot, Exception):
                raise snapshot
            yield snapshot

    async def aclose(self) -> None:
        """Nothing to release."""


def listed(*servers: Server, **changes: Any) -> dict[str, Endpoint]:
    endpoints = [Endpoint(str(s.addresses[0]), s.addresses[0], **changes) for s in servers]
    return {endpoint.id: endpoint for endpoint in endpoints}


@asynccontextmanager
async def numbered(number: int, **options: Any) -> AsyncIterator[Server]:
    """Run a server whose function `which` returns a number."""

    async def which() -> int:
        return number

    async with serving(which, drain_delay=0, **options) as server:
        yield server
