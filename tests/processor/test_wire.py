"""Encrypted calls as somebody sees them who holds the wire."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from rap.client import Channel, Client
from rap.errors import CallError, Code, HandlerError, Unauthenticated
from rap.server import Server
from rap.wire.codec import pack, unpack
from rap.wire.frames import BATCH, DATA, END, MESSAGE, OPEN, RESET, Frame, parse_frames, reset_frame
from tests.loopback import PATIENCE, eventually, serving, within
from tests.processor.encrypted import (
    KEY,
    KEY_ID,
    ClientCrypto,
    ServerCrypto,
    encrypted,
    remote,
)
from tests.processor.relay import Edit, Relay, relaying, unchanged

SECRET = "attack at dawn"


@asynccontextmanager
async def watched(
    server: Server, *, to_server: Edit = unchanged, to_client: Edit = unchanged, **options: Any
) -> AsyncIterator[tuple[Client, Relay]]:
    """Connect an encrypting client through a relay."""
    port = server.addresses[0].port
    async with relaying(port, to_server=to_server, to_client=to_client) as relay:
        processors = [ClientCrypto(KEY_ID, KEY)]
        async with Client(relay.address, processor_list=processors, **options) as client:
            yield client, relay


async def say_secret(channel: Channel) -> Any:
    await channel.write(SECRET)
    return await channel.read_body()


# Reading.


async def test_no_argument_result_item_message_or_error_is_readable() -> None:
    async def tell(word: str) -> AsyncIterator[str]:
        yield word
        raise ValueError(f"not {word}")

    async with encrypted() as server, watched(server) as (client, relay):
        assert await client.raw_call("echo", SECRET) == SECRET
        assert await remote(client, "talk", say_secret)() == ["heard", SECRET]
        for kind in ("ValueError", "details"):
            with pytest.raises(CallError, match=SECRET):
                await client.raw_call("fail", kind, SECRET)
        for seen in (relay.sent, relay.answered):
            assert len(seen) > 500
            assert SECRET.encode() not in seen
            assert b"ValueError" not in seen


async def test_a_traceback_is_not_readable() -> None:
    async with encrypted(debug=True) as server, watched(server) as (client, relay):
        with pytest.raises(ValueError, match="x") as caught:
            await client.raw_call("fail", "ValueError", "x")
        assert isinstance(caught.value, HandlerError)
        assert "Traceback" in caught.value.details["traceback"]
        assert b"Traceback" not in relay.answered


# Repeating.


def first_open(relay: Relay) -> Frame:
    return next(frame for frame in relay.frames if frame.kind == OPEN)


async def test_what_was_captured_is_refused_by_every_instance() -> None:
    ran = []

    async def count(value: int) -> None:
        ran.append(value)

    async def instance() -> Server:
        server = Server("127.0.0.1:0", processor_list=[ServerCrypto({KEY_ID: KEY})])
        server.register(count)
        return await server.create_server()

    servers = [await instance() for _ in range(3)]
    try:
        async with watched(servers[0]) as (client, relay):
            for i in range(10):
                await client.raw_call("count", i)
            for i in range(60):
                port = servers[i % 3].addresses[0].port
                assert await answers(port, relay.sent, 10) == [Code.UNAUTHENTICATED] * 10
        assert ran == list(range(10))
    finally:
        for server in servers:
            await server.await_closed()


async def answers(port: int, captured: bytes, count: int) -> list[int]:
    """Send bytes on a new connection; return the codes of the first so many Resets."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(captured)
        codes: list[int] = []
        data = b""
        async with asyncio.timeout(PATIENCE):
            while len(codes) < count:
                received = await reader.read(65536)
                assert received
                data += received
                codes = codes_of(data)
        return codes
    finally:
        writer.transport.abort()


def codes_of(data: bytes) -> list[int]:
    resets = [frame for frame in parse_frames(data) if frame.kind == RESET]
    contents = [unpack(frame.body) for frame in resets]
    assert not any(frame.kind == DATA for frame in parse_frames(data))
    return [content[0] for content in contents if isinstance(content, list)]


def was_refused(relay: Relay, count: int) -> bool:
    """Whether so many calls were refused because of their encryption."""
    return relay.answered.count(b"encrypted") >= count


