"""Limits of connections: in memory here, shared in test_shared_limits."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rap.client import Client
from rap.server import Server
from rap.server.middleware import ConnLimitMiddleware, IpMaxConnMiddleware
from rap.shared_state import MemoryConnections
from tests.fake_clock import FakeClock
from tests.loopback import calling, eventually, serving
from tests.server.middleware.refusals import is_refused


async def add(a: int, b: int) -> int:
    return a + b


@asynccontextmanager
async def clients(server: Server, number: int) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(calling(server)) for _ in range(number)]


async def ask(client: Client, limit: Any, name: str, *args: Any) -> Any:
    return await client.raw_call(name, *args, group=type(limit).__name__)


async def test_connections_above_the_limit_are_refused() -> None:
    limit = ConnLimitMiddleware(max_conn=2, block_time=0)
    async with serving(add, middleware_list=[limit]) as server:
        async with clients(server, 2) as (one, _):
            assert await is_refused(server, "more than 2 connections")
            assert await one.call(add, 1, 2) == 3
        await eventually(lambda: not server.connection_manager.connections)
        assert not await is_refused(server)


async def test_above_the_limit_new_connections_are_refused_for_the_block_time(
    clock: FakeClock,
) -> None:
    limit = ConnLimitMiddleware(max_conn=1, block_time=30, clock=clock)
    async with serving(add, middleware_list=[limit]) as server:
        async with clients(server, 1):
            assert await is_refused(server)
        await eventually(lambda: not server.connection_manager.connections)
        clock.advance(29.9)
        assert await is_refused(server)  # though there is room; and this does not extend it
        clock.advance(0.1)
        assert not await is_refused(server)


async def test_the_limit_can_be_asked_and_changed(clock: FakeClock) -> None:
    limit = ConnLimitMiddleware(max_conn=1, block_time=30, clock=clock)
    async with serving(add, middleware_list=[limit]) as server, calling(server) as client:
        assert await ask(client, limit, "get_conn_limit_info") == {
            "max_conn": 1,
            "block_time": 30,
            "conn_count": 1,
            "total_conn_count": 1,
            "refused_count": 0,
            "release_timestamp": 0,
        }
        assert await is_refused(server)
        info = await ask(client, limit, "get_conn_limit_info")
        assert info["release_timestamp"] == clock.time() + 30
        assert info["refused_count"] >= 1
        await ask(client, limit, "modify_max_conn", 2)
        assert await is_refused(server)
        await ask(client, limit, "modify_release_timestamp", 0)
        assert not await is_refused(server)
        await ask(client, limit, "modify_release_timestamp", clock.time() + 5)
        assert await is_refused(server)
        clock.advance(5)
        assert not await is_refused(server)
        with pytest.raises(ValueError, match="max_conn must be an integer of at least 0, got -1"):
            await ask(client, limit, "modify_max_conn", -1)


async def test_connections_of_one_address_are_limited() -> None:
    limit = IpMaxConnMiddleware(ip_max_conn=2)
    async with serving(add, middleware_list=[limit]) as server:
        async with clients(server, 2):
            assert await is_refused(server, "more than 2 connections from 127.0.0.1")
        await eventually(lambda: not server.connection_manager.connections)
        assert not await is_refused(server)


async def test_an_ipv6_network_has_one_limit() -> None:
    limit = IpMaxConnMiddleware(ip_max_conn=2)
    async with serving(add, host="[::1]:0", middleware_list=[limit]) as server:
        async with calling(server) as client:
            await client.call(add, 1, 2)
            assert list((await ask(client, limit, "get_info"))["ip"]) == ["::/64"]


async def test_a_unix_socket_has_no_limit_by_address(tmp_path: Path) -> None:
    limit = IpMaxConnMiddleware(ip_max_conn=0)
    async with serving(add, host=f"unix://{tmp_path}/s", middleware_list=[limit]) as server:
        async with calling(server) as client:
            assert await client.call(add, 1, 2) == 3


async def test_statistics_of_an_address_are_dropped_after_the_timeout(clock: FakeClock) -> None:
    limit = IpMaxConnMiddleware(ip_max_conn=1, timeout=60, clock=clock)
    async with serving(add, middleware_list=[limit]) as server:
        async with calling(server) as client:
            assert await is_refused(server)
            clock.advance(1000)
            known = (await ask(client, limit, "get_info"))["ip"]
            assert known["127.0.0.1"]["conn_count"] == 1
            assert known["127.0.0.1"]["refused_count"] >= 1
        await eventually(lambda: limit.get_info()["ip"] == {})


async def test_the_limit_of_an_address_can_be_changed() -> None:
    limit = IpMaxConnMiddleware(ip_max_conn=1)
    async with serving(add, middleware_list=[limit]) as server, calling(server) as client:
        assert await is_refused(server)
        await ask(client, limit, "modify_max_ip_max_conn", 2)
        await ask(client, limit, "modify_ip_max_timeout", 7)
        assert not await is_refused(server)
        info = await ask(client, limit, "get_info")
        assert (info["ip_max_conn"], info["timeout"]) == (2, 7)


async def test_two_servers_can_share_a_custom_counter() -> None:
    counter = MemoryConnections()
    one, two = (ConnLimitMiddleware(1, block_time=0, state=counter) for _ in range(2))
    async with serving(add, middleware_list=[one]) as server, calling(server):
        async with serving(add, middleware_list=[two]) as other:
            assert await is_refused(other)
    await eventually(lambda: counter.held("all") == 0)


@pytest.mark.parametrize(
    ("kind", "options", "error", "text"),
    [
        (ConnLimitMiddleware, {"max_conn": -1}, ValueError, "max_conn must be an integer"),
        (ConnLimitMiddleware, {"max_conn": 1.5}, ValueError, "max_conn .* got 1.5"),
        (ConnLimitMiddleware, {"block_time": -1}, ValueError, "block_time .* at least 0, got -1"),
        (ConnLimitMiddleware, {"state": "etcd://x"}, ValueError, "unknown scheme 'etcd'"),
        (ConnLimitMiddleware, {"state": 7}, TypeError, "state must be a URL or a Conn.* got 7"),
        (IpMaxConnMiddleware, {"ip_max_conn": True}, ValueError, "ip_max_conn .* got True"),
        (IpMaxConnMiddleware, {"timeout": 0}, ValueError, "timeout .* more than 0, got 0"),
    ],
)
def test_bad_options_are_refused(
    kind: Any, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        kind(**options)
