"""How many requests and WebSockets are served at the same time, in all and for one address."""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest
from starlette.requests import HTTPConnection
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from rap.client import Client
from rap.gateway import create_app
from rap.gateway.client_address import ClientAddresses
from rap.gateway.request import host_of
from tests.event_loops import start_task_at_once
from tests.gateway.test_leaving import EVENTS, LINES, gateway, request, sent
from tests.loopback import eventually, within


@pytest.fixture(autouse=True)
async def anyio_knows_the_task_factory() -> None:
    if asyncio.get_running_loop().get_task_factory() is start_task_at_once:
        pytest.skip("anyio knows only asyncio's own eager_task_factory, which uvloop cannot use")


async def status_and_text(reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
    head = await within(reader.readuntil(b"\r\n\r\n"))
    return int(head.split()[1]), json.loads(await within(reader.readuntil(b"}")))


ADD = request("add", b'{"a": 1, "b": 2}')
UPLOAD = request("deaf", b"\n1\n", LINES)


def from_address(content: bytes, address: str) -> bytes:
    return content.replace(b"Host", f"X-Forwarded-For: {address}\r\nHost".encode(), 1)


async def test_open_streams_are_limited_and_unary_calls_are_not() -> None:
    async with gateway(max_open_streams=2) as (handlers, place), AsyncExitStack() as stack:
        await stack.enter_async_context(sent(place, request("one_item", accept=EVENTS)))
        await stack.enter_async_context(sent(place, UPLOAD))
        await eventually(lambda: handlers.running == 2)
        for content in (request("one_item", accept=EVENTS), UPLOAD):
            async with sent(place, content) as reader:
                status, body = await status_and_text(reader)
                assert (status, body["code"]) == (503, 503)
                assert body["msg"] == "2 streams are open, which is max_open_streams"
        async with sent(place, ADD) as reader:
            assert await status_and_text(reader) == (200, {"code": 0, "data": 3})
        await stack.aclose()
        await eventually(lambda: handlers.running == 0)
        async with sent(place, UPLOAD):
            await eventually(lambda: handlers.running == 1)


async def test_one_address_leaves_places_to_others() -> None:
    async with (
        gateway(max_per_address=3, trusted_proxies=["127.0.0.0/8"]) as (handlers, place),
        AsyncExitStack() as stack,
    ):
        for content in (request("one_item", accept=EVENTS), UPLOAD, request("silent")):
            await stack.enter_async_context(sent(place, from_address(content, "10.0.0.1")))
        await eventually(lambda: handlers.running == 3)
        # What stands before the address that the proxy has seen is what the client has sent.
        for address in ("10.0.0.1", "10.9.9.9, 10.0.0.1", "10.0.0.1, 127.0.0.9", "10.0.0.1:77"):
            async with sent(place, from_address(ADD, address)) as reader:
                status, body = await status_and_text(reader)
                assert status == 429, address
                assert body["msg"].startswith("3 requests of this address are open")
        headers = {"X-Forwarded-For": "10.0.0.1"}
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"ws://{place}/api/channel", proxy=None, additional_headers=headers)
        assert caught.value.response.status_code == 429
        async with sent(place, from_address(ADD, "10.0.0.2")) as reader:
            assert (await status_and_text(reader))[0] == 200
        await stack.aclose()
        await eventually(lambda: handlers.running == 0)
        async with sent(place, from_address(ADD, "10.0.0.1")) as reader:
            assert (await status_and_text(reader))[0] == 200


async def test_an_address_cannot_name_others_unless_it_is_a_trusted_proxy() -> None:
    async with (
        gateway(max_per_address=2) as (handlers, place),
        sent(place, from_address(UPLOAD, "10.0.0.1")),
        sent(place, from_address(UPLOAD, "10.0.0.2")),
    ):
        await eventually(lambda: handlers.running == 2)
        async with sent(place, from_address(ADD, "10.0.0.3")) as reader:
            assert (await status_and_text(reader))[0] == 429


async def test_a_half_sent_body_counts_for_its_address() -> None:
    half = request("add", b"{}").replace(b"Content-Length: 2", b"Content-Length: 3")
    async with gateway(max_per_address=2) as (_, place), AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(sent(place, half))

        async def refused() -> bool:
            async with sent(place, ADD) as reader:
                return (await status_and_text(reader))[0] == 429

        async with asyncio.timeout(10):
            while not await refused():
                pass


