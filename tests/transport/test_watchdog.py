"""What time does to a connection: nothing here waits for a clock of the machine."""

import asyncio
import itertools
import time

import pytest

from rap.errors import Code, DeadlineExceeded, ResourceExhausted, Unavailable
from rap.transport import ConnectionOptions, Stream, UnaryStream
from rap.wire.codec import pack
from rap.wire.frames import (
    ACK,
    DATA,
    END,
    GOAWAY,
    HEADER,
    MAX_STREAM_ID,
    MESSAGE,
    MORE,
    OPEN,
    PING,
    RESET,
    UNSERVED,
    Frame,
    read_reset,
)
from rap.wire.hello import Limits
from tests.loopback import eventually, within
from tests.transport.facing import Facing, facing
from tests.transport.pairs import KIB, META
from tests.wire.endpoints import data, hello, open_frame

TIMES = ConnectionOptions(timeout=9.0, handshake_timeout=5.0)


@pytest.mark.parametrize("sent", [b"", hello().encode()[:-1]])
async def test_a_peer_without_a_hello_is_cut(sent: bytes) -> None:
    async with facing(TIMES, handshake=False) as side:
        await side.send_bytes(sent)
        side.advance(4.9)
        await side.run_loop()
        assert not side.conn.closed
        side.advance(0.2)
        await side.ended("sent no Hello in 5.0 s")


async def test_an_unfinished_frame_ends_an_idle_connection() -> None:
    async with facing(TIMES) as side:
        await side.send_bytes(HEADER.pack(100, OPEN, 5, 1, 0))
        side.advance(8.9)
        await side.run_loop()
        assert not side.conn.closed
        side.advance(0.2)
        await side.ended("did not finish a frame in 9.0 s")


async def test_a_frame_that_trickles_in_gets_no_more_time() -> None:
    async with facing(TIMES) as side:
        await side.send_bytes(HEADER.pack(100, OPEN, 5, 1, 0))
        for _ in range(9):
            await side.send_bytes(b"x")
            side.advance(1.0)
        await side.ended("did not finish a frame in 9.0 s")


async def test_slow_frames_that_arrive_do_not_count_as_a_stall() -> None:
    async with facing(TIMES) as side:
        raw = b"".join(open_frame(n).encode() for n in range(1, 21, 2))
        size = len(open_frame(1).encode())
        await side.send_bytes(raw[:5])
        for start in range(5, len(raw), size):
            side.advance(5.0)
            await side.send_bytes(raw[start : start + size])
        assert not side.conn.closed
        assert len(side.inbound) == 10


async def test_deadlines_end_their_streams_and_no_others() -> None:
    async with facing(is_server=False) as side:
        now = side.clock.monotonic()
        soon, late = UnaryStream(side.conn, now + 1.0), UnaryStream(side.conn, now + 2.0)
        for call in (soon, late):
            side.conn.open_unary(call, META, b"")
        side.advance(1.0)
        with pytest.raises(DeadlineExceeded, match="the deadline of the call passed"):
            await soon.future
        assert not late.future.done()
        await side.receive()
        await side.receive()
        reset = await side.receive()
        assert (reset.kind, reset.stream_id) == (RESET, soon.id)
        assert read_reset(reset.body)[0] == Code.DEADLINE_EXCEEDED
        late.fail(Unavailable("over"))
        assert late.future.exception() is not None


async def test_a_silent_peer_with_calls_open_is_pinged_twice_then_cut() -> None:
    async with facing(is_server=False) as side:
        stream = Stream(side.conn)
        side.conn.open(stream, 0, META, b"")
        assert (await side.receive()).kind == OPEN
        side.advance(0.5)  # what was heard before, the Hello, counts from here on
        side.advance(1.0)
        assert (await side.receive()).kind == PING
        side.advance(2.5)
        assert (await side.receive()).kind == PING
        side.advance(2.5)
        await side.ended("answered no ping for 5.0 s")
        with pytest.raises(
            Unavailable, match=r"answered no ping for 5\.0 s: it is gone, or something blocks its"
        ):
            await stream.recv()


