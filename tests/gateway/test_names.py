"""Names that HTTP clients choose leave nothing behind in the gateway."""

import gc
from collections.abc import AsyncIterator, Iterator

import pytest
from starlette.testclient import TestClient

from rap.call import StreamType
from rap.channel import Channel
from rap.client import Client
from rap.client.method import Method, MethodCache
from rap.gateway import create_app
from rap.server import Server
from tests.client.threaded import serving

EVENTS = {"accept": "text/event-stream"}


async def add(a: int) -> int:
    return a


async def items() -> AsyncIterator[int]:
    yield 1


async def chat(channel: Channel) -> None:
    pass


async def fail() -> None:
    raise LookupError


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(add, items, chat, fail) as server:
        yield server


def kept() -> set[tuple[str, StreamType]]:
    """Return the methods that are alive, of whatever client."""
    gc.collect()
    found = [each for each in gc.get_objects() if isinstance(each, Method)]
    return {(each.path, each.stream_type) for each in found}


def test_only_functions_that_servers_have_are_kept(server: Server) -> None:
    with TestClient(create_app("", Client(server.addresses))) as http:
        before = kept()
        for number in range(20):
            name = f"nothing{number}" + "x" * (100 * number)
            body = {"func_name": name}
            assert http.post("/normal", json=body).status_code == 404
            assert http.post("/normal", json={**body, "group": name}).status_code == 404
            assert http.post(f"/call/default/{name}", json={}, headers=EVENTS).status_code == 404
            assert http.post(f"/call/{name}/add", json={}).status_code == 404
            with http.websocket_connect("/channel") as socket:
                socket.send_json(body)
                assert socket.receive_json()["code"] == 404
        found = [path for path, _ in kept() - before]
        assert [path for path in found if path != "/registry/list"] == []
        assert http.post("/call/default/add", json={"a": 1}).json()["data"] == 1
        assert http.post("/call/default/fail", json={}).status_code == 500
        assert http.post("/call/default/items", json={}, headers=EVENTS).status_code == 200
        with http.websocket_connect("/channel") as socket:
            socket.send_json({"func_name": "chat"})
            assert socket.receive_json()["code"] == 0
            assert socket.receive()["type"] == "websocket.close"
        assert kept() >= {
            ("/default/add", StreamType.UNARY),
            ("/default/fail", StreamType.UNARY),
            ("/default/items", StreamType.STREAM),
            ("/default/chat", StreamType.CHANNEL),
        }


def test_a_function_is_found_again_with_what_was_learned_of_it() -> None:
    methods = MethodCache(Client("localhost:1").config)
    first = methods.find_name("add", "default", StreamType.UNARY)
    assert methods.find_name("add", "default", StreamType.UNARY) is not first
    methods.keep_name(first, "default")
    assert methods.find_name("add", "default", StreamType.UNARY) is first
    assert methods.for_name("add", "default") is first
    assert methods.find_name("add", "default", StreamType.STREAM) is not first


def test_a_cache_that_is_full_gives_the_oldest_place_to_the_newest_name() -> None:
    methods = MethodCache(Client("localhost:1").config)
    first = methods.for_name("first", None)
    for number in range(4096):
        methods.for_name(f"name{number}", None)
    assert methods.for_name("first", None) is not first
    newest = methods.for_name("newest", None)
    assert methods.for_name("newest", None) is newest


def test_a_long_name_is_not_kept() -> None:
    methods = MethodCache(Client("localhost:1").config)
    name = "x" * 10_000
    assert methods.for_name(name, None) is not methods.for_name(name, None)
