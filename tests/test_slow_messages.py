"""A message that comes byte by byte has a time limit, on both sides."""

import asyncio
from typing import Any

import pytest

from faults.raw import HELLO, Raw, speaking
from rap.client import Client
from rap.client.stats import client_status
from rap.errors import Code, ResourceExhausted
from rap.server.stats import limits_of
from rap.wire.codec import pack
from rap.wire.frames import DATA, MESSAGE, MORE, OPEN, Frame, parse_frames, read_reset
from tests.loopback import calling, serving, within

OPTIONS: dict[str, Any] = {"message_timeout": 0.2, "min_message_rate": 1000}


async def trickle(writer: asyncio.StreamWriter, stream: int) -> None:
    """Send one byte of a message after the other."""
    while not writer.is_closing():
        writer.write(Frame(DATA, MESSAGE | MORE, stream, b"", b"x").encode())
        await asyncio.sleep(0.01)  # far below the rate


async def size(value: bytes) -> int:
    return len(value)


async def begin(raw: Raw) -> None:
    meta = pack(["/default/size", 9_000])
    raw.writer.write(Frame(OPEN, MESSAGE | MORE, 1, meta, pack([b""])).encode())


async def test_a_client_that_sends_a_request_byte_by_byte_is_refused() -> None:
    async with serving(size, **OPTIONS) as server, speaking(server.addresses[0].port) as raw:
        await begin(raw)
        sending = asyncio.create_task(trickle(raw.writer, 1))
        (reset,) = await raw.resets(1)
        sending.cancel()
        code, message, details = read_reset(reset.body)
        assert (code, details) == (Code.RESOURCE_EXHAUSTED, {"limit": "message_timeout"})
        assert "a message comes too slowly" in message
        assert "less than 1000/s for 0.2 s, which is min_message_rate" in message
        (found,) = (each for each in limits_of(server) if each.name == "message_timeout")
        assert found.refused == 1
        async with calling(server) as client:
            assert await within(client.raw_call("size", b"xyz")) == 3
        raw.writer.transport.abort()
    (found,) = (each for each in limits_of(server) if each.name == "message_timeout")
    assert found.refused == 1


async def answer_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HELLO)
    try:
        data = b""
        while not (opened := [frame for frame in parse_frames(data) if frame.kind == OPEN]):
            data += await reader.read(65536)
        await trickle(writer, opened[0].stream_id)
    finally:
        writer.transport.abort()


async def test_a_server_that_sends_an_answer_byte_by_byte_fails_the_call() -> None:
    listener = await asyncio.start_server(answer_slowly, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener:
        async with Client(f"127.0.0.1:{port}", **OPTIONS) as client:
            with pytest.raises(ResourceExhausted, match="a message comes too slowly") as caught:
                await within(client.raw_call("size", timeout=9))
            assert caught.value.details["limit"] == "message_timeout"
            assert client_status(client).messages_cut == 1
