"""gRPC's interop cases between rap's client and server.

Each section is one case of the list that gRPC publishes for its implementations. Its names are
those of the list: empty_unary, large_unary, client_streaming, server_streaming, ping_pong,
empty_stream, custom_metadata, status_code_and_message, special_status_message,
unimplemented_method, unimplemented_service, cancel_after_begin, cancel_after_first_response,
timeout_on_sleeping_server, concurrent_large_unary and soak. A case of the list that depends on
HTTP/2 or on a cloud (compression flags, credentials, ORCA) has no counterpart. Each runs over TCP,
TLS, and with compression and encryption, on every event loop.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from rap.client import Client
from rap.errors import (
    CallError,
    ChannelClosed,
    Code,
    DeadlineExceeded,
    Unimplemented,
)
from tests.interop.service import GROUP, Log, Order, Status
from tests.loopback import eventually, within

ON_BOTH_LOOPS = True
REQUEST_SIZES = [27_182, 8, 1_828, 45_904]
RESPONSE_SIZES = [31_415, 9, 2_653, 58_979]
LARGE = 3_000_000  # bytes, more than a frame
INITIAL = "test_initial_metadata_value"
TRAILING = b"\x0a\x0b\x0a\x0b\x0a\x0b"
METADATA = {"x-initial": INITIAL, "x-trailing": TRAILING}
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"


async def collect(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


def sizes(payloads: list[bytes]) -> list[int]:
    return [len(payload) for payload in payloads]


class Conversation:
    """A source of requests that a test feeds one by one."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Order | None] = asyncio.Queue()
        self.closed = asyncio.Event()

    def ask(self, *sizes: int, status: Status | None = None) -> None:
        self._queue.put_nowait(Order([*sizes], status=status))

    def end(self) -> None:
        self._queue.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[Order]:
        try:
            while (order := await self._queue.get()) is not None:
                yield order
        finally:
            self.closed.set()


# empty_unary


async def test_an_empty_call_returns_nothing(stub: Any) -> None:
    assert await within(stub.empty()) is None


# large_unary


async def test_a_request_and_a_response_may_be_larger_than_a_frame(stub: Any) -> None:
    order = Order([LARGE + 1], bytes(LARGE))
    assert await within(stub.unary(order)) == bytes(LARGE + 1)


# client_streaming


async def test_the_server_aggregates_what_the_client_streams(stub: Any) -> None:
    payloads = [bytes(size) for size in REQUEST_SIZES]
    assert await within(stub.collect(payloads)) == 74_922


async def test_an_empty_request_stream_is_aggregated_too(stub: Any) -> None:
    assert await within(stub.collect([])) == 0


# server_streaming


async def test_the_client_gets_the_payloads_it_has_ordered(stub: Any) -> None:
    payloads = await within(collect(stub.produce(Order(RESPONSE_SIZES))))
    assert sizes(payloads) == RESPONSE_SIZES


# ping_pong


async def test_each_response_is_read_before_the_next_request_is_written(stub: Any) -> None:
    talk = Conversation()
    responses = stub.converse(talk)
    for size in RESPONSE_SIZES:
        talk.ask(size)
        assert len(await within(anext(responses))) == size
    talk.end()
    assert await within(collect(responses)) == []


async def test_requests_may_end_before_the_first_response_is_read(stub: Any) -> None:
    orders = [Order([size]) for size in RESPONSE_SIZES]
    assert sizes(await within(collect(stub.converse_later(orders)))) == RESPONSE_SIZES


async def test_each_message_of_a_channel_is_read_before_the_next_is_written(
    client: Client,
) -> None:
    async with client.channel("talk", group=GROUP) as channel:
        for size in RESPONSE_SIZES:
            await within(channel.write(Order([size])))
            assert len(await within(channel.read_body())) == size
        assert await within(channel.result()) == len(RESPONSE_SIZES)


async def test_a_channel_is_half_closed_before_it_is_read(client: Client) -> None:
    async with client.channel("talk", group=GROUP) as channel:
        for size in RESPONSE_SIZES:
            await within(channel.write(Order([size])))
        await within(channel.end())
        with pytest.raises(ChannelClosed):
            await channel.write(Order([1]))
        assert sizes(await within(collect(channel.iter_body()))) == RESPONSE_SIZES
        assert await within(channel.result()) == len(RESPONSE_SIZES)


# empty_stream


async def test_an_empty_conversation_ends_well(stub: Any, log: Log) -> None:
    talk = Conversation()
    talk.end()
    responses = stub.converse(talk)
    assert await within(collect(responses)) == []
    assert responses.done()
    assert log.error is None


