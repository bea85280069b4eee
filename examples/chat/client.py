"""The client of the chat: sends the lines of standard input, and prints what everybody says."""

import asyncio
import sys

from rap import Channel, Client

from .messages import Said


async def chat(channel: Channel[Said, str], room: str, name: str) -> None:
    """Declare the server's function, as the client sees it."""


async def typed_lines() -> asyncio.StreamReader:
    """Return a reader of standard input that does not block the event loop."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def send(lines: asyncio.StreamReader, channel: Channel[Said, str]) -> None:
    """Say each line, then leave."""
    async for line in lines:
        await channel.write(line.decode().strip())
    await channel.end()


async def main(room: str, name: str) -> None:
    async with (
        Client("localhost:9000") as client,
        client.channel(chat, room=room, name=name) as channel,
    ):
        sending = asyncio.create_task(send(await typed_lines(), channel))
        async for said in channel:
            print(f"{said.name}: {said.text}", flush=True)
        sending.cancel()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
