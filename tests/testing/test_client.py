"""TestClient: a real client and a real server inside the process."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rap import Channel, Client, Server, SyncClient, context
from rap.call import Request
from rap.errors import (
    DeadlineExceeded,
    InvalidArgument,
    PermissionDenied,
    Unauthenticated,
    Unimplemented,
)
from rap.processor import BaseProcessor
from rap.server.middleware import BaseMsgMiddleware
from rap.testing import TestClient

ON_BOTH_LOOPS = True

server = Server("localhost:9000", service="calc", registry="redis://nowhere:1")
client = Client(service="calc", registry="redis://nowhere:1")
sync_client = SyncClient("nowhere:1")


@server.register
async def add(a: int, b: int) -> int:
    return a + b


@server.register
async def count(to: int) -> AsyncIterator[int]:
    for number in range(to):
        yield number


@server.register
async def total(values: AsyncIterator[int]) -> int:
    return sum([value async for value in values])


@server.register
async def double(values: AsyncIterator[int]) -> AsyncIterator[int]:
    async for value in values:
        yield 2 * value


@server.register
async def shout(channel: Channel[str, str]) -> int:
    seen = 0
    async for text in channel:
        await channel.write(text.upper())
        seen += 1
    return seen


@server.register
def divide(a: int, b: int) -> float:
    return a / b


@client.register(name="add")
async def remote_add(a: int, b: int) -> int:  # type: ignore[empty-body]  # a declaration
    ...


@sync_client.register(name="add")
def blocking_add(a: int, b: int) -> int:  # type: ignore[empty-body]  # a declaration
    ...


async def test_all_kinds_of_calls_work() -> None:
    async with TestClient(server) as client:
        assert await client.raw_call("add", 1, 2) == 3
        assert [item async for item in client.iterator_call(count, 3)] == [0, 1, 2]
        assert await client.call(total, [1, 2, 3]) == 6
        assert [item async for item in client.iterator_call(double, [1, 2])] == [2, 4]
        async with client.channel("shout") as channel:
            await channel.write("hello")
            assert await channel.read_body() == "HELLO"
            await channel.end()
            assert await channel.result() == 1


def test_a_test_without_an_event_loop_gets_a_client_that_blocks() -> None:
    with TestClient(server) as client:
        assert client.raw_call("add", 1, 2) == 3
        assert list(client.iterator_call("count", 3)) == [0, 1, 2]
        with client.channel("shout") as channel:
            channel.write("hello")
            assert channel.read_body() == "HELLO"


@pytest.mark.parametrize("run", range(2))
async def test_server_and_client_of_a_module_work_in_any_number_of_tests(run: int) -> None:
    async with TestClient(server, client=client):
        assert await remote_add(run, 1) == run + 1


@pytest.mark.parametrize("run", range(2))
def test_so_do_those_that_block(run: int) -> None:
    with TestClient(server, client=sync_client):
        assert blocking_add(run, 1) == run + 1


async def test_server_and_client_have_their_own_options_again_afterwards() -> None:
    configs = server.config, client.config
    async with TestClient(server, client=client, timeout=1):
        assert client.config.timeout == 1
    assert (server.config, client.config) == configs
    assert repr(client) == "<Client service='calc' not connected>"


async def test_there_is_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_socket(*_: object, **__: object) -> Any:
        raise AssertionError("a socket was made")

    monkeypatch.setattr(socket.socket, "bind", no_socket)
    monkeypatch.setattr(socket.socket, "connect", no_socket)
    async with TestClient(server) as client:
        assert await client.raw_call("add", 1, 2) == 3


async def test_errors_are_those_of_production() -> None:
    async with TestClient(server, client=client):
        with pytest.raises(ZeroDivisionError):
            await client.raw_call("divide", 1, 0)
        with pytest.raises(InvalidArgument):
            await client.raw_call("add", 1, "2")
        with pytest.raises(Unimplemented, match="did you mean 'add'"):
            await client.raw_call("ad", 1, 2)
        with pytest.raises(InvalidArgument):
            await remote_add("1", 2)  # type: ignore[arg-type]  # what the test is about


async def test_deadlines_and_cancellation_reach_the_handler() -> None:
    running, cancelled = asyncio.Event(), asyncio.Event()
    slow = Server()

    @slow.register
    async def wait() -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with TestClient(slow) as client:
        with pytest.raises(DeadlineExceeded):
            await client.raw_call("wait", timeout=0.05)
        await cancelled.wait()
        running.clear()
        cancelled.clear()
        call = asyncio.create_task(client.raw_call("wait"))
        await running.wait()
        call.cancel()
        await cancelled.wait()
        with contextlib.suppress(asyncio.CancelledError):
            await call


async def test_events_processors_and_middleware_run() -> None:
    seen: list[str] = []

    class Notes(BaseProcessor):
        async def process_request(self, request: Request) -> Request:
            seen.append(f"processor {request.func_name}")
            return request

    class Doubles(BaseMsgMiddleware):
        async def dispatch(self, request: Request, *args: Any) -> Any:
            seen.append("middleware")
            return await super().dispatch(request, *args)

    shop = Server(
        start_event_list=[lambda: seen.append("start")],
        stop_event_list=[lambda: seen.append("stop")],
        middleware_list=[Doubles()],
        processor_list=[Notes()],
    )
    shop.register(add)
    async with TestClient(shop) as client:
        assert await client.raw_call("add", 1, 2) == 3
    assert seen == ["start", "processor add", "middleware", "stop"]


async def test_the_server_sees_the_address_that_the_test_chooses() -> None:
    shop = Server()

    @shop.register
    async def where() -> str:
        peer = context.call.peer
        assert peer is not None
        return peer.host

    @shop.register(is_private=True)
    async def secret() -> int:
        return 1

    async with TestClient(shop) as client:
        assert await client.raw_call("where") == "127.0.0.1"
        assert await client.raw_call("secret") == 1
    async with TestClient(shop, client_host="203.0.113.9") as client:
        assert await client.raw_call("where") == "203.0.113.9"
        with pytest.raises(Unimplemented):
            await client.raw_call("secret")


async def test_tokens_and_rules_apply() -> None:
    shop = Server(verify_token=lambda token: {"t1": "alice", "t2": "bob"}.get(str(token)))

    @shop.register(allow={"alice"})
    async def buy() -> str:
        return "bought"

    async with TestClient(shop, token="t1") as client:
        assert await client.raw_call("buy") == "bought"
    async with TestClient(shop, token="t2") as client:
        with pytest.raises(PermissionDenied):
            await client.raw_call("buy")
    with pytest.raises(Unauthenticated):
        async with TestClient(shop, token="t3"):
            pass
    async with TestClient(shop, token="t1") as client:  # after a failure, too
        assert await client.raw_call("buy") == "bought"


async def test_a_function_may_make_the_server() -> None:
    async with TestClient(lambda: Server(debug=True)) as client:
        with pytest.raises(Unimplemented):
            await client.raw_call("add", 1, 2)


async def test_a_server_that_runs_already_is_refused() -> None:
    async with TestClient(server):
        with pytest.raises(RuntimeError, match="the server runs already: close it before"):
            async with TestClient(server):
                pass


async def test_a_client_that_is_connected_already_is_refused() -> None:
    async with TestClient(server) as connected:
        with pytest.raises(RuntimeError, match="close the client before"):
            async with TestClient(Server(), client=connected):
                pass


async def test_each_kind_of_client_has_its_own_kind_of_block() -> None:
    with pytest.raises(TypeError, match="a SyncClient is entered by `with`"):
        async with TestClient(server, client=sync_client):
            pass
    with pytest.raises(TypeError, match="a Client is entered by `async with`"):
        with TestClient(server, client=client):
            pass


async def test_large_messages_pass_the_flow_control() -> None:
    big = Server()

    @big.register
    async def echo(data: bytes) -> bytes:
        return data

    async with TestClient(big) as client:
        data = bytes(5_000_000)
        answers = await asyncio.gather(*(client.raw_call("echo", data) for _ in range(3)))
        assert answers == [data] * 3
