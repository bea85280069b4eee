import asyncio
import datetime
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

import rap.api_gateway
import rap.api_gateway.app
from rap.client import Client
from rap.errors import CallError, Code
from rap.gateway import create_app
from rap.server import Channel, Server, context
from tests.client.threaded import serving
from tests.loopback import PATIENCE


async def add(a: int, b: int = 10) -> int:
    return a + b


async def echo(value: Any) -> Any:
    return value


async def moment() -> datetime.datetime:
    return datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC)


async def raw() -> bytes:
    return b"\x00\xff"


async def infinite() -> float:
    return float("inf")


async def fail(code: int) -> None:
    raise CallError("as asked", code=Code(code))


async def priority() -> str:
    return context.priority


async def busy(code: int, retry_after: str | None) -> None:
    value = "soon" if retry_after == "'soon'" else float(retry_after or 0)
    details = {} if retry_after is None else {"retry_after": value}
    raise CallError("busy", code=Code(code), details=details)


async def busy_items(code: int, retry_after: str | None) -> AsyncIterator[int]:
    await busy(code, retry_after)
    yield 1


async def crash() -> None:
    raise LookupError("lost")


class Odd(Exception):
    pass


async def crash_oddly() -> None:
    raise Odd("lost too")


async def crash_silently() -> None:
    raise ValueError


async def forever() -> None:
    await asyncio.Event().wait()


async def items() -> AsyncIterator[int]:
    yield 1


async def some(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i
    if n:
        raise CallError("no more", code=Code.RESOURCE_EXHAUSTED)


async def unsendable() -> AsyncIterator[float]:
    yield float("nan")


async def for_whom() -> str:
    return str(context.request.header["forwarded_for"])


async def secret() -> int:
    return 42


async def shout(channel: Channel) -> None:
    async for text in channel:
        await channel.write(text.upper())


async def three(channel: Channel) -> None:
    for item in ("one", 2, {"three": 3}):
        await channel.write(item)


async def refuse(channel: Channel) -> None:
    await channel.read_body()
    raise CallError("not this one", code=Code.RESOURCE_EXHAUSTED)


async def secret_channel(channel: Channel) -> None:
    raise AssertionError


JSON = {"Content-Type": "application/json"}
EVENTS = {"Accept": "text/event-stream", **JSON}
FUNCTIONS = (
    add,
    echo,
    moment,
    raw,
    infinite,
    fail,
    busy,
    busy_items,
    priority,
    crash,
    crash_oddly,
    crash_silently,
    forever,
    items,
    some,
    unsendable,
    for_whom,
    shout,
    three,
    refuse,
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(*FUNCTIONS) as server:
        server.register(add, group="math")
        server.register(add, group="hidden")
        server.register(secret, is_private=True)
        server.register(secret_channel, is_private=True)
        yield server


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[TestClient]:
    client = Client(server.addresses)
    with TestClient(
        create_app("/api", client, True, {"hidden"}, max_body=1000, debug=True)
    ) as http:
        yield http


def call(http: TestClient, func_name: str, *args: Any, **fields: Any) -> Any:
    body = {"func_name": func_name, "arg_list": args, **fields}
    return http.post("/api/normal", json=body)


def test_a_function_is_called(http: TestClient) -> None:
    answer = call(http, "add", 1, 2)
    assert (answer.status_code, answer.json()) == (200, {"code": 0, "data": 3})
    assert call(http, "add", 1, kwarg_list={"b": 5}).json()["data"] == 6
    assert call(http, "add", 1, group="math").json()["data"] == 11
    assert call(http, "add", 1, group=None, kwarg_list=None).json()["data"] == 11


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "ä", [1, [2]], {"a": {"b": None}}])
def test_json_values_survive_the_round_trip(http: TestClient, value: Any) -> None:
    assert call(http, "echo", value).json() == {"code": 0, "data": value}


