"""Request streams, channels with arguments and results, and headers of answers, over HTTP."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from websockets.asyncio.client import connect

from rap.client import Client
from rap.errors import CallError, Code
from rap.gateway import create_app, response
from rap.server import Channel, Server, context
from tests.client.threaded import serving
from tests.gateway.test_uvicorn import listening
from tests.loopback import serving as serving_here
from tests.loopback import within

LINES = {"Content-Type": "application/x-ndjson"}
EVENTS = {"Accept": "text/event-stream"}


async def upload(name: str, rows: AsyncIterator[int], *, times: int = 1) -> dict[str, int]:
    return {name: times * sum([row async for row in rows])}


async def first_of(rows: AsyncIterator[int]) -> int:
    async for row in rows:
        return row
    raise CallError("no rows", code=Code.FAILED_PRECONDITION)


async def doubled(numbers: AsyncIterator[int]) -> AsyncIterator[int]:
    context.set_header("unit", "m")
    context.set_trailer("count", [1])
    async for number in numbers:
        if number < 0:
            raise CallError("negative", code=Code.OUT_OF_RANGE)
        yield number * 2


async def tagged(fails: bool = False) -> int:
    context.set_header("etag", '"1"')
    context.set_header("number", 1)
    context.set_header("two words", "x")
    context.set_header("break", "a\r\nSet-Cookie: b=1")
    context.set_header("umlaut", "ä")
    context.set_trailer("cost", "3 ms")
    if fails:
        raise CallError("as asked", code=Code.ABORTED)
    return 1


async def chat(channel: Channel[str, str], room: str, times: int = 1) -> int:
    count = 0
    async for text in channel:
        count += 1
        await channel.write(f"{room}: {text * times}")
    return count


async def add_up(channel: Channel[int, int]) -> None:
    total = 0
    async for number in channel:
        total += number
        await channel.write(total)


async def echo(channel: Channel) -> None:
    async for each in channel:
        await channel.write(each)


async def growing() -> AsyncIterator[list[int]]:
    for size in (*SIZES, *SIZES):
        yield [size] * size


async def growing_channel(channel: Channel) -> list[int]:
    async for items in growing():
        await channel.write(items)
    return [max(SIZES)] * max(SIZES)


SIZES = (1, 10_000, 2, 5_000, 3)
LARGE = sum(size > 4_096 for size in SIZES)
FUNCTIONS = (upload, first_of, doubled, tagged, chat, add_up, echo, growing, growing_channel)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(*FUNCTIONS) as server:
        server.register(upload, group="hidden")
        server.register(first_of, name="secret", is_private=True)
        yield server


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[TestClient]:
    app = create_app("/api", Client(server.addresses), None, {"hidden"}, max_body=200)
    with TestClient(app) as http:
        yield http


def post(http: TestClient, name: str, body: Any, **headers: str) -> Any:
    return http.post(f"/api/call/{name}", content=body, headers={**LINES, **headers})


@pytest.mark.parametrize(
    ("body", "data"),
    [
        ('{"name": "a"}\n1\n2\n', {"a": 3}),
        ('{"name": "a", "times": 2}\r\n1\r\n\r\n2', {"a": 6}),
        ('{"name": "a"}', {"a": 0}),
        ('{"name": "a"}\n' + "1\n" * 10_000, {"a": 10_000}),
    ],
)
def test_lines_of_the_body_are_the_items_of_a_request_stream(
    http: TestClient, body: str, data: Any
) -> None:
    answer = post(http, "default/upload", body)
    assert (answer.status_code, answer.json()) == (200, {"code": 0, "data": data})


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the names of the threads in which large values became JSON."""
    names: list[str] = []
    original = response.to_json

    def to_json(value: Any) -> str:
        text = original(value)
        if len(text) > 4_096:
            names.append(threading.current_thread().name)
        return text

    monkeypatch.setattr(response, "to_json", to_json)
    return names


