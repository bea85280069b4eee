"""A server with functions of every kind, and `rap` run against it."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from click.testing import CliRunner, Result

from rap.cli.app import rap
from rap.errors import CallError, Code
from rap.server import Channel, Server, context
from tests.loopback import serving

__all__ = ["Item", "invoke", "shop"]


@dataclasses.dataclass
class Item:
    name: str
    price: float = 1.5


async def add(a: int, b: int = 1) -> int:
    """Add two numbers.

    Both are whole.
    """
    return a + b


async def show(value: Any, *, mark: str = "") -> Any:
    return [value, mark] if mark else value


def turn(data: bytes) -> bytes:
    return data[::-1]


async def item(name: str) -> Item:
    return Item(name)


async def count(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


async def pairs(n: int) -> AsyncIterator[list[int]]:
    for i in range(n):
        yield [i, i]
        await asyncio.sleep(0)
    raise ValueError("enough")


async def shout(channel: Channel) -> None:
    """Answer louder until it is told to stop."""
    async for text in channel:
        if text == "stop":
            break
        await channel.write(text.upper() if isinstance(text, str) else text)


async def listen(channel: Channel) -> None:
    async for _ in channel:
        pass


async def upload(name: str, rows: AsyncIterator[int]) -> dict[str, Any]:
    context.set_header("kind", "sum")
    context.set_trailer("rows", [name])
    return {name: sum([row async for row in rows])}


def plainly(rows: Iterator[str], *, sign: str = "!") -> Iterator[str]:
    for row in rows:
        yield f"{row}{sign}"


async def chat(channel: Channel[str, str], room: str, times: int = 1) -> int:
    count = 0
    async for text in channel:
        count += 1
        await channel.write(f"{room}: {text * times}")
    return count


async def deaf(channel: Channel) -> None:
    await channel.write("hello")
    await asyncio.Event().wait()


async def greet_first(channel: Channel) -> None:
    await channel.write("hello")


async def fail(code: str) -> None:
    if code == "bug":
        raise ZeroDivisionError("by\n\x1b[31mzero")
    if code == "silent":
        raise KeyError
    raise CallError("as you wish", code=Code[code])


async def hidden() -> str:
    return "seen"


FUNCTIONS = (
    *(add, show, turn, item, count, pairs, shout, listen, greet_first, fail),
    *(upload, plainly, chat, deaf),
)


@asynccontextmanager
async def shop(**options: Any) -> AsyncIterator[Server]:
    async with serving(*FUNCTIONS, **{"drain_delay": 0, **options}) as server:
        server.register(hidden, group="back", is_private=True, idempotent=True)
        yield server


async def invoke(server: Server | None, *args: str, **options: Any) -> Result:
    """Run a command, in a thread of its own, against a server."""
    host = () if server is None else ("--host", str(server.addresses[0]))
    result = await asyncio.to_thread(CliRunner().invoke, rap, [*args, *host], **options)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