async def test_a_silent_peer_is_cut_soon_when_it_is_asked_to_leave() -> None:
    async with facing() as side:
        side.advance(0.0)
        side.conn.go_away(message="draining")
        assert (await side.receive()).kind == GOAWAY
        side.advance(1.0)
        assert (await side.receive()).kind == PING
        side.advance(2.5)
        side.advance(2.5)
        await side.ended("answered no ping for 5.0 s")


async def test_any_byte_of_the_peer_counts_as_activity() -> None:
    async with facing(is_server=False) as side:
        side.conn.open(Stream(side.conn), 0, META, b"")
        side.advance(0.0)
        for _ in range(5):
            side.advance(2.5)
            await side.send(Frame(99, 0, 0))
        assert not side.conn.closed


async def test_the_answer_to_a_ping_sets_the_round_trip() -> None:
    async with facing() as side:
        side.advance(0.0)
        side.advance(30.0)
        ping = await side.receive()
        side.clock.advance(0.25)
        await side.send(Frame(PING, ACK, 0, b"", ping.body))
        assert side.conn.round_trip == 0.25


async def test_an_idle_connection_is_pinged_at_the_idle_interval() -> None:
    async with facing() as side:
        side.advance(0.0)
        side.advance(29.0)
        await side.run_loop()
        side.advance(1.0)
        assert (await side.receive()).kind == PING


async def test_an_idle_connection_is_asked_to_leave() -> None:
    async with facing(ConnectionOptions(idle_timeout=20.0)) as side:
        side.advance(10.0)
        await side.send(open_frame(1))
        side.advance(10.0)
        side.conn.protocol.send_response(side.inbound[0].stream, b"\1")
        side.advance(1.0)
        side.advance(18.0)
        assert not side.conn.draining
        side.advance(1.0)
        assert side.conn.draining
        assert (await side.receive_kind(GOAWAY)).stream_id == MAX_STREAM_ID
        assert not side.conn.closed


async def test_an_old_connection_is_asked_to_leave_and_its_calls_continue() -> None:
    async with facing(ConnectionOptions(max_age=100.0)) as side:
        await side.send(open_frame(1, 0, b""))
        side.advance(0.0)
        side.advance(100.0)
        assert (await side.receive_kind(GOAWAY)).stream_id == MAX_STREAM_ID
        await side.send(data(1, b"still"), open_frame(3))
        assert [await side.inbound[0].stream.recv(), len(side.inbound)] == [
            (MESSAGE, b"", b"still"),
            2,
        ]


@pytest.mark.parametrize(
    "options",
    [
        ConnectionOptions(grace=10.0, max_age=100.0),
        ConnectionOptions(grace=10.0, idle_timeout=100.0),
    ],
    ids=["old", "idle"],
)
@pytest.mark.parametrize("asks_first", [False, True])
async def test_a_client_that_ignores_the_request_to_leave_is_cut(
    options: ConnectionOptions, asks_first: bool
) -> None:
    async with facing(options) as side:
        if asks_first:  # a client that says that it leaves has no more time
            await side.send(Frame(GOAWAY, 0, 0, b"", pack([Code.OK, "bye"])))
        side.advance(100.0)
        if not asks_first:
            assert (await side.receive_kind(GOAWAY)).stream_id == MAX_STREAM_ID
        await side.send(open_frame(1, 0, b""), Frame(PING, 0, 0, b"", b"12345678"))
        side.advance(9.0)
        await side.send(data(1, b"still"))
        stream = side.inbound[0].stream
        assert await stream.recv() == (MESSAGE, b"", b"still")
        side.advance(1.0)
        assert (await side.receive_kind(GOAWAY)).stream_id == 1
        code, message, _ = read_reset((await side.receive_kind(RESET)).body)
        assert code == Code.UNAVAILABLE
        assert "idle or too old, and did not end within 10 s" in message
        assert stream.error is not None
        await side.ended("did not end within 10 s")