def test_large_items_are_written_outside_the_event_loop_and_keep_their_order(
    http: TestClient, writers: list[str]
) -> None:
    answer = http.post("/api/call/default/growing", json={}, headers=EVENTS)
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if "[" in line]
    assert [len(json.loads(line)) for line in lines] == [*SIZES, *SIZES]
    assert writers == ["rap gateway json"] * 2 * LARGE


def test_large_messages_are_written_outside_the_event_loop_and_keep_their_order(
    http: TestClient, writers: list[str]
) -> None:
    with http.websocket_connect("/api/channel") as socket:
        socket.send_json({"func_name": "growing_channel", "messages": "json"})
        assert socket.receive_json() == {"code": 0, "data": "accept"}
        assert [len(socket.receive_json()) for _ in range(2 * len(SIZES))] == [*SIZES, *SIZES]
        assert len(socket.receive_json()["data"]) == max(SIZES)
    assert writers == ["rap gateway json"] * (2 * LARGE + 1)


def test_a_body_in_pieces_is_read_as_it_arrives(http: TestClient) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"na'
        yield b'me": "a"}\n1'
        yield b"2\n\n3"

    assert post(http, "default/upload", pieces()).json()["data"] == {"a": 15}


def test_the_server_may_answer_before_the_last_item(http: TestClient) -> None:
    assert post(http, "default/first_of", "\n7\n" + "1\n" * 10_000).json()["data"] == 7
    answer = post(http, "default/first_of", "{}\n")
    assert answer.json() == {"code": 400, "msg": "no rows"}


@pytest.mark.parametrize(
    ("name", "body", "code", "reason"),
    [
        ("default/upload", "[1]\n", 400, "the body must be a JSON object"),
        ("default/upload", '{"name": "a"}\n1\n{', 400, "line 3 is not JSON"),
        ("default/upload", '{"name": "a"}\nNaN', 400, "line 2 is not JSON: NaN"),
        (
            "default/upload",
            '{"name": "a"}\n1e999',
            400,
            "line 2 is not JSON: 1e999 is out of range",
        ),
        ("default/upload", '{"name": "a"}\n\n \n\t\r\n1\n\n{', 400, "line 7 is not JSON"),
        ("default/upload", '{"name": "a"}\n1\n"x"\n', 400, "expected `int`, got `str`"),
        ("default/upload", "{}\n1", 400, "missing a required argument: 'name'"),
        ("default/upload", '{"name": "a"}\n"' + "x" * 200 + '"', 413, "line 2 has more than 200"),
        ("default/upload", " " * 201, 413, "line 1 has more than 200 bytes, which is max_body"),
        ("default/nothing", "{}\n1", 404, "no function '/default/nothing'"),
        ("default/secret", "{}\n1", 404, "no function '/default/secret'"),
        ("hidden/upload", '{"name": "a"}\n1', 404, "no function '/hidden/upload'"),
        ("default/tagged", "{}\n1", 400, "is a unary function"),
        ("default/doubled", "\n1", 400, "answers with items"),
    ],
)
@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
def test_a_request_stream_that_is_refused_has_the_reason(
    http: TestClient, name: str, body: str, code: int, reason: str, accept: str
) -> None:
    if name == "default/doubled" and accept != "*/*":
        return  # that is how it is called
    answer = post(http, name, body, Accept=accept)
    assert answer.json()["code"] == answer.status_code == code
    assert answer.json()["msg"].count(reason) == 1


def test_the_size_of_a_request_stream_is_limited(server: Server) -> None:
    app = create_app("/api", Client(server.addresses), max_stream=100)
    with TestClient(app) as http:
        answer = post(http, "default/upload", '{"name": "a"}\n' + "1\n" * 50)
    assert answer.status_code == 413
    assert answer.json()["msg"] == "the body has more than 100 bytes, which is max_stream"


