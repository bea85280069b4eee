"""Discovery without a registry: a fixed list."""

import asyncio
from collections.abc import AsyncGenerator, Iterable

from rap.registry.base import Endpoint, Snapshot, check_name

__all__ = ["StaticResolver"]


class StaticResolver:
    """Endpoints that never change, the same for every service."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._snapshot: Snapshot = {endpoint.id: endpoint for endpoint in endpoints}

    def watch(self, service: str) -> AsyncGenerator[Snapshot, None]:
        """Yield the one snapshot, then wait until closed."""
        check_name("service", service)
        return self._watch()

    async def aclose(self) -> None:
        """Do nothing: there is nothing to release."""

    async def _watch(self) -> AsyncGenerator[Snapshot, None]:
        yield self._snapshot
        await asyncio.Event().wait()