async def test_an_empty_channel_ends_well(client: Client) -> None:
    async with client.channel("talk", group=GROUP) as channel:
        await within(channel.end())
        assert await within(collect(channel.iter_body())) == []
        assert await within(channel.result()) == 0


# custom_metadata


async def test_metadata_goes_both_ways_with_a_unary_call(stub: Any) -> None:
    call = stub.unary.start(Order([1]), header=METADATA)
    await within(call)
    assert (call.header, call.trailer) == ({"x-initial": INITIAL}, {"x-trailing": TRAILING})


async def test_metadata_goes_both_ways_with_a_client_stream(stub: Any) -> None:
    call = stub.collect.start([b"x"], header=METADATA)
    assert await within(call) == 1
    assert (call.header, call.trailer) == ({"x-initial": INITIAL}, {"x-trailing": TRAILING})


@pytest.mark.parametrize("name", ["produce", "converse"])
async def test_metadata_goes_both_ways_with_a_response_stream(stub: Any, name: str) -> None:
    order = Order([1, 2])
    responses = getattr(stub, name).start(order if name == "produce" else [order], header=METADATA)
    await within(anext(responses))
    assert responses.header == {"x-initial": INITIAL}
    assert len(await within(collect(responses))) == 1
    assert responses.trailer == {"x-trailing": TRAILING}


async def test_metadata_goes_both_ways_with_a_channel(client: Client) -> None:
    async with client.channel("talk", group=GROUP, header=METADATA) as channel:
        await within(channel.write(Order([1])))
        await within(channel.read_body())
        assert channel.header == {"x-initial": INITIAL}
        await within(channel.result())
        assert channel.trailer == {"x-trailing": TRAILING}


@pytest.mark.parametrize("name", ["unary", "produce", "converse"])
async def test_metadata_comes_with_an_error_too(stub: Any, name: str) -> None:
    order = Order(status=Status(Code.ABORTED, "no"))
    argument = [order] if name == "converse" else order
    call = getattr(stub, name).start(argument, header=METADATA)
    with pytest.raises(CallError, match="no"):
        await within(call if name == "unary" else collect(call))
    assert (call.header, call.trailer) == ({"x-initial": INITIAL}, {"x-trailing": TRAILING})


# status_code_and_message, special_status_message


@pytest.mark.parametrize("name", ["unary", "produce", "converse", "talk"])
@pytest.mark.parametrize("message", ["test status message", SPECIAL, "", "\x00\x1f%20" * 100])
async def test_code_and_message_of_a_status_arrive_as_they_were_sent(
    client: Client, stub: Any, name: str, message: str
) -> None:
    order = Order(status=Status(Code.UNKNOWN, message))
    calls: dict[str, Callable[[], Any]] = {
        "unary": lambda: stub.unary(order),
        "produce": lambda: collect(stub.produce(order)),
        "converse": lambda: collect(stub.converse([order])),
        "talk": lambda: _said(client, order),
    }
    with pytest.raises(CallError) as caught:
        await within(calls[name]())
    assert (caught.value.code, caught.value.message) == (Code.UNKNOWN, message)
    assert caught.value.remote


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
async def test_every_code_arrives(stub: Any, code: Code) -> None:
    with pytest.raises(CallError) as caught:
        await within(stub.unary(Order(status=Status(code, "so"))))
    assert (caught.value.code, caught.value.message) == (code, "so")


async def test_a_long_message_is_cut_and_arrives(stub: Any) -> None:
    message = "😈" * 5000
    with pytest.raises(CallError) as caught:
        await within(stub.unary(Order(status=Status(Code.ABORTED, message))))
    assert caught.value.code is Code.ABORTED
    assert 1000 <= len(caught.value.message)
    assert message.startswith(caught.value.message)


async def _said(client: Client, order: Order) -> None:
    async with client.channel("talk", group=GROUP) as channel:
        await channel.write(order)


# unimplemented_method, unimplemented_service


SHAPES = ["unary", "client_stream", "stream", "bidi", "channel"]


def unknown(client: Client, shape: str, group: str) -> Any:
    """Return a call of a function that the group does not have, as a stream type."""

    async def unknown(rows: AsyncIterator[int]) -> int: ...  # type: ignore[empty-body]

    async def unknown_items(rows: AsyncIterator[int]) -> AsyncIterator[int]:
        yield 0

    async def said() -> None:
        async with client.channel("unknown", group=group) as channel:
            await channel.end()

    if shape == "unary":
        return client.raw_call("unknown", group=group)
    if shape == "stream":
        return collect(client.iterator_call("unknown", group=group))
    if shape == "channel":
        return said()
    if shape == "bidi":
        return collect(client.register("unknown", group)(unknown_items)([1]))  # type: ignore[arg-type]
    return client.register("unknown", group)(unknown)([1])  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("group", [GROUP, "NoService"])
