"""Compressed bodies: smaller on the wire, the same at the other end, and bombs stay small."""

import asyncio
import random
import threading
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rap.address import Peer
from rap.call import Call, Request, Response, Side, StreamType
from rap.client import Channel, Client
from rap.client.processor import CompressProcessor
from rap.errors import CallError, InvalidArgument, ResourceExhausted
from rap.processor import compress
from rap.processor.base import BaseProcessor
from rap.schema.function import decode_any, encode_any
from tests.loopback import PATIENCE, eventually, serving, within
from tests.processor.encrypted import KEY, KEY_ID, ClientCrypto, ServerCrypto, remote
from tests.processor.relay import Relay, relaying
from tests.wire import independent

TEXT = "the same words again and again " * 400


async def echo(value: Any) -> Any:
    return value


async def lines(count: int) -> AsyncIterator[str]:
    for _ in range(count):
        yield TEXT


async def total(rows: AsyncIterator[Any]) -> int:
    return len([row async for row in rows])


async def each(rows: list[Any]) -> AsyncIterator[Any]:
    for row in rows:
        yield row


async def talk(channel: Channel) -> None:
    async for body in channel:
        await channel.write(body)


@asynccontextmanager
async def compressed(
    client: list[BaseProcessor] | None = None, server: list[BaseProcessor] | None = None
) -> AsyncIterator[tuple[Client, Relay]]:
    there = [CompressProcessor()] if server is None else server
    here = [CompressProcessor()] if client is None else client
    async with serving(echo, lines, talk, processor_list=there) as running:
        async with relaying(running.addresses[0].port) as relay:
            async with Client(relay.address, processor_list=here) as connected:
                yield connected, relay


async def test_a_large_body_is_small_on_the_wire_both_ways() -> None:
    async with compressed() as (client, relay):
        assert await client.raw_call("echo", TEXT) == TEXT
        assert len(relay.sent) < 1000
        assert len(relay.answered) < 1000


async def test_items_and_messages_of_channels_are_compressed() -> None:
    async def say(channel: Channel) -> Any:
        await channel.write(TEXT)
        return await channel.read_body()

    async with compressed() as (client, relay):
        assert [i async for i in client.iterator_call("lines", 3)] == [TEXT] * 3
        assert await remote(client, "talk", say)() == TEXT
        assert len(relay.sent) + len(relay.answered) < 2500


async def test_a_body_is_compressed_before_it_is_encrypted() -> None:
    client: list[BaseProcessor] = [CompressProcessor(), ClientCrypto(KEY_ID, KEY)]
    server: list[BaseProcessor] = [CompressProcessor(), ServerCrypto({KEY_ID: KEY})]
    async with compressed(client, server) as (connected, relay):
        assert await connected.raw_call("echo", TEXT) == TEXT
        assert [i async for i in connected.iterator_call("lines", 2)] == [TEXT] * 2
        assert len(relay.sent) + len(relay.answered) < 2500


async def test_bodies_so_large_that_a_thread_works_on_them_come_back() -> None:
    value = [TEXT * 30, random.Random(7).randbytes(300_000)]
    async with compressed() as (client, _):
        assert await client.raw_call("echo", value) == value


def message(body: Any, side: Side = Side.CLIENT, **header: Any) -> Request:
    names = {name.replace("_", ":"): value for name, value in header.items()}
    peer = Peer("127.0.0.1", 1, abilities=frozenset({"deflate"}))
    return Request(Call("/default/f", StreamType.UNARY, side, {}, peer=peer), body, names)


@given(value=st.text(max_size=300) | st.binary(max_size=300) | st.lists(st.integers(0, 9)))
async def test_any_value_comes_back_whatever_its_size(value: Any) -> None:
    processor = CompressProcessor(min_size=1)
    request = await processor.process_request(message(value))
    request.call.side = Side.SERVER
    assert (await processor.process_request(request)).body == value
    assert ":deflate" not in request.header


@pytest.mark.parametrize("body", ["x" * 1000, random.Random(1).randbytes(5000)])
async def test_a_small_body_and_one_that_gains_nothing_stay_as_they_are(body: Any) -> None:
    request = await CompressProcessor().process_request(message(body))
    assert request.body is body
    assert request.header == {}


async def test_a_plain_body_passes() -> None:
    response = Response(message(None).call, "plain")
    assert (await CompressProcessor().process_response(response)).body == "plain"


# What is malformed or too large.

BOMB = zlib.compress(bytes(256 * 1024 * 1024))
_MIB = 1024 * 1024
LIMIT = 16 * _MIB


