"""A server and a client with one channel function, its two halves given by the test."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from rap.client import Channel, Client
from rap.server import Channel as ServerChannel
from rap.server import Server
from tests.loopback import Unnoticed, calling, serving, within

__all__ = ["Body", "Pair", "connected_pair", "echo", "nothing", "wait_for_ever"]

Body = Callable[[Channel], Awaitable[Any]]


class Pair:
    """A server and a client with one channel function, its two halves given by the test."""

    def __init__(self, server: Server, client: Client, halves: dict[str, Body]) -> None:
        self.server = server
        self.client = client
        self._halves = halves
        self.server_ended = asyncio.Event()
        self.server_error: BaseException | None = None

    async def serve(self, channel: ServerChannel) -> None:
        try:
            await self._halves["server"](channel)
        except BaseException as exc:
            self.server_error = exc
            raise
        finally:
            self.server_ended.set()

    async def run(self, server: Body, client: Body, **options: Any) -> Any:
        """Open the channel; return what the client's half returns once both have ended."""
        self._halves["server"] = server

        async def talk(channel: Channel) -> Any:
            return await client(channel)

        stub: Any = self.client.register()(talk)
        try:
            return await within(stub(**options))
        finally:
            await within(self.server_ended.wait())

    @property
    def counts(self) -> tuple[int, int]:
        stats = [node.stats for node in self.client.cluster.nodes.values()]
        return sum(s.in_flight for s in stats), sum(s.open_streams for s in stats)


@asynccontextmanager
async def connected_pair() -> AsyncIterator[Pair]:
    """Run both; at the end nothing of any channel may be left."""
    unnoticed = Unnoticed(asyncio.get_running_loop())
    async with serving() as server, calling(server) as client:
        pair = Pair(server, client, {})
        server.register(pair.serve, name="talk")
        yield pair
        assert pair.counts == (0, 0)
        nodes = client.cluster.nodes.values()
        assert not any(c.pins for node in nodes for c in node.pool.connections)
    await unnoticed.check()


async def echo(channel: Channel) -> None:
    async for body in channel:
        await channel.write(body)


async def nothing(channel: Channel) -> None:
    """Return at once."""


async def wait_for_ever(channel: Channel) -> None:
    await channel.write("here")
    await asyncio.Event().wait()
