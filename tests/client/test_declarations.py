"""Clients are told of functions that no server of their service has as they declare them."""

import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

import pytest

from rap import Channel, Client, Server
from rap.errors import Unimplemented
from rap.registry import MemoryRegistry
from rap.registry.base import FUNCTIONS
from rap.schema.function import Function
from rap.schema.registered import declared_hash, signatures_text
from rap.testing import Fleet
from tests.loopback import eventually


@dataclass
class Order:
    sku: str
    count: int = 1


class OrderDict(TypedDict):
    sku: str


async def reserve(order: Order) -> int:
    return order.count


async def watch(skus: list[str]) -> AsyncIterator[Order]:
    for sku in skus:
        yield Order(sku)


async def talk(channel: Channel[str, int]) -> None: ...


def shop(*functions: Callable[..., Any]) -> Server:
    server = Server()
    for function in functions:
        server.register(function)
    return server


def fleet_of(*servers: Server, **options: Any) -> Fleet:
    """Return a fleet of one replica for each server."""
    each = iter(servers)
    return Fleet(lambda: next(each), len(servers), service="shop", **options)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was said of declarations."""
    warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
    return [each.getMessage() for each in warnings if "shop" in each.getMessage()]


async def test_a_server_registers_the_signature_of_each_public_function() -> None:
    server = shop(reserve, watch)
    server.register(talk, is_private=True)
    async with fleet_of(server) as fleet:
        snapshots = fleet.registry.watch("shop")
        (endpoint,) = (await anext(snapshots)).values()
        await snapshots.aclose()
    found = json.loads(endpoint.metadata[FUNCTIONS])
    assert found == {
        "default/reserve": declared_hash(Function.of(reserve)),
        "default/watch": declared_hash(Function.of(watch)),
    }


async def test_the_same_data_has_the_same_signature() -> None:
    @dataclass
    class Purchase:
        sku: str
        count: int = 7

    def named(func: Callable[..., Any], name: str) -> str | None:
        func.__name__ = name
        return declared_hash(Function.of(func))

    async def other(order: Purchase) -> int: ...  # type: ignore[empty-body]  # a declaration

    async def watching(skus: Sequence[str]) -> AsyncIterator[Purchase]:
        yield Purchase("")

    async def from_there(channel: Channel[int, str]) -> None: ...

    assert named(other, "reserve") == declared_hash(Function.of(reserve))
    assert named(watching, "watch") == declared_hash(Function.of(watch))
    (registered,) = json.loads(
        signatures_text(h for h in shop(talk).handlers if h.name == "talk")
    ).values()
    assert declared_hash(Function.of(from_there)) == registered


def test_a_function_that_cannot_be_described_is_not_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: object) -> None:
        raise ValueError("a hint")

    monkeypatch.setattr("rap.schema.registered.describe", fail)
    assert signatures_text(shop(reserve).handlers) == ""
    assert declared_hash(Function.of(reserve)) is None


def test_very_many_functions_are_not_registered() -> None:
    server = shop(reserve)
    for number in range(500):
        server.register(reserve, name=f"a_function_with_a_long_name_{number}")
    assert signatures_text(server.handlers) == ""


async def different(order: OrderDict) -> int: ...  # type: ignore[empty-body]  # a declaration


async def connect(fleet: Fleet, **options: Any) -> None:
    """Connect a client that declares a function right, one otherwise, and one that is missing."""
    client = Client(service="shop", registry=fleet.registry, **options)
    client.register(watch)
    client.register(name="reserve")(different)
    client.register(talk)
    async with client:
        pass


WRONG = [
    "default/reserve has another signature on shop than this client declares;"
    " `rap compat` says whether calls fail",
    "no instance of shop has the function default/talk",
]


async def test_a_client_is_warned_once(caplog: pytest.LogCaptureFixture) -> None:
    async with fleet_of(shop(reserve, watch)) as fleet:
        await connect(fleet)
    assert said(caplog) == WRONG


async def test_a_client_is_told_that_it_declares_a_channel_as_its_server_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Chats(Protocol):
        async def talk(self, channel: Channel[str, int]) -> None: ...

    class ClientChats(Protocol):
        async def talk(self, channel: Channel[int, str]) -> None: ...

    async with fleet_of(shop(talk)) as fleet:
        for declared in (Chats, ClientChats):
            client = Client(service="shop", registry=fleet.registry)
            client.bind(declared, group="default")
            async with client:
                pass
    assert said(caplog) == [
        "default/talk is declared here with the Channel[In, Out] of its server, shop, but that is"
        " written from this side's view: In is what this side reads; swap In and Out here"
        " (docs/how-to/typing.md has the way to share the rest)"
    ]


async def test_a_client_is_told_of_a_function_in_another_group(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Shop(Protocol):
        async def reserve(self, order: Order) -> int: ...

    async with fleet_of(shop(reserve)) as fleet:
        client = Client(service="shop", registry=fleet.registry)
        client.bind(Shop)
        async with client:
            pass
    assert said(caplog) == [
        "no instance of shop has the function Shop/reserve; there is one in the group 'default':"
        " pass group='default'"
    ]


async def test_a_client_may_fail_to_connect() -> None:
    async with fleet_of(shop(reserve, watch)) as fleet:
        with pytest.raises(Unimplemented) as caught:
            await connect(fleet, check_signatures="error")
    assert str(caught.value) == "; ".join(WRONG)


async def test_a_client_may_ignore_it(caplog: pytest.LogCaptureFixture) -> None:
    async with fleet_of(shop(reserve, watch)) as fleet:
        await connect(fleet, check_signatures="ignore")
    assert said(caplog) == []
    with pytest.raises(ValueError, match="check_signatures must be"):
        Client(check_signatures="shout")


async def test_a_function_that_one_server_has_is_right(caplog: pytest.LogCaptureFixture) -> None:
    async with fleet_of(shop(), shop(reserve, watch, talk), shop()) as fleet:
        client = Client(service="shop", registry=fleet.registry)
        for function in (reserve, watch):
            client.register(function)
        async with client:
            await eventually(lambda: len(client.cluster.ready) == 3)
    assert said(caplog) == []


async def test_servers_of_older_releases_may_have_anything(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = MemoryRegistry()
    async with fleet_of(shop()) as fleet:
        snapshots = fleet.registry.watch("shop")
        (endpoint,) = (await anext(snapshots)).values()
        await snapshots.aclose()
        await registry.register("shop", endpoint.replace(metadata={}), ttl=60)
        async with Client(service="shop", registry=registry) as client:
            client.register(reserve)
    assert said(caplog) == []


@pytest.mark.parametrize("text", ["[" * 100_000, '{"default/reserve": []}', "1", ""])
async def test_a_forged_text_instead_of_signatures_is_ignored(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with fleet_of(shop(reserve, watch)) as fleet:
        snapshots = fleet.registry.watch("shop")
        (endpoint,) = (await anext(snapshots)).values()
        await snapshots.aclose()
        forged = endpoint.replace(id="forged", metadata={FUNCTIONS: text})
        await fleet.registry.register("shop", forged, ttl=60)
        client = Client(service="shop", registry=fleet.registry)
        client.register(reserve)
        async with client:
            assert await client.raw_call("reserve", {"sku": "hat", "count": 2}) == 2
    assert said(caplog) == []
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []


async def test_calls_of_a_new_function_go_to_the_servers_that_have_it() -> None:
    servers = [shop(reserve) for _ in range(7)] + [shop(reserve, watch)]
    async with fleet_of(*servers) as fleet:
        await eventually(lambda: len(fleet.client.cluster.ready) == 8)
        for _ in range(20):
            items = fleet.client.iterator_call(watch, ["hat"])
            assert [item.sku async for item in items] == ["hat"]
        # Each call asks one that lacks the function at most, not one after the other.
        assert sum(replica.calls for replica in fleet) <= 40
        assert fleet["h"].calls == 20
