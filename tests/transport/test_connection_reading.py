"""A client that opens and cancels many calls is slowed down, and closed if it does not stop."""

import functools

import pytest

from rap.errors import Code
from rap.wire.codec import pack
from rap.wire.frames import GOAWAY, PING, RESET, Frame
from tests.loopback import eventually
from tests.transport.facing import Facing, facing
from tests.wire.endpoints import open_frame


def cancelling(ids: range) -> list[Frame]:
    return [Frame(RESET, 0, n, b"", pack([Code.CANCELLED, "", {}])) for n in ids]


def has_begun(side: Facing, stream_id: int) -> bool:
    return bool(side.inbound) and side.inbound[-1].stream.id == stream_id


async def test_a_client_that_keeps_cancelling_is_asked_to_leave_then_cut() -> None:
    async with facing() as side:
        for n in range(1, 2003, 2):
            await side.send_soon(open_frame(n, 0, b""), *cancelling(range(n, n + 1)))
        last = (await side.receive_kind(GOAWAY)).stream_id
        assert last == 2001
        assert not side.conn.closed
        for n in range(2003, 4005, 2):
            await side.send_soon(open_frame(n, 0, b""), *cancelling(range(n, n + 1)))
        await side.ended("1001 calls were opened after GoAway")


async def test_a_client_that_keeps_cancelling_calls_opened_before_is_cut() -> None:
    async with facing() as side:
        for n in range(1, 4005, 2):
            await side.send_soon(open_frame(n, 0, b""))
        await side.wait_read()
        for frame in cancelling(range(1, 4005, 2)):
            await side.send_soon(frame)
        await side.ended("too many cancelled calls")


async def test_a_chunk_of_cancelled_calls_is_spread_over_turns() -> None:
    async with facing() as side:
        ids = range(1, 1001, 2)
        calls = zip((open_frame(n, 0, b"") for n in ids), cancelling(ids), strict=True)
        side.conn.data_received(b"".join(each.encode() for call in calls for each in call))
        assert 0 < side.conn.protocol.last_id < 80
        assert side.conn.reading_paused
        await side.wait_read()
        assert side.conn.protocol.last_id == 999
        assert not side.conn.streams


async def test_calls_that_end_at_their_deadline_do_not_count_as_cancelled() -> None:
    async with facing() as side:
        ids = range(1, 4001, 2)
        await side.send_soon(*(open_frame(n, 0, b"") for n in ids))
        await side.wait_read()
        for inbound in side.inbound:
            inbound.stream.deadline = side.clock.monotonic() + 5.0
        late = [Frame(RESET, 0, n, b"", pack([Code.DEADLINE_EXCEEDED, "", {}])) for n in ids]
        side.clock.advance(4.95)
        await side.send_soon(*late[:1500])
        await side.wait_read()
        assert not side.conn.draining
        taken_from: object = side.conn._cancels
        assert taken_from is None
        side.clock.advance(-2.0)  # too early to be true
        await side.send_soon(*late[1500:])
        await side.send_soon(*cancelling(range(1, 2)))  # the last, of a call that has ended
        await side.wait_read()
        assert not side.conn.streams
        bucket = side.conn._cancels
        assert bucket is not None
        assert sum(bucket.allow(side.clock.monotonic()) for _ in range(1000)) == 500


async def test_a_call_with_a_short_time_limit_that_is_cancelled_at_once_counts() -> None:
    async with facing() as side:
        ids = range(1, 2003, 2)
        await side.send_soon(*(open_frame(n, 0, b"") for n in ids))
        await side.wait_read()
        for inbound in side.inbound:
            inbound.stream.time_limit = 0.05
            inbound.stream.deadline = side.clock.monotonic() + 0.05
        expired = [Frame(RESET, 0, n, b"", pack([Code.DEADLINE_EXCEEDED, "", {}])) for n in ids]
        await side.send_soon(*expired)
        await side.wait_read()
        assert side.conn.cancels_excessive


async def test_a_call_with_a_short_time_limit_that_ends_in_time_does_not_count() -> None:
    async with facing() as side:
        ids = range(1, 2003, 2)
        await side.send_soon(*(open_frame(n, 0, b"") for n in ids))
        await side.wait_read()
        for inbound in side.inbound:
            inbound.stream.time_limit = 0.05
            inbound.stream.deadline = side.clock.monotonic() + 0.05
        side.clock.advance(0.03)  # the Reset was faster than the Open
        expired = [Frame(RESET, 0, n, b"", pack([Code.DEADLINE_EXCEEDED, "", {}])) for n in ids]
        await side.send_soon(*expired)
        await side.wait_read()
        assert side.conn._cancels is None


