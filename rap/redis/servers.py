"""The servers of one Redis that own keys, each with a separate client."""

import asyncio
from bisect import bisect
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

__all__ = ["Host", "Servers"]

_MAX_CONCURRENT = 64  # commands per server, each on one connection; others wait

Host = tuple[str, int]


class Servers:
    """The clients of all servers that own keys, open until the last command ends.

    They cannot be closed earlier. redis-py repeats a command that fails in flight on a new
    connection, which would then stay open.

    Args:
        ranges: First slot and host of each range of slots; a single range without a Cluster.
        connect: Returns the client of a host.
        close: Closes a client.
        slot_of: Returns the slot of a key.
    """

    def __init__(
        self,
        ranges: Sequence[tuple[int, Host | None]],
        connect: Callable[[Host | None], Any],
        close: Callable[[Any], Awaitable[None]],
        slot_of: Callable[[bytes], int],
    ) -> None:
        self._starts = [first for first, _ in ranges]
        self._owners = [host for _, host in ranges]
        self._close = close
        self._slot_of = slot_of
        self._clients = {host: connect(host) for host in self._owners}
        # One for each server: a frozen server must not delay commands of the others.
        self._limits = {host: asyncio.Semaphore(_MAX_CONCURRENT) for host in self._clients}
        self._failures: Counter[Host | None] = Counter()  # in a row, of the same server
        self._users = 0
        self._closing = False

    @property
    def hosts(self) -> list[Host | None]:
        """The servers, without duplicates."""
        return list(self._clients)

    async def run(self, key: str, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """Run `work` with the client of the server that owns a key."""
        owner = self._owner(key)
        self._users += 1
        try:
            async with self._limits[owner]:
                reply = await work(self._clients[owner])
            self._failures.pop(owner, None)
            return reply
        finally:
            self._users -= 1
            if self._closing and not self._users:
                await self.close()

    def note_failure(self, key: str) -> int:
        """Count a failure of the server that owns a key; return how many it has in a row."""
        owner = self._owner(key)
        self._failures[owner] += 1
        return self._failures[owner]

    async def close(self) -> None:
        """Close the clients, now or when the last command ends."""
        self._closing = True
        if not self._users:
            await asyncio.gather(*map(self._close, self._clients.values()))

    def _owner(self, key: str) -> Host | None:
        place = bisect(self._starts, self._slot_of(key.encode())) - 1
        return self._owners[max(0, place)]
