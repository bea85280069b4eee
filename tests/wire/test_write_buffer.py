"""The write buffer counts the bytes that wait, and reports when it crosses a watermark."""

from rap.errors import Code
from rap.wire.frames import credit_frame
from rap.wire.sender import WriteBuffer
from tests.wire.endpoints import KIB, SMALL, WHOLE, Endpoint, make, open_frame


def test_it_reports_when_it_is_full_and_when_half_is_left() -> None:
    reports: list[bool] = []
    write_buffer = WriteBuffer(100, reports.append)
    for size in (60, 40):
        write_buffer.add(size)
    assert reports == []
    write_buffer.add(1)
    write_buffer.add(50)
    assert reports == [True]
    write_buffer.remove(100)
    assert reports == [True]
    write_buffer.remove(1)
    assert reports == [True, False]


def test_it_needs_no_listener() -> None:
    write_buffer = WriteBuffer(100)
    write_buffer.add(200)
    assert write_buffer.is_full
    write_buffer.remove(200)
    assert not write_buffer.is_full


def answering() -> Endpoint:
    """Return a server that has answered two calls with more than their credit."""
    endpoint = make(is_server=True, limits=SMALL, told=SMALL)
    for number in (1, 3):
        endpoint.receive(open_frame(number))
        stream = endpoint.protocol.streams[number]
        endpoint.protocol.send_data(stream, WHOLE, b"", bytes(100 * KIB))
    return endpoint


def test_a_waiting_message_counts_until_it_is_sent() -> None:
    endpoint = answering()
    write_buffer = endpoint.protocol.write_buffer
    assert write_buffer.size == 200 * KIB
    endpoint.protocol.send_pending(1 << 20)
    sent = sum(len(frame.body) for frame in endpoint.take_frames())
    assert 0 < write_buffer.size == 200 * KIB - sent
    for number in (0, 1, 3):
        endpoint.feed(credit_frame(number, 1 << 20))
    endpoint.protocol.send_pending(1 << 20)
    assert write_buffer.size == 0


def test_a_message_of_a_call_that_ended_no_longer_counts() -> None:
    endpoint = answering()
    for stream in list(endpoint.protocol.streams.values()):
        endpoint.protocol.reset_stream(stream, Code.CANCELLED)
    assert endpoint.protocol.write_buffer.size == 0
