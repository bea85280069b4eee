"""A client that knows its zone prefers the servers there, and does without them."""

from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest

from rap.client import Client, SyncClient
from rap.registry.memory import MemoryRegistry
from rap.server import Server
from tests.loopback import eventually, serving


def in_zone(zone: str) -> Any:
    async def where() -> str:
        return zone

    return where


async def start(stack: AsyncExitStack, registry: MemoryRegistry, zones: str) -> list[Server]:
    return [
        await stack.enter_async_context(
            serving(in_zone(zone), service="shop", registry=registry, zone=zone, drain_delay=0)
        )
        for zone in zones
    ]


async def answers(client: Client, calls: int = 60) -> Counter[str]:
    return Counter([await client.raw_call("where") for _ in range(calls)])


async def test_calls_stay_in_the_zone_until_too_few_servers_are_left() -> None:
    registry = MemoryRegistry()
    async with AsyncExitStack() as stack:
        servers = await start(stack, registry, "aabbcc")
        client = Client(service="shop", registry=registry, zone="a")
        await stack.enter_async_context(client)
        await eventually(lambda: len(client.cluster.ready) == 6)
        assert await answers(client) == {"a": 60}
        await servers[-1].await_closed()
        await eventually(lambda: len(client.cluster.ready) == 5)
        assert (await answers(client)).keys() == {"a", "b", "c"}


async def test_a_client_without_a_zone_calls_all() -> None:
    registry = MemoryRegistry()
    async with AsyncExitStack() as stack:
        await start(stack, registry, "aabbcc")
        client = Client(service="shop", registry=registry)
        await stack.enter_async_context(client)
        await eventually(lambda: len(client.cluster.ready) == 6)
        assert (await answers(client)).keys() == {"a", "b", "c"}


@pytest.mark.parametrize("kind", [Client, SyncClient])
def test_a_zone_is_a_text(kind: Any) -> None:
    assert kind(zone="a").config.zone == "a"
    with pytest.raises(ValueError, match="zone must be a string, got 4"):
        kind(zone=4)
