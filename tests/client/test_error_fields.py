"""Errors with fields arrive alike from calls of every kind, on every client."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from rap import CallError, Client, Code, Server, SyncClient, with_options
from rap.channel import Channel
from rap.client.processor import CryptoProcessor as ClientCrypto
from rap.server.processor import CryptoProcessor
from rap.testing import TestClient, fake
from tests.loopback import calling, serving, within

KEY = "0123456789abcdef"


class SoldOut(CallError):
    """An error of the tests."""

    code = Code.FAILED_PRECONDITION

    def __init__(self, sku: str, left: int) -> None:
        super().__init__(f"only {left} of {sku!r} are left", details={"shop": 7})
        self.sku = sku
        self.left = left


async def reserve(sku: str) -> int:
    raise SoldOut(sku, 3)


def reserve_in_thread(sku: str) -> int:
    raise SoldOut(sku, 3)


async def items(sku: str) -> AsyncIterator[int]:
    yield 1
    raise SoldOut(sku, 3)


async def upload(skus: AsyncIterator[str]) -> int:
    async for sku in skus:
        raise SoldOut(sku, 3)
    return 1


async def talk(channel: Channel) -> None:
    raise SoldOut(await channel.read_body(), 3)


FUNCTIONS: tuple[Callable[..., Any], ...] = (reserve, reserve_in_thread, items, upload, talk)


async def skus() -> AsyncIterator[str]:
    yield "hat"


def ways(client: Client) -> dict[str, Awaitable[Any]]:
    """Return calls of all kinds."""
    stub = client.register(reserve)
    upload_stub = client.register(upload)

    async def all_items() -> None:
        async for _ in client.iterator_call("items", "hat"):
            pass

    @client.register("talk")
    async def through(channel: Channel) -> None:
        await channel.write("hat")
        await channel.read()

    return {
        "raw": client.raw_call("reserve", "hat"),
        "thread": client.raw_call("reserve_in_thread", "hat"),
        "stub": stub("hat"),
        "options": with_options(stub, timeout=5)("hat"),
        "items": all_items(),
        "upload": upload_stub(skus()),
        "channel": through(),
    }


def check(error: CallError) -> None:
    assert isinstance(error, SoldOut)
    assert (error.sku, error.left, error.code) == ("hat", 3, Code.FAILED_PRECONDITION)
    assert (str(error), error.details) == ("only 3 of 'hat' are left", {"shop": 7})
    assert error.remote


async def test_fields_arrive_from_calls_of_every_kind() -> None:
    async with serving(*FUNCTIONS) as server, calling(server) as client:
        client.load_exception([SoldOut])
        for call in ways(client).values():
            with pytest.raises(SoldOut) as caught:
                await within(call)
            check(caught.value)


async def test_an_error_whose_class_is_not_loaded_says_what_to_load() -> None:
    async with serving(*FUNCTIONS) as server, calling(server) as client:
        for way, call in ways(client).items():
            with pytest.raises(CallError) as caught:
                await within(call)
            error = caught.value
            assert (type(error), error.type_name) == (CallError, "SoldOut"), way
            assert error.details == {"sku": "hat", "left": 3, "shop": 7}
            assert hasattr(error, "__notes__"), way
            (note,) = error.__notes__
            assert f" raised SoldOut on {server.addresses[0]}" in note
            assert note.endswith("; to catch it as its class: client.load_exception([SoldOut])")


async def test_fields_arrive_sealed() -> None:
    theirs, ours = CryptoProcessor({"k": KEY}), ClientCrypto("k", KEY)
    async with (
        serving(reserve, processor_list=[theirs]) as server,
        calling(server, processor_list=[ours]) as client,
    ):
        client.load_exception([SoldOut])
        with pytest.raises(SoldOut) as caught:
            await within(client.raw_call("reserve", "hat"))
    check(caught.value)


def test_fields_arrive_on_a_client_without_asyncio() -> None:
    client = SyncClient("localhost:9000")
    client.load_exception([SoldOut])
    stub = client.register(reserve_in_thread)
    with fake(client, reserve_in_thread=SoldOut("hat", 3)), pytest.raises(SoldOut) as caught:
        stub("hat")
    check(caught.value)


async def test_fields_arrive_from_fakes_and_from_a_server_inside_the_process() -> None:
    client = Client("localhost:9000")
    client.load_exception([SoldOut])
    stub = client.register(reserve)
    async with fake(client, reserve=SoldOut("hat", 3)):
        with pytest.raises(SoldOut) as caught:
            await stub("hat")
        check(caught.value)
    server = Server("localhost:0")
    server.register(reserve)
    async with TestClient(server) as inside:
        inside.load_exception([SoldOut])
        with pytest.raises(SoldOut) as caught:
            await inside.raw_call("reserve", "hat")
        check(caught.value)


async def test_fields_that_cannot_be_sent_are_told() -> None:
    async def long() -> None:
        error = SoldOut("x" * 10_000, 3)
        error.restate("none left")
        raise error

    async with serving(long) as server, calling(server) as client:
        client.load_exception([SoldOut])
        with pytest.raises(CallError, match="with details that cannot be sent") as caught:
            await within(client.raw_call("long"))
    assert (caught.value.code, caught.value.type_name) == (Code.FAILED_PRECONDITION, "SoldOut")
    assert "it came without 'sku'" in caught.value.__notes__[0]