def test_times_and_bytes_become_strings_and_infinity_is_an_error(http: TestClient) -> None:
    assert call(http, "moment").json()["data"] == "2024-01-02T00:00:00+00:00"
    assert call(http, "raw").json()["data"] == "AP8="
    answer = call(http, "infinite")
    assert (answer.status_code, answer.json()["code"]) == (500, 500)
    assert "cannot be represented in JSON" in answer.json()["msg"]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Code.INVALID_ARGUMENT, 400),
        (Code.UNAUTHENTICATED, 401),
        (Code.PERMISSION_DENIED, 403),
        (Code.NOT_FOUND, 404),
        (Code.ALREADY_EXISTS, 409),
        (Code.RESOURCE_EXHAUSTED, 429),
        (Code.CANCELLED, 499),
        (Code.INTERNAL, 500),
        (Code.UNIMPLEMENTED, 501),  # of a handler
        (Code.UNAVAILABLE, 503),
        (Code.DEADLINE_EXCEEDED, 504),
    ],
)
def test_an_error_has_the_status_of_its_code(http: TestClient, code: Code, status: int) -> None:
    answer = call(http, "fail", int(code))
    assert answer.status_code == status
    assert answer.json() == {"code": status, "msg": "as asked"}


def test_an_exception_of_a_handler_is_status_500_and_names_its_type(http: TestClient) -> None:
    assert call(http, "crash").json() == {"code": 500, "msg": "LookupError: lost"}
    assert call(http, "crash_oddly").json() == {"code": 500, "msg": "Odd: lost too"}
    assert call(http, "crash_silently").json() == {"code": 500, "msg": "ValueError"}


def test_wrong_arguments_and_names_are_reported(http: TestClient) -> None:
    answer = call(http, "add", "one")
    assert answer.json()["code"] == 400
    assert "'a'" in answer.json()["msg"]
    assert call(http, "nothing").json()["code"] == 404
    assert call(http, "items").json()["code"] == 400
    assert call(http, "echo", 2**70).json()["code"] == 400


@pytest.mark.parametrize(
    ("name", "group"),
    [("secret", "default"), ("list", "registry"), ("add", "hidden"), ("nothing", "default")],
)
def test_private_functions_and_filtered_groups_are_not_found(
    http: TestClient, name: str, group: str
) -> None:
    answer = call(http, name, group=group)
    assert answer.status_code == 404
    assert answer.json()["msg"] == f"no function '/{group}/{name}' on this server"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "not JSON"),
        ("[1", "not JSON"),
        ("[" * 900, "not JSON"),
        ("[]", "must be a JSON object"),
        ("{}", "func_name is missing"),
        ('{"func_name": 3}', "func_name must be a string"),
        ('{"func_name": "f", "arg_list": {}}', "arg_list must be an array"),
        ('{"func_name": "f", "kwarg_list": []}', "kwarg_list must be an object"),
        ('{"func_name": "f", "colour": 1}', "unknown field 'colour'"),
        ('{"func_name": "f", "func_name": "g"}', "a name twice among 2 names"),
        ('{"func_name": "echo", "arg_list": [{"a": 1, "a": 2}]}', "a name twice"),
        ('{"func_name": "echo", "arg_list": [NaN]}', "NaN is not a number in JSON"),
        ('{"func_name": "echo", "arg_list": [1e999]}', "1e999 is out of range"),
        ('{"func_name": "echo", "arg_list": [[-1.5E+400]]}', "-1.5E+400 is out of range"),
        ('{"func_name": "echo", "kwarg_list": {"value": 1' + "0" * 400 + ".0}}", "is out of range"),
        ('{"func_name": "\\ud800"}', "cannot be sent"),
        ('{"func_name": "echo", "arg_list": ["\\ud800"]}', "surrogates not allowed"),
    ],
)
def test_an_invalid_body_is_refused_with_the_reason(
    http: TestClient, body: str, reason: str
) -> None:
    answer = http.post("/api/normal", content=body, headers=JSON)
    assert answer.json()["code"] == answer.status_code == 400
    assert reason in answer.json()["msg"]


def test_a_body_that_is_too_long_is_refused(http: TestClient) -> None:
    answer = call(http, "echo", "x" * 1000)
    assert answer.status_code == 413
    assert "max_body" in answer.json()["msg"]


def test_a_header_sets_the_timeout_of_the_call(http: TestClient) -> None:
    body = {"func_name": "forever"}
    answer = http.post("/api/normal", json=body, headers={"Rap-Timeout": "0.05"})
    assert answer.json()["code"] == 504
    for wrong in ("soon", "-1", "0", "inf", "nan"):
        answer = http.post("/api/normal", json=body, headers={"Rap-Timeout": wrong})
        assert answer.json()["code"] == 400
        assert repr(wrong) in answer.json()["msg"]