async def test_a_function_or_group_that_does_not_exist_is_unimplemented(
    client: Client, shape: str, group: str
) -> None:
    with pytest.raises(Unimplemented, match="unknown") as caught:
        await within(unknown(client, shape, group))
    assert caught.value.code is Code.UNIMPLEMENTED
    assert caught.value.remote


# cancel_after_begin


async def test_a_client_stream_is_cancelled_before_anything_was_sent(stub: Any, log: Log) -> None:
    talk = Conversation()
    call = stub.collect.start(talk)
    await within(log.began.wait())
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(call)
    await within(log.ended.wait())
    await within(talk.closed.wait())
    assert isinstance(log.error, asyncio.CancelledError)


async def test_a_unary_call_is_cancelled_after_it_began(stub: Any, log: Log) -> None:
    call = stub.sleep.start()
    await within(log.began.wait())
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(call)
    await within(log.ended.wait())


# cancel_after_first_response


async def test_a_conversation_is_cancelled_after_its_first_response(stub: Any, log: Log) -> None:
    talk = Conversation()
    responses = stub.converse(talk)
    talk.ask(RESPONSE_SIZES[0])
    assert len(await within(anext(responses))) == RESPONSE_SIZES[0]
    assert responses.cancel()
    assert await within(collect(responses)) == []
    await within(talk.closed.wait())
    await within(log.ended.wait())
    assert isinstance(log.error, asyncio.CancelledError | GeneratorExit)


async def test_a_channel_is_cancelled_after_its_first_message(client: Client, log: Log) -> None:
    async def say() -> None:
        async with client.channel("talk", group=GROUP) as channel:
            await channel.write(Order([5]))
            await channel.read_body()
            first.set()
            await channel.read_body()

    first = asyncio.Event()
    task = asyncio.create_task(say())
    await within(first.wait())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(task)
    await within(log.ended.wait())
    assert isinstance(log.error, asyncio.CancelledError)


# timeout_on_sleeping_server


async def test_a_deadline_passes_while_the_server_sleeps(stub: Any, log: Log) -> None:
    talk = Conversation()
    responses = stub.converse(talk, timeout=0.5)
    talk.ask(27_182)
    assert len(await within(anext(responses))) == 27_182
    with pytest.raises(DeadlineExceeded):
        await within(anext(responses))
    await within(talk.closed.wait())
    await within(log.ended.wait())


@pytest.mark.parametrize("name", ["sleep", "collect"])
async def test_a_deadline_ends_a_call_with_one_response(stub: Any, log: Log, name: str) -> None:
    talk = Conversation()
    call = stub.sleep(timeout=0.05) if name == "sleep" else stub.collect(talk, timeout=0.05)
    with pytest.raises(DeadlineExceeded):
        await within(call)
    if log.began.is_set():
        await within(log.ended.wait())


async def test_a_deadline_ends_a_channel(client: Client, log: Log) -> None:
    with pytest.raises(DeadlineExceeded):
        async with client.channel("talk", group=GROUP, timeout=0.05) as channel:
            await within(channel.read_body())
    if log.began.is_set():
        await within(log.ended.wait())


# concurrent_large_unary


async def test_many_large_calls_share_a_connection(stub: Any) -> None:
    async def call(n: int) -> int:
        return len(await stub.unary(Order([314_159 + n], bytes(271_828))))

    found = await within(asyncio.gather(*(call(n) for n in range(50))))
    assert found == [314_159 + n for n in range(50)]


# soak


async def test_a_soak_of_all_stream_types_leaves_no_task_and_no_stream(
    client: Client, stub: Any, log: Log
) -> None:
    async def once(n: int) -> None:
        order = Order([n, 1])
        assert len(await stub.unary(order)) == n
        assert await stub.collect([bytes(n), b"x"]) == n + 1
        assert sizes(await collect(stub.produce(order))) == [n, 1]
        assert sizes(await collect(stub.converse([order]))) == [n, 1]
        async with client.channel("talk", group=GROUP) as channel:
            await channel.write(order)
            assert len(await channel.read_body()) == n
            assert await channel.result() == 2

    await within(once(0))
    tasks = len(asyncio.all_tasks())
    for turn in range(20):
        await within(asyncio.gather(*(once(turn * 10 + n) for n in range(10))))
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
    assert log.error is None
