"""A server may accept smaller headers and bodies than the protocol allows."""

from typing import Any

import pytest

from rap.client import Client
from rap.errors import InvalidArgument, ResourceExhausted
from rap.server import Channel
from tests.loopback import calling, inside, serving, within


async def echo(value: Any) -> Any:
    return value


async def talk(channel: Channel) -> None:
    async for body in channel:
        await channel.write(body)


def levels(count: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(count - 1):
        value = [value]
    return value


async def test_a_body_may_nest_as_deep_as_max_depth() -> None:
    # The arguments are a level, too.
    async with inside(echo, max_depth=4) as client:
        assert await client.raw_call("echo", levels(3)) == levels(3)
        with pytest.raises(InvalidArgument, match="more than 4 levels, the limit is 4"):
            await client.raw_call("echo", levels(4))


async def test_a_body_may_have_as_many_values_as_max_elements() -> None:
    async with inside(echo, max_elements=11) as client:
        assert await client.raw_call("echo", [0] * 10) == [0] * 10
        with pytest.raises(InvalidArgument, match="too many elements: 12 or more, the limit is 11"):
            await client.raw_call("echo", [0] * 11)
        assert await client.raw_call("echo", 1) == 1


async def test_a_header_may_be_as_large_as_max_header() -> None:
    async with inside(echo, max_header=1024) as client:
        assert await client.raw_call("echo", 1, header={"note": "x" * 900}) == 1
        with pytest.raises(ResourceExhausted, match="max_header is 1024") as caught:
            await client.raw_call("echo", 1, header={"note": "x" * 1100})
        assert caught.value.details == {"limit": "max_header"}


async def say(client: Client, bodies: list[Any]) -> list[Any]:
    heard = []

    async def saying(channel: Channel) -> None:
        for body in bodies:
            await channel.write(body)
            heard.append((await channel.read()).body)

    remote: Any = client.register("talk")(saying)
    await remote()
    return heard


async def test_messages_of_a_channel_are_checked_like_the_first() -> None:
    async with serving(talk, max_elements=10) as server, calling(server) as client:
        assert await within(say(client, [[0] * 10, 1])) == [[0] * 10, 1]
        with pytest.raises(InvalidArgument, match="the limit is 10"):
            await within(say(client, [1, [0] * 11]))
        assert not server.connection_manager.open_calls
