"""Encrypted calls of every shape, between the two ends."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rap.client import Channel, Client
from rap.client.processor import CompressProcessor
from rap.errors import (
    CallError,
    Code,
    HandlerError,
    InvalidArgument,
    Unauthenticated,
    Unimplemented,
)
from rap.server import Server, context
from tests.loopback import calling, serving
from tests.processor.encrypted import (
    KEY,
    ClientCrypto,
    ServerCrypto,
    add,
    encrypted,
    encrypted_client,
    items,
    remote,
    talk,
)

Pair = tuple[Server, Client]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with encrypted() as server, encrypted_client(server) as client:
        yield server, client


@pytest.fixture
def client(pair: Pair) -> Client:
    return pair[1]


async def test_a_unary_call_is_answered(client: Client) -> None:
    assert await client.raw_call("add", 1, 2) == 3
    assert await client.call(add, 1, b=2) == 3
    assert await client.register()(add)(4, 5) == 9


async def test_a_generator_yields_its_items(client: Client) -> None:
    assert [i async for i in client.iterator_call("items", 100)] == [
        [i, "item"] for i in range(100)
    ]
    assert [i async for i in client.iterator_call("items", 0)] == []


async def test_a_generator_can_be_left(client: Client) -> None:
    async for item in client.register()(items)(10**9):
        assert item == [0, "item"]
        break
    assert await client.raw_call("add", 1, 2) == 3


async def test_a_channel_talks_both_ways_and_ends(client: Client) -> None:
    async def say(channel: Channel) -> list[Any]:
        heard = []
        for i in range(20):
            await channel.write(i)
            heard.append(await channel.read_body())
        return heard

    assert await remote(client, "talk", say)() == [["heard", i] for i in range(20)]
    assert await client.raw_call("add", 1, 2) == 3


async def test_calls_of_a_session_share_the_keys_of_its_connection(client: Client) -> None:
    async with client.session as session:
        assert [await client.raw_call("add", i, 1) for i in range(5)] == [1, 2, 3, 4, 5]
        assert await session.execute("add", [1, 1]) == 2


async def test_a_large_body_travels_in_parts(client: Client) -> None:
    data = bytes(range(256)) * 12_000
    assert await client.raw_call("echo", data) == data


@pytest.mark.parametrize("size", [16, 24, 32])
async def test_every_size_of_a_key_works(size: int) -> None:
    key = bytes(range(size))
    async with encrypted(keys={"k": key}) as server:
        async with encrypted_client(server, key_id="k", key=key) as client:
            assert await client.raw_call("add", 1, 2) == 3


async def test_a_handler_sees_its_request_in_the_clear() -> None:
    async def seen(word: str) -> list[Any]:
        return [context.request.body, dict(context.request.header)]

    processors = [ServerCrypto({"k": KEY})]
    async with serving(seen, processor_list=processors) as server:
        async with encrypted_client(server, key_id="k") as client:
            assert await client.raw_call("seen", "hello", header={"a": 1}) == [["hello"], {"a": 1}]


# Errors.


async def test_an_error_of_a_handler_arrives_as_its_type_with_its_text(client: Client) -> None:
    with pytest.raises(ValueError, match="no good") as caught:
        await client.raw_call("fail", "ValueError", "no good")
    assert isinstance(caught.value, HandlerError)
    with pytest.raises(CallError) as told:
        await client.raw_call("fail", "details", "hidden")
    assert told.value.details == {"secret": "hidden"}
    assert told.value.remote


async def test_an_error_in_a_generator_or_channel_arrives_too() -> None:
    async def half(n: int) -> AsyncIterator[int]:
        yield n
        raise ValueError("half way")

    async def hear(channel: Channel) -> None:
        raise OSError(await channel.read_body())

    async def say(channel: Channel) -> None:
        await channel.write("noise")
        await channel.read_body()

    processors = [ServerCrypto({"demo_id": KEY})]
    async with serving(half, hear, processor_list=processors) as server:
        async with encrypted_client(server) as client:
            with pytest.raises(ValueError, match="half way"):
                assert [i async for i in client.iterator_call("half", 7)] == []
            with pytest.raises(OSError, match="noise"):
                await remote(client, "hear", say)()


async def test_errors_of_rap_itself_keep_their_codes(client: Client) -> None:
    with pytest.raises(Unimplemented, match="nothing"):
        await client.raw_call("nothing")
    with pytest.raises(InvalidArgument, match="missing a required argument"):
        await client.raw_call("add", 1)
    with pytest.raises(InvalidArgument, match="header"):
        await client.raw_call("add", 1, 2, header={"x": object()})


# Who is refused.


async def test_a_plain_client_is_refused_in_every_shape(pair: Pair) -> None:
    async def say(channel: Channel) -> None:
        await channel.read_body()

    async with calling(pair[0]) as plain:
        for pending in (
            plain.raw_call("add", 1, 2),
            anext(plain.iterator_call("items", 1)),
            remote(plain, "talk", say)(),
        ):
            with pytest.raises(Unauthenticated, match="takes encrypted calls only") as caught:
                await pending
            assert caught.value.details == {"reason": "plain"}


async def test_a_client_with_crypto_refuses_plain_answers() -> None:
    async def say(channel: Channel) -> None:
        await channel.write(1)
        await channel.read_body()

    async def take(args: Any = None) -> int:
        return 1

    async def give(args: Any = None) -> AsyncIterator[int]:
        yield 1

    async with serving(take, give, talk) as server, encrypted_client(server) as client:
        take_stub = client.raw_call("take")
        with pytest.raises(CallError) as caught:
            await take_stub
        assert caught.value.code in (Code.INVALID_ARGUMENT, Code.UNAUTHENTICATED)
        with pytest.raises(
            Unauthenticated, match=r"plain message.*has the server no CryptoProcessor"
        ):
            await remote(client, "talk", say)()


@pytest.mark.parametrize("processors", [[], [CompressProcessor()]])
async def test_a_server_without_crypto_says_what_it_lacks(processors: list[Any]) -> None:
    text = "/default/{}: the call is encrypted, and this server has no CryptoProcessor: load one"
    async with serving(add, items, processor_list=processors) as server:
        async with encrypted_client(server) as client:
            with pytest.raises(InvalidArgument, match=text.format("add")):
                await client.raw_call("add", 1, 2)
            with pytest.raises(InvalidArgument, match=text.format("items")):
                await anext(client.iterator_call("items", 3))
        async with calling(server) as plain:
            with pytest.raises(InvalidArgument, match="argument 'b'"):
                await plain.raw_call("add", 1, "2")


async def test_a_wrong_key_and_an_unknown_id_are_told_apart(pair: Pair) -> None:
    server = pair[0]
    async with encrypted_client(server, key="y" * 16) as wrong:
        with pytest.raises(Unauthenticated, match="'demo_id'") as caught:
            await wrong.raw_call("add", 1, 2)
        assert caught.value.details["reason"] == "seal"
    async with encrypted_client(server, key_id="other") as unknown:
        with pytest.raises(Unauthenticated, match="no key has the id 'other'") as caught:
            await unknown.raw_call("add", 1, 2)
        assert caught.value.details["reason"] == "key"


async def test_clients_with_different_keys_share_a_server() -> None:
    async with encrypted(keys={"a": "a" * 16, "b": "b" * 32}) as server:
        async with (
            encrypted_client(server, key_id="a", key="a" * 16) as one,
            encrypted_client(server, key_id="b", key="b" * 32) as two,
        ):
            assert await one.raw_call("add", 1, 2) == 3
            assert await two.raw_call("add", 3, 4) == 7


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
    | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@given(value=VALUES, header=st.dictionaries(st.text(min_size=1), VALUES, max_size=3))
async def test_any_value_comes_back_as_it_was(value: Any, header: dict[str, Any]) -> None:
    header = {name.lstrip(":") or "x": content for name, content in header.items()}
    async with encrypted() as server, encrypted_client(server) as client:
        assert await client.raw_call("echo", value, header=header) == value


@pytest.mark.parametrize("key", ["", "x" * 15, "x" * 17, "é" * 15, b"x" * 31, 16, None])
def test_a_key_that_is_not_16_24_or_32_bytes_is_refused(key: Any) -> None:
    with pytest.raises(ValueError, match="'k'"):
        ClientCrypto("k", key)
    with pytest.raises(ValueError, match="'k'"):
        ServerCrypto({"k": key})


def test_text_stands_for_its_utf_8() -> None:
    ClientCrypto("k", "é" * 8)
    ServerCrypto({"k": "é" * 16})