def test_a_bidirectional_call_answers_lines_with_events(http: TestClient) -> None:
    answer = post(http, "default/doubled", "\n1\n2\n", **EVENTS)
    assert answer.headers["rap-header-unit"] == "m"
    assert answer.text == ('data: 2\n\ndata: 4\n\nevent: end\ndata: {"trailer":{"count":[1]}}\n\n')
    answer = post(http, "default/doubled", "\n1\n-1\n", **EVENTS)
    assert answer.text.endswith(
        'event: error\ndata: {"code":400,"msg":"negative","trailer":{"count":[1]}}\n\n'
    )


@pytest.mark.parametrize("fails", [False, True])
def test_strings_of_header_and_trailer_are_http_headers(http: TestClient, fails: bool) -> None:
    answer = http.post("/api/call/default/tagged", json={"fails": fails})
    assert answer.status_code == (409 if fails else 200)
    found = {name: value for name, value in answer.headers.items() if name.startswith("rap-")}
    assert found == {"rap-header-etag": '"1"', "rap-trailer-cost": "3 ms"}
    body = {"func_name": "tagged", "arg_list": [fails]}
    assert http.post("/api/normal", json=body).headers["rap-header-etag"] == '"1"'


def opened(socket: Any, name: str, **fields: Any) -> None:
    socket.send_json({"func_name": name, **fields})
    assert socket.receive_json() == {"code": 0, "data": "accept"}


def closed(socket: Any) -> int:
    with pytest.raises(WebSocketDisconnect) as caught:
        socket.receive_text()
    return caught.value.code


def test_a_channel_takes_arguments_and_its_value_is_the_last_message(http: TestClient) -> None:
    with http.websocket_connect("/api/channel") as socket:
        opened(socket, "chat", arg_list=["tea"], kwarg_list={"times": 2})
        for text in ("a", "b"):
            socket.send_text(text)
            assert socket.receive_text() == f"tea: {text * 2}"
        socket.send_bytes(b"")  # the end
        assert socket.receive_json() == {"code": 0, "data": 2}
        assert closed(socket) == 1000


def test_messages_of_a_channel_may_be_json(http: TestClient) -> None:
    with http.websocket_connect("/api/channel") as socket:
        opened(socket, "add_up", messages="json")
        for number, total in ((1, 1), (2, 3)):
            socket.send_json(number)
            assert socket.receive_json() == total
        socket.send_bytes(b"")
        assert closed(socket) == 1000
    with http.websocket_connect("/api/channel") as socket:
        opened(socket, "echo", messages="json")
        socket.send_text('"a"')
        assert socket.receive_text() == '"a"'
        socket.send_text("{")
        assert "the message is not JSON" in socket.receive_json()["msg"]
        assert closed(socket) == 1008


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"func_name": "chat"}, "missing a required argument: 'room'"),
        ({"func_name": "chat", "arg_list": [1]}, "'room'"),
        ({"func_name": "echo", "arg_list": [1]}, "channel"),
        ({"func_name": "echo", "messages": "xml"}, "messages must be one of"),
        ({"func_name": "tagged"}, "is a unary function"),
    ],
)
def test_a_channel_with_wrong_arguments_is_not_accepted(
    http: TestClient, fields: dict[str, Any], reason: str
) -> None:
    with http.websocket_connect("/api/channel") as socket:
        socket.send_json(fields)
        reply = socket.receive_json()
        assert reply["code"] == 400
        assert reason in reply["msg"]
        assert closed(socket) == 1008


def test_a_binary_message_with_content_is_refused(http: TestClient) -> None:
    with http.websocket_connect("/api/channel") as socket:
        opened(socket, "echo")
        socket.send_bytes(b"x")
        assert socket.receive_json() == {"code": 415, "msg": "a message must be text"}
        assert closed(socket) == 1003


@asynccontextmanager
async def sending(place: str, path: str, accept: str) -> AsyncIterator[tuple[Any, Any]]:
    """Begin a request whose body is sent in chunks."""
    host, _, port = place.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n"
    head += "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head.encode())
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def chunk(text: str) -> bytes:
    return f"{len(text):x}\r\n{text}\r\n".encode()


