"""A resolver of a fixed list of endpoints."""

import asyncio
from collections.abc import AsyncGenerator, Iterable

from rap.registry.base import Endpoint, Snapshot, check_name

__all__ = ["StaticResolver"]


class StaticResolver:
    """A resolver whose endpoints never change and are the same for every service."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._snapshot: Snapshot = {endpoint.id: endpoint for endpoint in endpoints}

    def watch(self, service: str) -> AsyncGenerator[Snapshot, None]:
        """Yield the only snapshot, then wait until the iterator is closed."""
        check_name("service", service)
        return self._watch()

    async def aclose(self) -> None:
        """Do nothing: there is nothing to release."""

    async def _watch(self) -> AsyncGenerator[Snapshot, None]:
        yield self._snapshot
        await asyncio.Event().wait()