async def refuse(body: Any, size: Any) -> CallError:
    request = message(body, Side.SERVER, _deflate=size)
    processor = CompressProcessor()
    with pytest.raises(CallError) as caught:
        _ = (await processor.process_request(request)).body
    return caught.value


@pytest.mark.parametrize("size", [256 * 1024 * 1024, LIMIT + 1, LIMIT, 2 * 1024 * 1024, 1024, 1])
async def test_a_bomb_is_refused_whatever_size_it_claims(size: int) -> None:
    tracemalloc.start()
    try:
        error = await refuse(BOMB, size)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(error, ResourceExhausted if size > LIMIT else InvalidArgument)
    assert peak < 2 * 1024 * 1024


async def test_what_is_too_large_is_named_with_its_limit() -> None:
    error = await refuse(b"", LIMIT + 1)
    assert f"{LIMIT + 1} bytes" in str(error)
    assert f"max_message is {LIMIT}" in str(error)


async def test_a_body_as_large_as_allowed_passes() -> None:
    body = encode_any(bytes(5000))
    request = message(zlib.compress(body), Side.SERVER, _deflate=len(body))
    processor = CompressProcessor(max_message=len(body))
    assert (await processor.process_request(request)).body == bytes(5000)


GOOD = zlib.compress(encode_any(TEXT))
SIZE = len(encode_any(TEXT))


@pytest.mark.parametrize(
    ("body", "size"),
    [
        (GOOD[:-1], SIZE),
        (GOOD + b"x", SIZE),
        (GOOD, SIZE - 1),
        (GOOD, SIZE + 1),
        (b"", SIZE),
        (b"no zlib", SIZE),
        (b"no zlib", LIMIT),
        ("text", SIZE),
        (None, SIZE),
        (GOOD, 0),
        (GOOD, -1),
        (GOOD, True),
        (GOOD, "5"),
        (zlib.compress(b"\xc1"), 1),
        (zlib.compress(bytes(_MIB)) + zlib.compress(bytes(_MIB)), _MIB),
        (zlib.compress(bytes(LIMIT))[: 1 << 14], LIMIT),
        (zlib.compress(random.Random(1).randbytes(_MIB) + bytes(LIMIT)), LIMIT),
        (zlib.compress(random.Random(1).randbytes(_MIB) + bytes(LIMIT)), 2 * _MIB),
    ],
)
async def test_a_malformed_body_is_refused(body: Any, size: Any) -> None:
    assert isinstance(await refuse(body, size), InvalidArgument)