@pytest.mark.parametrize("path", ["/api/normal", "/api/call/default/priority"])
def test_a_header_can_only_lower_the_priority_of_the_call(http: TestClient, path: str) -> None:
    body = {"func_name": "priority"} if path.endswith("normal") else {}
    assert http.post(path, json=body).json()["data"] == "default"
    answer = http.post(path, json=body, headers={"Rap-Priority": "sheddable"})
    assert answer.json()["data"] == "sheddable"
    for wrong in ("critical", "default", "", "Sheddable"):
        answer = http.post(path, json=body, headers={"Rap-Priority": wrong})
        assert answer.json()["code"] == 400
        assert f"rap-priority can only be sheddable, got {wrong!r}" in answer.json()["msg"]


@pytest.mark.parametrize(
    ("code", "retry_after", "header"),
    [
        (Code.RESOURCE_EXHAUSTED, 0.01, "1"),
        (Code.RESOURCE_EXHAUSTED, 2, "2"),
        (Code.RESOURCE_EXHAUSTED, 2.5, "3"),
        (Code.UNAVAILABLE, 5.0, "5"),
        (Code.RESOURCE_EXHAUSTED, None, None),
        (Code.RESOURCE_EXHAUSTED, -1, None),
        (Code.RESOURCE_EXHAUSTED, "soon", None),
        (Code.RESOURCE_EXHAUSTED, float("inf"), None),
        (Code.RESOURCE_EXHAUSTED, float("nan"), None),
        (Code.NOT_FOUND, 2.0, None),
    ],
)
def test_a_busy_server_says_when_to_call_again(
    http: TestClient, code: Code, retry_after: object, header: str | None
) -> None:
    named = {"code": int(code), "retry_after": None if retry_after is None else repr(retry_after)}
    body = {"func_name": "busy", "kwarg_list": named}
    answer = http.post("/api/normal", json=body)
    assert answer.headers.get("retry-after") == header
    answer = http.post("/api/call/default/busy_items", json=named, headers=EVENTS)
    assert answer.headers.get("retry-after") == header


def test_a_handler_sees_the_address_of_the_http_client(http: TestClient) -> None:
    assert call(http, "for_whom").json()["data"] == "testclient"


def test_a_path_names_the_function_and_the_body_its_arguments(http: TestClient) -> None:
    answer = http.post("/api/call/math/add", json={"a": 1, "b": 2})
    assert answer.json() == {"code": 0, "data": 3}
    assert http.post("/api/call/default/moment", headers=JSON).json()["code"] == 0
    assert http.post("/api/call/hidden/add", json={"a": 1}).status_code == 404
    assert http.post("/api/call/default/secret", headers=JSON).status_code == 404
    assert http.post("/api/call/math/add", content="[1]", headers=JSON).status_code == 400
    assert http.post("/api/call/math/add", json={"a": "one"}).status_code == 400


def test_items_of_a_generator_are_sent_as_events(http: TestClient) -> None:
    answer = http.post("/api/call/default/items", headers=EVENTS)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text == "data: 1\n\nevent: end\ndata: null\n\n"
    empty = http.post("/api/call/default/some", json={"n": 0}, headers=EVENTS)
    assert empty.text == "event: end\ndata: null\n\n"


def test_an_error_after_items_is_sent_as_an_event(http: TestClient) -> None:
    answer = http.post("/api/call/default/some", json={"n": 2}, headers=EVENTS)
    assert answer.status_code == 200
    *items, last, rest = answer.text.split("\n\n")
    assert items == ["data: 0", "data: 1"]
    assert last == 'event: error\ndata: {"code":429,"msg":"no more"}'
    assert rest == ""


def test_an_error_before_the_first_item_sets_the_status(http: TestClient) -> None:
    for path, code in [("default/nothing", 404), ("default/add", 400), ("hidden/items", 404)]:
        answer = http.post(f"/api/call/{path}", json={"a": 1}, headers=EVENTS)
        assert answer.json()["code"] == answer.status_code == code
    answer = http.post("/api/call/default/unsendable", headers=EVENTS)
    assert answer.json()["code"] == 500


def test_only_post_requests_call_functions(http: TestClient) -> None:
    assert http.get("/api/normal").status_code == 405
    assert http.post("/normal").status_code == 404


def test_a_channel_carries_text_both_ways(http: TestClient) -> None:
    with http.websocket_connect("/api/channel") as socket:
        socket.send_json({"group": "default", "func_name": "shout"})
        assert socket.receive_json() == {"code": 0, "data": "accept"}
        for text in ("a", "b"):
            socket.send_text(text)
            assert socket.receive_text() == text.upper()


