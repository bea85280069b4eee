"""A server or a client of one service, for any release of rap: ``python peer.py ROLE REGISTRY``.

It imports nothing but rap, which is the one in ``PYTHONPATH``. A server prints ``ready`` and serves
until SIGTERM. A client calls until its standard input ends, and prints each thousand calls; at last
it prints how many there were, and each that failed.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator

from rap.client import Client
from rap.server import Channel, Server

WORKERS = 16
LARGE = 100_000  # bytes


async def double(n: int) -> int:
    return 2 * n


async def large(data: bytes) -> bytes:
    return data


async def count(to: int) -> AsyncIterator[int]:
    for n in range(to):
        yield n


async def talk(channel: Channel) -> None:
    async for message in channel:
        await channel.write(message)


async def serve(registry: str) -> None:
    server = Server(
        "127.0.0.1:0", service="shop", registry=registry, close_timeout=9, drain_delay=1
    )
    for function in (double, large, count, talk):
        server.register(function)
    await server.create_server()
    print("ready", flush=True)
    await server.serve_forever()


async def call_once(client: Client, number: int) -> None:
    """Make one call; which kind depends on its number."""
    kind = number % 20
    if kind == 0:
        async with client.channel("talk") as channel:
            for i in range(3):
                await channel.write([number, i])
                got = await channel.read_body()
                if got != [number, i]:
                    raise ValueError(f"a channel returned {got!r}")
    elif kind == 1:
        found = [n async for n in client.iterator_call("count", 5, timeout=9)]
        if found != list(range(5)):
            raise ValueError(f"a generator yielded {found!r}")
    elif kind == 2:
        data = number.to_bytes(8, "big") * (LARGE // 8)
        if await client.raw_call("large", data) != data:
            raise ValueError("a large message has changed")
    elif await client.raw_call("double", number) != 2 * number:
        raise ValueError("an answer was that of another call")


async def call(registry: str) -> None:
    calls, failed, stopped = 0, [], False

    async def work(client: Client) -> None:
        nonlocal calls
        while not stopped:
            calls += 1
            number = calls
            if number % 1000 == 0:
                print(number, flush=True)
            try:
                await call_once(client, number)
            except Exception as error:  # each counts
                failed.append(f"{number}: {type(error).__name__}: {error}")

    async with Client(service="shop", registry=registry) as client:
        workers = [asyncio.create_task(work(client)) for _ in range(WORKERS)]
        await asyncio.to_thread(sys.stdin.read)
        stopped = True
        await asyncio.gather(*workers)
    print(json.dumps({"calls": calls, "failed": failed}), flush=True)


if __name__ == "__main__":
    asyncio.run({"serve": serve, "call": call}[sys.argv[1]](sys.argv[2]))