@pytest.mark.parametrize(
    "options",
    [{"min_size": 0}, {"min_size": True}, {"level": 0}, {"level": 10}, {"max_message": 2**31 + 1}],
)
def test_a_bad_option_is_named_with_its_bounds(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be an integer from 1 to"):
        CompressProcessor(**options)


@pytest.mark.parametrize("ratio", ["even", "late"])
async def test_a_large_body_is_inflated_once(ratio: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [bytes([n % 251]) * 500 for n in range(20_000)]
    value = words if ratio == "even" else [random.Random(1).randbytes(3 * _MIB), *words[:4_000]]
    body = encode_any(value)
    monkeypatch.setattr("rap.processor.compress._count", None)
    request = message(zlib.compress(body), Side.SERVER, _deflate=len(body))
    assert (await CompressProcessor().process_request(request)).body == value


@pytest.mark.parametrize("side", [Side.CLIENT, Side.SERVER])
async def test_bodies_that_are_inflated_at_the_same_time_have_max_message_together(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, most, inside = threading.Lock(), 0, 0
    inflate = compress._inflate

    def measured(data: bytes, size: int) -> bytes:
        nonlocal most, inside
        with room:
            inside += size
            most = max(most, inside)
        try:
            return inflate(data, size)
        finally:
            with room:
                inside -= size

    monkeypatch.setattr(compress, "_inflate", measured)
    processor = CompressProcessor(max_message=4 * _MIB)
    sizes = [4 * _MIB, 1 * _MIB, 3 * _MIB, 200_000, 4 * _MIB, 2 * _MIB] * 4

    async def take(size: int) -> None:
        header = {":deflate": size}
        data = zlib.compress(b"\xc6" + (size - 5).to_bytes(4, "big") + bytes(size - 5))
        if side is Side.SERVER:
            request = Request(message(None, side).call, data, header)
            assert len((await processor.process_request(request)).body) == size - 5
        else:
            response = Response(message(None, side).call, data, header)
            assert len((await processor.process_response(response)).body) == size - 5

    await asyncio.gather(*map(take, sizes))
    assert most <= 4 * _MIB
    tasks = [asyncio.create_task(take(size)) for size in sizes]
    await asyncio.sleep(0)
    for task in tasks[1::2]:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [
        each for each in ended if each is not None and not isinstance(each, asyncio.CancelledError)
    ] == []
    assert all(each is None for each in ended[::2])
    await asyncio.gather(*map(take, sizes))
    assert most <= 4 * _MIB


async def test_a_body_that_no_processor_reads_is_decoded_once_and_as_its_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[Any] = []

    async def take(words: list[str], table: dict[tuple[int, int], str]) -> dict[str, Any]:
        taken.append((words, table))
        return {"words": words}

    def decode_bytes(body: bytes) -> Any:
        content = decode_any(body)
        assert isinstance(content, bytes)
        return content

    def encode_bytes(value: Any) -> bytes:
        assert isinstance(value, bytes)
        return encode_any(value)

    monkeypatch.setattr("rap.processor.base.decode_any", decode_bytes)
    monkeypatch.setattr("rap.processor.base.encode_any", encode_bytes)
    monkeypatch.setattr("rap.processor.compress.decode_any", None)
    words = [TEXT] * 100
    async with serving(take, processor_list=[CompressProcessor()]) as server:
        address = f"127.0.0.1:{server.addresses[0].port}"
        async with Client(address, processor_list=[CompressProcessor()]) as client:
            stub = client.register()(take)
            assert await stub(words, {(1, 2): "x"}) == {"words": words}
    assert taken == [(words, {(1, 2): "x"})]


@pytest.mark.parametrize("limit", [{"max_elements": 50}, {"max_depth": 3}])
@pytest.mark.parametrize("sealed", [False, True])
async def test_the_limits_of_a_server_hold_for_what_is_in_a_body(
    limit: dict[str, int], sealed: bool
) -> None:
    there: list[BaseProcessor] = [CompressProcessor()]
    here: list[BaseProcessor] = [CompressProcessor()]
    if sealed:
        there.append(ServerCrypto({KEY_ID: KEY}))
        here.append(ClientCrypto(KEY_ID, KEY))
    small, large = ["x"] * 40, [[["x" * 40]]] if "max_depth" in limit else [1] * 60
    async with serving(echo, total, talk, processor_list=there, **limit) as server:
        address = f"127.0.0.1:{server.addresses[0].port}"
        async with Client(address, processor_list=here) as client:
            assert await client.raw_call("echo", small) == small
            with pytest.raises(InvalidArgument, match=r"the limit is (50|3)"):
                await client.raw_call("echo", large)

            async def say(channel: Channel) -> Any:
                await channel.write([large])
                return await channel.read_body()

            with pytest.raises(InvalidArgument, match=r"the limit is (50|3)"):
                await remote(client, "talk", say)()
            with pytest.raises(InvalidArgument, match=r"the limit is (50|3)"):
                await client.register()(total)(each([small, [large]]))


# Which peer is sent compressed bodies.


async def test_a_client_compresses_nothing_for_a_server_without_the_processor() -> None:
    async with compressed(server=[]) as (client, relay):
        assert await client.raw_call("echo", TEXT) == TEXT
        assert [item async for item in client.iterator_call("lines", 2)] == [TEXT] * 2
        assert TEXT.encode() in relay.sent


async def test_a_server_compresses_nothing_for_a_client_without_the_processor() -> None:
    async with compressed(client=[]) as (client, relay):
        assert await client.raw_call("echo", TEXT) == TEXT
        assert [item async for item in client.iterator_call("lines", 2)] == [TEXT] * 2
        assert TEXT.encode() in relay.answered


@asynccontextmanager
async def old_peer(**hello: Any) -> AsyncIterator[independent.Peer]:
    """Connect a client that may not know the ability to a server that compresses."""
    async with serving(echo, processor_list=[CompressProcessor()]) as server:
        port = server.addresses[0].port
        peer = await independent.Peer.connect("127.0.0.1", port, **hello)
        async with peer, asyncio.timeout(10):
            yield peer


async def ask(peer: independent.Peer, value: Any, header: dict[str, Any] | None = None) -> Any:
    """Return the answer to a call of echo, as it is on the wire, and its header."""
    call = await peer.open("/default/echo", value, header=header)
    return await call.receive(), call.headers[0]


ARGUMENTS = encode_any([TEXT])
DEFLATED = zlib.compress(ARGUMENTS), {":deflate": len(ARGUMENTS)}


async def test_a_client_of_an_old_release_gets_plain_answers_until_it_has_compressed_itself() -> (
    None
):
    async with old_peer() as peer:
        assert await ask(peer, [TEXT]) == (TEXT, {})
        for value, header in (DEFLATED, ([TEXT], None)):
            answer, answered = await ask(peer, value, header)
            assert decode_any(zlib.decompress(answer)) == TEXT
            assert answered == {":deflate": len(encode_any(TEXT))}


async def test_a_client_that_names_the_ability_gets_compressed_answers_at_once() -> None:
    async with old_peer(abilities=["deflate"]) as peer:
        answer, _ = await ask(peer, [TEXT])
        assert decode_any(zlib.decompress(answer)) == TEXT
        assert "deflate" in (await peer.greeted())["abilities"]


async def test_a_server_of_an_old_release_gets_plain_calls_until_it_has_compressed_itself() -> None:
    seen: list[Any] = []

    async def answer(call: independent.Call) -> None:
        value = await call.receive()
        seen.append((value, ":deflate" in call.header))
        body = encode_any(TEXT)
        header = {":deflate": len(body)} if len(seen) == 2 else {}
        await call.send(zlib.compress(body) if header else TEXT, end=True, header=header)

    listening = await independent.serve(answer)
    host, port = listening.sockets[0].getsockname()
    client = Client([f"{host}:{port}"], processor_list=[CompressProcessor()])
    async with listening, asyncio.timeout(10), client:
        for _ in range(3):
            assert await client.raw_call("echo", TEXT) == TEXT
    assert seen[:2] == [([TEXT], False)] * 2
    assert seen[2][1]
    assert decode_any(zlib.decompress(seen[2][0])) == [TEXT]


async def test_a_server_that_cannot_inflate_says_what_it_lacks() -> None:
    async with serving(echo) as server:
        peer = await independent.Peer.connect("127.0.0.1", server.addresses[0].port)
        async with peer, asyncio.timeout(10):
            with pytest.raises(independent.Failed, match="is compressed, and this server has no C"):
                await ask(peer, *DEFLATED)


A, B = ("10.0.0.1", 1), ("10.0.0.2", 1)


@pytest.mark.parametrize("cancelled", [[0], [0, 1], [1], [2], [0, 1, 2]])
async def test_a_call_that_is_cancelled_just_as_it_gets_its_turn_takes_no_room(
    cancelled: list[int],
) -> None:
    room, served = compress._Room(10), list[int]()
    await room.take(A, 10)
    waiting = [asyncio.create_task(room.run(A, 6, served.append, number)) for number in range(3)]
    await asyncio.sleep(0)
    room.give(A, 10)
    for number in cancelled:
        waiting[number].cancel()
    await asyncio.wait(waiting, timeout=PATIENCE)
    assert all(task.done() for task in waiting)
    assert served == [number for number in range(3) if number not in cancelled]
    await within(room.run(A, 10, int))


async def test_a_call_that_is_cancelled_takes_its_room_until_its_thread_has_ended() -> None:
    room, served = compress._Room(10), list[str]()
    release, begun = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert release.wait(PATIENCE)
        served.append("first")

    first = asyncio.create_task(room.run(A, 10, hold))
    await eventually(begun.is_set)
    first.cancel()
    await asyncio.wait([first])
    second = asyncio.create_task(room.run(A, 10, served.append, "second"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert served == []
    release.set()
    await within(second)
    assert served == ["first", "second"]


async def test_room_is_given_back_if_there_can_be_no_thread() -> None:
    room, loop = compress._Room(10), asyncio.get_running_loop()
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    loop.set_default_executor(executor)
    with pytest.raises(RuntimeError, match="after shutdown"):
        await room.run(A, 10, int)
    loop.set_default_executor(ThreadPoolExecutor(1))
    assert await within(room.run(A, 10, int)) == 0


async def test_a_client_does_not_wait_for_all_large_bodies_of_another() -> None:
    room, served = compress._Room(10), list[str]()
    await room.take(A, 10)
    calls = [asyncio.create_task(room.run(A, 10, served.append, "greedy")) for _ in range(20)]
    await asyncio.sleep(0)
    calls.append(asyncio.create_task(room.run(B, 6, served.append, "modest")))
    await asyncio.sleep(0)
    calls[0].cancel()
    room.give(A, 10)
    await within(asyncio.wait(calls))
    assert served.index("modest") == 0
    assert len(served) == 20
    await within(room.run(A, 10, int))