async def test_new_calls_of_a_client_that_cancels_most_of_its_calls_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with facing() as side:
        # A hundred calls are served, and 32 of them may be cancels that were not judged yet.
        for n in range(1, 201, 2):
            await side.send_soon(open_frame(n, 0, b""))
        await side.wait_read()
        for inbound in side.inbound:
            side.conn.reset(inbound.stream, Code.OK)
        await side.send_soon(*(open_frame(n, 0, b"") for n in range(201, 1401, 2)))
        await side.wait_read()
        pauses = await cancel_until_it_waits(side, range(201, 1401, 2))
        last = side.inbound[-1].stream.id
        await side.send(open_frame(1401, 0, b""))
        await side.send(open_frame(1403, 0, b""), *cancelling(range(1401, 1402)))
        assert side.conn.cancel_pauses == pauses == 1
        assert side.inbound[-1].stream.id == last  # all was read, and no call has begun
        await eventually(lambda: side.inbound[-1].stream.id == 1403)
        assert side.inbound[-2].stream.id == last  # a call that was cancelled never begins
        await eventually(lambda: side.conn.on_open == side.take)
        await side.send(open_frame(1405, 0, b""))
        assert side.inbound[-1].stream.id == 1405
        told = [each for each in caplog.messages if "cancels most of its calls" in each]
        assert len(told) == 1
        assert "of 700): its new calls wait" in told[0]


async def cancel_until_it_waits(side: Facing, ids: range) -> int:
    """Cancel one call after the other until new calls have to wait; return how often they had."""
    for n in ids:
        await side.send(*cancelling(range(n, n + 1)))
        if side.conn.cancel_pauses:
            break
    return side.conn.cancel_pauses


async def test_a_client_that_cancels_all_its_calls_is_read_at_intervals() -> None:
    async with facing() as side:
        ids = range(1, 1021, 2)
        await side.send_soon(*(open_frame(n, 0, b"") for n in ids))
        await side.wait_read()
        await side.send_soon(*cancelling(range(1, 1001, 2)))
        await side.wait_read()
        await side.send_soon(*cancelling(range(1001, 1003)))
        await eventually(lambda: side.conn.reading_paused)
        assert not side.conn.protocol.more
        await side.send_soon(open_frame(1023, 0, b""))
        await eventually(lambda: side.inbound[-1].stream.id == 1023)


async def test_a_client_that_cancels_some_of_many_calls_is_not_slowed_down() -> None:
    async with facing() as side:
        for first in range(1, 12_001, 4):  # every second call is cancelled, without any pause
            await side.send_soon(open_frame(first, 0, b""), open_frame(first + 2, 0, b""))
            await eventually(functools.partial(has_begun, side, first + 2))
            side.conn.reset(side.inbound[-1].stream, Code.OK)
            await side.send_soon(*cancelling(range(first, first + 1)))
        await side.wait_read()
        assert side.conn.protocol.last_id == 11_999
        assert side.conn.cancel_pauses == 0
        assert not side.conn.draining


async def test_a_client_that_cancels_occasionally_stays_connected() -> None:
    async with facing() as side:
        reset = pack([Code.CANCELLED, "", {}])
        for n in range(1, 6001, 2):
            side.clock.advance(0.011)
            await side.send_soon(open_frame(n, 0, b""), Frame(RESET, 0, n, b"", reset))
            if n % 500 == 1:
                await side.wait_read()
        await side.wait_read()
        assert side.conn.protocol.last_id == 5999
        assert not side.conn.draining


async def test_a_violation_after_a_goaway_with_a_code_ends_a_connection_of_a_server() -> None:
    async with facing() as side:
        await side.send(Frame(GOAWAY, 0, 0, b"", pack([Code.INTERNAL, "you did wrong"])))
        assert not side.conn.closed
        await side.send(Frame(PING, 0, 0, b"", b"bad"))
        await side.ended("you did wrong")


async def test_a_violation_after_a_goaway_with_a_code_ends_a_connection_of_a_client() -> None:
    async with facing(is_server=False) as side:
        side.conn.pin()  # a session keeps the connection open
        await side.send(Frame(GOAWAY, 0, 0, b"", pack([Code.INTERNAL, "you did wrong"])))
        assert not side.conn.closed
        await side.send(Frame(PING, 0, 0, b"", b"bad"))
        await side.ended("you did wrong")
