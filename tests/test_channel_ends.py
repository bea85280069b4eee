"""How channels end: by errors, cancellation, deadlines and lost connections."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from rap.client import Channel
from rap.errors import CallError, Code, DeadlineExceeded, Internal
from rap.schema.function import encode_any
from rap.wire.codec import pack
from tests.channel_pair import Pair, connected_pair, wait_for_ever
from tests.loopback import within


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with connected_pair() as pair:
        yield pair


async def test_an_error_of_the_server_reaches_the_client_after_its_messages(pair: Pair) -> None:
    async def server(channel: Channel) -> None:
        await channel.write(1)
        raise ValueError("no more")

    async def client(channel: Channel) -> None:
        assert await channel.read_body() == 1
        for _ in range(2):
            with pytest.raises(ValueError, match="no more") as caught:
                await channel.read_body()
            assert isinstance(caught.value, CallError)
        with pytest.raises(ValueError, match="no more"):
            await channel.write(2)
        await channel.wait_close()
        raise caught.value

    with pytest.raises(ValueError, match="no more"):
        await pair.run(server, client)


async def test_what_the_server_gave_up_waiting_for_arrives_before_the_end(pair: Pair) -> None:
    size = 5 * 2**20  # more than the client takes before it reads

    async def server(channel: Channel) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await channel.write(bytes(size))

    async def client(channel: Channel) -> list[int]:
        return [len(body) async for body in channel]

    assert await pair.run(server, client) == [size]


@pytest.mark.parametrize(
    ("meta", "why"), [(pack([1]), "it must be a map, got list"), (b"\xc1", "")]
)
async def test_a_header_that_cannot_be_read_fails_the_call(
    pair: Pair, meta: bytes, why: str
) -> None:
    async def server(channel: Channel) -> None:
        await channel.read()

    async def client(channel: Channel) -> None:
        assert channel.call.method == "/default/talk"
        await channel._stream.send(encode_any(1), meta)
        await channel.read_body()

    with pytest.raises(CallError, match=f"a malformed header: {why}") as caught:
        await pair.run(server, client)
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_a_header_of_the_server_that_cannot_be_read_fails_the_call(pair: Pair) -> None:
    async def server(channel: Channel) -> None:
        await channel._stream.send(encode_any(1), pack([1]))

    async def client(channel: Channel) -> None:
        await channel.read()

    with pytest.raises(Internal, match="a malformed header: it must be a map, got list"):
        await pair.run(server, client)


async def test_iterating_raises_the_error_of_the_server(pair: Pair) -> None:
    async def server(channel: Channel) -> None:
        await channel.write(1)
        raise CallError("mine", code=Code.ABORTED)

    async def client(channel: Channel) -> None:
        async for body in channel:
            assert body == 1

    with pytest.raises(CallError, match="mine") as caught:
        await pair.run(server, client)
    assert caught.value.code is Code.ABORTED


async def test_an_error_of_the_client_ends_the_server(pair: Pair) -> None:
    async def client(channel: Channel) -> None:
        assert await channel.read_body() == "here"
        raise KeyError("mine")

    with pytest.raises(KeyError) as caught:
        await pair.run(wait_for_ever, client)
    assert not isinstance(caught.value, CallError)
    assert isinstance(pair.server_error, asyncio.CancelledError)


async def test_cancelling_the_client_cancels_the_server(pair: Pair) -> None:
    reached = asyncio.Event()

    async def client(channel: Channel) -> None:
        await channel.read()
        reached.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(pair.run(wait_for_ever, client))
    await within(reached.wait())
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert isinstance(pair.server_error, asyncio.CancelledError)


async def test_a_deadline_ends_both_sides(pair: Pair) -> None:
    async def client(channel: Channel) -> None:
        await channel.read()
        await channel.read()

    with pytest.raises(DeadlineExceeded):
        await pair.run(wait_for_ever, client, timeout=0.05)
    assert isinstance(pair.server_error, asyncio.CancelledError)


async def test_a_lost_connection_ends_both_sides(pair: Pair) -> None:
    async def client(channel: Channel) -> None:
        await channel.read()
        for node in pair.client.cluster.nodes.values():
            await node.pool.close()
        await channel.read()

    with pytest.raises(CallError) as caught:
        await pair.run(wait_for_ever, client)
    assert caught.value.code is Code.UNAVAILABLE
    assert isinstance(pair.server_error, asyncio.CancelledError)
