"""The gateway under uvicorn, on a free port."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import uvicorn
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK

from rap.client import Client
from rap.gateway import create_app
from rap.server import Channel
from tests.event_loops import start_task_at_once
from tests.loopback import eventually, serving, within


@pytest.fixture(autouse=True)
async def anyio_knows_the_task_factory() -> None:
    if asyncio.get_running_loop().get_task_factory() is start_task_at_once:
        pytest.skip("anyio knows only asyncio's own eager_task_factory, which uvloop cannot use")


async def add(a: int, b: int) -> int:
    return a + b


@asynccontextmanager
async def listening(client: Client, **options: Any) -> AsyncIterator[str]:
    """Run the gateway; return its host and port."""
    app = create_app("/api", client, **options)
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        log_config=None,
        ws="websockets-sansio",
        lifespan="on",
        proxy_headers=False,  # the gateway decides whom it believes
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    try:
        await eventually(lambda: server.started or running.done())
        yield "{}:{}".format(*server.servers[0].sockets[0].getsockname())
    finally:
        server.should_exit = True
        await within(running)


async def test_calls_and_channels_work_under_uvicorn() -> None:
    ended = asyncio.Event()

    async def shout(channel: Channel) -> None:
        async for text in channel:
            await channel.write(text.upper())
        ended.set()

    async with serving(add, shout) as server, listening(Client(server.addresses)) as place:
        async with httpx2.AsyncClient(trust_env=False) as http:
            body = {"group": "default", "func_name": "add", "arg_list": [1], "kwarg_list": {"b": 2}}
            answer = await http.post(f"http://{place}/api/normal", json=body)
            assert answer.json() == {"code": 0, "data": 3}
        async with connect(f"ws://{place}/api/channel", proxy=None) as socket:
            await socket.send(json.dumps({"group": "default", "func_name": "shout"}))
            assert json.loads(await socket.recv()) == {"code": 0, "data": "accept"}
            await socket.send("hello")
            assert await socket.recv() == "HELLO"
        await within(ended.wait())  # it has read to the end, and was not cancelled


async def test_a_channel_closes_normally_when_its_function_has_returned() -> None:
    async def greet(channel: Channel) -> None:
        await channel.write("hello")

    async with serving(greet) as server, listening(Client(server.addresses)) as place:
        async with connect(f"ws://{place}/api/channel", proxy=None) as socket:
            await socket.send(json.dumps({"func_name": "greet"}))
            assert json.loads(await socket.recv())["code"] == 0
            assert await socket.recv() == "hello"
            with pytest.raises(ConnectionClosedOK):
                await socket.recv()


async def test_a_client_that_disconnects_between_events_ends_the_generator() -> None:
    ended = asyncio.Event()

    async def ticks() -> AsyncIterator[int]:
        try:
            for i in range(1_000_000_000):
                yield i
        finally:
            ended.set()

    async with serving(ticks) as server, listening(Client(server.addresses)) as place:
        async with httpx2.AsyncClient(trust_env=False) as http:
            url, headers = f"http://{place}/api/call/default/ticks", {"Accept": "text/event-stream"}
            async with http.stream("POST", url, json={}, headers=headers) as answer:
                async for line in answer.aiter_lines():
                    assert line == "data: 0"
                    break
        await within(ended.wait())


async def test_a_client_that_sends_nothing_or_half_a_body_times_out() -> None:
    async with (
        serving(add) as server,
        listening(Client(server.addresses), body_timeout=0.05) as place,
    ):
        host, _, port = place.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = b"POST /api/normal HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        writer.write(head + b"Content-Length: 10\r\n\r\n{")
        assert await within(reader.readline()) == b"HTTP/1.1 408 Request Timeout\r\n"
        writer.transport.abort()
        async with connect(f"ws://{place}/api/channel", proxy=None) as socket:
            answer = json.loads(await within(socket.recv()))
            assert answer == {"code": 408, "msg": "no message arrived within 0.05 s"}
            with pytest.raises(ConnectionClosed) as caught:
                await within(socket.recv())
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1008
