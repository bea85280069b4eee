"""Client and server on a loop whose tasks start at once: ``asyncio.eager_task_factory``."""

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest

from rap.client import Client
from rap.errors import Unauthenticated
from rap.server import Channel, Server
from rap.tasks import start_task
from tests.event_loops import start_task_at_once

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are of Python 3.12")
COUNT = 300


@pytest.fixture(autouse=True)
async def eager() -> None:
    asyncio.get_running_loop().set_task_factory(start_task_at_once)


async def gather(channel: Channel[int, int]) -> int:
    return sum([each async for each in channel])


async def total(rows: AsyncIterator[int]) -> int:
    return sum([row async for row in rows])


async def numbers(count: int) -> AsyncIterator[int]:
    for each in range(count):
        yield each


@pytest.fixture
async def address() -> AsyncIterator[str]:
    async with Server("127.0.0.1:0", verify_token="right") as server:
        server.register(gather)
        server.register(total)
        yield str(server.addresses[0])


async def test_every_message_of_a_channel_arrives(address: str) -> None:
    async with Client(address, token="right") as client:
        for _ in range(20):
            async with client.channel("gather") as channel:
                for each in range(COUNT):
                    await channel.write(each)
                assert await channel.result() == sum(range(COUNT))


@pytest.mark.parametrize("count", [0, 1, COUNT])
async def test_every_item_of_a_request_stream_arrives(address: str, count: int) -> None:
    async with Client(address, token="right") as client:
        declared = client.register()(total)
        assert await declared(numbers(count)) == sum(range(count))


async def test_a_token_that_fails_at_once_is_asked_for_once_per_dial() -> None:
    asked = 0

    def token() -> str:
        nonlocal asked
        asked += 1
        raise LookupError("no token")

    with pytest.raises(Unauthenticated, match="no token"):
        async with Client("127.0.0.1:9", token=token, connect_timeout=1):
            raise AssertionError
    assert asked <= 2


async def test_a_task_of_rap_begins_after_its_caller_has_stored_it() -> None:
    began = []

    async def begin() -> None:
        began.append(True)

    task = start_task(begin())
    assert not began
    await task
    assert began
