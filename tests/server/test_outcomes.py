"""What a server says when a call ends: results of channels, headers and trailers of answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rap.channel import Channel
from rap.errors import ChannelClosed, NotFound, RegistrationError
from rap.server import Server, context
from tests.event_loops import nothing_goes_unnoticed
from tests.loopback import serving
from tests.wire.independent import Call, Failed, Peer

__all__ = ["nothing_goes_unnoticed"]


async def room(channel: Channel[int, str], name: str, *, times: int = 1) -> int:
    count = 0
    async for number in channel:
        await channel.write(f"{name} {number * times}")
        count += 1
    return count


async def reader(channel: Channel) -> str:
    assert await channel.read_body() == 1
    await channel.read_body()
    return "not reached"


async def quiet(channel: Channel) -> None:
    async for _ in channel:
        pass


async def late_error(channel: Channel) -> None:
    async for _ in channel:
        pass
    raise NotFound("after all that", details={"n": 1})


async def wrong_value(channel: Channel) -> int:
    return "text"  # type: ignore[return-value]


async def closes(channel: Channel) -> int:
    await channel.close()
    return 3


@asynccontextmanager
async def talking(*functions: Any, outcome: bool = True, **options: Any) -> AsyncIterator[Peer]:
    """Connect the independent client to a server."""
    async with serving(*functions, **options) as server:
        host, port = str(server.addresses[0]).removeprefix("tcp://").split(":")
        hello: dict[str, Any] = {"abilities": ["outcome", "later"]} if outcome else {}
        async with await Peer.connect(host, int(port), **hello) as peer, asyncio.timeout(10):
            yield peer


async def test_a_channel_takes_arguments_and_returns_a_result() -> None:
    async with talking(room) as peer:
        call = await peer.open("/default/room", {"args": ["a"], "kwargs": {"times": 2}}, end=False)
        for number in (1, 2):
            await call.send(number)
            assert await call.receive() == f"a {2 * number}"
        await call.end()
        assert await call.rest() == []
        assert call.result == 2
        assert call.failure is None


async def test_an_older_client_gets_no_result() -> None:
    async with talking(room, outcome=False) as peer:
        call = await peer.open("/default/room", ["a"], end=False)
        await call.end()
        assert await call.rest() == []
        assert call.result is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "missing a required argument: 'name'"),
        ([3], "argument 'name': expected `str`"),
        (None, "missing a required argument: 'name'"),
    ],
)
async def test_arguments_of_a_channel_are_checked(arguments: Any, text: str) -> None:
    async with talking(room) as peer:
        message = () if arguments is None else (arguments,)
        call = await peer.open("/default/room", *message, end=False)
        with pytest.raises(Failed, match=text) as caught:
            await call.receive()
        assert caught.value.code == 3


async def test_a_channel_without_parameters_takes_no_arguments() -> None:
    async with talking(quiet) as peer:
        call = await peer.open("/default/quiet", [], end=False)
        with pytest.raises(Failed, match="is a channel function") as caught:
            await call.receive()
        assert caught.value.code == 3


async def test_messages_of_a_channel_are_checked_by_their_types() -> None:
    async def wrong(channel: Channel[int, str]) -> None:
        await channel.write(3)  # type: ignore[arg-type]

    async with talking(room, wrong) as peer:
        call = await peer.open("/default/room", ["a"], end=False)
        await call.send("text")
        with pytest.raises(Failed, match=r"room\(\): message: expected `int`") as caught:
            await call.receive()
        assert caught.value.code == 3  # the fault of the client
        call = await peer.open("/default/wrong", end=False)
        with pytest.raises(Failed, match=r"wrong\(\): message: expected `str`") as caught:
            await call.receive()
        assert caught.value.code == 13  # the fault of the server


async def test_an_error_after_the_client_has_ended_arrives() -> None:
    async with talking(late_error) as peer:
        call = await peer.open("/default/late_error", end=False)
        await call.leave()
        with pytest.raises(Failed, match="after all that") as caught:
            await call.receive()
        assert caught.value.code == 5
        assert caught.value.details == {"n": 1}


async def test_a_handler_that_reads_on_when_the_client_has_ended_has_ended_well() -> None:
    async with talking(reader) as peer:
        call = await peer.open("/default/reader", end=False)
        await call.send(1)
        await call.end()
        assert await call.rest() == []
        assert call.failure is None
        assert call.result is None


async def test_tasks_of_a_handler_that_its_client_ends_have_ended_well() -> None:
    async def duplex(channel: Channel) -> None:
        async def read() -> None:
            while True:
                await channel.read_body()

        async def write() -> None:
            while True:
                await channel.write("tick")
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            group.create_task(write())

    async with talking(duplex) as peer:
        call = await peer.open("/default/duplex", end=False)
        assert await call.receive() == "tick"
        await call.leave()
        await call.rest()
        assert call.failure is None


async def test_an_error_of_another_channel_is_no_clean_end() -> None:
    async def other(channel: Channel) -> None:
        async for _ in channel:
            pass
        raise ChannelClosed("of another channel")

    async with talking(other) as peer:
        call = await peer.open("/default/other", end=False)
        await call.end()
        with pytest.raises(Failed, match="of another channel"):
            await call.receive()


async def test_a_client_that_only_ended_still_reads() -> None:
    async def lists(channel: Channel) -> int:
        found = [number async for number in channel]
        for number in found:
            await channel.write(number + 1)
        return len(found)

    async with talking(lists) as peer:
        call = await peer.open("/default/lists", end=False)
        await call.send(1)
        await call.send(2)
        await call.end()
        assert await call.rest() == [2, 3]
        assert call.result == 2


@pytest.mark.parametrize("ends_first", [False, True])
async def test_a_write_to_a_client_that_reads_nothing_more_raises(ends_first: bool) -> None:
    errors: list[BaseException] = []
    written = asyncio.Event()

    async def ticks(channel: Channel) -> None:
        try:
            while True:
                await channel.write("tick")
                written.set()
                await asyncio.sleep(0)
        except ChannelClosed as exc:
            errors.append(exc)
            raise

    async with talking(ticks) as peer:
        call = await peer.open("/default/ticks", end=False)
        await written.wait()
        if ends_first:
            await call.end()
        await call.leave()
        assert set(await call.rest()) <= {"tick"}
        assert call.failure is None
        assert [str(each) for each in errors] == ["/default/ticks: the peer closed the channel"]


@pytest.mark.parametrize(("writes", "result"), [(1, 10), (2, None)])
async def test_a_function_that_answers_each_message_finishes_for_a_client_that_has_left(
    writes: int, result: int | None
) -> None:
    async def answers(channel: Channel[int, int]) -> int:
        total = 0
        async for number in channel:
            total += number
            for _ in range(writes):
                await channel.write(total)
        return total

    async with talking(answers) as peer:
        call = await peer.open("/default/answers", end=False)
        await call.done_reading()
        await peer.ping()
        for number in range(5):
            await call.send(number)
        await call.end()
        assert await call.rest() == []
        assert call.result == result
        assert call.failure is None


async def test_a_client_may_say_that_it_reads_nothing_more_before_it_ends() -> None:
    async def ticks(channel: Channel) -> None:
        while True:
            await channel.write("tick")
            await asyncio.sleep(0)

    async with talking(ticks) as peer:
        call = await peer.open("/default/ticks", end=False)
        await call.done_reading()
        assert set(await call.rest()) <= {"tick"}
        while not call.done:
            await peer.read()
        assert call.failure is None


async def test_a_value_of_the_wrong_type_is_an_error() -> None:
    async with talking(wrong_value) as peer:
        call = await peer.open("/default/wrong_value", end=False)
        with pytest.raises(
            Failed, match=r"wrong_value\(\): return value: expected `int`"
        ) as caught:
            await call.receive()
        assert caught.value.code == 13


async def test_a_handler_that_has_closed_the_channel_returns_its_value() -> None:
    async with talking(closes) as peer:
        call = await peer.open("/default/closes", end=False)
        assert await call.rest() == []
        assert call.failure is None
        assert call.messages_ended
        assert call.result == 3


async def test_a_handler_that_has_ended_its_messages_reads_on_and_its_error_is_the_outcome() -> (
    None
):
    async def ends(channel: Channel) -> None:
        context.set_header("h", 1)
        await channel.end()
        context.set_trailer("t", 2)
        with pytest.raises(RuntimeError, match="the response has begun"):
            context.set_header("late", 1)
        raise ValueError(f"lost {[body async for body in channel]}")

    async with talking(ends) as peer:
        call = await peer.open("/default/ends", end=False)
        while not call.messages_ended:
            await peer.read()
        assert call.answer_header == {"h": 1}
        await call.send(1)
        await call.end()
        with pytest.raises(Failed, match=r"lost \[1\]"):
            await call.receive()
        assert call.answer_trailer == {"t": 2}


async def test_a_client_of_an_older_release_gets_the_end_of_a_handler_as_the_end() -> None:
    async def ends(channel: Channel) -> int:
        await channel.end()
        await channel.read()
        return 5

    async with talking(ends, outcome=False) as peer:
        call = await peer.open("/default/ends", end=False)
        assert await call.rest() == []
        assert (call.messages_ended, call.result) == (False, None)
        await call.end()


def test_a_server_refuses_a_channel_function_whose_value_cannot_be_sent() -> None:
    async def with_object(channel: Channel) -> object: ...

    with pytest.raises(RegistrationError, match="return value: type object cannot be sent"):
        Server().register(with_object)


# Headers and trailers.


def note(header: int, trailer: int) -> None:
    context.set_header("h", header)
    context.set_trailer("t", trailer)


async def unary(a: int) -> int:
    note(a, a + 1)
    return a


def in_thread(a: int) -> int:
    note(a, a + 1)
    return a


def inline(a: int) -> int:
    note(a, a + 1)
    return a


async def items(a: int) -> AsyncIterator[int]:
    note(a, 0)
    yield a
    await asyncio.sleep(0)
    context.set_trailer("t", a + 1)
    yield a


async def no_items(a: int) -> AsyncIterator[int]:
    note(a, a + 1)
    if a < 0:
        yield a


async def uploaded(a: int, rows: AsyncIterator[int]) -> int:
    note(a, a + 1)
    return sum([row async for row in rows])


async def both(a: int, rows: AsyncIterator[int]) -> AsyncIterator[int]:
    note(a, a + 1)
    async for row in rows:
        yield row


async def talk(channel: Channel, a: int) -> int:
    note(a, a + 1)
    async for row in channel:
        await channel.write(row)
    return a


async def failing(a: int) -> int:
    note(a, a + 1)
    raise NotFound("nothing")


async def failing_items(a: int) -> AsyncIterator[int]:
    note(a, a + 1)
    yield a
    raise NotFound("nothing")


@pytest.mark.parametrize(
    "name",
    ["unary", "in_thread", "inline", "items", "no_items", "uploaded", "both", "talk"],
)
async def test_an_answer_has_a_header_and_a_trailer(name: str) -> None:
    async with serving(unary, in_thread, items, no_items, uploaded, both, talk) as server:
        server.register(inline, inline=True)
        host, port = str(server.addresses[0]).removeprefix("tcp://").split(":")
        hello: dict[str, Any] = {"abilities": ["outcome"]}
        async with await Peer.connect(host, int(port), **hello) as peer, asyncio.timeout(10):
            streams = name in ("uploaded", "both", "talk")
            call = await peer.open(f"/default/{name}", [7], end=not streams)
            if streams:
                await call.send(7)
                await call.end()
            await call.rest()
            assert call.answer_header == {"h": 7}
            assert call.answer_trailer == {"t": 8}


@pytest.mark.parametrize("name", ["failing", "failing_items"])
async def test_an_error_has_a_header_and_a_trailer(name: str) -> None:
    async with talking(failing, failing_items) as peer:
        call: Call = await peer.open(f"/default/{name}", [7])
        with pytest.raises(Failed, match="nothing"):
            await call.rest()
        assert call.answer_header == {"h": 7}
        assert call.answer_trailer == {"t": 8}


async def test_a_header_is_too_late_after_the_first_item() -> None:
    errors: list[str] = []

    def try_header() -> None:
        try:
            context.set_header("late", 1)
        except RuntimeError as exc:
            errors.append(str(exc))

    async def count() -> AsyncIterator[int]:
        yield 1
        try_header()

    async def chat(channel: Channel) -> None:
        await channel.write(1)
        try_header()

    async with talking(count, chat) as peer:
        await (await peer.open("/default/count", [])).rest()
        call = await peer.open("/default/chat", end=False)
        await call.rest()
    assert errors == ["header 'late': the response has begun, its header is sent"] * 2


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (":own", 1, "without a colon at its start"),
        ("", 1, "a name is text"),
        (3, 1, "a name is text"),
        ("x", object(), "cannot be sent as msgpack"),
        ("x", bytes(8000), "the limit is 7168"),
    ],
)
async def test_a_header_that_cannot_be_sent_is_refused(name: Any, value: Any, message: str) -> None:
    errors: list[str] = []

    async def wrong() -> None:
        for set_value in (context.set_header, context.set_trailer):
            try:
                set_value(name, value)
            except ValueError as exc:
                errors.append(str(exc))

    async with talking(wrong) as peer:
        await peer.call("/default/wrong")
    assert [message in each for each in errors] == [True, True]


async def test_header_and_trailer_have_no_more_values_than_one_message_may() -> None:
    errors: list[str] = []

    async def many() -> None:
        context.set_header("h", [0] * 450)
        context.set_trailer("t", [0] * 450)
        for set_value in (context.set_header, context.set_trailer):
            with pytest.raises(ValueError, match="too many elements") as caught:
                set_value("more", [0] * 100)
            errors.append(str(caught.value))

    async with talking(many) as peer:
        await peer.call("/default/many")
    assert [each.partition(":")[0] for each in errors] == ["header 'more'", "trailer 'more'"]


def test_a_header_is_set_only_while_a_handler_runs() -> None:
    with pytest.raises(RuntimeError, match=r"context\.set_header is available only while"):
        context.set_header("x", 1)


async def test_an_error_leaves_out_a_header_for_which_its_frame_has_no_room() -> None:
    async def large() -> None:
        context.set_header("h", bytes(5000))
        context.set_trailer("t", bytes(2000))
        raise NotFound("x" * 5000)

    async with serving(large) as server:
        host, port = str(server.addresses[0]).removeprefix("tcp://").split(":")
        limits = {"max_frame": 16 * 1024}
        async with await Peer.connect(host, int(port), limits) as peer, asyncio.timeout(10):
            call = await peer.open("/default/large", [])
            with pytest.raises(Failed):
                await call.receive()
            assert call.answer_header == {}
            assert call.answer_trailer == {"t": bytes(2000)}
