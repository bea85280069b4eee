"""Mistakes of clients of the gateway, and of those who run it."""

from collections.abc import AsyncIterator
from typing import Any

from starlette.testclient import TestClient

from rap import Channel, Client, SyncClient
from rap.gateway import create_app
from tests.client.threaded import serving
from tests.mistakes.catalogue import Scene, mistake

CALL = {"func_name": "add", "arg_list": [1, 2]}


async def add(a: int, b: int) -> int:
    """Be called."""
    return a + b


async def count(n: int) -> AsyncIterator[int]:
    """Be iterated."""
    for i in range(n):
        yield i


async def shout(channel: Channel) -> None:
    """Be a channel."""
    async for text in channel:
        await channel.write(text.upper())


async def fail() -> None:
    """Raise."""
    raise KeyError("coffee")


def _ask(method: str, path: str, **options: Any) -> str:
    with serving(add, count, shout, fail) as server:
        app = create_app("/api", Client(server.addresses))
        with TestClient(app, raise_server_exceptions=False) as http:
            answer = http.request(method, path, **options)
            return f"{answer.status_code} {answer.text}"


@mistake(
    "a call is asked for with GET",
    3,
    what="is not served",
    where="GET of this path",
    remedy="the gateway serves POST PREFIX/normal",
)
def got(scene: Scene) -> Any:
    return _ask("GET", "/api/normal")


@mistake(
    "a call by its path is asked for with GET",
    3,
    what="is not served",
    where="GET of this path",
    remedy="POST PREFIX/call/GROUP/NAME",
)
def got_by_path(scene: Scene) -> Any:
    return _ask("GET", "/api/call/default/add")


@mistake(
    "a call is sent to a path that does not exist",
    3,
    what="is not served",
    where="POST of this path",
    remedy="the gateway serves POST PREFIX/normal",
)
def wrong_path(scene: Scene) -> Any:
    return _ask("POST", "/normal", json=CALL)


@mistake(
    "a call has no Content-Type",
    3,
    what="got none",
    where="the Content-Type",
    remedy="must be one of application/json",
)
def no_content_type(scene: Scene) -> Any:
    return _ask("POST", "/api/normal", content=b'{"func_name": "add"}')


@mistake(
    "a call has a body that is not JSON",
    3,
    what="the body is not JSON",
    where="line 1 column 2",
    remedy="Expecting property name enclosed in double quotes",
)
def bad_json(scene: Scene) -> Any:
    headers = {"Content-Type": "application/json"}
    return _ask("POST", "/api/normal", content=b"{'func_name': 'add'}", headers=headers)


@mistake(
    "a call has a misspelled field",
    3,
    what="unknown field 'kwargs'",
    where="'kwargs'; there are",
    remedy="['arg_list', 'func_name', 'group', 'kwarg_list']",
)
def misspelled_field(scene: Scene) -> Any:
    return _ask("POST", "/api/normal", json={**CALL, "kwargs": {}})


@mistake(
    "a call names no function",
    3,
    what="is missing",
    where="func_name",
    remedy="give it as",
)
def no_function(scene: Scene) -> Any:
    return _ask("POST", "/api/normal", json={"arg_list": [1, 2]})


@mistake(
    "a call has a list of arguments in a path call",
    3,
    what="got list",
    where="the body",
    remedy="must be a JSON object with the arguments by name",
)
def list_body(scene: Scene) -> Any:
    return _ask("POST", "/api/call/default/add", json=[1, 2])


@mistake(
    "a call names a function that does not exist",
    2,
    what="no function '/default/ad'",
    where="on this server",
)
def unknown_function(scene: Scene) -> Any:
    return _ask("POST", "/api/normal", json={**CALL, "func_name": "ad"})


@mistake(
    "a call has an argument of the wrong type",
    3,
    what="got `str`",
    where="add(): argument 'b'",
    remedy="expected `int`",
)
def wrong_http_argument(scene: Scene) -> Any:
    return _ask("POST", "/api/call/default/add", json={"a": 1, "b": "2"})