def test_a_channel_ends_when_its_function_does(http: TestClient) -> None:
    with http.websocket_connect("/api/channel") as socket:
        socket.send_json({"func_name": "three"})
        assert socket.receive_json() == {"code": 0, "data": "accept"}
        received = [socket.receive_text() for _ in range(3)]
        assert received == ["one", "2", '{"three":3}']
        with pytest.raises(WebSocketDisconnect) as caught:
            socket.receive_text()
        assert caught.value.code == 1000


def test_an_error_of_a_channel_is_sent_before_the_socket_closes(http: TestClient) -> None:
    with http.websocket_connect("/api/channel") as socket:
        socket.send_json({"func_name": "refuse"})
        assert socket.receive_json()["code"] == 0
        socket.send_text("x")
        assert socket.receive_json() == {"code": 429, "msg": "not this one"}
        with pytest.raises(WebSocketDisconnect) as caught:
            socket.receive_text()
        assert caught.value.code == 1008


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ('{"func_name": "nothing"}', 404),
        ('{"func_name": "secret_channel"}', 404),
        ('{"func_name": "shout", "group": "hidden"}', 404),
        ('{"func_name": "add"}', 400),
        ("shout", 400),
        ('{"func_name": "' + "x" * 1000 + '"}', 413),
    ],
)
def test_a_channel_that_is_refused_is_not_accepted(http: TestClient, first: str, code: int) -> None:
    with http.websocket_connect("/api/channel") as socket:
        socket.send_text(first)
        assert socket.receive_json()["code"] == code
        with pytest.raises(WebSocketDisconnect):
            socket.receive_text()


def test_binary_and_too_long_messages_close_the_socket(http: TestClient) -> None:
    for send, code, closed in [("bytes", 415, 1003), ("text", 413, 1009)]:
        with http.websocket_connect("/api/channel") as socket:
            socket.send_json({"func_name": "shout"})
            assert socket.receive_json()["code"] == 0
            if send == "bytes":
                socket.send_bytes(b"x")
            else:
                socket.send_text("x" * 1001)
            assert socket.receive_json()["code"] == code
            with pytest.raises(WebSocketDisconnect) as caught:
                socket.receive_text()
            assert caught.value.code == closed


def test_a_client_that_disconnects_ends_the_channel() -> None:
    ended = threading.Event()

    async def listen(channel: Channel) -> None:
        try:
            async for _ in channel:
                pass
        finally:
            ended.set()

    with serving(listen) as server, TestClient(create_app("", Client(server.addresses))) as http:
        with http.websocket_connect("/channel") as socket:
            socket.send_json({"func_name": "listen"})
            assert socket.receive_json()["code"] == 0
        assert ended.wait(PATIENCE)


def test_a_client_that_disconnects_before_its_first_message_raises_no_error(
    http: TestClient,
) -> None:
    with http.websocket_connect("/api/channel"):
        pass


async def test_a_connected_client_is_left_connected(server: Server) -> None:
    async with Client(server.addresses) as client:
        app = create_app("/api", client)
        async with app.router.lifespan_context(app):
            pass
        assert await client.raw_call("add", 1) == 11


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"prefix": "api"}, "prefix"),
        ({"private_filter": False}, "private_filter"),
        ({"group_filter": "hidden"}, "group_filter"),
        ({"max_body": 0}, "max_body"),
        ({"body_timeout": 0}, "body_timeout"),
        ({"body_timeout": None}, "body_timeout"),
    ],
)
def test_an_invalid_gateway_option_is_named(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        create_app(**{"prefix": "/api", "client": Client("localhost:1"), **options})


def test_the_client_must_be_a_client() -> None:
    nothing: Any = "localhost:9000"
    with pytest.raises(TypeError, match="must be a Client"):
        create_app("", nothing)


def test_the_former_module_exports_create_app() -> None:
    assert rap.api_gateway.create_app is create_app
    assert rap.api_gateway.app.create_app is create_app


def test_the_field_func_type_of_former_clients_is_ignored(http: TestClient) -> None:
    body = {"func_name": "echo", "func_type": "normal", "arg_list": [1]}
    assert http.post("/api/normal", json=body).json() == {"code": 0, "data": 1}
