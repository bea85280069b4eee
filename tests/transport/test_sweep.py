"""What time does to a connection: nothing here waits for a clock of the machine."""

import asyncio
import dataclasses
import itertools

import pytest

from rap.errors import Code, DeadlineExceeded, ResourceExhausted, Unavailable
from rap.transport import ConnectionOptions, Stream, UnaryStream
from rap.wire.codec import pack
from rap.wire.frames import (
    ACK,
    DATA,
    GOAWAY,
    HEADER,
    MAX_STREAM_ID,
    MESSAGE,
    OPEN,
    PING,
    RESET,
    Frame,
    read_reset,
)
from rap.wire.limits import Limits
from tests.loopback import eventually, within
from tests.transport.facing import Facing, facing
from tests.transport.pairs import KIB, META
from tests.wire.endpoints import data, hello, open_frame

TIMES = ConnectionOptions(timeout=9.0, handshake_timeout=5.0)


async def ended(side: Facing, why: str) -> None:
    """Check that the connection has ended, and why."""
    await within(asyncio.shield(side.conn.ended))
    assert why in str(side.conn.error)
    assert side.conn.closed


@pytest.mark.parametrize("sent", [b"", hello().encode()[:-1]])
async def test_a_peer_without_a_hello_is_cut(sent: bytes) -> None:
    async with facing(TIMES, shaken=False) as side:
        await side.write(sent)
        side.pass_time(4.9)
        await side.turns()
        assert not side.conn.closed
        side.pass_time(0.2)
        await ended(side, "sent no Hello in 5.0 s")


async def test_an_unfinished_frame_is_cut_though_the_connection_is_idle() -> None:
    async with facing(TIMES) as side:
        await side.write(HEADER.pack(100, OPEN, 5, 1, 0))
        side.pass_time(8.9)
        await side.turns()
        assert not side.conn.closed
        side.pass_time(0.2)
        await ended(side, "did not finish a frame in 9.0 s")


async def test_a_frame_that_trickles_in_does_not_live_longer() -> None:
    async with facing(TIMES) as side:
        await side.write(HEADER.pack(100, OPEN, 5, 1, 0))
        for _ in range(9):
            await side.write(b"x")
            side.pass_time(1.0)
        await ended(side, "did not finish a frame in 9.0 s")


async def test_frames_that_come_slowly_but_come_are_no_stall() -> None:
    async with facing(TIMES) as side:
        raw = b"".join(open_frame(n).encode() for n in range(1, 21, 2))
        size = len(open_frame(1).encode())
        await side.write(raw[:5])
        for start in range(5, len(raw), size):
            side.pass_time(5.0)
            await side.write(raw[start : start + size])
        assert not side.conn.closed
        assert len(side.inbound) == 10


async def test_deadlines_end_their_streams_and_no_others() -> None:
    async with facing(is_server=False) as side:
        now = side.clock.monotonic()
        soon, late = UnaryStream(side.conn, now + 1.0), UnaryStream(side.conn, now + 2.0)
        for call in (soon, late):
            side.conn.open_unary(call, META, b"")
        side.pass_time(1.0)
        with pytest.raises(DeadlineExceeded, match="the deadline of the call passed"):
            await soon.future
        assert not late.future.done()
        await side.hear()
        await side.hear()
        reset = await side.hear()
        assert (reset.kind, reset.stream_id) == (RESET, soon.id)
        assert read_reset(reset.body)[0] == Code.DEADLINE_EXCEEDED
        late.fail(Unavailable("over"))
        assert late.future.exception() is not None


async def test_a_silent_peer_with_calls_open_is_pinged_twice_then_cut() -> None:
    async with facing(is_server=False) as side:
        stream = Stream(side.conn)
        side.conn.open(stream, 0, META, b"")
        assert (await side.hear()).kind == OPEN
        side.pass_time(0.5)  # what was heard before, the Hello, counts from here on
        side.pass_time(1.0)
        assert (await side.hear()).kind == PING
        side.pass_time(2.5)
        assert (await side.hear()).kind == PING
        side.pass_time(2.5)
        await ended(side, "answered no ping for 5.0 s")
        with pytest.raises(
            Unavailable, match=r"answered no ping for 5\.0 s: it is gone, or something blocks its"
        ):
            await stream.recv()


async def test_a_silent_peer_is_cut_soon_when_it_is_asked_to_leave() -> None:
    async with facing() as side:
        side.pass_time(0.0)
        side.conn.go_away(message="draining")
        assert (await side.hear()).kind == GOAWAY
        side.pass_time(1.0)
        assert (await side.hear()).kind == PING
        side.pass_time(2.5)
        side.pass_time(2.5)
        await ended(side, "answered no ping for 5.0 s")


