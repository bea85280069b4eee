# quickstart.py
import asyncio
from typing import Protocol

from rap import Client, Server

server = Server("localhost:9000")


@server.register
async def add(a: int, b: int) -> int:
    return a + b


class Calc(Protocol):
    async def add(self, a: int, b: int) -> int: ...


async def main() -> None:
    async with server, Client("localhost:9000") as client:
        calc = client.bind(Calc, group="default")
        print(await calc.add(1, 2))


asyncio.run(main())