async def test_a_client_may_be_given_any_time_to_leave() -> None:
    async with facing(ConnectionOptions(max_age=100.0)) as side:
        await side.send(open_frame(1, 0, b""))
        for _ in range(100):
            side.advance(100.0)
            await side.send(Frame(99, 0, 0))
        assert not side.conn.closed


async def test_a_peer_that_is_dismissed_and_does_not_read_is_cut() -> None:
    async with facing(TIMES) as side:
        await side.send(open_frame(1, 0, b""))
        side.conn.transport.write(bytes(1 << 20))
        side.conn.dismiss(Code.UNAUTHENTICATED, "revoked")
        assert side.inbound[0].stream.error is not None
        await side.send_soon(open_frame(3, 0, b""))
        side.advance(9.0)
        await side.ended("revoked")
        assert len(side.inbound) == 1


async def test_a_peer_that_is_dismissed_while_its_connection_closes_is_cut() -> None:
    async with facing(TIMES) as side:
        await side.send(open_frame(1, 0, b""))
        side.conn.transport.write(bytes(1 << 20))
        await side.send_soon(Frame(PING, 0, 0, b"", b"bad"))
        await eventually(side.conn.transport.is_closing)
        assert side.inbound[0].stream.error is None
        side.conn.dismiss(Code.UNAUTHENTICATED, "revoked")
        await side.ended("a Ping has 8 bytes, got 3")
        assert side.inbound[0].stream.error is not None


async def test_a_client_leaves_before_its_stream_ids_run_out() -> None:
    async with facing(is_server=False) as side:
        side.conn.protocol.next_id = MAX_STREAM_ID - 2**20
        side.conn.open(Stream(side.conn), 0, META, b"")
        side.advance(1.0)
        assert not side.conn.usable
        assert not side.conn.closed


def flood(stream: Stream, count: int) -> None:
    """Let a handler send messages without waiting for anything."""
    for _ in range(count):
        stream.conn.protocol.send_data(stream, MESSAGE, b"", b"x" * 30_000)


async def test_a_peer_that_does_not_read_is_cut_and_the_buffer_stays_bounded() -> None:
    options = ConnectionOptions(timeout=9.0, write_buffer=64 * KIB)
    async with facing(options, small_buffers=True) as side:
        await side.send(*(open_frame(n, 0, b"") for n in range(1, 41, 2)))
        for inbound in side.inbound:
            flood(inbound.stream, 30)
            await asyncio.sleep(0)
        assert side.conn.paused
        assert side.conn.transport.get_write_buffer_size() < 3 * 2**20
        side.advance(8.9)
        await side.run_loop()
        assert not side.conn.closed
        side.advance(0.2)
        await side.ended("read nothing for 9.0 s")


async def test_a_slow_peer_that_reads_something_stays_connected() -> None:
    options = ConnectionOptions(timeout=9.0, write_buffer=64 * KIB)
    async with facing(options, small_buffers=True) as side:
        await side.send(open_frame(1, 0, b""))
        flood(side.inbound[0].stream, 30)
        await side.run_loop()
        assert side.conn.paused
        for _ in range(10):
            side.advance(5.0)
            assert (await side.receive()).kind in (DATA, PING)
            await side.send(Frame(PING, ACK, 0, b"", b"12345678"))
        assert not side.conn.closed


async def test_a_message_that_waited_for_the_transport_arrives() -> None:
    options = ConnectionOptions(write_buffer=16 * KIB)
    async with facing(options, small_buffers=True) as side:
        await side.send(open_frame(1, 0, b""))
        stream = side.inbound[0].stream

        async def write() -> None:
            for n in range(30):
                await stream.send(n.to_bytes(2, "big") * 10_000)

        writing = asyncio.create_task(write())
        await side.run_loop()
        assert side.conn.paused
        assert not writing.done()
        sizes = [len((await side.receive()).body) for _ in range(30)]
        await within(writing)
        assert sizes == [20_000] * 30
        assert not side.conn.paused


