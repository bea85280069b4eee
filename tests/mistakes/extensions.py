"""Mistakes with processors, middleware and encryption."""

from typing import Any

from rap import Server
from rap.client.processor import CryptoProcessor as ClientCryptoProcessor
from rap.testing import TestClient
from tests.mistakes.catalogue import Scene, mistake

KEY = "0123456789abcdef"


async def _call(server: Server, **options: Any) -> Any:
    @server.register
    async def add(a: int, b: int) -> int:
        return a + b

    async with TestClient(server, **options) as client:
        await client.raw_call("add", 1, 2)


@mistake(
    "the server does not decrypt",
    3,
    what="the call is encrypted, and this server has no CryptoProcessor",
    where="/default/add",
    remedy="load one into the server, or none into the client",
)
async def server_without_encryption(scene: Scene) -> Any:
    await _call(Server(), processor_list=[ClientCryptoProcessor("a", KEY)])


@mistake(
    "the key has a wrong length",
    3,
    what="it has 6",
    where="the key of 'a'",
    remedy="must have 16, 24 or 32 bytes",
)
def short_key(scene: Scene) -> Any:
    ClientCryptoProcessor("a", "secret")


@mistake(
    "a processor of the other side is loaded",
    3,
    what="is for a client",
    where="processor_list",
    remedy="import the one for a server from rap.server.processor",
)
def processor_of_other_side(scene: Scene) -> Any:
    Server(processor_list=[ClientCryptoProcessor("a", KEY)])
