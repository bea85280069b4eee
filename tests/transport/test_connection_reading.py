"""A client that opens and cancels many calls is slowed down, and closed if it does not stop."""

import functools

import pytest

from rap.errors import Code
from rap.wire.codec import pack
from rap.wire.frames import GOAWAY, RESET, Frame
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
        assert not side.conn._cancels.is_low
        side.clock.advance(-2.0)  # too early to be true
        await side.send_soon(*late[1500:])
        await side.send_soon(*cancelling(range(1, 2)))  # the last, of a call that has ended
        await side.wait_read()
        assert not side.conn.streams
        assert sum(side.conn._cancels.allow(side.clock.monotonic()) for _ in range(1000)) == 500


async def test_new_calls_of_a_client_that_cancels_most_of_its_calls_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with facing() as side:
        ids = range(1, 1021, 2)
        await side.send_soon(*(open_frame(n, 0, b"") for n in ids))
        await side.wait_read()
        await side.send_soon(*cancelling(range(1, 1001, 2)))
        await side.wait_read()
        assert side.conn.cancel_pauses == 0
        await side.send(*cancelling(range(1001, 1003)), open_frame(1021, 0, b""))
        await side.send(open_frame(1023, 0, b""), *cancelling(range(1021, 1022)))
        assert side.conn.cancel_pauses == 1
        assert side.inbound[-1].stream.id == 1019  # all was read, and no call has begun
        await eventually(lambda: side.inbound[-1].stream.id == 1023)
        assert side.inbound[-2].stream.id == 1019  # a call that was cancelled never begins
        await side.send(open_frame(1025, 0, b""))
        assert side.inbound[-1].stream.id == 1025
        told = [each for each in caplog.messages if "cancels most of its calls" in each]
        assert len(told) == 1
        assert "(501 of 511): its new calls wait" in told[0]


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