async def test_any_byte_of_the_peer_is_a_sign_of_life() -> None:
    async with facing(is_server=False) as side:
        side.conn.open(Stream(side.conn), 0, META, b"")
        side.pass_time(0.0)
        for _ in range(5):
            side.pass_time(2.5)
            await side.say(Frame(99, 0, 0))
        assert not side.conn.closed


async def test_the_answer_to_a_ping_tells_the_round_trip() -> None:
    async with facing() as side:
        side.pass_time(0.0)
        side.pass_time(30.0)
        ping = await side.hear()
        side.clock.advance(0.25)
        await side.say(Frame(PING, ACK, 0, b"", ping.body))
        assert side.conn.round_trip == 0.25


async def test_an_idle_connection_is_pinged_seldom() -> None:
    async with facing() as side:
        side.pass_time(0.0)
        side.pass_time(29.0)
        await side.turns()
        side.pass_time(1.0)
        assert (await side.hear()).kind == PING


async def test_an_idle_connection_is_asked_to_leave() -> None:
    async with facing(ConnectionOptions(idle_timeout=20.0)) as side:
        side.pass_time(10.0)
        await side.say(open_frame(1))
        side.pass_time(10.0)
        side.conn.protocol.send_response(side.inbound[0].stream, b"\1")
        side.pass_time(1.0)
        side.pass_time(18.0)
        assert not side.conn.draining
        side.pass_time(1.0)
        assert side.conn.draining
        assert (await side.hear_a(GOAWAY)).stream_id == MAX_STREAM_ID
        assert not side.conn.closed


async def test_an_old_connection_is_asked_to_leave_and_its_calls_live_on() -> None:
    async with facing(ConnectionOptions(max_age=100.0)) as side:
        await side.say(open_frame(1, 0, b""))
        side.pass_time(0.0)
        side.pass_time(100.0)
        assert (await side.hear_a(GOAWAY)).stream_id == MAX_STREAM_ID
        await side.say(data(1, b"still"), open_frame(3))
        assert [await side.inbound[0].stream.recv(), len(side.inbound)] == [
            (MESSAGE, b"", b"still"),
            2,
        ]


async def test_a_client_leaves_before_its_stream_ids_run_out() -> None:
    async with facing(is_server=False) as side:
        side.conn.protocol.next_id = MAX_STREAM_ID - 2**20
        side.conn.open(Stream(side.conn), 0, META, b"")
        side.pass_time(1.0)
        assert not side.conn.usable
        assert not side.conn.closed


def flood(stream: Stream, count: int) -> None:
    """Let a handler send messages without waiting for anything."""
    for _ in range(count):
        stream.conn.protocol.send_data(stream, MESSAGE, b"", b"x" * 30_000)


async def test_a_peer_that_takes_nothing_is_cut_and_fills_no_buffer() -> None:
    options = ConnectionOptions(timeout=9.0, write_buffer=64 * KIB)
    async with facing(options, small_buffers=True) as side:
        await side.say(*(open_frame(n, 0, b"") for n in range(1, 41, 2)))
        for inbound in side.inbound:
            flood(inbound.stream, 30)
            await asyncio.sleep(0)
        assert side.conn.paused
        assert side.conn.transport.get_write_buffer_size() < 3 * 2**20
        side.pass_time(8.9)
        await side.turns()
        assert not side.conn.closed
        side.pass_time(0.2)
        await ended(side, "read nothing for 9.0 s")


async def test_a_slow_peer_that_takes_something_lives() -> None:
    options = ConnectionOptions(timeout=9.0, write_buffer=64 * KIB)
    async with facing(options, small_buffers=True) as side:
        await side.say(open_frame(1, 0, b""))
        flood(side.inbound[0].stream, 30)
        await side.turns()
        assert side.conn.paused
        for _ in range(10):
            side.pass_time(5.0)
            assert (await side.hear()).kind in (DATA, PING)
            await side.say(Frame(PING, ACK, 0, b"", b"12345678"))
        assert not side.conn.closed