async def test_a_peer_that_sends_requests_and_never_reads_is_cut_before_memory_runs_out() -> None:
    options = ConnectionOptions(limits=Limits(max_streams=1))
    async with facing(options, small_buffers=True) as side:

        async def ask_for_ever() -> None:
            ids = itertools.count(1, 2)
            while True:
                await side.send(*(open_frame(next(ids)) for _ in range(2000)))

        with pytest.raises(ConnectionError):
            await within(ask_for_ever())
        await side.ended("does not read what it asks for")


async def test_closing_takes_bounded_time_if_the_peer_does_not_read() -> None:
    async with facing(ConnectionOptions(timeout=9.0), small_buffers=True) as side:
        await side.send(open_frame(1, 0, b""))
        flood(side.inbound[0].stream, 8)
        await side.run_loop()
        closing = asyncio.create_task(side.conn.close())
        await side.run_loop()
        side.advance(8.9)
        await side.run_loop()
        assert not closing.done()
        side.advance(0.2)
        await within(closing)


def stalled_server() -> ConnectionOptions:
    window = 64 * KIB
    return ConnectionOptions(limits=Limits(stream_window=window, connection_window=2 * window))


async def test_if_unread_streams_hold_the_whole_window_the_one_unread_the_longest_is_reset() -> (
    None
):
    async with facing(stalled_server()) as side:
        await side.send(*(open_frame(n, 0, b"") for n in (1, 3, 5)))
        first, second, third = (inbound.stream for inbound in side.inbound)
        await side.send(*[data(first.id, b"x" * 10 * KIB)] * 4)
        side.advance(1.0)
        await side.send(*[data(second.id, b"x" * 10 * KIB)] * 6)
        side.advance(1.0)
        assert not side.conn.protocol.starved
        await side.send(*[data(third.id, b"x" * 4 * KIB)] * 5)
        assert side.conn.protocol.starved
        side.advance(1.0)
        side.advance(9.9)
        assert first.error is None
        side.advance(0.2)
        with pytest.raises(
            ResourceExhausted, match="41008 bytes of this call were not read for 10 s"
        ):
            await first.recv()
        code, _, details = read_reset((await side.receive_kind(RESET)).body)
        assert (code, details) == (Code.RESOURCE_EXHAUSTED, {"limit": "connection_window"})
        assert (second.error, third.error) == (None, None)
        assert not side.conn.protocol.starved
        side.advance(20.0)
        assert second.error is None


async def test_stall_timeout_is_an_option() -> None:
    options = stalled_server().replace(stall_timeout=3.0)
    async with facing(options) as side:
        await side.send(open_frame(1, 0, b""), open_frame(3, 0, b""))
        for number in (1, 3):
            await side.send(*[data(number, b"x" * 10 * KIB)] * 6)
        side.advance(1.0)
        side.advance(2.9)
        assert side.inbound[0].stream.error is None
        side.advance(0.1)
        assert "for 3 s" in str(side.inbound[0].stream.error)


async def test_a_reader_that_continues_in_time_is_not_reset() -> None:
    async with facing(stalled_server()) as side:
        await side.send(open_frame(1, 0, b""), open_frame(3, 0, b""))
        first, second = (inbound.stream for inbound in side.inbound)
        for stream in (first, second):
            await side.send(*[data(stream.id, b"x" * 10 * KIB)] * 6)
        assert side.conn.protocol.starved
        side.advance(1.0)
        for _ in range(4):
            await first.recv()
        side.advance(30.0)
        assert (first.error, second.error) == (None, None)


