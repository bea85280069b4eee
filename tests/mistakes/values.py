"""Values that cannot be sent."""

from typing import Any

from rap import Client, Server
from rap.testing import TestClient
from tests.mistakes.catalogue import Scene, mistake


def store() -> Server:
    """Return a server that takes anything."""
    server = Server(max_message=100_000)

    @server.register
    async def put(value: Any) -> None: ...

    @server.register
    async def add(a: int, b: int) -> int:
        return a + b

    @server.register
    async def sizes(values: dict[str, float]) -> int:
        return len(values)

    return server


async def _put(value: object) -> Any:
    async with TestClient(store()) as client:
        await client.raw_call("put", value)


class Basket:
    """An object of the user's own."""


@mistake(
    "a dict with int keys is an argument for dict[str, float]",
    3,
    what="got `int`",
    where="sizes(): argument 'values'",
    remedy="expected `str`",
)
async def int_keys(scene: Scene) -> Any:
    async with TestClient(store()) as client:
        await client.raw_call("sizes", {1: 2.0})


_ = Client
