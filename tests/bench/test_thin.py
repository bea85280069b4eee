"""The limit answers right, or its figures would mean nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bench.adapters.limit_thin import ADD, CHANNEL, ECHO, HANDLERS, STREAM
from bench.thin import Pipe, ThinClient, ThinServer

FAIL, SLOW = 10, 11


async def fail() -> None:
    raise ValueError("no")


async def slow(value: int) -> int:
    await asyncio.sleep(0)
    return value


@pytest.fixture
async def client() -> AsyncIterator[ThinClient]:
    loop = asyncio.get_running_loop()
    handlers: dict[int, Callable[..., Any]] = {**HANDLERS, FAIL: fail, SLOW: slow}
    server = await loop.create_server(lambda: ThinServer(loop, handlers), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport, client = await loop.create_connection(lambda: ThinClient(loop), "127.0.0.1", port)
    yield client
    transport.close()
    server.close()
    await server.wait_closed()


async def test_many_calls_at_once_each_get_their_own_answer(client: ThinClient) -> None:
    answers = await asyncio.gather(*[client.call(ADD, (i, i)) for i in range(100)])
    assert answers == [2 * i for i in range(100)]


async def test_a_handler_that_waits_becomes_a_task(client: ThinClient) -> None:
    assert await asyncio.gather(*[client.call(SLOW, (i,)) for i in range(5)]) == list(range(5))


async def test_an_error_arrives(client: ThinClient) -> None:
    with pytest.raises(RuntimeError, match="ValueError"):
        await client.call(FAIL, ())


async def test_a_payload_in_many_pieces_arrives_whole(client: ThinClient) -> None:
    data = bytes(range(256)) * 20_000
    assert await client.call(ECHO, (data,)) == data


async def test_a_stream_is_in_order_and_ends(client: ThinClient) -> None:
    assert [item async for item in client.stream(STREAM, (1_000,))] == list(range(1_000))


async def test_a_channel_sends_back_what_it_gets(client: ThinClient) -> None:
    pipe: Pipe = client.channel(CHANNEL)
    for item in range(3):
        pipe.send(item)
        assert await anext(pipe) == item
