"""Limits of connections that several servers share through Redis."""

import pytest

from rap.client import Client
from rap.server.middleware import ConnLimitMiddleware, IpMaxConnMiddleware
from rap.shared_state import state_from_url
from tests.loopback import calling, eventually, serving
from tests.redis_server import RedisServer
from tests.server.middleware.refusals import is_refused
from tests.server.middleware.test_limits import add, ask


@pytest.fixture
def url(redis_single: RedisServer, namespace: str) -> str:
    return f"{redis_single.url}?namespace={namespace}"


async def test_servers_count_their_connections_together(url: str) -> None:
    limits = [ConnLimitMiddleware(max_conn=2, block_time=0, state=url) for _ in range(2)]
    async with (
        serving(add, middleware_list=limits[:1]) as one,
        serving(add, middleware_list=limits[1:]) as other,
        calling(one) as client,
    ):
        async with calling(other):
            assert await is_refused(one, "more than 2 connections")
            assert await is_refused(other, "more than 2 connections")
            info = await ask(client, limits[0], "get_conn_limit_info")
            assert (info["conn_count"], info["total_conn_count"]) == (1, 2)
        await eventually(lambda: not other.connection_manager.connections)
        async with calling(other, connect_timeout=9) as late:
            assert await late.call(add, 1, 2) == 3


async def test_servers_count_each_address_together(url: str) -> None:
    limits = [IpMaxConnMiddleware(ip_max_conn=2, state=url) for _ in range(2)]
    async with (
        serving(add, middleware_list=limits[:1]) as one,
        serving(add, middleware_list=limits[1:]) as other,
        calling(one),
        calling(other),
    ):
        assert await is_refused(one, "more than 2 connections from 127.0.0.1")
        assert await is_refused(other, "more than 2 connections from 127.0.0.1")


async def test_services_are_counted_separately(url: str) -> None:
    limits = [ConnLimitMiddleware(max_conn=1, state=url) for _ in range(2)]
    async with (
        serving(add, middleware_list=limits[:1], service="a", registry="memory://") as one,
        serving(add, middleware_list=limits[1:], service="b", registry="memory://") as other,
        calling(one) as client,
        calling(other),
    ):
        counter = state_from_url(url).connections("a/conn")
        assert await counter.total("all") == 1
        await counter.aclose()
        assert await client.call(add, 1, 2) == 3


async def test_a_stopping_server_releases_its_connections(url: str) -> None:
    counter = state_from_url(url).connections("conn")
    async with serving(add, middleware_list=[ConnLimitMiddleware(state=url)]) as server:
        client = Client(server.addresses)
        await client.connect()
        assert await counter.total("all") == 1
    assert await counter.total("all") == 0
    await client.await_close()
    await counter.aclose()


async def test_each_server_enforces_its_share_while_the_store_is_down() -> None:
    limit = ConnLimitMiddleware(max_conn=1, block_time=0, state="redis://127.0.0.1:1")
    async with serving(add, middleware_list=[limit]) as server, calling(server) as client:
        assert await is_refused(server)
        info = await ask(client, limit, "get_conn_limit_info")
        assert (info["conn_count"], info["total_conn_count"]) == (1, None)