async def test_an_open_repeated_on_its_own_connection_is_refused() -> None:
    ran = []

    async def count(value: int) -> int:
        ran.append(value)
        return value

    async with serving(count, processor_list=[ServerCrypto({KEY_ID: KEY})]) as server:
        async with watched(server) as (client, relay):
            assert await client.raw_call("count", 1) == 1
            before = relay.answered
            original = first_open(relay)
            for i in range(1, 101):  # one after another, so that the server is never overloaded
                copied = original._replace(stream_id=original.stream_id + 2 * i)
                relay.onward[0].write(copied.encode())
                await eventually(partial(was_refused, relay, i))
            assert codes_of(relay.answered[len(before) :]) == [Code.UNAUTHENTICATED] * 100
            assert ran == [1]


# Changing.


def moved_to(method: str, frame: Frame) -> Frame:
    content = unpack(frame.meta)
    assert isinstance(content, list)
    return frame._replace(meta=pack([method, *content[1:]]))


async def test_a_request_cannot_be_sent_to_another_function() -> None:
    def edit(frame: Frame) -> list[Frame | bytes]:
        return [moved_to("/default/fail", frame) if frame.kind == OPEN else frame]

    async with encrypted() as server, watched(server, to_server=edit) as (client, _):
        with pytest.raises(Unauthenticated):
            await client.raw_call("echo", 1)


async def test_an_open_of_a_channel_without_its_seal_starts_nothing() -> None:
    began = []

    async def start(channel: Any) -> None:
        began.append(channel)

    start.__annotations__["channel"] = Channel

    def edit(frame: Frame) -> list[Frame | bytes]:
        return [frame._replace(flags=0, body=b"") if frame.kind == OPEN else frame]

    async with serving(start, processor_list=[ServerCrypto({KEY_ID: KEY})]) as server:
        async with watched(server, to_server=edit) as (client, _):
            with pytest.raises(Unauthenticated):
                await within(remote(client, "start", say_secret)())
    assert began == []


async def test_items_cannot_be_dropped_or_cut_off_or_taken_for_many() -> None:
    def cut_off(frame: Frame) -> list[Frame | bytes]:
        if frame.kind != DATA:
            return [frame]
        return [frame._replace(flags=END, body=b"")]

    def dropped(frame: Frame) -> list[Frame | bytes]:
        seen.append(frame)
        return [] if frame.kind == DATA and len(seen) == 4 else [frame]

    def batched(frame: Frame) -> list[Frame | bytes]:
        return [frame._replace(flags=frame.flags | BATCH) if frame.kind == DATA else frame]

    def stopped(frame: Frame) -> list[Frame | bytes]:
        return [reset_frame(frame.stream_id, Code.OK, "", {}) if frame.kind == DATA else frame]

    for edit in (cut_off, dropped, batched, stopped):
        seen: list[Frame] = []
        async with encrypted() as server, watched(server, to_client=edit) as (client, _):
            with pytest.raises(Unauthenticated):
                async with asyncio.timeout(PATIENCE):
                    assert [i async for i in client.iterator_call("items", 5)] == []


async def test_a_channel_cannot_be_ended_by_others() -> None:
    def edit(frame: Frame) -> list[Frame | bytes]:
        if frame.kind != DATA:
            return [frame]
        return [Frame(DATA, END, frame.stream_id)]

    async def listen(channel: Channel) -> None:
        while await channel.loop():
            await channel.read_body()

    async def iterate(channel: Channel) -> None:
        await channel.write(1)
        async for _ in channel:
            pass

    async with encrypted() as server, watched(server, to_client=edit) as (client, _):
        with pytest.raises(Unauthenticated):
            await within(remote(client, "talk", iterate)())
        with pytest.raises(Unauthenticated):
            await within(remote(client, "talk", say_secret)())
    async with encrypted() as server, watched(server, to_server=edit) as (client, _):
        with pytest.raises(Unauthenticated):
            await within(remote(client, "talk", say_secret)())


