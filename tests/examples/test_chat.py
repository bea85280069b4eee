"""The example of a chat."""

import asyncio

import pytest

from examples.chat.client import chat, send
from examples.chat.messages import Said
from examples.chat.server import MAX_WAITING, rooms, server
from rap import Channel, Client, ResourceExhausted
from rap.client.channel_call import ChannelCall
from rap.testing import TestClient


def person(client: Client, room: str, name: str) -> ChannelCall:
    return client.channel(chat, room=room, name=name)


async def heard(channel: Channel[Said, str], count: int) -> list[str]:
    found = [await channel.read_body() for _ in range(count)]
    return [f"{said.name}: {said.text}" for said in found]


async def test_everybody_in_a_room_gets_what_is_said_in_it() -> None:
    async with TestClient(server) as client, person(client, "tea", "Ada") as ada:
        assert await heard(ada, 1) == ["Ada: has come"]
        async with person(client, "tea", "Bob") as bob, person(client, "cake", "Cem") as cem:
            assert await heard(ada, 1) == await heard(bob, 1) == ["Bob: has come"]
            await bob.write("hello")
            assert await heard(ada, 1) == await heard(bob, 1) == ["Bob: hello"]
            await cem.write("is anybody here?")
            assert await heard(cem, 2) == ["Cem: has come", "Cem: is anybody here?"]
        assert await heard(ada, 1) == ["Bob: has left"]
        assert list(rooms) == ["tea"]
    assert rooms == {}


async def test_who_has_said_everything_leaves() -> None:
    lines = asyncio.StreamReader()
    lines.feed_data(b"hello\nbye\n")
    lines.feed_eof()
    async with TestClient(server) as client, person(client, "tea", "Ada") as ada:
        await send(lines, ada)
        assert [said.text async for said in ada] == ["has come", "hello", "bye"]
    assert rooms == {}


async def test_who_does_not_read_has_to_leave_and_does_not_hold_up_the_others() -> None:
    async with TestClient(server) as client, person(client, "tea", "Ada") as ada:
        deaf = asyncio.create_task(silent(client))
        assert await heard(ada, 2) == ["Ada: has come", "Deaf: has come"]
        said = 0
        while len(rooms["tea"]) == 2:
            await ada.write("x" * 65536)
            await heard(ada, 1)
            said += 1
        assert said > MAX_WAITING
        with pytest.raises(ResourceExhausted, match=f"left {MAX_WAITING} messages unread"):
            await deaf
    assert rooms == {}


async def silent(client: Client) -> None:
    """Be in the room and read nothing, until the server ends it."""
    async with person(client, "tea", "Deaf") as channel:
        await channel.wait_close()