async def test_websockets_are_limited() -> None:
    async with gateway(max_sockets=2) as (_, place), AsyncExitStack() as stack:
        url = f"ws://{place}/api/channel"
        for _ in range(2):  # they say nothing, and have a place nevertheless
            first = await stack.enter_async_context(connect(url, proxy=None))
        with pytest.raises(InvalidStatus) as caught:
            await connect(url, proxy=None)
        response = caught.value.response
        assert response.status_code == 503
        assert json.loads(response.body or b"")["msg"].endswith("max_sockets")
        assert response.headers["Retry-After"] == "1"
        await first.close()

        async def accepted() -> bool:
            try:
                async with connect(url, proxy=None):
                    return True
            except InvalidStatus:
                return False

        async with asyncio.timeout(10):
            while not await accepted():
                pass


async def test_a_refused_websocket_is_closed_where_the_server_can_send_no_response() -> None:
    app = create_app("", Client("localhost:1"), max_sockets=1)
    connected, waits = {"type": "websocket.connect"}, asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not waits.is_set():
            waits.set()
            return connected
        await asyncio.Event().wait()
        raise AssertionError

    answers: list[Any] = []

    async def send(message: Any) -> None:
        answers.append(message)

    scope: dict[str, Any] = {
        "type": "websocket",
        "path": "/channel",
        "headers": [],
        "query_string": b"",
        "client": None,
    }
    first = asyncio.create_task(app(scope, receive, send))
    await eventually(lambda: answers)
    assert answers[0]["type"] == "websocket.accept"
    waits.clear()
    await within(app(dict(scope), receive, send))
    assert answers[1] == {"type": "websocket.close", "code": 1000, "reason": ""}
    first.cancel()
    await asyncio.wait([first])


@pytest.mark.parametrize(
    ("trusted", "peer", "lines", "host"),
    [
        ((), "10.0.0.1", ["1.2.3.4"], "10.0.0.1"),
        (["10.0.0.1"], "10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        (["10.0.0.1"], "10.0.0.2", ["1.2.3.4"], "10.0.0.2"),
        (["10.0.0.0/8"], "10.0.0.1", ["6.6.6.6, 1.2.3.4, 10.0.0.9"], "1.2.3.4"),
        (["10.0.0.0/8"], "10.0.0.1", ["6.6.6.6", "1.2.3.4"], "1.2.3.4"),
        (["10.0.0.0/8"], "10.0.0.1", ["1.2.3.4, unknown"], "10.0.0.1"),
        (["10.0.0.0/8"], "10.0.0.1", ["1.2.3.4, unknown, 10.0.0.2"], "10.0.0.2"),
        (["10.0.0.0/8"], "10.0.0.1", ["10.0.0.3"], "10.0.0.3"),
        (["10.0.0.0/8"], "10.0.0.1", [], "10.0.0.1"),
        (["10.0.0.0/8"], "10.0.0.1", [""], "10.0.0.1"),
        (["10.0.0.0/8"], "10.0.0.1", ["[2001:db8::1]:80"], "2001:db8::1"),
        (["10.0.0.0/8"], "10.0.0.1", ["2001:DB8:0::1"], "2001:db8::1"),
        (["10.0.0.0/8"], "10.0.0.1", ["1.2.3.4:80"], "1.2.3.4"),
        (["10.0.0.0/8"], "::ffff:10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        (["10.0.0.0/8"], "::ffff:10.0.0.1", ["::ffff:1.2.3.4"], "1.2.3.4"),
        (["10.0.0.0/8"], "10.0.0.1", ["1.2.3.4", *["10.0.0.9"] * 31], "1.2.3.4"),
        (["10.0.0.0/8"], "10.0.0.1", ["1.2.3.4", *["10.0.0.9"] * 32], "10.0.0.9"),
        (["10.0.0.0/8"], "10.0.0.1", ["1.2.3.4", "10.0.0.9," * 32 + "10.0.0.8"], "10.0.0.9"),
        (["unix"], None, ["1.2.3.4"], "1.2.3.4"),
        (["10.0.0.0/8"], None, ["1.2.3.4"], ""),
        (["unix"], "testclient", ["1.2.3.4"], "testclient"),
    ],
)
def test_the_client_is_named_by_trusted_proxies_only(
    trusted: list[str], peer: str | None, lines: list[str], host: str
) -> None:
    scope = {
        "type": "http",
        "client": None if peer is None else (peer, 80),
        "headers": [(b"x-forwarded-for", line.encode()) for line in lines],
    }
    assert host_of(HTTPConnection(ClientAddresses(trusted).resolve(scope))) == host


@pytest.mark.parametrize("trusted", ["10.0.0.1", ["proxy"], [3], ["10.0.0.1/8"], ["*"]])
def test_proxies_are_named_by_address(trusted: Any) -> None:
    with pytest.raises(ValueError, match="trusted_proxies"):
        create_app("", Client("localhost:1"), trusted_proxies=trusted)
