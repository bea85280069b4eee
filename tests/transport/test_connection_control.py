"""Frames that come seldom, as a peer may send them."""

import pytest

from rap.errors import (
    CallError,
    Code,
    HandlerError,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from rap.transport import ConnectionOptions, Stream, UnaryStream
from rap.wire.codec import pack
from rap.wire.frames import (
    ACK,
    DONE,
    GOAWAY,
    LOAD,
    MAX_STREAM_ID,
    PING,
    RESET,
    Frame,
    credit_frame,
    go_away_frame,
    parse_frames,
)
from rap.wire.hello import Limits
from tests.loopback import within
from tests.transport.facing import Facing, facing
from tests.transport.pairs import KIB, META, WHOLE
from tests.wire.endpoints import data


def call(side: Facing) -> UnaryStream:
    stream = UnaryStream(side.conn, float("inf"))
    side.conn.open_unary(stream, META, b"")
    return stream


async def test_a_reset_that_cannot_be_read_fails_its_call_only() -> None:
    async with facing(is_server=False) as side:
        first, second = call(side), call(side)
        await side.send(Frame(RESET, 0, first.id, b"", b"\xc1"), data(second.id, b"\1", WHOLE))
        with pytest.raises(CallError, match="a malformed Reset: ") as caught:
            await within(first.future)
        assert caught.value.code is Code.UNKNOWN
        assert await within(second.future) == b"\1"


async def test_an_unknown_code_becomes_unknown() -> None:
    async with facing(is_server=False) as side:
        stream = call(side)
        await side.send(Frame(RESET, 0, stream.id, b"", pack([99, "new", {}])))
        with pytest.raises(CallError, match="new") as caught:
            await within(stream.future)
        assert caught.value.code is Code.UNKNOWN


async def test_the_name_of_an_exception_is_only_a_name() -> None:
    async with facing(is_server=False) as side:
        for name in ("eval", "SystemExit", "__import__", "KeyboardInterrupt", 7, None):
            stream = call(side)
            await side.send(Frame(RESET, 0, stream.id, b"", pack([2, "1/0", {"type": name}])))
            with pytest.raises(CallError, match="1/0") as caught:
                await within(stream.future)
            assert type(caught.value) is HandlerError


async def test_see_error_gets_errors_of_the_peer_and_not_our_own() -> None:
    options = ConnectionOptions(limits=Limits(max_message=KIB))
    async with facing(options, is_server=False) as side:
        seen: list[object] = []

        def see(error: tuple[int, str, dict[str, object]]) -> tuple[int, str, dict[str, object]]:
            seen.append(error)
            return (8, "as it really was", {})

        streams = Stream(side.conn), Stream(side.conn)
        for stream in streams:
            stream.see_error = see
            side.conn.open(stream, 0, META, b"")
        theirs, ours = streams
        await side.send(Frame(RESET, 0, theirs.id, b"", pack([2, "sealed", {}])))
        await side.send(data(ours.id, b"x" * 2 * KIB, WHOLE))
        for stream, text, remote in ((theirs, "really", True), (ours, "max_message", False)):
            with pytest.raises(ResourceExhausted, match=text) as caught:
                await within(stream.recv())
            assert caught.value.remote is remote
        assert seen == [(2, "sealed", {})]


async def test_an_unreadable_go_away_still_counts() -> None:
    async with facing(is_server=False) as side:
        stream = call(side)
        await side.send(Frame(GOAWAY, 0, 0, b"", b"\xc1"))
        with pytest.raises(Unavailable) as caught:
            await within(stream.future)
        assert caught.value.unserved
        assert not side.conn.usable


async def test_a_denial_becomes_unauthenticated() -> None:
    async with facing(is_server=False) as side:
        denial = go_away_frame(0, Code.UNAUTHENTICATED, "who are you")
        await side.send(*parse_frames(denial))
        with pytest.raises(Unauthenticated, match="who are you") as caught:
            await within(side.conn.wait_handshake())
        assert caught.value.unserved


async def test_a_client_that_sends_go_away_is_served_until_it_closes() -> None:
    async with facing() as side:
        await side.send(*parse_frames(go_away_frame(0, Code.OK, "bye")))
        await side.send(Frame(1, WHOLE, 1, META, b"\x90"))
        assert len(side.inbound) == 1
        assert not side.conn.closed


async def test_nothing_is_sent_after_the_end() -> None:
    async with facing() as side:
        side.conn.transport.abort()
        await side.run_loop()
        side.conn.go_away(message="too late")
        side.conn.ping()
        side.conn.drain()
        await side.run_loop()
        assert side.conn.closed
        await within(side.conn.close())


async def test_a_second_go_away_counts_from_the_last_call_that_came() -> None:
    async with facing() as side:
        side.conn.go_away(message="draining")
        assert (await side.receive_kind(GOAWAY)).stream_id == MAX_STREAM_ID
        await side.send(Frame(1, WHOLE, 7, META, b"\x90"))
        side.conn.go_away(final=True, message="over")
        assert (await side.receive_kind(GOAWAY)).stream_id == 7
        await side.send(Frame(1, WHOLE, 9, META, b"\x90"), Frame(PING, 0, 0, b"", b"12345678"))
        assert (await side.receive()).kind == PING
        assert len(side.inbound) == 1


async def test_a_drain_does_not_serve_again_what_was_refused() -> None:
    async with facing() as side:
        side.conn.go_away(final=True, code=Code.UNAUTHENTICATED, message="the token was refused")
        assert (await side.receive_kind(GOAWAY)).stream_id == 0
        side.conn.go_away(message="draining")
        assert (await side.receive_kind(GOAWAY)).stream_id == 0
        await side.send(Frame(1, WHOLE, 1, META, b"\x90"))
        side.conn.go_away(final=True, message="over")
        assert (await side.receive_kind(GOAWAY)).stream_id == 0
        await side.send(Frame(1, WHOLE, 3, META, b"\x90"))
        assert not side.inbound


async def test_credit_for_a_call_that_has_sent_everything_is_ignored() -> None:
    async with facing(is_server=False) as side:
        stream = call(side)
        await side.send(*parse_frames(credit_frame(stream.id, 1000)), data(stream.id, b"\1", WHOLE))
        assert await within(stream.future) == b"\1"


async def test_load_frames_are_ignored_without_a_handler() -> None:
    for is_server in (False, True):
        async with facing(is_server=is_server) as side:
            await side.send(*[Frame(LOAD, 0, 0, b"", pack({"in_flight": 1}))] * 200)
            assert not side.conn.closed


async def test_a_client_that_keeps_requesting_load_reports_is_cut() -> None:
    async with facing(is_server=True, options=ConnectionOptions(max_pings=1)) as side:
        asked: list[bytes] = []
        side.conn.set_load_handler(lambda _, body: asked.append(body))
        await side.send(*[Frame(LOAD, 0, 0)] * 10)
        assert asked == [b""] * 10
        assert not side.conn.closed
        await side.send(Frame(LOAD, 0, 0))
        assert len(asked) == 10
        assert "too many requests for load reports" in str(side.conn.error)


async def test_a_client_takes_any_number_of_reports() -> None:
    async with facing(is_server=False, options=ConnectionOptions(max_pings=1)) as side:
        told: list[bytes] = []
        side.conn.set_load_handler(lambda _, body: told.append(body))
        await side.send(*[Frame(LOAD, 0, 0, b"", b"x")] * 50)
        assert told == [b"x"] * 50


@pytest.mark.parametrize("is_server", [True, False])
async def test_a_peer_that_sends_too_many_pings_is_cut(is_server: bool) -> None:
    async with facing(ConnectionOptions(max_pings=2), is_server=is_server) as side:
        ping = Frame(PING, 0, 0, b"", b"12345678")
        for _ in range(10):
            await side.send(*[ping] * 20)
            side.clock.advance(10.0)
        assert not side.conn.closed
        await side.send(*[ping] * 21)
        await side.ended("too many pings")


IDLE = [
    Frame(200, 0, 0, b"", b""),
    Frame(PING, ACK, 0, b"", b"12345678"),
    Frame(GOAWAY, 0, MAX_STREAM_ID, b"", pack([0, ""])),
    Frame(RESET, 0, 1, b"", pack([1, "", {}])),
    Frame(DONE, 0, 1, b"", b""),
    parse_frames(credit_frame(0, 1))[0],
    parse_frames(credit_frame(1, 1000))[0],
]


@pytest.mark.parametrize("is_server", [True, False])
@pytest.mark.parametrize("frame", IDLE, ids=lambda frame: f"kind {frame.kind}")
async def test_a_peer_that_sends_too_many_frames_that_change_nothing_is_cut(
    frame: Frame, is_server: bool
) -> None:
    async with facing(ConnectionOptions(max_pings=2), is_server=is_server) as side:
        side.conn.pin()  # a drain does not close it
        for _ in range(3):  # as many as the rate allows for ten seconds
            await side.send(*[frame] * 640)
            side.clock.advance(10.0)
        assert not side.conn.closed
        await side.send_soon(*[frame] * 640, *[frame] * 32)
        await side.ended("too many frames that change nothing")


async def test_answers_to_pings_and_credit_that_was_due_cost_a_peer_nothing() -> None:
    async with facing(ConnectionOptions(max_pings=1), is_server=False) as side:
        for _ in range(1000):
            side.conn.ping()
            await side.send(Frame(PING, ACK, 0, b"", b"rap-ping"))
        stream = side.conn.protocol
        for _ in range(1000):
            stream.send_window = 64 * KIB - 1000
            await side.send(parse_frames(credit_frame(0, 1000))[0])
        assert not side.conn.closed


async def test_each_call_pays_for_some_frames_that_come_late() -> None:
    async with facing(ConnectionOptions(max_pings=1), is_server=True) as side:
        for n in range(1, 1000, 2):
            side.conn.protocol.last_id = n
            late = [Frame(RESET, 0, n, b"", pack([1, "", {}])), Frame(DONE, 0, n, b"", b"")]
            await side.send(*late)
        assert not side.conn.closed


@pytest.mark.parametrize("body", [[14, "text" * 5000], [14, "text", *[0] * 100]])
async def test_a_large_go_away_has_no_text(body: list[object]) -> None:
    """A peer can send any number of them, and their decoding must not cost much."""
    async with facing(is_server=False) as side:
        side.conn.pin()
        await side.send(Frame(GOAWAY, 0, MAX_STREAM_ID, b"", pack(body)))
        assert side.conn.draining
        assert "the limit is" in str(side.conn.error)
        assert "text" not in str(side.conn.error)