@mistake(
    "a generator is called without Accept",
    3,
    what="a generator answers",
    where="/default/count",
    remedy="POST to PREFIX/call/GROUP/NAME with Accept: text/event-stream",
)
def generator_without_accept(scene: Scene) -> Any:
    return _ask("POST", "/api/call/default/count", json={"n": 2})


@mistake(
    "a unary function is called with Accept: text/event-stream",
    3,
    what="is not a generator",
    where="/default/add",
    remedy="leave out Accept: text/event-stream",
)
def unary_with_accept(scene: Scene) -> Any:
    headers = {"Accept": "text/event-stream"}
    return _ask("POST", "/api/call/default/add", json={"a": 1, "b": 2}, headers=headers)


@mistake(
    "a channel function is called by POST",
    3,
    what="is a channel function",
    where="/default/shout",
    remedy="open a WebSocket on PREFIX/channel",
)
def channel_by_post(scene: Scene) -> Any:
    return _ask("POST", "/api/normal", json={"func_name": "shout"})


@mistake(
    "a page of another origin calls",
    3,
    what="may not call functions",
    where="pages of this origin",
    remedy="option allowed_origins of the gateway",
)
def other_origin(scene: Scene) -> Any:
    return _ask("POST", "/api/normal", json=CALL, headers={"Origin": "https://shop.example"})


@mistake(
    "a timeout is no number",
    3,
    what="got '3s'",
    where="rap-timeout",
    remedy="must be a positive number of seconds",
)
def bad_timeout(scene: Scene) -> Any:
    return _ask("POST", "/api/normal", json=CALL, headers={"Rap-Timeout": "3s"})


@mistake(
    "a handler raises: what the HTTP client sees, and what the gateway logs",
    2,
    what="KeyError: coffee",
    where="/default/fail failed",
)
def http_handler_raises(scene: Scene) -> Any:
    answer = _ask("POST", "/api/normal", json={"func_name": "fail"})
    return answer + "\n" + "\n".join(line for line in scene.lines if "rap.gateway" in line)


@mistake(
    "no server is there for the gateway: what the HTTP client sees, and what is logged",
    3,
    what="connection refused",
    where="127.0.0.1:1 (connecting: cannot reach it",
    remedy="does the server run, and is this its address?",
)
def http_no_server(scene: Scene) -> Any:
    client = Client("127.0.0.1:1", wait_for_ready=False, connect_timeout=0.1)
    with TestClient(create_app("/api", client)) as http:
        answer = http.post("/api/normal", json=CALL)
    return f"{answer.status_code} {answer.text}\n{scene.log}"


@mistake(
    "the gateway is given a blocking client",
    3,
    what="got <SyncClient",
    where="client",
    remedy="must be a Client",
)
def gateway_sync_client(scene: Scene) -> Any:
    create_app("/api", SyncClient("localhost:9000"))  # type: ignore[arg-type]


@mistake(
    "the gateway is given an address",
    3,
    what="got 'localhost:<port>'",
    where="client",
    remedy="must be a Client",
)
def gateway_address(scene: Scene) -> Any:
    create_app("/api", "localhost:9000")  # type: ignore[arg-type]


@mistake(
    "the first two arguments of create_app are swapped",
    3,
    what="got <Client",
    where="prefix",
    remedy="must be a string such as '/api'",
)
def gateway_swapped(scene: Scene) -> Any:
    create_app(Client("localhost:9000"), "/api")  # type: ignore[arg-type]


@mistake(
    "an option of the gateway is misspelled",
    3,
    what="has no option 'allowed_origin'",
    where="create_app",
    remedy="did you mean 'allowed_origins'?",
)
def gateway_option(scene: Scene) -> Any:
    create_app("/api", Client("localhost:9000"), allowed_origin=["https://shop.example"])  # type: ignore[call-arg]
