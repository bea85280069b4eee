"""Mistakes in calls."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from rap import Channel, Client, Server
from rap.errors import ConnectionClosed
from rap.testing import TestClient
from tests.loopback import LOOPBACK
from tests.mistakes.catalogue import Scene, mistake


def shop() -> Server:
    """Return a server with a function of each kind."""
    server = Server()

    @server.register
    async def add(a: int, b: int) -> int:
        return a + b

    @server.register
    async def count(n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    @server.register
    async def shout(channel: Channel) -> None:
        async for text in channel:
            await channel.write(text.upper())

    return server


@mistake(
    "a unary function is iterated",
    3,
    what="is not a generator",
    where="/default/add",
    remedy="call it instead",
)
async def iterated_unary(scene: Scene) -> Any:
    async with TestClient(shop()) as client:
        async for _ in client.iterator_call("add", 1, 2):
            pass


@mistake(
    "a channel function is called by name with raw_call",
    3,
    what="is a channel function",
    where="/default/shout",
    remedy="declare it with a parameter of type Channel",
)
async def channel_by_raw_call(scene: Scene) -> Any:
    async with TestClient(shop()) as client:
        await client.raw_call("shout")


@mistake(
    "an argument is missing",
    3,
    what="missing a required argument",
    where="add()",
    remedy="expected add(a: int, b: int), got 1 by position",
)
async def missing_argument(scene: Scene) -> Any:
    async with TestClient(shop()) as client:
        await client.raw_call("add", 1)


@mistake(
    "an argument has a wrong name",
    3,
    what="missing a required argument",
    where="add()",
    remedy="expected add(a: int, b: int), got 1 by position and ['c']",
)
async def wrong_argument_name(scene: Scene) -> Any:
    async with TestClient(shop()) as client:
        await client.raw_call("add", a=1, c=2)


@mistake(
    "an argument has the wrong type",
    3,
    what="got `str`",
    where="add(): argument 'b'",
    remedy="expected `int`",
)
async def wrong_argument_type(scene: Scene) -> Any:
    async with TestClient(shop()) as client:
        await client.raw_call("add", 1, "2")


@mistake(
    "a handler returns what its hint does not say",
    3,
    what="got `str`",
    where="price(): return value",
    remedy="expected `float`",
)
async def wrong_result(scene: Scene) -> Any:
    server = Server()

    @server.register
    async def price(name: str) -> float:
        return "2.5"  # type: ignore[return-value]

    async with TestClient(server) as client:
        await client.raw_call("price", "tea")


@mistake(
    "a generator yields what its hint does not say",
    3,
    what="got `str`",
    where="count(): item",
    remedy="expected `int`",
)
async def wrong_item(scene: Scene) -> Any:
    server = Server()

    @server.register
    async def count(n: int) -> AsyncIterator[int]:
        yield "one"  # type: ignore[misc]

    async with TestClient(server) as client:
        async for _ in client.iterator_call("count", 3):
            pass


@mistake(
    "the connection is lost during a call that is not idempotent",
    3,
    what="the call may have run",
    where="connection to 127.0.0.1:<port> lost",
    remedy="declared with idempotent=True",
)
async def lost_connection(scene: Scene) -> Any:
    server = Server(LOOPBACK)
    begun = asyncio.Event()

    @server.register
    async def buy() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with server, Client(server.addresses) as client:
        call = asyncio.ensure_future(client.raw_call("buy"))
        await begun.wait()
        for conn in server.connection_manager.connections:
            conn.abort(ConnectionClosed("the cable was cut"))
        await call


@mistake(
    "a middleware or client passes a header that is no dict",
    3,
    what="got 'tenant=acme'",
    where="header",
    remedy="must be a dict",
)
async def wrong_header(scene: Scene) -> Any:
    async with TestClient(shop()) as client:
        await client.raw_call("add", 1, 2, header="tenant=acme")  # type: ignore[arg-type]


@mistake(
    "a timeout is a timedelta",
    3,
    what="got datetime.timedelta(seconds=3)",
    where="timeout",
    remedy="must be a number of seconds or None",
)
async def timeout_type(scene: Scene) -> Any:
    from datetime import timedelta

    options: Any = {"timeout": timedelta(seconds=3)}
    async with TestClient(shop()) as client:
        await client.raw_call("add", 1, 2, **options)
