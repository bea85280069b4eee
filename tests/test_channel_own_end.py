"""A channel function of a server that ends its own side before it returns: its outcome is heard."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from rap.client import Client, SyncClient
from rap.client.attempt import StreamAttempt
from rap.errors import ChannelClosed, Unauthenticated
from rap.processor.base import BaseProcessor
from rap.processor.compress import CompressProcessor
from rap.server import Channel, Server, context
from rap.wire.codec import pack, unpack
from rap.wire.frames import END, MESSAGE
from tests.loopback import calling, serving, within
from tests.processor.encrypted import KEY, KEY_ID, ClientCrypto, ServerCrypto

Sides = tuple[list[BaseProcessor], list[BaseProcessor]]


def processors(kind: str) -> Sides:
    if kind == "encrypted":
        return [ClientCrypto(KEY_ID, KEY)], [ServerCrypto({KEY_ID: KEY})]
    if kind == "compressed":
        return [CompressProcessor(1)], [CompressProcessor(1)]
    return [], []


async def finish(channel: Channel, how: str) -> None:
    if how == "end":
        await channel.end()
    elif how == "close":
        await channel.close()
    else:
        channel.set_finish("enough")


async def leave(channel: Channel, how: str, fails: bool) -> int:
    context.set_header("h", how)
    await finish(channel, how)
    context.set_trailer("t", how)
    with pytest.raises(ChannelClosed):
        await channel.write("late")
    got = [body async for body in channel]
    if fails:
        raise ValueError(f"lost {got}")
    return len(got)


@asynccontextmanager
async def talking(kind: str) -> AsyncIterator[tuple[Client, Server]]:
    ours, theirs = processors(kind)
    async with (
        serving(leave, processor_list=theirs) as server,
        calling(server, processor_list=ours) as client,
    ):
        yield client, server


kinds = pytest.mark.parametrize("kind", ["plain", "encrypted", "compressed"])
ways = pytest.mark.parametrize("how", ["end", "close", "set_finish"])


@kinds
@ways
@pytest.mark.parametrize("first", ["client", "server"])
async def test_the_value_after_the_end_is_the_result(kind: str, how: str, first: str) -> None:
    async with talking(kind) as (client, _):
        async with client.channel("leave", how, False) as channel:
            await channel.write(1)
            if first == "client":
                await channel.end()
            await within(channel.wait_close())
            assert channel.is_close
            assert [body async for body in channel] == []
            with pytest.raises(ChannelClosed):
                await channel.read()
            with pytest.raises(ChannelClosed):
                await channel.read_body()
            expected = 1 if how == "end" else 0
            assert await within(channel.result()) == expected
        assert channel.header == {"h": how}
        assert channel.trailer == {"t": how}


@kinds
@ways
@pytest.mark.parametrize("first", ["client", "server"])
@pytest.mark.parametrize("reads", [True, False])
async def test_an_error_after_the_end_is_the_outcome(
    kind: str, how: str, first: str, reads: bool
) -> None:
    async def talk(client: Client) -> None:
        async with client.channel("leave", how, True) as channel:
            await channel.write(1)
            if first == "client":
                await channel.end()
            if reads:
                assert [message.body async for message in channel.iter_response()] == []

    async with talking(kind) as (client, _):
        with pytest.raises(ValueError, match=r"lost \[1?\]"):
            await within(talk(client))


@kinds
async def test_a_client_writes_on_after_the_server_has_ended_its_messages(kind: str) -> None:
    async with talking(kind) as (client, _):

        @client.register("leave")
        async def talk(channel: Channel, how: str, fails: bool) -> None:
            assert not [body async for body in channel]
            for number in range(5):
                await channel.write(number)

        call: Any = talk
        assert await within(call("end", False)) == 5


@kinds
@pytest.mark.parametrize("fails", [True, False])
async def test_code_without_an_event_loop_hears_the_outcome(kind: str, fails: bool) -> None:
    ours, theirs = processors(kind)

    def talk(address: str) -> Any:
        client = SyncClient(address, processor_list=ours)
        with client, client.channel("leave", "end", fails) as channel:
            assert list(channel) == []
            channel.write(1)
            return channel.result()

    async with serving(leave, processor_list=theirs) as server:
        calling_thread = asyncio.to_thread(talk, str(server.addresses[0]))
        if fails:
            with pytest.raises(ValueError, match=r"lost \[1\]"):
                await within(calling_thread)
        else:
            assert await within(calling_thread) == 1


async def test_an_end_while_another_task_writes_keeps_the_outcome() -> None:
    async def both(channel: Channel) -> int:
        async def write() -> int:
            with suppress(ChannelClosed):
                for number in range(1000):
                    await channel.write(number)
                return 8
            return 7

        writing = asyncio.create_task(write())
        while not writing.done():
            await asyncio.sleep(0)
            await channel.end()
        return await writing

    ours, theirs = processors("encrypted")
    async with (
        serving(both, processor_list=theirs) as server,
        calling(server, processor_list=ours) as client,
        client.channel("both") as channel,
    ):
        got = [body async for body in channel]
        assert got == [*range(len(got))]
        assert await within(channel.result()) == 7


@pytest.mark.parametrize("to_end", [True, False])
async def test_an_attacker_cannot_exchange_the_two_ends(
    monkeypatch: pytest.MonkeyPatch, to_end: bool
) -> None:
    on_data = StreamAttempt.on_data

    def exchange(
        stream: StreamAttempt, flags: int, meta: bytes, body: bytes | memoryview, size: int
    ) -> None:
        header: Any = unpack(meta) if meta else {}
        if to_end and header.get(":end"):
            flags, meta = MESSAGE | END, b""
        elif not to_end and flags == MESSAGE | END:
            flags, meta = MESSAGE, pack({":end": True})
        on_data(stream, flags, meta, body, size)

    async def ends(channel: Channel) -> None:
        await channel.read_body()
        if to_end:
            await channel.end()

    ours, theirs = processors("encrypted")

    async def talk(client: Client) -> None:
        async with client.channel("ends") as channel:
            monkeypatch.setattr(StreamAttempt, "on_data", exchange)
            await channel.write("go")
            assert [body async for body in channel] == []

    async with (
        serving(ends, processor_list=theirs) as server,
        calling(server, processor_list=ours) as client,
    ):
        with pytest.raises(Unauthenticated, match="were exchanged on their way"):
            await within(talk(client))