async def test_as_many_stalled_streams_are_reset_as_necessary() -> None:
    async with facing(stalled_server()) as side:
        await side.send(*(open_frame(n, 0, b"") for n in range(1, 42, 2)))
        for inbound in side.inbound:
            await side.send(data(inbound.stream.id, b"x" * 6000))
        side.advance(0.0)
        side.advance(10.0)
        await side.run_loop()
        reset = [inbound.stream.error is not None for inbound in side.inbound]
        assert 1 < sum(reset) < 10
        assert reset == sorted(reset, reverse=True)
        assert not side.conn.protocol.starved


async def test_the_timer_does_not_fire_after_the_end() -> None:
    async with facing() as side:
        side.conn.transport.abort()
        await side.ended("lost")
        side.advance(100.0)
        side.conn.watchdog.schedule(side.clock.monotonic())
        assert side.conn.closed


async def test_a_client_tells_when_its_server_is_suspect_and_when_it_is_heard_again() -> None:
    async with facing(is_server=False, suspicious=True) as side:
        side.advance(0.0)
        side.conn.open(Stream(side.conn), 0, META, b"")
        for _ in range(5):
            side.advance(0.1)
        assert side.suspicions == [True]
        assert side.conn.suspect
        ping = await side.receive_kind(PING)
        await side.send(Frame(PING, ACK, 0, b"", ping.body))
        assert side.suspicions == [True, False]
        assert not side.conn.closed


async def test_a_suspect_server_is_cut_as_late_as_any_other_even_if_no_call_is_left() -> None:
    async with facing(is_server=False, suspicious=True) as side:
        side.advance(0.0)
        stream = Stream(side.conn)
        side.conn.open(stream, 0, META, b"")
        for _ in range(6):
            side.advance(0.1)
        side.conn.reset(stream, Code.CANCELLED)
        for _ in range(52):
            side.advance(0.1)
        assert not side.conn.closed
        for _ in range(10):
            side.advance(0.1)
        await side.ended("answered no ping for 5.0 s")


async def test_a_probe_finds_out_whether_an_idle_server_is_alive() -> None:
    async with facing(is_server=False, suspicious=True) as side:
        side.advance(0.0)
        now = side.clock.monotonic()
        assert side.conn.is_alive(now + 3.0)
        side.advance(4.0)
        assert not side.conn.is_alive(side.clock.monotonic())
        side.conn.probe()
        side.conn.probe()  # is asked already
        ping = await side.receive_kind(PING)
        await side.send(Frame(PING, ACK, 0, b"", ping.body))
        assert side.conn.is_alive(side.clock.monotonic())
        side.advance(4.0)
        side.conn.probe()
        side.advance(0.25)
        assert side.suspicions == [True]


async def test_a_peer_that_reads_what_is_sent_is_not_suspect() -> None:
    """A ping waits behind a large request."""
    options = ConnectionOptions(write_buffer=4 * KIB)
    async with facing(options, is_server=False, suspicious=True, small_buffers=True) as side:
        side.advance(0.0)
        side.conn.open(Stream(side.conn), MESSAGE, META, b"x" * 60 * KIB)
        size = side.conn.transport.get_write_buffer_size
        await side.run_loop()
        side.advance(0.2)
        before = size()
        for _ in range(2):
            await side.receive_some()
            await eventually(lambda before=before: size() < before)  # type: ignore[misc]
            before = size()
            side.advance(0.25)
        assert side.suspicions == []
        assert size() > 0
        for _ in range(4):
            side.advance(0.25)
        assert side.suspicions == [True]


async def test_what_has_arrived_while_this_process_did_not_run_is_read_before_deadlines() -> None:
    async with facing(is_server=False, suspicious=True) as side:
        call = UnaryStream(side.conn, side.clock.monotonic() + 1.0)
        side.conn.open_unary(call, META, b"")
        side.sock.send(data(call.id, b"in time", flags=MESSAGE | END).encode())
        side.clock.advance(5.0)
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            pass  # the timer is late
        assert await within(call.future) == b"in time"
        assert side.suspicions == []


