"""What a connection promises, over every transport and on both loops."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rap.errors import (
    CallError,
    Cancelled,
    ChannelClosed,
    Code,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from rap.transport import EndOfStream
from rap.wire.frames import END, MESSAGE, UNSERVED
from tests.loopback import Unnoticed, eventually, within
from tests.transport.certificates import Certificates
from tests.transport.pairs import KIB, KINDS, META, MIB, WHOLE, Pair, connected, wait_ended


@pytest.fixture(params=KINDS)
async def pair(
    request: pytest.FixtureRequest,
    certificates: Certificates,
    socket_path: Path,
    unnoticed: Unnoticed,
) -> AsyncIterator[Pair]:
    async with connected(request.param, certificates=certificates, path=socket_path) as pair:
        yield pair
    await unnoticed.check()


@pytest.fixture(params=["client", "server"])
def either(request: pytest.FixtureRequest, pair: Pair) -> Pair:
    """The pair with either side as the near one, for what both sides promise."""
    pair.swapped = request.param == "server"
    return pair


async def test_a_unary_call_is_answered(pair: Pair) -> None:
    call = pair.call(b"question")
    inbound = await within(pair.inbound.get())
    assert (inbound.flags, inbound.meta, inbound.body) == (WHOLE, META, b"question")
    pair.server.protocol.send_response(inbound.stream, b"answer")
    assert await within(call.future) == b"answer"
    assert not pair.client.streams
    assert not pair.server.streams


async def test_messages_go_both_ways_in_order_until_each_side_has_ended(either: Pair) -> None:
    ours, theirs = await either.both()
    for n in range(100):
        await ours.send(b"%d" % n, b"meta")
        await theirs.send(b"%d" % -n)
    ours.end()
    theirs.end()
    for n in range(100):
        assert await within(theirs.recv()) == (MESSAGE, b"meta", b"%d" % n)
        assert await within(ours.recv()) == (MESSAGE, b"", b"%d" % -n)
    for stream in (ours, theirs):
        with pytest.raises(EndOfStream):
            await within(stream.recv())
    assert not either.client.streams
    assert not either.server.streams


async def test_a_large_message_arrives_whole_both_ways(pair: Pair) -> None:
    pair.echo()
    body = bytes(range(256)) * (3 * MIB // 256)
    assert await within(pair.call(body).future) == body


async def test_many_calls_at_once_get_each_its_answer(pair: Pair) -> None:
    pair.echo()
    calls = [pair.call(b"%d" % n * (n % 7) * 1000) for n in range(300)]
    answers = await within(asyncio.gather(*(call.future for call in calls)))
    assert answers == [b"%d" % n * (n % 7) * 1000 for n in range(300)]


async def test_an_error_of_the_server_reaches_the_caller(pair: Pair) -> None:
    call = pair.call()
    stream = (await within(pair.inbound.get())).stream
    pair.server.reset(stream, Code.NOT_FOUND, "no such thing", {"name": "x"}, UNSERVED)
    with pytest.raises(NotFound, match="no such thing") as caught:
        await within(call.future)
    assert caught.value.details == {"name": "x"}
    assert caught.value.remote
    assert caught.value.unserved
    assert not pair.client.streams


async def test_a_cancel_fails_the_stream_of_the_peer(either: Pair) -> None:
    ours, theirs = await either.both()
    await ours.send(b"last words")
    ours.reset(Code.CANCELLED, "enough")
    ours.reset(Code.CANCELLED, "enough")
    assert await within(theirs.recv()) == (MESSAGE, b"", b"last words")
    with pytest.raises(Cancelled, match="enough"):
        await within(theirs.recv())
    with pytest.raises(Cancelled, match="enough"):
        await theirs.send(b"too late")
    assert not either.far.streams


async def test_a_reset_with_code_ok_ends_without_an_error(pair: Pair) -> None:
    ours, theirs = await pair.both()
    await theirs.send(b"result", flags=WHOLE)
    pair.server.reset(theirs, Code.OK)
    assert (await within(ours.recv()))[2] == b"result"
    with pytest.raises(EndOfStream):
        await within(ours.recv())
    await within(wait_ended(ours))
    await eventually(lambda: not pair.client.streams)  # the Reset may come after the END
    with pytest.raises(ChannelClosed):
        await ours.send(b"no one reads it")


async def test_a_writer_waits_for_its_reader_and_both_go_on(either: Pair) -> None:
    ours, theirs = await either.both()
    sent = 0

    async def write() -> None:
        nonlocal sent
        for _ in range(200):
            await ours.send(b"x" * 64 * KIB)
            sent += 1
        ours.end()

    writing = asyncio.create_task(write())
    await either.settled()
    await eventually(lambda: ours.outbox is not None)
    assert theirs.held <= MIB
    assert sent <= 16
    for _ in range(200):
        assert len((await within(theirs.recv()))[2]) == 64 * KIB
    with pytest.raises(EndOfStream):
        await within(theirs.recv())
    await within(writing)
    assert sent == 200


async def test_a_reader_that_stalls_does_not_hold_up_other_calls(either: Pair) -> None:
    ours, theirs = await either.both()
    either.echo()
    writing = asyncio.create_task(ours.send(b"x" * 5 * MIB))
    stuck = asyncio.create_task(_fill(ours))
    for _ in range(20):
        assert await within(either.call(b"x" * 10 * KIB).future) == b"x" * 10 * KIB
    assert not stuck.done()
    theirs.reset()
    for task in (writing, stuck):
        with pytest.raises((CallError, ChannelClosed)):
            await within(_after(task))


async def _fill(stream: object) -> None:
    while True:
        await stream.send(b"x" * 64 * KIB)  # type: ignore[attr-defined]


async def _after(task: asyncio.Task[None]) -> None:
    """Raise what a task raised; a send that had been written before the reset raises nothing."""
    await task
    raise ChannelClosed("it was written")


async def test_a_deadline_ends_the_call_on_both_sides(pair: Pair) -> None:
    call = pair.call(b"", pair.clock.monotonic() + 0.02)
    theirs = (await within(pair.inbound.get())).stream
    with pytest.raises(DeadlineExceeded):
        await within(call.future)
    await eventually(lambda: isinstance(theirs.error, DeadlineExceeded))
    assert not pair.client.streams


async def test_a_deadline_of_the_server_ends_the_call_too(pair: Pair) -> None:
    ours, theirs = await pair.both()
    theirs.deadline = pair.clock.monotonic() + 0.02
    pair.server.watchdog.on_busy(theirs.deadline)
    with pytest.raises(DeadlineExceeded) as caught:
        await within(ours.recv())
    assert caught.value.remote
    with pytest.raises(DeadlineExceeded):
        await within(theirs.recv())


async def test_small_frames_leave_at_once(pair: Pair) -> None:
    for conn in (pair.client, pair.server):
        sock = conn.transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_ping_measures_the_round_trip(pair: Pair) -> None:
    assert pair.client.round_trip is None
    pair.client.watchdog.keepalive.pinged_at = pair.clock.monotonic()
    pair.client.ping()
    await eventually(lambda: pair.client.round_trip is not None)
    assert 0 <= pair.client.round_trip < 5  # type: ignore[operator]


async def test_a_lost_connection_fails_open_calls_but_keeps_messages_that_had_arrived(
    either: Pair,
) -> None:
    ours, theirs = await either.both()
    call = either.call()
    await theirs.send(b"before")
    await either.settled()
    either.far.transport.abort()
    assert (await within(ours.recv()))[2] == b"before"
    for failing in (ours.recv(), call.future, ours.send(b"x"), theirs.recv(), theirs.send(b"x")):
        with pytest.raises(Unavailable) as caught:
            await within(failing)
        assert not caught.value.unserved
    with pytest.raises(Unavailable) as caught:
        either.open()
    assert caught.value.unserved
    await within(either.client.ended)
    assert either.client.closed
    assert not either.client.usable
    assert not either.client.streams
    assert sorted(map(id, either.lost)) == sorted(map(id, (either.client, either.server)))


async def test_a_call_that_was_never_written_fails_as_unserved(pair: Pair) -> None:
    pair.client.pause_writing()
    call, stream = pair.call(b"x"), pair.open()
    pair.client.transport.abort()
    for failing in (call.future, stream.recv()):
        with pytest.raises(Unavailable) as caught:
            await within(failing)
        assert caught.value.unserved
    assert pair.inbound.empty()


async def test_close_writes_what_was_sent_before(either: Pair) -> None:
    ours, theirs = await either.both()
    for n in range(50):
        either.near.protocol.send_data(ours, MESSAGE, b"", b"%d" % n * 1000)
    either.near.protocol.send_data(ours, END, b"", b"")
    await within(either.near.close())
    for n in range(50):
        assert (await within(theirs.recv()))[2] == b"%d" % n * 1000
    with pytest.raises(EndOfStream):
        await within(theirs.recv())
    await within(either.far.ended)
    await within(either.near.close())


async def test_a_draining_server_takes_nothing_new_and_ends_when_the_last_call_has(
    pair: Pair,
) -> None:
    ours, theirs = await pair.both()
    pair.server.go_away(message="bye")
    await eventually(lambda: pair.client.draining)
    assert not pair.client.usable
    assert pair.changes[-1] is pair.client
    await theirs.send(b"still here")
    assert (await within(ours.recv()))[2] == b"still here"
    ours.end()
    theirs.end()
    await within(pair.client.ended)
    await within(pair.server.ended)


async def test_a_call_that_crosses_the_first_go_away_is_served(pair: Pair) -> None:
    pair.echo()
    pair.server.go_away(message="bye")
    assert await within(pair.call(b"in flight").future) == b"in flight"
    await within(pair.client.ended)


async def test_a_pin_keeps_a_draining_connection_open(pair: Pair) -> None:
    pair.echo()
    pair.client.pin()
    pair.server.go_away(message="bye")
    await eventually(lambda: pair.client.draining)
    assert await within(pair.call(b"bound").future) == b"bound"
    await pair.settled()
    assert not pair.client.closed
    pair.client.unpin()
    await within(pair.client.ended)


async def test_the_last_message_of_a_session_arrives(pair: Pair) -> None:
    ours, theirs = await pair.both()
    pair.client.pin()
    pair.client.drain()
    ours.reset(Code.CANCELLED, "the end")
    pair.client.unpin()
    with pytest.raises(Cancelled, match="the end"):
        await within(theirs.recv())
    await within(pair.server.ended)


async def test_a_client_that_leaves_closes_after_its_last_call(pair: Pair) -> None:
    pair.echo()
    call = pair.call(b"last")
    pair.client.drain()
    assert not pair.client.usable
    assert await within(call.future) == b"last"
    await within(pair.client.ended)


async def test_a_last_go_away_tells_which_calls_were_never_served(pair: Pair) -> None:
    ours, _ = await pair.both()
    pair.server.go_away(final=True, message="bye")
    late, later = pair.call(b"x"), pair.open()
    for failing in (late.future, later.recv()):
        with pytest.raises(Unavailable) as caught:
            await within(failing)
        assert caught.value.unserved
        assert caught.value.remote
    assert ours.error is None
    assert pair.inbound.empty()
    await within(pair.server.close())
    with pytest.raises(Unavailable) as caught:
        await within(ours.recv())
    assert not caught.value.unserved


async def test_a_message_over_the_limit_of_the_peer_fails_its_call_only(pair: Pair) -> None:
    with pytest.raises(ResourceExhausted, match="max_message is 16777216"):
        pair.call(b"x" * (16 * MIB + 1))
    pair.echo()
    assert await within(pair.call(b"next").future) == b"next"


async def test_a_second_answer_to_a_unary_call_is_an_error(pair: Pair) -> None:
    call = pair.call()
    theirs = (await within(pair.inbound.get())).stream
    await theirs.send(b"one of several")
    with pytest.raises(InvalidArgument):
        await within(call.future)
    await eventually(lambda: isinstance(theirs.error, Cancelled))


async def test_a_violation_is_reported_to_the_peer_and_ends_the_connection(pair: Pair) -> None:
    ours, _ = await pair.both()
    pair.client.protocol.ping(b"bad")
    pair.client.ping()
    with pytest.raises(Unavailable, match="a Ping has 8 bytes, got 3"):
        await within(ours.recv())
    await within(pair.client.ended)
    await within(pair.server.ended)
    assert "a Ping has 8 bytes, got 3" in str(pair.server.error)


async def test_a_thousand_calls_at_once_are_served_turn_by_turn(pair: Pair) -> None:
    pair.echo()
    calls = [pair.call(b"%d" % n) for n in range(1000)]
    assert await within(asyncio.gather(*(call.future for call in calls))) == [
        b"%d" % n for n in range(1000)
    ]
    assert not pair.server.streams
