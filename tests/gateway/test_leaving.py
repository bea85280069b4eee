"""A call ends when the HTTP client that asked for it disconnects, whatever it waits for."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from starlette.requests import HTTPConnection
from starlette.types import Message
from websockets.asyncio.client import connect

from rap.client import Client
from rap.gateway import create_app
from rap.server import Channel
from tests.event_loops import start_task_at_once
from tests.gateway.test_uvicorn import listening
from tests.loopback import eventually, serving, within

LINES, JSON, EVENTS = "application/x-ndjson", "application/json", "text/event-stream"


@pytest.fixture(autouse=True)
async def anyio_knows_the_task_factory() -> None:
    if asyncio.get_running_loop().get_task_factory() is start_task_at_once:
        pytest.skip("anyio knows only asyncio's own eager_task_factory, which uvloop cannot use")


class Handlers:
    """Functions that never answer; they know how many of them run."""

    def __init__(self) -> None:
        self.running = 0

    async def _wait(self) -> None:
        self.running += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.running -= 1

    async def silent(self) -> None:
        await self._wait()

    async def silent_items(self) -> AsyncIterator[int]:
        await self._wait()
        yield 1

    async def one_item(self) -> AsyncIterator[int]:
        yield 1
        await self._wait()

    async def deaf(self, rows: AsyncIterator[Any]) -> int:
        await self._wait()
        return 1

    async def deaf_items(self, rows: AsyncIterator[Any]) -> AsyncIterator[int]:
        await self._wait()
        yield 1

    async def deaf_channel(self, channel: Channel) -> None:
        await self._wait()

    async def add(self, a: int, b: int) -> int:
        return a + b

    @property
    def all(self) -> list[Callable[..., Any]]:
        return [
            self.silent,
            self.silent_items,
            self.one_item,
            self.deaf,
            self.deaf_items,
            self.deaf_channel,
            self.add,
        ]


@asynccontextmanager
async def gateway(
    client: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[Handlers, str]]:
    handlers = Handlers()
    async with (
        serving(*handlers.all, run_timeout=1000) as server,
        listening(Client(server.addresses, timeout=1000, **(client or {})), **options) as place,
    ):
        yield handlers, place


def request(name: str, body: bytes = b"{}", kind: str = JSON, accept: str = "*/*") -> bytes:
    path = "/api/normal" if name == "normal" else f"/api/call/default/{name}"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def sent(place: str, content: bytes) -> AsyncIterator[asyncio.StreamReader]:
    """Send a request, and disconnect at the end of the block."""
    host, _, port = place.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(content)
    try:
        yield reader
    finally:
        writer.transport.abort()


REQUESTS = {
    "unary": request("silent"),
    "normal": request("normal", b'{"func_name": "silent"}'),
    "before the first item": request("silent_items", accept=EVENTS),
    "after the first item": request("one_item", accept=EVENTS),
    "an upload": request("deaf", b"\n1\n2\n", LINES),
    "an upload that goes on": request("deaf", b"\n1\n2\n", LINES).replace(b": 5", b": 9"),
    "an upload that is not read": request("deaf", b"\n" + b"1\n" * 30_000, LINES),
    "both directions": request("deaf_items", b"\n1\n2\n", LINES, EVENTS),
}


@pytest.mark.parametrize("what", REQUESTS)
async def test_a_client_that_disconnects_ends_its_call(what: str) -> None:
    async with gateway() as (handlers, place):
        async with sent(place, REQUESTS[what]):
            await eventually(lambda: handlers.running == 1)
        await eventually(lambda: handlers.running == 0)


async def test_a_client_that_disconnects_within_its_body_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, ended = create_app("", Client("localhost:1", connect_timeout=0.01)), 0
    for kind in (JSON, LINES):
        messages: list[Message] = [
            {"type": "http.request", "body": b'{"a":', "more_body": True},
            {"type": "http.disconnect"},
        ]
        answers: list[Message] = []

        async def receive(messages: list[Message] = messages) -> Message:
            return messages.pop(0)

        async def send(message: Message, answers: list[Message] = answers) -> None:
            answers.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/call/default/add",
            "headers": [(b"content-type", kind.encode())],
            "query_string": b"",
            "client": ("10.0.0.1", 1),
        }
        with caplog.at_level(logging.WARNING):
            await within(app(scope, receive, send))
        assert answers[0]["status"] == 499
        ended += 1
    assert ended == 2
    assert not caplog.records


async def test_requests_whose_clients_have_left_take_no_places() -> None:
    async with gateway({"max_in_flight": 4}) as (handlers, place):
        for name in ("silent_items", "silent"):
            for _ in range(8):  # twice as many as there are places
                async with sent(place, request(name, accept=EVENTS if "items" in name else "*/*")):
                    await eventually(lambda: handlers.running == 1)
                await eventually(lambda: handlers.running == 0)
        async with sent(place, request("add", b'{"a": 1, "b": 2}')) as reader:
            assert b'"data":3' in await within(reader.readuntil(b"}"))


async def test_requests_whose_clients_stay_leave_places_for_unary_calls() -> None:
    async with gateway({"max_in_flight": 4}) as (handlers, place), AsyncExitStack() as stack:
        for name, body, kind in (
            ("silent_items", b"{}", JSON),
            ("deaf_items", b"\n1\n", LINES),
        ):
            content = request(name, body, kind, EVENTS)
            await stack.enter_async_context(sent(place, content))
        await eventually(lambda: handlers.running == 2)
        for content in (
            request("silent_items", accept=EVENTS),
            request("deaf_items", b"\n1\n", LINES, EVENTS),
        ):
            async with sent(place, content) as reader:
                head = await within(reader.readuntil(b"\r\n\r\n"))
                assert head.startswith(b"HTTP/1.1 503")
                assert b"retry-after: 1" in head.lower()
                assert b"half of the client's max_in_flight" in await within(reader.readuntil(b"}"))
        async with sent(place, request("add", b'{"a": 1, "b": 2}')) as reader:
            assert b'"data":3' in await within(reader.readuntil(b"}"))


async def test_a_first_item_that_does_not_arrive_ends_the_call() -> None:
    async with gateway(first_item_timeout=0.05) as (handlers, place):
        for name, body, kind in (("silent_items", b"{}", JSON), ("deaf_items", b"\n", LINES)):
            content = request(name, body, kind, EVENTS)
            # A client cannot ask for a longer time.
            content = content.replace(b"Host", b"Rap-Timeout: 1000\r\nHost")
            async with sent(place, content) as reader:
                assert (await within(reader.readline())).startswith(b"HTTP/1.1 504")
                text = await within(reader.readuntil(b"}"))
                assert b"no item within 0.05 s, which is first_item_timeout" in text
            await eventually(lambda: handlers.running == 0)


async def test_the_second_item_may_take_longer_than_the_first() -> None:
    async def late() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(0.75)  # longer than `first_item_timeout`
        yield 2

    async with (
        serving(late) as server,
        listening(Client(server.addresses), first_item_timeout=0.5) as place,
        sent(place, request("late", accept=EVENTS)) as reader,
    ):
        await within(reader.readuntil(b"data: 2\n\n"))


@pytest.mark.parametrize("messages", [0, 10, 30])
async def test_a_websocket_that_closes_ends_a_function_that_does_not_read(messages: int) -> None:
    async with gateway(close_grace=0.05) as (handlers, place):
        async with connect(f"ws://{place}/api/channel", proxy=None) as socket:
            await socket.send(json.dumps({"func_name": "deaf_channel"}))
            assert json.loads(await within(socket.recv()))["data"] == "accept"
            await eventually(lambda: handlers.running == 1)
            for _ in range(messages):
                await socket.send("x" * 30_000)
            socket.transport.abort()
        await eventually(lambda: handlers.running == 0)


async def test_a_function_has_time_to_end_after_its_websocket_has_closed() -> None:
    go, ended = asyncio.Event(), asyncio.Event()
    got: list[str] = []

    async def slow(channel: Channel) -> None:
        await go.wait()
        got.extend([text async for text in channel])
        ended.set()

    async with serving(slow) as server, listening(Client(server.addresses)) as place:
        async with connect(f"ws://{place}/api/channel", proxy=None) as socket:
            await socket.send(json.dumps({"func_name": "slow"}))
            assert json.loads(await within(socket.recv()))["data"] == "accept"
            for number in range(10):
                await socket.send(str(number))
        go.set()
        await within(ended.wait())
    assert got == [str(number) for number in range(10)]


@pytest.mark.parametrize("kind", ["post", "websocket"])
async def test_a_client_that_disconnects_ends_the_hook_that_it_waits_for(kind: str) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def authorize(connection: HTTPConnection) -> bool:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return True

    content = request("add", b'{"a": 1, "b": 2}')
    if kind == "websocket":
        head = (
            "GET /api/channel HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        )
        head += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        content = head.encode()
    async with gateway(authorize=authorize) as (_, place):
        async with sent(place, content):
            await within(began.wait())
        await within(ended.wait())
