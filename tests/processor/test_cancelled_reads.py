"""A reader that is cancelled while the processors have a message leaves it to the next reader."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rap.call import Request, Response
from rap.client import Client
from rap.errors import CallError
from rap.processor.base import BaseProcessor
from rap.server import Channel, Server
from tests.event_loops import nothing_goes_unnoticed
from tests.loopback import calling, eventually, serving, within
from tests.processor.encrypted import KEY, KEY_ID, ClientCrypto, ServerCrypto

__all__ = ["nothing_goes_unnoticed"]


class Slow(BaseProcessor):
    """Holds messages until it is told to go on."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.held = 0
        self.given_up = 0

    async def _hold(self) -> None:
        self.held += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise

    async def process_request(self, request: Request) -> Request:
        await self._hold()
        return request

    async def process_response(self, response: Response) -> Response:
        await self._hold()
        return response


@asynccontextmanager
async def encrypted(
    *functions: Any, ours: Slow | None = None, theirs: Slow | None = None
) -> AsyncIterator[tuple[Client, Server]]:
    client_side = [*([ours] if ours else []), ClientCrypto(KEY_ID, KEY)]
    server_side = [*([theirs] if theirs else []), ServerCrypto({KEY_ID: KEY})]
    async with (
        serving(*functions, processor_list=server_side) as server,
        calling(server, processor_list=client_side) as client,
    ):
        yield client, server


async def cancelled_in(slow: Slow, reading: Any) -> None:
    """Cancel a read while the processor has a message."""
    slow.go_on.clear()
    held = slow.held
    task = asyncio.ensure_future(reading)
    await eventually(lambda: slow.held > held)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def count(channel: Channel) -> int:
    for number in range(3):
        await channel.write(number)
    await channel.read()
    return 7


async def test_a_client_reads_the_message_after_a_cancelled_read() -> None:
    slow = Slow()
    async with encrypted(count, ours=slow) as (client, _):
        async with client.channel("count") as channel:
            await cancelled_in(slow, channel.read())
            assert not channel.is_close
            slow.go_on.set()
            assert [await channel.read_body() for _ in range(3)] == [0, 1, 2]
            await channel.write("go")
            await cancelled_in(slow, channel.result())
            slow.go_on.set()
            assert await within(channel.result()) == 7


async def test_reads_that_time_out_again_and_again_lose_nothing() -> None:
    async def many(channel: Channel) -> int:
        for number in range(200):
            await channel.write(number)
        return 7

    async with encrypted(many) as (client, _), client.channel("many") as channel:
        got: list[Any] = []
        while len(got) < 200:
            reading = asyncio.ensure_future(channel.read_body())
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])
            if not reading.cancelled():
                got.append(reading.result())
            else:
                got.append(await channel.read_body())
        assert got == [*range(200)]
        assert await within(channel.result()) == 7


async def test_a_server_reads_the_message_after_a_cancelled_read() -> None:
    slow = Slow()

    async def listen(channel: Channel) -> list[Any]:
        await cancelled_in(slow, channel.read())
        slow.go_on.set()
        return [body async for body in channel]

    async with encrypted(listen, theirs=slow) as (client, _):
        async with client.channel("listen") as channel:
            for number in range(3):
                await channel.write(number)
            assert await within(channel.result()) == [0, 1, 2]


async def test_a_request_stream_gives_the_item_after_a_cancelled_read() -> None:
    slow = Slow()

    async def upload(rows: AsyncIterator[int]) -> list[int]:
        await cancelled_in(slow, anext(rows))
        slow.go_on.set()
        return [row async for row in rows]

    async with encrypted(upload, theirs=slow) as (client, _):
        stub: Any = client.register()(upload)
        assert await within(stub([1, 2, 3])) == [1, 2, 3]


async def test_the_error_of_a_processor_is_raised_by_the_next_read() -> None:
    slow = Slow()

    async def fail(response: Response) -> Response:
        await slow._hold()
        raise CallError("refused")

    slow.process_response = fail  # type: ignore[method-assign]

    async def talk(client: Client) -> None:
        async with client.channel("count") as channel:
            await cancelled_in(slow, channel.read())
            slow.go_on.set()
            with pytest.raises(CallError, match="refused"):
                await within(channel.read())

    async with encrypted(count, ours=slow) as (client, _):
        with pytest.raises(CallError, match="refused"):  # of the messages that are left
            await talk(client)


async def test_only_one_task_gets_a_message() -> None:
    slow = Slow()
    async with encrypted(count, ours=slow) as (client, _):
        async with client.channel("count") as channel:
            slow.go_on.clear()
            reading = asyncio.ensure_future(channel.read_body())
            await eventually(lambda: slow.held > 1)
            with pytest.raises(RuntimeError, match="already reading"):
                await channel.read()
            slow.go_on.set()
            assert await reading == 0


@pytest.mark.parametrize("side", ["client", "server"])
async def test_the_end_of_a_call_ends_the_processing_of_its_messages(side: str) -> None:
    slow = Slow()

    async def leave(channel: Channel) -> None:
        await channel.write(1)
        if side == "server":
            await cancelled_in(slow, channel.read())

    ours, theirs = (slow, None) if side == "client" else (None, slow)

    async def talk(client: Client) -> None:
        async with client.channel("leave") as channel:
            if side == "server":
                await channel.write(1)
                await within(channel.wait_close())
            else:
                await cancelled_in(slow, channel.read())
                raise KeyError("mine")

    async with encrypted(leave, ours=ours, theirs=theirs) as (client, _):
        if side == "client":
            with pytest.raises(KeyError, match="mine"):
                await talk(client)
        else:
            task = asyncio.ensure_future(talk(client))
            await eventually(lambda: slow.given_up)
            slow.go_on.set()
            await within(task)
        await eventually(lambda: slow.given_up == 1)
