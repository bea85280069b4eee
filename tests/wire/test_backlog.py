"""What waits to be sent is counted, and said to whom it concerns."""

from rap.errors import Code
from rap.wire.frames import credit_frame
from rap.wire.sender import Backlog
from tests.wire.endpoints import KIB, SMALL, WHOLE, Endpoint, make, open_frame


def test_it_is_told_when_it_is_full_and_when_half_is_left() -> None:
    told: list[bool] = []
    backlog = Backlog(100)
    backlog.add(200)  # nobody need listen
    backlog.remove(200)
    backlog.tell = told.append
    for size in (60, 40):
        backlog.add(size)
    assert told == []
    backlog.add(1)
    backlog.add(50)
    assert told == [True]
    backlog.remove(100)
    assert told == [True]
    backlog.remove(1)
    assert told == [True, False]


def answering() -> Endpoint:
    """Return a server that has answered two calls with more than their credit."""
    endpoint = make(is_server=True, limits=SMALL, told=SMALL)
    for number in (1, 3):
        endpoint.receive(open_frame(number))
        stream = endpoint.protocol.streams[number]
        endpoint.protocol.send_data(stream, WHOLE, b"", bytes(100 * KIB))
    return endpoint


def test_what_waits_is_counted_until_it_is_sent() -> None:
    endpoint = answering()
    backlog = endpoint.protocol.backlog
    assert backlog.size == 200 * KIB
    endpoint.protocol.send_pending(1 << 20)
    sent = sum(len(frame.body) for frame in endpoint.take_frames())
    assert 0 < backlog.size == 200 * KIB - sent
    for number in (0, 1, 3):
        endpoint.feed(credit_frame(number, 1 << 20))
    endpoint.protocol.send_pending(1 << 20)
    assert backlog.size == 0


def test_what_a_call_that_ended_had_to_send_counts_no_more() -> None:
    endpoint = answering()
    for stream in list(endpoint.protocol.streams.values()):
        endpoint.protocol.reset_stream(stream, Code.CANCELLED)
    assert endpoint.protocol.backlog.size == 0