async def test_what_waited_for_the_transport_arrives_when_it_takes_more() -> None:
    options = ConnectionOptions(write_buffer=16 * KIB)
    async with facing(options, small_buffers=True) as side:
        await side.say(open_frame(1, 0, b""))
        stream = side.inbound[0].stream

        async def write() -> None:
            for n in range(30):
                await stream.send(n.to_bytes(2, "big") * 10_000)

        writing = asyncio.create_task(write())
        await side.turns()
        assert side.conn.paused
        assert not writing.done()
        sizes = [len((await side.hear()).body) for _ in range(30)]
        await within(writing)
        assert sizes == [20_000] * 30
        assert not side.conn.paused


async def test_a_peer_that_asks_and_never_reads_is_cut_before_memory_is_gone() -> None:
    options = ConnectionOptions(limits=Limits(max_streams=1))
    async with facing(options, small_buffers=True) as side:

        async def ask_for_ever() -> None:
            ids = itertools.count(1, 2)
            while True:
                await side.say(*(open_frame(next(ids)) for _ in range(2000)))

        with pytest.raises(ConnectionError):
            await within(ask_for_ever())
        await ended(side, "does not read what it asks for")


@pytest.mark.parametrize("is_server", [True, False])
async def test_a_peer_that_pings_without_end_is_cut(is_server: bool) -> None:
    async with facing(ConnectionOptions(max_pings=2), is_server=is_server) as side:
        ping = Frame(PING, 0, 0, b"", b"12345678")
        for _ in range(10):
            await side.say(*[ping] * 20)
            side.clock.advance(10.0)
        assert not side.conn.closed
        await side.say(*[ping] * 21)
        await ended(side, "too many pings")


async def test_closing_is_bounded_for_a_peer_that_takes_nothing() -> None:
    async with facing(ConnectionOptions(timeout=9.0), small_buffers=True) as side:
        await side.say(open_frame(1, 0, b""))
        flood(side.inbound[0].stream, 8)
        await side.turns()
        closing = asyncio.create_task(side.conn.close())
        await side.turns()
        side.pass_time(8.9)
        await side.turns()
        assert not closing.done()
        side.pass_time(0.2)
        await within(closing)


def stalled_server() -> ConnectionOptions:
    window = 64 * KIB
    return ConnectionOptions(limits=Limits(stream_window=window, connection_window=2 * window))


async def test_when_stalled_readers_keep_all_credit_the_longest_waiting_is_reset() -> None:
    async with facing(stalled_server()) as side:
        await side.say(*(open_frame(n, 0, b"") for n in (1, 3, 5)))
        first, second, third = (inbound.stream for inbound in side.inbound)
        await side.say(*[data(first.id, b"x" * 10 * KIB)] * 4)
        side.pass_time(1.0)
        await side.say(*[data(second.id, b"x" * 10 * KIB)] * 6)
        side.pass_time(1.0)
        assert not side.conn.protocol.starved
        await side.say(*[data(third.id, b"x" * 4 * KIB)] * 5)
        assert side.conn.protocol.starved
        side.pass_time(1.0)
        side.pass_time(9.9)
        assert first.error is None
        side.pass_time(0.2)
        with pytest.raises(
            ResourceExhausted, match="41008 bytes of this call were not read for 10 s"
        ):
            await first.recv()
        code, _, details = read_reset((await side.hear_a(RESET)).body)
        assert (code, details) == (Code.RESOURCE_EXHAUSTED, {"limit": "connection_window"})
        assert (second.error, third.error) == (None, None)
        assert not side.conn.protocol.starved
        side.pass_time(20.0)
        assert second.error is None


async def test_how_long_readers_may_stall_is_an_option() -> None:
    options = dataclasses.replace(stalled_server(), stall_timeout=3.0)
    async with facing(options) as side:
        await side.say(open_frame(1, 0, b""), open_frame(3, 0, b""))
        for number in (1, 3):
            await side.say(*[data(number, b"x" * 10 * KIB)] * 6)
        side.pass_time(1.0)
        side.pass_time(2.9)
        assert side.inbound[0].stream.error is None
        side.pass_time(0.1)
        assert "for 3 s" in str(side.inbound[0].stream.error)


async def test_a_reader_that_goes_on_in_time_is_not_reset() -> None:
    async with facing(stalled_server()) as side:
        await side.say(open_frame(1, 0, b""), open_frame(3, 0, b""))
        first, second = (inbound.stream for inbound in side.inbound)
        for stream in (first, second):
            await side.say(*[data(stream.id, b"x" * 10 * KIB)] * 6)
        assert side.conn.protocol.starved
        side.pass_time(1.0)
        for _ in range(4):
            await first.recv()
        side.pass_time(30.0)
        assert (first.error, second.error) == (None, None)


