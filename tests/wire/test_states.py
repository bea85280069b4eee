"""Every move of a stream in every state, on both sides."""

import pytest

from rap.errors import Code, LocalProtocolError
from rap.wire.frames import CREDIT, DATA, END, MESSAGE, MORE, OPEN, RESET, UNSERVED, Frame
from rap.wire.stream import CLOSED, LOCAL_END, REMOTE_END, StreamState
from tests.wire.endpoints import Endpoint, data, make, open_frame

RESETS = Frame(RESET, 0, 1, b"", b"\x93\x01\xa0\x80")


@pytest.fixture(params=["client", "server"])
def side(request: pytest.FixtureRequest) -> tuple[Endpoint, StreamState]:
    """An endpoint with stream 1 open both ways."""
    endpoint = make(is_server=request.param == "server")
    if request.param == "server":
        endpoint.receive(open_frame(1, 0, b""))
    else:
        endpoint.open(0)
    endpoint.take_bytes()
    return endpoint, endpoint.protocol.streams[1]


def test_our_end_then_the_peers_closes_the_stream(side: tuple[Endpoint, StreamState]) -> None:
    endpoint, stream = side
    assert stream.state == 0
    endpoint.protocol.send_data(stream, END, b"", b"")
    assert stream.state == LOCAL_END
    endpoint.receive(data(1, b"", END))
    assert stream.state == CLOSED
    assert not endpoint.protocol.streams


def test_the_peers_end_then_ours_closes_the_stream(side: tuple[Endpoint, StreamState]) -> None:
    endpoint, stream = side
    endpoint.receive(data(1, b"x", MESSAGE | END))
    assert stream.state == REMOTE_END
    endpoint.protocol.send_data(stream, MESSAGE | END, b"", b"y")
    assert stream.state == CLOSED
    assert not endpoint.protocol.streams


def test_a_reset_of_the_peer_closes_in_every_state(side: tuple[Endpoint, StreamState]) -> None:
    endpoint, stream = side
    endpoint.receive(data(1, b"", END))
    (event,) = endpoint.receive(RESETS)
    assert event[:2] == (RESET, stream)
    assert stream.state == CLOSED


def test_our_reset_closes_and_a_second_one_is_silent(side: tuple[Endpoint, StreamState]) -> None:
    endpoint, stream = side
    endpoint.protocol.reset_stream(stream, Code.CANCELLED, "enough", {"a": 1}, UNSERVED)
    endpoint.protocol.reset_stream(stream, Code.INTERNAL)
    (frame,) = endpoint.take_frames()
    assert frame[:3] == (RESET, UNSERVED, 1)
    assert stream.state == CLOSED


def test_sending_after_our_end_is_a_local_error(side: tuple[Endpoint, StreamState]) -> None:
    endpoint, stream = side
    endpoint.protocol.send_data(stream, END, b"", b"")
    with pytest.raises(LocalProtocolError, match="stream 1: END was sent already"):
        endpoint.protocol.send_data(stream, MESSAGE, b"", b"x")


def test_an_end_that_waits_for_credit_counts_as_sent(side: tuple[Endpoint, StreamState]) -> None:
    endpoint, stream = side
    assert not endpoint.protocol.send_data(stream, MESSAGE, b"", b"x" * 3_000_000)
    assert not endpoint.protocol.send_data(stream, END, b"", b"")
    with pytest.raises(LocalProtocolError, match="stream 1: END was sent already"):
        endpoint.protocol.send_data(stream, END, b"", b"")
    endpoint.receive(data(1, b"", END))
    assert stream.state != CLOSED


def test_sending_on_a_closed_stream_does_nothing(side: tuple[Endpoint, StreamState]) -> None:
    endpoint, stream = side
    endpoint.receive(RESETS)
    assert endpoint.protocol.send_data(stream, MESSAGE, b"", b"x")
    assert endpoint.take_frames() == []


def test_data_after_the_peers_end_is_a_violation(side: tuple[Endpoint, StreamState]) -> None:
    endpoint, _ = side
    endpoint.receive(data(1, b"", END))
    endpoint.receive(data(1, b"x", MESSAGE))
    assert endpoint.violation() == "stream 1: Data after END"


def test_frames_that_arrive_late_are_dropped(side: tuple[Endpoint, StreamState]) -> None:
    endpoint, stream = side
    endpoint.protocol.reset_stream(stream, Code.CANCELLED)
    late = [data(1, b"x"), data(1, b"x", MESSAGE | MORE), data(1, b"", END), RESETS]
    credit = Frame(CREDIT, 0, 1, b"", b"\0\0\0\1")
    assert endpoint.receive(*late, credit) == []
    assert endpoint.protocol.error is None


def test_a_stream_never_comes_back(side: tuple[Endpoint, StreamState]) -> None:
    endpoint, _ = side
    endpoint.receive(RESETS)
    if endpoint.protocol.last_id:
        endpoint.receive(open_frame(1))
        assert endpoint.violation() == "Open of stream 1 after 1"
    else:
        endpoint.open()
        assert [(frame.kind, frame.stream_id) for frame in endpoint.take_frames()] == [(OPEN, 3)]


def test_data_carries_its_flags_to_the_reader(side: tuple[Endpoint, StreamState]) -> None:
    endpoint, stream = side
    (event,) = endpoint.receive(Frame(DATA, MESSAGE | 8 | 128, 1, b"m", b"b"))
    assert event == (DATA, stream, MESSAGE | 8 | 128, b"m", b"b", 14)
