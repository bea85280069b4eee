"""Credit: what counts, when it is given back, and that none is ever lost."""

from rap.errors import Code
from rap.wire.frames import CREDIT, DATA, END, HEADER_SIZE, MESSAGE, MORE, Frame
from rap.wire.hello import Limits
from rap.wire.stream import StreamState
from tests.wire.endpoints import KIB, META, WHOLE, Endpoint, data, make, open_frame

WINDOW = 64 * KIB
LIMITS = Limits(stream_window=WINDOW, connection_window=2 * WINDOW)
OPEN_COST = HEADER_SIZE + len(META)


def server_with(streams: int) -> tuple[Endpoint, list[StreamState]]:
    server = make(is_server=True, limits=LIMITS)
    server.receive(*(open_frame(2 * n + 1, 0, b"") for n in range(streams)))
    return server, list(server.protocol.streams.values())


def message(stream_id: int, cost: int) -> Frame:
    """Return Data that costs `cost` bytes in all."""
    return data(stream_id, b"x" * (cost - HEADER_SIZE))


def grants(endpoint: Endpoint) -> list[tuple[int, int]]:
    """Return stream and count of the Credits to be written."""
    frames = [frame for frame in endpoint.take_frames() if frame.kind == CREDIT]
    return [(frame.stream_id, int.from_bytes(frame.body, "big")) for frame in frames]


def test_a_message_is_held_until_it_is_acknowledged_and_credited_from_half_a_window_on() -> None:
    server, (stream,) = server_with(1)
    server.receive(message(1, 20 * KIB), message(1, 20 * KIB))
    assert (stream.held, grants(server)) == (40 * KIB, [])
    server.protocol.acknowledge(stream, 20 * KIB)
    assert grants(server) == []
    server.protocol.acknowledge(stream, 20 * KIB)
    assert grants(server) == [(1, 40 * KIB + OPEN_COST)]
    assert stream.used == 0


def test_the_connection_is_credited_for_all_streams_together() -> None:
    server, streams = server_with(4)
    for stream in streams:
        server.receive(message(stream.id, 16 * KIB))
        server.protocol.acknowledge(stream, 16 * KIB)
    assert grants(server) == [(0, 64 * KIB + 4 * OPEN_COST)]
    assert server.protocol.recv_window == LIMITS.connection_window


def test_bytes_that_will_not_be_read_are_credited_on_arrival() -> None:
    server, streams = server_with(2)
    server.protocol.reset_stream(streams[0], Code.CANCELLED)
    for _ in range(2):
        server.receive(message(1, 31 * KIB))  # late
        server.receive(Frame(DATA, 0, 3, b"", b"x" * (10 * KIB)))  # no message
    assert streams[1].held == 0
    assert grants(server)[0][0] == 0


def test_data_without_a_message_is_credited_to_its_stream() -> None:
    server, (stream,) = server_with(1)
    for _ in range(20):
        server.receive(Frame(DATA, 0, 1, b"", b"x" * (10 * KIB)))
    assert server.protocol.error is None
    assert stream.used < WINDOW


def test_the_end_of_a_stream_credits_what_it_held() -> None:
    for last in (message(1, 1000), data(1, b"", END), data(1, b"x", WHOLE)):
        server, (stream,) = server_with(1)
        server.receive(message(1, 60 * KIB))
        server.protocol.send_data(stream, END, b"", b"")
        server.receive(last._replace(flags=last.flags | END))
        assert not server.protocol.streams
        assert server.protocol.recv_window + server.protocol.consumed == 2 * WINDOW
        server.protocol.acknowledge(stream, 60 * KIB)  # it is in no inbox of the protocol any more
        assert server.protocol.recv_window + server.protocol.consumed == 2 * WINDOW


def test_a_reset_credits_what_the_stream_held() -> None:
    server, streams = server_with(2)
    for stream in streams:
        server.receive(message(stream.id, 60 * KIB))
    server.protocol.reset_stream(streams[0], Code.CANCELLED)
    assert grants(server) == [(0, 60 * KIB + 2 * OPEN_COST)]


def test_a_stream_is_credited_after_our_end_but_not_after_the_peers() -> None:
    server, (stream,) = server_with(1)
    server.receive(message(1, 60 * KIB))
    server.receive(data(1, b"", END))
    server.protocol.acknowledge(stream, 60 * KIB)
    assert [stream_id for stream_id, _ in grants(server)] == []
    assert stream.consumed == 0


def test_a_message_larger_than_every_window_arrives() -> None:
    client = make(is_server=False, told=LIMITS)
    server = make(is_server=True, limits=LIMITS)
    client.open(WHOLE, b"x" * 1_000_000)
    rounds = 0
    while not server.events:
        client.protocol.send_pending(1 << 30)
        sent = client.take_bytes()
        assert sent
        server.feed(sent)
        client.feed(server.take_bytes())
        rounds += 1
    assert len(server.events[0][4]) == 1_000_000
    assert rounds > 5


def test_unread_large_messages_stop_at_the_window_and_one_message() -> None:
    client = make(is_server=False, told=LIMITS)
    server = make(is_server=True, limits=LIMITS)
    stream = client.open(0)
    for _ in range(10):
        client.protocol.send_data(stream, MESSAGE, b"", b"x" * 200_000)
    for _ in range(30):
        client.protocol.send_pending(1 << 30)
        server.feed(client.take_bytes())
        client.feed(server.take_bytes())
    held = server.protocol.streams[1]
    arrived = [event for event in server.events if event[0] == DATA]
    assert held.held + held.parts_size <= WINDOW + 210_000
    assert len(arrived) == 1
    server.protocol.acknowledge(held, arrived[0][5])
    assert held.held == 0
    assert grants(server)


def test_a_large_message_is_acknowledged_as_a_whole() -> None:
    server, (stream,) = server_with(1)
    server.receive(data(1, b"x" * 1000, MESSAGE | MORE), data(1, b"x" * 1000, MESSAGE))
    assert server.events[-1][5] == stream.held == 2024


def test_stalled_readers_leave_the_rest_of_the_window_to_others() -> None:
    """With a fixed step of half the window, the others would be stuck here for ever."""
    server, streams = server_with(3)
    server.receive(message(1, 50 * KIB), message(3, 30 * KIB))
    assert server.protocol.recv_window < WINDOW
    for _ in range(100):
        server.receive(message(5, 10 * KIB))
        server.protocol.acknowledge(streams[2], 10 * KIB)
        assert server.protocol.recv_window > 20 * KIB
    assert not server.protocol.starved


def test_a_connection_is_starved_when_unread_streams_hold_nearly_all_of_its_window() -> None:
    limits = Limits(stream_window=WINDOW, connection_window=WINDOW)
    server = make(is_server=True, limits=limits)
    server.receive(open_frame(1, 0, b""), message(1, 40 * KIB))
    assert not server.protocol.starved
    server.receive(message(1, 10 * KIB))
    assert server.protocol.starved
    server.protocol.acknowledge(server.protocol.streams[1], 40 * KIB)
    assert not server.protocol.starved


def test_a_credit_of_nothing_is_never_sent() -> None:
    server, _ = server_with(0)
    server.protocol.grant_connection()
    assert grants(server) == []


def test_only_held_bytes_are_credited() -> None:
    server, (stream,) = server_with(1)
    server.protocol.acknowledge(stream, 1000)
    assert (stream.held, stream.consumed) == (0, OPEN_COST)