@pytest.mark.parametrize("how", ["changed", "dropped", "swapped", "cut off", "all dropped"])
@pytest.mark.parametrize("leaves", ["closes", "ends", "returns"])
async def test_a_client_that_only_writes_hears_that_the_server_refused_a_message(
    how: str, leaves: str
) -> None:
    kept: list[Frame] = []
    seen = 0

    def edit(frame: Frame) -> list[Frame | bytes]:
        nonlocal seen
        if frame.kind != DATA:
            return [frame]
        seen += 1
        if how == "all dropped":
            return [frame] if frame.flags & END else []
        if seen > 2 and how == "cut off":
            return []
        if seen != 2:
            return [frame, *(kept.pop() for _ in range(len(kept)))]
        if how == "changed":
            return [frame._replace(body=frame.body[:-1] + bytes([frame.body[-1] ^ 1]))]
        if how == "cut off":
            return [Frame(DATA, END, frame.stream_id)]
        if how == "swapped":
            kept.append(frame)
        return []

    async def take(channel: Channel) -> int:
        received.append([body async for body in channel])
        return len(received[-1])

    received: list[list[Any]] = []
    server_of = serving(take, processor_list=[ServerCrypto({KEY_ID: KEY})])
    async with server_of as server, watched(server, to_server=edit) as (client, _):

        async def write() -> None:
            async with client.channel("take") as channel:
                for n in range(5):
                    await channel.write(n)
                if leaves == "ends":
                    await channel.end()
                elif leaves == "closes":
                    await channel.close()

        with pytest.raises(Unauthenticated):
            await within(write())
    assert received == []


async def test_an_error_put_in_by_others_is_no_exception_of_the_handler() -> None:
    def edit(frame: Frame) -> list[Frame | bytes]:
        if frame.kind != DATA:
            return [frame]
        details = {"type": "KeyError", "sealed": "no"}
        return [reset_frame(frame.stream_id, Code.UNKNOWN, "forged", details)]

    async with encrypted() as server, watched(server, to_client=edit) as (client, _):
        with pytest.raises(CallError, match="forged") as caught:
            await client.raw_call("add", 1, 2)
        assert not isinstance(caught.value, HandlerError | KeyError)


async def test_no_byte_of_a_frame_can_be_changed_into_another_answer() -> None:
    """Header of the frame and all: refused, not understood, or without any effect."""
    rng = random.Random(17)
    async with encrypted() as server:
        for kind, size in ((OPEN, 90), (DATA, 45)):
            for position in range(size):
                edit = flipping(kind, position, 1 << rng.randrange(8))
                sides = {"to_server": edit} if kind == OPEN else {"to_client": edit}
                async with watched(server, timeout=0.1, **sides) as (client, _):
                    results = await asyncio.gather(
                        client.raw_call("echo", 77), return_exceptions=True
                    )
                    result: object = results[0]
                    assert result == 77 or isinstance(result, CallError)
                    assert not isinstance(result, HandlerError)


def flipping(kind: int, position: int, mask: int) -> Edit:
    def edit(frame: Frame) -> list[Frame | bytes]:
        data = bytearray(frame.encode())
        if frame.kind == kind and position < len(data):
            data[position] ^= mask
        return [bytes(data)]

    return edit


async def test_a_whole_message_with_its_end_is_one_message_to_a_plain_channel() -> None:
    """A flag that means a proof with processors means nothing without them."""

    async def hear(channel: Any) -> None:
        heard.append(await channel.read_body())

    hear.__annotations__["channel"] = Channel
    heard: list[Any] = []

    def edit(frame: Frame) -> list[Frame | bytes]:
        return [frame._replace(flags=MESSAGE | END) if frame.kind == DATA else frame]

    async def say(channel: Channel) -> None:
        await channel.write("last")
        await channel.wait_close()

    async with serving(hear) as server:
        port = server.addresses[0].port
        async with relaying(port, to_server=edit) as relay, Client(relay.address) as client:
            await within(remote(client, "hear", say)())
    assert heard == ["last"]


@pytest.mark.parametrize("kind", [OPEN, DATA])
async def test_a_body_that_is_not_sealed_is_never_decoded(kind: int) -> None:
    """Whoever has no key cannot make either side work: nothing but bytes can be sealed."""
    bomb = b"\x91" * 100 + b"\x90"  # decoding it is another error

    def edit(frame: Frame) -> list[Frame | bytes]:
        return [frame._replace(body=bomb) if frame.kind == kind and frame.body else frame]

    sides = [{"to_server": edit}] if kind == OPEN else [{"to_server": edit}, {"to_client": edit}]
    for edits in sides:
        async with encrypted() as server, watched(server, **edits) as (client, _):
            with pytest.raises(Unauthenticated, match="a plain message in an encrypted call"):
                await within(remote(client, "talk", say_secret)())
            if edits.get("to_server") and kind == DATA:
                continue
            with pytest.raises(Unauthenticated, match="a plain message in an encrypted call"):
                await client.raw_call("echo", SECRET)
            with pytest.raises(Unauthenticated, match="a plain message in an encrypted call"):
                await within(anext(client.iterator_call("items", 2)))
