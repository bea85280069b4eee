"""Readers and writers of a stream: what they wait for, and what wakes them."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from rap.errors import CallError, ChannelClosed, Code, InvalidArgument, NotFound, Unavailable
from rap.transport import EndOfStream, Stream, UnaryStream
from rap.wire.frames import END, MESSAGE
from rap.wire.stream import LOCAL_DONE
from tests.loopback import Unnoticed, eventually, within
from tests.transport.pairs import KIB, MIB, WHOLE, Pair, connected, wait_ended


@pytest.fixture(params=["client", "server"])
async def pair(request: pytest.FixtureRequest, unnoticed: Unnoticed) -> AsyncIterator[Pair]:
    """A pair whose near side is the client, and then the server."""
    async with connected("socketpair") as pair:
        pair.swapped = request.param == "server"
        yield pair
    await unnoticed.check()


async def waiting(awaitable: object) -> asyncio.Task[object]:
    """Start a task, and return when it waits."""
    task: asyncio.Task[object] = asyncio.ensure_future(awaitable)  # type: ignore[call-overload]
    await asyncio.sleep(0)
    return task


async def stuck(stream: Stream) -> asyncio.Task[object]:
    """Return a task that waits for a message to leave."""
    return await waiting(stream.send(b"x" * 3 * MIB))


async def test_only_one_task_reads_at_a_time(pair: Pair) -> None:
    ours, theirs = await pair.both()
    reading = await waiting(ours.recv())
    with pytest.raises(RuntimeError, match="another task is already reading"):
        await ours.recv()
    await theirs.send(b"x")
    assert await within(reading) == (MESSAGE, b"", b"x")


async def test_a_reader_that_is_cancelled_leaves_the_message_to_the_next(pair: Pair) -> None:
    ours, theirs = await pair.both()
    reading = await waiting(ours.recv())
    reading.cancel()
    await asyncio.wait([reading])
    await theirs.send(b"x")
    assert await within(ours.recv()) == (MESSAGE, b"", b"x")


async def test_try_recv_takes_what_is_there_and_does_not_wait(pair: Pair) -> None:
    ours, theirs = await pair.both()
    assert ours.try_recv() is None
    await theirs.send(b"x", b"meta")
    await eventually(lambda: ours.inbox)
    assert ours.try_recv() == (MESSAGE, b"meta", b"x")
    assert ours.held == 0


async def test_a_message_whose_send_was_cancelled_still_arrives(pair: Pair) -> None:
    ours, theirs = await pair.both()
    sending = await stuck(ours)
    sending.cancel()
    await asyncio.wait([sending])
    assert len((await within(theirs.recv()))[2]) == 3 * MIB


async def test_our_reset_wakes_our_own_reader_and_writer(pair: Pair) -> None:
    ours, theirs = await pair.both()
    reading, sending = await waiting(ours.recv()), await stuck(ours)
    ours.reset(Code.ABORTED, "never mind")
    with pytest.raises(EndOfStream):
        await within(reading)
    with pytest.raises(ChannelClosed, match="this side cancelled the call"):
        await within(sending)
    with pytest.raises(ChannelClosed):
        await ours.send(b"x")
    with pytest.raises(CallError, match="never mind"):
        await within(theirs.recv())


async def test_a_reset_of_the_peer_wakes_reader_and_writer(pair: Pair) -> None:
    ours, theirs = await pair.both()
    reading, sending = await waiting(ours.recv()), await stuck(ours)
    pair.far.reset(theirs, Code.NOT_FOUND, "no")
    for task in (reading, sending):
        with pytest.raises(NotFound, match="no"):
            await within(task)


async def test_a_reset_after_the_end_changes_nothing(pair: Pair) -> None:
    ours, theirs = await pair.both()
    ours.end()
    theirs.end()
    with pytest.raises(EndOfStream):
        await within(ours.recv())
    ours.reset()
    assert ours.error is None
    with pytest.raises(EndOfStream):
        await within(ours.recv())


async def test_sending_after_our_end_is_refused_and_a_second_end_is_none(pair: Pair) -> None:
    ours, theirs = await pair.both()
    assert not ours.state & LOCAL_DONE
    ours.end()
    ours.end()
    assert ours.state & LOCAL_DONE
    with pytest.raises(ChannelClosed, match="the stream is closed"):
        await ours.send(b"x")
    with pytest.raises(EndOfStream):
        await within(theirs.recv())
    assert theirs.ended
    assert not theirs.state & LOCAL_DONE


async def test_an_end_behind_a_waiting_message_is_sent_once(pair: Pair) -> None:
    ours, theirs = await pair.both()
    sending = await stuck(ours)
    ours.end()
    ours.end()
    assert ours.state & LOCAL_DONE
    with pytest.raises(ChannelClosed):
        await ours.send(b"x")
    assert len((await within(theirs.recv()))[2]) == 3 * MIB
    with pytest.raises(EndOfStream):
        await within(theirs.recv())
    await within(sending)
    await pair.settled()
    assert pair.near.error is None


async def test_a_stream_that_was_left_discards_what_arrives_and_returns_its_credit(
    pair: Pair,
) -> None:
    ours, theirs = await pair.both()
    await theirs.send(b"unread")
    await eventually(lambda: ours.inbox)
    reading = asyncio.create_task(_last(ours))
    ours.leave()
    for _ in range(40):
        await within(theirs.send(b"x" * 100 * KIB))
    assert not ours.inbox
    theirs.end()
    await within(reading)
    await within(wait_ended(ours))
    assert ours.held == 0


async def _last(stream: Stream) -> None:
    """Read until the end."""
    try:
        while True:
            await stream.recv()
    except EndOfStream:
        pass


async def test_waiting_for_the_end_ends_with_the_stream(pair: Pair) -> None:
    ways: list[Callable[[Stream], None]] = [
        lambda theirs: theirs.end(),
        lambda theirs: pair.far.reset(theirs, Code.ABORTED),
        lambda theirs: pair.far.reset(theirs, Code.OK),
        lambda _: pair.far.transport.abort(),
    ]
    for way in ways:
        ours, theirs = await pair.both()
        several = [await waiting(wait_ended(ours)) for _ in range(2)]
        reading = await waiting(ours.recv())
        way(theirs)
        await within(asyncio.gather(*several))
        with pytest.raises((EndOfStream, CallError)):
            await within(reading)


async def test_a_drained_connection_lets_its_writers_go_on(pair: Pair) -> None:
    ours, theirs = await pair.both()
    pair.near.pause_writing()
    several = [await waiting(ours.send(b"%d" % n)) for n in range(3)]
    assert not any(task.done() for task in several)
    pair.near.resume_writing()
    await within(asyncio.gather(*several))
    assert [(await within(theirs.recv()))[2] for _ in range(3)] == [b"0", b"1", b"2"]


async def test_writers_of_a_full_connection_wake_when_it_is_lost(pair: Pair) -> None:
    ours, _ = await pair.both()
    pair.near.pause_writing()
    sending = await waiting(ours.send(b"x"))
    draining = await waiting(pair.near.wait_writable())
    pair.near.transport.abort()
    with pytest.raises(Unavailable):
        await within(sending)
    await within(draining)


async def test_a_unary_call_that_ends_without_an_answer_fails(pair: Pair) -> None:
    for code in (None, Code.OK):
        call = pair.call()
        theirs = (await within(pair.inbound.get())).stream
        if code is None:
            theirs.end()
        else:
            pair.server.reset(theirs, code)
        with pytest.raises(CallError):
            await within(call.future)


async def test_an_answer_may_carry_a_header(pair: Pair) -> None:
    call = pair.call()
    theirs = (await within(pair.inbound.get())).stream
    await theirs.send(b"answer", b"header", WHOLE)
    assert await within(call.future) == b"answer"
    assert call.meta == b"header"


async def test_an_answer_that_comes_after_the_caller_left_is_dropped(pair: Pair) -> None:
    for flags in (WHOLE, MESSAGE, END):
        call = pair.call()
        theirs = (await within(pair.inbound.get())).stream
        call.future.cancel()
        pair.server.protocol.send_data(theirs, flags, b"", b"late")
        await pair.settled()
        call.fail(InvalidArgument("late too"))
        assert call.future.cancelled()
        pair.client.reset(call, Code.CANCELLED)


async def test_a_unary_call_does_not_wait_to_be_written(pair: Pair) -> None:
    pair.echo()
    call: UnaryStream = pair.call(b"x" * 2 * MIB)
    assert len(await within(call.future)) == 2 * MIB