PATIENT = ConnectionOptions(message_timeout=30.0)


def part(stream: int, size: int, kind: int = DATA) -> Frame:
    meta = META if kind == OPEN else b""
    return Frame(kind, MESSAGE | MORE, stream, meta, b"x" * size)


async def calm(side: Facing, seconds: float) -> None:
    """Let time pass in steps, with signs of life from the peer."""
    for _ in range(round(seconds)):
        side.advance(1.0)
        await side.send(Frame(PING, ACK, 0, b"", b"rap-ping"))


async def test_a_message_that_does_not_go_on_is_reset_and_its_bytes_are_free() -> None:
    async with facing(PATIENT) as side:
        await side.send(part(1, 5000, OPEN), open_frame(3, 0, b""), part(3, 5000))
        await calm(side, 29)
        await side.send(part(3, 5000))
        await calm(side, 2)
        reset = await side.receive_kind(RESET)
        code, message, details = read_reset(reset.body)
        assert (reset.stream_id, reset.flags) == (1, UNSERVED)
        assert (code, details) == (Code.RESOURCE_EXHAUSTED, {"limit": "message_timeout"})
        assert message == "a message broke off: no part came for 30 s after 5000 bytes"
        assert side.conn.protocol.unfinished == 10_000
        await calm(side, 30)
        assert (await side.receive_kind(RESET)).stream_id == 3
        (inbound,) = side.inbound
        with pytest.raises(ResourceExhausted, match="no part came for 30 s after 10000 bytes"):
            await inbound.stream.recv()
        assert not side.conn.protocol.unfinished


@pytest.mark.parametrize("begin", [1, 5000])
async def test_a_message_that_comes_byte_by_byte_is_reset(begin: int) -> None:
    async with facing(PATIENT) as side:
        await side.send(part(1, begin, OPEN), part(3, begin, OPEN))
        for _ in range(33):
            await calm(side, 1)
            await side.send(part(1, 1), part(3, 1))
        assert not side.conn.streams
        assert side.conn.messages_cut == 2
        reset = await side.receive_kind(RESET)
        code, message, details = read_reset(reset.body)
        assert (code, details) == (Code.RESOURCE_EXHAUSTED, {"limit": "message_timeout"})
        assert message.startswith(f"a message comes too slowly: {begin + 31} bytes so far, less")


@pytest.mark.parametrize(("size", "pause"), [(130, 1), (3300, 25)])
async def test_a_message_that_keeps_to_the_least_pace_has_time(size: int, pause: int) -> None:
    async with facing(PATIENT) as side:
        await side.send(part(1, size, OPEN))
        for _ in range(200 // pause):
            await calm(side, pause)
            await side.send(part(1, size))
        assert list(side.conn.streams) == [1]


async def test_without_a_least_pace_each_part_is_enough() -> None:
    async with facing(PATIENT.replace(min_message_rate=0.0)) as side:
        await side.send(part(1, 1, OPEN))
        for _ in range(100):
            await calm(side, 1)
            await side.send(part(1, 1))
        assert list(side.conn.streams) == [1]


async def test_a_message_that_waits_for_its_turn_has_time_while_others_go_on() -> None:
    async with facing(PATIENT) as side:
        await side.send(part(1, KIB, OPEN), part(3, 5000, OPEN))
        for _ in range(10):
            await calm(side, 20)
            await side.send(part(3, 5000))
        assert sorted(side.conn.streams) == [1, 3]
        await calm(side, 31)
        assert not side.conn.streams


async def test_a_message_behind_an_unread_one_waits_for_the_reader() -> None:
    async with facing(PATIENT) as side:
        await side.send(open_frame(1, 0, b""), data(1, b"unread"), part(1, 5000))
        await calm(side, 90)
        (inbound,) = side.inbound
        await inbound.stream.recv()
        await calm(side, 29)
        assert side.conn.streams
        await calm(side, 2)
        assert not side.conn.streams
