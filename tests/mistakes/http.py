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
    "a call has an argument of the wrong type",
    3,
    what="got `str`",
    where="add(): argument 'b'",
    remedy="expected `int`",
)
def wrong_http_argument(scene: Scene) -> Any:
    return _ask("POST", "/api/call/default/add", json={"a": 1, "b": "2"})


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
    "an option of the gateway is misspelled",
    3,
    what="has no option 'allowed_origin'",
    where="create_app",
    remedy="did you mean 'allowed_origins'?",
)
def gateway_option(scene: Scene) -> Any:
    create_app("/api", Client("localhost:9000"), allowed_origin=["https://shop.example"])  # type: ignore[call-arg]
