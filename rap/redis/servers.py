"""The servers of one Redis that have keys, each with a client of its own."""

import asyncio
from bisect import bisect
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

__all__ = ["Host", "Servers"]

_MOST_AT_ONCE = 64  # commands of a server, each on a connection; more wait within their limit

Host = tuple[str, int]


class Servers:
    """A client for each server that has keys, open until nobody uses them any more.

    Closing at once would not do: a command in flight that fails is tried once more by redis-py,
    on a new connection that nobody would close.

    Args:
        ranges: First slot and host of each range of slots; one range without a Cluster.
        connect: Makes the client of a host.
        close: Closes one.
        slot_of: Tells the slot of a key.
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
        # Of each server: one that is frozen must not keep commands for the others waiting.
        self._rooms = {host: asyncio.Semaphore(_MOST_AT_ONCE) for host in self._clients}
        self._failures: Counter[Host | None] = Counter()  # in a row, of the same server
        self._users = 0
        self._closing = False

    @property
    def hosts(self) -> list[Host | None]:
        """The servers, each once."""
        return list(self._clients)

    async def run(self, key: str, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """Run `work` with the client of the server that has a key."""
        owner = self._owner(key)
        self._users += 1
        try:
            async with self._rooms[owner]:
                reply = await work(self._clients[owner])
            self._failures.pop(owner, None)
            return reply
        finally:
            self._users -= 1
            if self._closing and not self._users:
                await self.close()

    def note_failure(self, key: str) -> int:
        """Return how many commands in a row the server of a key has not answered, with this one."""
        owner = self._owner(key)
        self._failures[owner] += 1
        return self._failures[owner]

    async def close(self) -> None:
        """Close the clients, now or when the last user leaves."""
        self._closing = True
        if not self._users:
            await asyncio.gather(*map(self._close, self._clients.values()))

    def _owner(self, key: str) -> Host | None:
        place = bisect(self._starts, self._slot_of(key.encode())) - 1
        return self._owners[max(0, place)]