async def test_as_many_stalled_readers_are_reset_as_it_takes() -> None:
    async with facing(stalled_server()) as side:
        await side.say(*(open_frame(n, 0, b"") for n in range(1, 42, 2)))
        for inbound in side.inbound:
            await side.say(data(inbound.stream.id, b"x" * 6000))
        side.pass_time(0.0)
        side.pass_time(10.0)
        await side.turns()
        reset = [inbound.stream.error is not None for inbound in side.inbound]
        assert 1 < sum(reset) < 10
        assert reset == sorted(reset, reverse=True)
        assert not side.conn.protocol.starved


def cancelling(ids: range) -> list[Frame]:
    return [Frame(RESET, 0, n, b"", pack([Code.CANCELLED, "", {}])) for n in ids]


async def test_a_client_that_cancels_without_end_is_asked_to_leave_then_cut() -> None:
    async with facing() as side:
        for n in range(1, 2003, 2):
            await side.say_soon(open_frame(n, 0, b""), *cancelling(range(n, n + 1)))
        last = (await side.hear_a(GOAWAY)).stream_id
        assert last == 2001
        assert not side.conn.closed
        for n in range(2003, 4005, 2):
            await side.say_soon(open_frame(n, 0, b""), *cancelling(range(n, n + 1)))
        await ended(side, "1001 calls were opened after GoAway")


async def test_who_goes_on_to_cancel_what_it_opened_before_is_cut() -> None:
    async with facing() as side:
        for n in range(1, 4005, 2):
            await side.say_soon(open_frame(n, 0, b""))
        await side.read()
        for frame in cancelling(range(1, 4005, 2)):
            await side.say_soon(frame)
        await ended(side, "too many cancelled calls")


async def test_a_chunk_of_cancelled_calls_is_taken_turn_by_turn() -> None:
    async with facing() as side:
        ids = range(1, 1001, 2)
        calls = zip((open_frame(n, 0, b"") for n in ids), cancelling(ids), strict=True)
        side.conn.data_received(b"".join(each.encode() for call in calls for each in call))
        assert 0 < side.conn.protocol.last_id < 80
        assert side.conn.reading_paused
        await side.read()
        assert side.conn.protocol.last_id == 999
        assert not side.conn.streams


async def test_calls_that_end_at_their_deadline_are_no_cancels() -> None:
    async with facing() as side:
        ids = range(1, 4001, 2)
        await side.say_soon(*(open_frame(n, 0, b"") for n in ids))
        await side.read()
        for inbound in side.inbound:
            inbound.stream.deadline = side.clock.monotonic() + 5.0
        late = [Frame(RESET, 0, n, b"", pack([Code.DEADLINE_EXCEEDED, "", {}])) for n in ids]
        side.clock.advance(4.95)
        await side.say_soon(*late[:1500])
        await side.read()
        assert not side.conn.draining
        assert not side.conn._cancels.is_low
        side.clock.advance(-2.0)  # too early to be true
        await side.say_soon(*late[1500:])
        await side.say_soon(*cancelling(range(1, 2)))  # the last, of a call that has ended
        await side.read()
        assert not side.conn.streams
        assert sum(side.conn._cancels.allow(side.clock.monotonic()) for _ in range(1000)) == 500


async def test_who_cancels_much_is_read_from_now_and_then() -> None:
    async with facing() as side:
        ids = range(1, 1021, 2)
        await side.say_soon(*(open_frame(n, 0, b"") for n in ids))
        await side.read()
        await side.say_soon(*cancelling(range(1, 1001, 2)))
        await side.read()
        await side.say_soon(*cancelling(range(1001, 1003)))
        await eventually(lambda: side.conn.reading_paused)
        assert not side.conn.protocol.more
        await side.say_soon(open_frame(1023, 0, b""))
        await side.read()
        assert side.inbound[-1].stream.id == 1023


async def test_a_client_that_cancels_now_and_then_stays() -> None:
    async with facing() as side:
        reset = pack([Code.CANCELLED, "", {}])
        for n in range(1, 6001, 2):
            side.clock.advance(0.011)
            await side.say_soon(open_frame(n, 0, b""), Frame(RESET, 0, n, b"", reset))
            if n % 500 == 1:
                await side.read()
        await side.read()
        assert side.conn.protocol.last_id == 5999
        assert not side.conn.draining


async def test_the_timer_does_not_fire_after_the_end() -> None:
    async with facing() as side:
        side.conn.transport.abort()
        await ended(side, "lost")
        side.pass_time(100.0)
        side.conn.watchdog.schedule(side.clock.monotonic())
        assert side.conn.closed