async def test_items_and_events_pass_each_other() -> None:
    async with (
        serving_here(doubled) as server,
        listening(Client(server.addresses)) as place,
        sending(place, "/api/call/default/doubled", "text/event-stream") as (reader, writer),
    ):
        writer.write(chunk("\n"))
        for number in (1, 2, 3):
            writer.write(chunk(f"{number}\n"))
            assert f"data: {number * 2}\n\n".encode() in await within(reader.readuntil(b"\n\n"))
            await within(reader.readline())
        writer.write(b"0\r\n\r\n")
        assert b"event: end" in await within(reader.readuntil(b"\n\n"))


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("body_ends", [False, True])
async def test_a_client_that_disconnects_ends_its_call(accept: str, body_ends: bool) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def wait(rows: AsyncIterator[int]) -> AsyncIterator[int]:
        try:
            began.set()
            async for _ in rows:
                pass
            await asyncio.Event().wait()
            yield 1
        finally:
            ended.set()

    async def wait_for_one(rows: AsyncIterator[int]) -> int:
        return await anext(wait(rows))

    async with (
        serving_here(wait, wait_for_one) as server,
        listening(Client(server.addresses)) as place,
    ):
        name = "wait" if "event" in accept else "wait_for_one"
        async with sending(place, f"/api/call/default/{name}", accept) as (_, writer):
            writer.write(chunk("\n1\n") + (b"0\r\n\r\n" if body_ends else b""))
            await within(began.wait())
        await within(ended.wait())


async def test_a_first_line_that_does_not_arrive_times_out() -> None:
    async with (
        serving_here(doubled) as server,
        listening(Client(server.addresses), body_timeout=0.05) as place,
        sending(place, "/api/call/default/doubled", "*/*") as (reader, writer),
    ):
        writer.write(chunk("{"))
        assert await within(reader.readline()) == b"HTTP/1.1 408 Request Timeout\r\n"


async def test_a_slow_function_pauses_the_client() -> None:
    go = asyncio.Event()
    seen = 0

    async def slow(rows: AsyncIterator[str]) -> int:
        nonlocal seen
        await go.wait()
        async for _ in rows:
            seen += 1
        return seen

    async with (
        serving_here(slow) as server,
        listening(Client(server.addresses)) as place,
        sending(place, "/api/call/default/slow", "*/*") as (reader, writer),
    ):
        line = json.dumps("x" * 100_000) + "\n"
        writer.write(chunk("\n"))
        writer.transport.set_write_buffer_limits(high=1)
        sent = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                while sent < 1000:  # 100 MB: more than all buffers hold
                    writer.write(chunk(line))
                    sent += 1
                    await writer.drain()
        assert sent < 1000
        go.set()
        await within(writer.drain())
        writer.write(b"0\r\n\r\n")
        text = await within(reader.readuntil(b"}"))
        assert f'"data":{sent}'.encode() in text


async def test_what_a_function_has_sent_arrives_although_the_client_still_sends() -> None:
    async def last_words(channel: Channel) -> str:
        await channel.read_body()
        for number in range(500):
            await channel.write(number)
        return "done"

    async with serving_here(last_words) as server, listening(Client(server.addresses)) as place:
        async with connect(f"ws://{place}/api/channel", proxy=None) as socket:
            await socket.send(json.dumps({"func_name": "last_words"}))
            assert json.loads(await within(socket.recv()))["data"] == "accept"
            for _ in range(200):
                await socket.send("x")
            got = [json.loads(await within(socket.recv())) for _ in range(501)]
    assert got == [*range(500), {"code": 0, "data": "done"}]


def test_a_function_with_a_request_stream_is_no_channel() -> None:
    async def scaled(by: int, numbers: AsyncIterator[str]) -> AsyncIterator[str]:
        async for number in numbers:
            yield number * by

    with serving(scaled) as server, TestClient(create_app("", Client(server.addresses))) as http:
        with http.websocket_connect("/channel") as socket:
            opened(socket, "scaled", arg_list=[2])
            socket.send_text("1")
            reply = socket.receive_json()
            assert reply["code"] == 400
            assert "is not a channel function" in reply["msg"]
            assert closed(socket) == 1008
