"""Functions of every shape behind an encrypted server, and clients with and without its key."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from rap.client import Client
from rap.client.processor import CryptoProcessor as ClientCrypto
from rap.errors import CallError
from rap.server import Channel, Server
from rap.server.processor import CryptoProcessor as ServerCrypto
from tests.loopback import calling, serving

__all__ = [
    "KEY",
    "KEY_ID",
    "ClientCrypto",
    "ServerCrypto",
    "add",
    "echo",
    "encrypted",
    "encrypted_client",
    "fail",
    "items",
    "remote",
    "talk",
]

KEY_ID = "demo_id"
KEY = "xxxxxxxxxxxxxxxx"


async def add(a: int, b: int) -> int:
    return a + b


async def echo(value: Any) -> Any:
    return value


async def items(count: int) -> AsyncIterator[Any]:
    for i in range(count):
        yield [i, "item"]


async def talk(channel: Channel) -> None:
    async for body in channel:
        await channel.write(["heard", body])


async def fail(kind: str, text: str) -> None:
    if kind == "details":
        raise CallError(text, details={"secret": text})
    raise {"ValueError": ValueError, "OSError": OSError}[kind](text)


@asynccontextmanager
async def encrypted(**options: Any) -> AsyncIterator[Server]:
    """Serve all of them; options that a server does not have are its processor's."""
    processor = ServerCrypto(options.pop("keys", {KEY_ID: KEY}), **options.pop("crypto", {}))
    processors = [*options.pop("before", ()), processor]
    async with serving(
        add, echo, items, talk, fail, processor_list=processors, **options
    ) as server:
        yield server


@asynccontextmanager
async def encrypted_client(
    *servers: Server, key_id: str = KEY_ID, key: str | bytes = KEY, **options: Any
) -> AsyncIterator[Client]:
    """Connect a client that has a key."""
    processor = options.pop("processor", None) or ClientCrypto(key_id, key)
    processors = [*options.pop("before", ()), processor]
    async with calling(*servers, processor_list=processors, **options) as client:
        yield client


def remote(client: Client, name: str, func: Any) -> Any:
    """Return the stub of a channel function, which makes its channel."""
    return client.register(name)(func)
