"""Messages that a client sends together with the opening of a channel reach the function."""

from typing import Any

from rap.client import Channel
from tests.loopback import calling, serving, within


async def test_messages_and_the_end_that_come_with_the_opening_are_read() -> None:
    heard: list[Any] = []

    async def hear(channel: Channel) -> None:
        heard.extend([body async for body in channel])

    async def say(channel: Channel) -> None:
        await channel.write("a")
        await channel.write("b")

    async with serving(hear) as server, calling(server) as client:
        remote: Any = client.register("hear")(say)
        for _ in range(3):
            await within(remote())
        await client.await_close()
    assert heard == ["a", "b"] * 3
