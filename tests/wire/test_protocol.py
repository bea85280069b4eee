"""The protocol by bytes: what each frame of the peer means, and what is a violation."""

from functools import partial

import pytest

from rap.errors import Code, RemoteProtocolError
from rap.wire.codec import pack, unpack
from rap.wire.frames import (
    ACK,
    CREDIT,
    DATA,
    DONE,
    END,
    GOAWAY,
    HELLO,
    KIND_NAMES,
    LOAD,
    MAX_STREAM_ID,
    MESSAGE,
    MORE,
    OPEN,
    PING,
    REFUSED,
    RESET,
    UNSERVED,
    Frame,
    read_go_away,
    read_reset,
)
from rap.wire.hello import Limits
from rap.wire.protocol import IDLE, IDLE_FRAMES
from rap.wire.stream import REMOTE_END, State
from tests.wire.endpoints import (
    KIB,
    META,
    SMALL,
    WHOLE,
    Endpoint,
    data,
    hello,
    kinds,
    make,
    open_frame,
)


def both_sides() -> list[Endpoint]:
    """Return a client and a server with stream 1 open."""
    client, server = make(is_server=False, limits=SMALL), make(is_server=True, limits=SMALL)
    client.open(0)
    server.receive(open_frame(1, 0, b""))
    client.take_bytes()
    server.take_bytes()
    return [client, server]


def test_the_first_frame_of_each_side_is_its_hello() -> None:
    for is_server in (False, True):
        endpoint = Endpoint(is_server=is_server, limits=SMALL)
        (frame,) = endpoint.take_frames()
        assert unpack(frame.body) == {"rap": 1, **SMALL.to_hello()}
        assert endpoint.protocol.state is State.OPENING


def test_the_hello_of_the_peer_opens_the_connection() -> None:
    endpoint = Endpoint(is_server=True)
    (event,) = endpoint.receive(hello(max_streams=7, service="calc"))
    assert event[0] == HELLO
    assert endpoint.protocol.state is State.OPEN
    assert endpoint.protocol.peer.max_streams == 7
    assert endpoint.protocol.peer_hello["service"] == "calc"


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (hello(rap=None), "Hello: rap and rap_max must be versions, got None and None"),
        (hello(rap=1, rap_max=0), "Hello: rap and rap_max must be versions, got 1 and 0"),
        (hello(max_frame=5), "Hello: max_frame must be 16384 to 67108864, got 5"),
        (Frame(HELLO, 0, 0, b"", b"\x90"), "a Hello must be a map, got list"),
        (Frame(HELLO, 0, 0, b"", b"\xc1"), "not valid msgpack: FormatError"),
        (open_frame(1), "the first frame must be a Hello"),
        (Frame(99, 0, 0), "the first frame must be a Hello"),
    ],
)
def test_a_connection_that_begins_otherwise_is_refused(frame: Frame, reason: str) -> None:
    endpoint = Endpoint(is_server=True)
    endpoint.take_bytes()
    endpoint.receive(frame, open_frame(3))
    assert reason in endpoint.violation()
    (goaway,) = endpoint.take_frames()
    assert goaway.kind == GOAWAY
    assert endpoint.events == []


@pytest.mark.parametrize(
    ("first", "protocol"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x17", "TLS"),
    ],
)
def test_a_peer_of_another_protocol_is_named(first: bytes, protocol: str) -> None:
    endpoint = Endpoint(is_server=True)
    endpoint.feed(first)
    assert f"must be a Hello; the peer speaks {protocol}" in endpoint.violation()


def test_a_hello_has_a_limit_because_it_is_kept() -> None:
    endpoint = Endpoint(is_server=True)
    endpoint.feed(hello(note="x" * 2**14).encode()[:20])
    assert "the limit is 16384" in endpoint.violation()
    away = endpoint.take_frames()[-1]
    assert read_go_away(away.body)[0] == Code.RESOURCE_EXHAUSTED
    assert endpoint.protocol.partial is None
    assert endpoint.protocol.peer_hello == {}


def test_a_second_hello_is_a_violation() -> None:
    endpoint = make(is_server=False)
    endpoint.receive(hello())
    assert endpoint.violation() == "a second Hello"


def test_frames_after_the_hello_in_one_chunk_use_its_limits() -> None:
    endpoint = Endpoint(is_server=True)
    endpoint.receive(hello(stream_window=300_000), open_frame(1), open_frame(3, 0))
    for stream in endpoint.protocol.streams.values():
        assert stream.send_window == 300_000


def test_a_violation_ends_the_connection_and_nothing_more_is_read() -> None:
    endpoint = make(is_server=True)
    endpoint.receive(open_frame(1), open_frame(1), open_frame(3))
    assert [event[0] for event in endpoint.events] == [OPEN]
    assert isinstance(endpoint.protocol.error, RemoteProtocolError)
    assert endpoint.protocol.state is State.CLOSING
    (goaway,) = endpoint.take_frames()
    assert (goaway.kind, goaway.stream_id) == (GOAWAY, 1)
    assert unpack(goaway.body) == [Code.INTERNAL, "Open of stream 1 after 1"]
    assert endpoint.receive(open_frame(5), Frame(PING, 0, 0, b"", b"12345678")) == []
    assert endpoint.take_frames() == []


def test_a_frame_over_max_frame_is_refused_before_its_body_arrives() -> None:
    endpoint = make(is_server=True, limits=SMALL)
    header = Frame(OPEN, WHOLE, 1, b"", b"x" * (16 * KIB + 1)).encode()[:12]
    assert endpoint.feed(header) == []
    assert endpoint.violation() == "a frame of 16385 bytes; max_frame is 16384"
    assert endpoint.protocol.partial is None
    (goaway,) = endpoint.take_frames()
    assert unpack(goaway.body) == [Code.RESOURCE_EXHAUSTED, endpoint.violation()]


def test_a_length_of_four_gigabytes_is_refused_at_once() -> None:
    endpoint = make(is_server=True)
    endpoint.feed(b"\xff\xff\xff\xff\1\5\0\0\0\1\0\0")
    assert "a frame of 4294967295 bytes" in endpoint.violation()


def test_meta_longer_than_its_frame_is_a_violation() -> None:
    endpoint = make(is_server=True)
    endpoint.feed(b"\0\0\0\1\1\5\0\0\0\1\0\2xx")
    assert endpoint.violation() == "meta of 2 bytes in a frame of 1"


def test_a_unary_call_is_two_frames() -> None:
    client, server = make(is_server=False), make(is_server=True)
    asked = client.open(WHOLE, b"\x92\1\2")
    ((kind, stream, flags, meta, body, held),) = server.feed(client.take_bytes())
    assert (kind, flags, meta, body, held) == (OPEN, WHOLE, META, b"\x92\1\2", 0)
    assert stream is not None
    assert stream.state == REMOTE_END
    assert server.protocol.send_data(stream, WHOLE, b"", b"\3")
    (event,) = client.feed(server.take_bytes())
    assert event == (DATA, asked, WHOLE, b"", b"\3", 0)
    assert not client.protocol.streams
    assert not server.protocol.streams


@pytest.mark.parametrize("stream_id", [0, 2, 3, 2**31 + 1])
def test_an_open_out_of_order_is_a_violation(stream_id: int) -> None:
    endpoint = make(is_server=True)
    endpoint.receive(open_frame(5))
    endpoint.receive(open_frame(stream_id, 0))
    assert endpoint.violation() == f"Open of stream {stream_id} after 5"


def test_a_client_takes_no_open() -> None:
    endpoint = make(is_server=False)
    endpoint.receive(open_frame(1))
    assert endpoint.violation() == "Open of stream 1 after 0"


@pytest.mark.parametrize("stream_id", [0, 2, 3, 2**31 + 1])
def test_data_on_a_stream_that_was_never_opened_is_a_violation(stream_id: int) -> None:
    for endpoint in both_sides():
        endpoint.receive(data(stream_id, b"x"))
        assert endpoint.violation() == f"Data on stream {stream_id}, which was never opened"


def test_opens_over_max_streams_are_reset_unserved_and_the_connection_lives() -> None:
    endpoint = make(is_server=True, limits=SMALL)
    events = endpoint.receive(*(open_frame(n, flags) for n in (1, 3, 5, 7, 9) for flags in [WHOLE]))
    assert len(events) == SMALL.max_streams
    (reset,) = endpoint.take_frames()
    assert reset[:3] == (RESET, UNSERVED, 9)
    code, _, details = read_reset(reset.body)
    assert (code, details) == (Code.RESOURCE_EXHAUSTED, {"limit": "max_streams"})
    assert endpoint.receive(data(9, b"late")) == []
    assert endpoint.protocol.error is None


def test_opens_after_a_final_go_away_are_neither_served_nor_answered() -> None:
    endpoint = make(is_server=True)
    endpoint.receive(open_frame(1))
    endpoint.protocol.go_away(1, Code.OK, "bye")
    (goaway,) = endpoint.take_frames()
    assert (goaway.stream_id, unpack(goaway.body)) == (1, [0, "bye"])
    assert endpoint.receive(open_frame(3), data(3, b"x"), open_frame(5, 0)) == []
    assert endpoint.protocol.error is None


def test_a_draining_side_keeps_serving() -> None:
    endpoint = make(is_server=True)
    endpoint.protocol.go_away(MAX_STREAM_ID)
    assert [event[0] for event in endpoint.receive(open_frame(1))] == [OPEN]


def test_a_go_away_of_the_peer_is_an_event_with_its_last_stream() -> None:
    endpoint = make(is_server=False)
    body = pack([0, "draining"])
    (event,) = endpoint.receive(Frame(GOAWAY, 0, 11, b"", body))
    assert event == (GOAWAY, None, 11, b"", body, 0)


def test_a_ping_is_answered_with_its_bytes_and_an_answer_is_an_event() -> None:
    for endpoint in both_sides():
        (event,) = endpoint.receive(Frame(PING, 0, 0, b"", b"12345678"))
        assert event == (PING, None, 0, b"", b"12345678", 0)
        assert endpoint.take_frames() == [Frame(PING, ACK, 0, b"", b"12345678")]
        (event,) = endpoint.receive(Frame(PING, ACK, 0, b"", b"abcdefgh"))
        assert event == (PING, None, ACK, b"", b"abcdefgh", 0)
        endpoint.protocol.ping(b"abcdefgh")
        assert endpoint.take_frames() == [Frame(PING, 0, 0, b"", b"abcdefgh")]


def test_a_ping_of_another_length_is_a_violation() -> None:
    for endpoint in both_sides():
        endpoint.receive(Frame(PING, 0, 0, b"", b"1234567"))
        assert endpoint.violation() == "a Ping has 8 bytes, got 7"


def test_load_reports_and_requests_are_passed_on_unchanged() -> None:
    for endpoint in both_sides():
        for body in (b"", b"anything"):
            (event,) = endpoint.receive(Frame(LOAD, 0, 0, b"", body))
            assert event == (LOAD, None, 0, b"", body, 0)
        woken: list[int] = []
        endpoint.protocol._wake = partial(woken.append, 1)
        endpoint.protocol.send_load(Frame(LOAD, 0, 0, b"", b"report").encode())
        assert endpoint.take_frames() == [Frame(LOAD, 0, 0, b"", b"report")]
        assert woken == [1]


@pytest.mark.parametrize("flags", [0, MESSAGE, END])
def test_a_client_may_say_that_it_reads_nothing_more_before_and_after_its_end(flags: int) -> None:
    server = make(is_server=True)
    server.receive(open_frame(1, flags, b""))
    (stream,) = server.protocol.streams.values()
    before = (server.protocol.recv_window, server.protocol.consumed, stream.used, stream.state)
    done = Frame(DONE, 255, 1, b"meta", b"body")
    assert server.receive(done, done) == [(DONE, stream, 0, b"", b"", 0)] * 2
    after = (server.protocol.recv_window, server.protocol.consumed, stream.used, stream.state)
    assert after == before
    if not flags & END:
        server.receive(data(1, b"x"))
    assert server.protocol.error is None


def test_a_done_comes_between_the_parts_of_the_first_message() -> None:
    server = make(is_server=True)
    done = Frame(DONE, 0, 1)
    events = server.receive(open_frame(1, MESSAGE | MORE, b"a"), done, data(1, b"b", WHOLE))
    assert [(event[0], event[4]) for event in events] == [(DONE, b""), (OPEN, b"ab")]


def test_a_done_of_a_server_or_of_a_stream_that_does_not_exist_is_ignored() -> None:
    for endpoint in both_sides():
        unknown = [Frame(DONE, 0, stream_id) for stream_id in (0, 2, 77, 2**32 - 1)]
        assert endpoint.receive(*unknown) == []
        assert endpoint.protocol.error is None
    client = make(is_server=False)
    client.open(MESSAGE)
    assert client.receive(Frame(DONE, 0, 1)) == []
    assert client.protocol.error is None


def test_kinds_and_flags_that_we_do_not_know_are_ignored() -> None:
    for endpoint in both_sides():
        unknown = [Frame(kind, 255, kind, b"meta", b"body") for kind in range(len(KIND_NAMES), 256)]
        events = endpoint.receive(*unknown)
        assert {event[0] for event in events} == {IDLE}  # only their number is told
        assert len(events) == len(unknown) // IDLE_FRAMES
        (event,) = endpoint.receive(data(1, b"x", MESSAGE | 64))
        assert event[4] == b"x"
        assert endpoint.protocol.error is None


@pytest.mark.parametrize("body", [b"", b"\0\0\0\0", b"\0\0\1", b"\x80\0\0\0", b"\0\0\0\0\1"])
@pytest.mark.parametrize("stream_id", [0, 1, 99])
def test_a_malformed_credit_is_a_violation(body: bytes, stream_id: int) -> None:
    for endpoint in both_sides():
        endpoint.receive(Frame(CREDIT, 0, stream_id, b"", body))
        assert endpoint.violation().startswith("a Credit has 4 bytes, 1 to 2147483647, got")


@pytest.mark.parametrize("stream_id", [0, 1])
def test_credit_past_the_largest_window_is_a_violation(stream_id: int) -> None:
    for endpoint in both_sides():
        endpoint.receive(Frame(CREDIT, 0, stream_id, b"", b"\x7f\xff\xff\xff"))
        assert endpoint.violation().startswith(f"credit of stream {stream_id} grew to 21")


def test_credit_for_a_stream_that_has_ended_is_ignored() -> None:
    for endpoint in both_sides():
        assert endpoint.receive(Frame(CREDIT, 0, 77, b"", b"\0\0\0\1")) == []
        assert endpoint.protocol.error is None


def fill(endpoint: Endpoint, stream_id: int, size: int) -> None:
    """Send `size` bytes of Data, headers included, that are not read."""
    while size:
        cost = min(size, 16 * KIB)
        endpoint.receive(data(stream_id, b"x" * (cost - 12)))
        size -= cost


def test_data_over_the_credit_of_its_stream_is_a_violation() -> None:
    for endpoint in both_sides():
        used = endpoint.protocol.streams[1].used
        fill(endpoint, 1, SMALL.stream_window - used)
        assert endpoint.protocol.error is None
        endpoint.receive(data(1, b""))
        assert endpoint.violation() == "stream 1: credit exceeded by 12 bytes"


def test_data_over_the_credit_of_the_connection_is_a_violation() -> None:
    limits = Limits(stream_window=64 * KIB, connection_window=64 * KIB)
    server = make(is_server=True, limits=limits)
    server.receive(open_frame(1, 0, b""), open_frame(3, 0, b""))
    fill(server, 1, 40 * KIB)
    while server.protocol.recv_window:  # what the Opens cost is given back on the way
        fill(server, 3, server.protocol.recv_window)
    assert server.protocol.error is None
    server.receive(data(3, b""))
    assert server.violation() == "the connection's credit is exceeded by 12 bytes"


def test_an_open_over_the_credit_of_a_stream_is_a_violation() -> None:
    server = make(is_server=True, limits=Limits(stream_window=64 * KIB))
    server.receive(open_frame(1, WHOLE, b"x" * 64 * KIB))
    assert "stream 1: an Open of" in server.violation()


def test_a_message_in_parts_arrives_whole() -> None:
    for endpoint in both_sides():
        endpoint.receive(Frame(DATA, MESSAGE | MORE, 1, b"meta", b"one"))
        assert endpoint.receive(data(1, b" two", MESSAGE | MORE), data(1, b"", MORE)) == []
        (event,) = endpoint.receive(Frame(DATA, WHOLE, 1, b"ignored", b"x" * 2000))
        assert event[2:5] == (WHOLE, b"meta", b"one two" + b"x" * 2000)


def test_an_open_in_parts_is_an_event_when_it_is_whole() -> None:
    server = make(is_server=True)
    assert server.receive(open_frame(1, MESSAGE | MORE, b"x" * 5000), open_frame(3)) != []
    (event,) = server.receive(data(1, b"y" * 5000, WHOLE))
    assert event[0] == OPEN
    assert event[2:] == (WHOLE, META, b"x" * 5000 + b"y" * 5000, 0)


def test_a_million_tiny_parts_are_not_a_million_objects() -> None:
    server = make(is_server=True)
    server.receive(open_frame(1, MESSAGE | MORE, b""))
    for _ in range(100):
        server.receive(*[data(1, b"x", MESSAGE | MORE)] * 100, *[data(1, b"", MORE)] * 100)
    assert len(server.protocol.streams[1].parts or ()) == 1
    (event,) = server.receive(data(1, b"", WHOLE))
    assert event[4] == b"x" * 10_000


def test_a_message_that_breaks_off_is_a_violation() -> None:
    for endpoint in both_sides():
        endpoint.receive(data(1, b"one", MESSAGE | MORE), data(1, b"", END))
        assert endpoint.violation() == "stream 1: a message broke off"


def test_a_message_over_max_message_resets_its_call_only() -> None:
    limits = Limits(max_message=10 * KIB, max_frame=16 * KIB)
    for parts in ([11 * KIB], [6 * KIB, 6 * KIB]):
        server = make(is_server=True, limits=limits)
        server.receive(open_frame(1, 0, b""), open_frame(3, 0, b""))
        flags = [MESSAGE | MORE] * (len(parts) - 1) + [MESSAGE]
        events = server.receive(*(data(1, b"x" * n, f) for n, f in zip(parts, flags, strict=True)))
        ((kind, stream, flag, _, body, _),) = events
        assert (kind, flag) == (RESET, REFUSED)
        assert stream is not None
        assert stream.id == 1
        (frame,) = server.take_frames()
        assert frame[:3] == (RESET, 0, 1)
        assert read_reset(bytes(body)) == read_reset(frame.body)
        assert read_reset(frame.body)[2] == {"limit": "max_message"}
        assert server.receive(data(1, b"late")) == []
        assert [event[0] for event in server.receive(data(3, b"x"))] == [DATA]


def test_unfinished_messages_of_all_streams_together_are_limited() -> None:
    limits = SMALL.replace(max_message=8 * KIB, max_unfinished=20 * KIB)
    endpoint = make(is_server=True, limits=limits)
    endpoint.receive(open_frame(1, 0, b""), open_frame(3, 0, b""), open_frame(5, 0, b""))
    part = b"x" * 7 * KIB
    endpoint.receive(data(1, part, MESSAGE | MORE), data(3, part, MESSAGE | MORE))
    events = endpoint.receive(data(5, part, MESSAGE | MORE), data(1, b"end"))
    assert [(event[0], event[1].id) for event in events if event[1]] == [(RESET, 5), (DATA, 1)]
    code, message, details = read_reset(bytes(events[0][4]))
    assert (code, details) == (Code.RESOURCE_EXHAUSTED, {"limit": "max_unfinished"})
    assert message == "21504 bytes of unfinished messages on one connection; the limit is 20480"
    assert endpoint.protocol.unfinished == len(part)
    endpoint.receive(Frame(RESET, 0, 3, b"", pack([1, "", {}])))
    assert endpoint.protocol.unfinished == 0


def test_requests_of_open_calls_together_are_limited() -> None:
    limits = SMALL.replace(max_message=20 * KIB, max_requests=40 * KIB, max_frame=64 * KIB)
    endpoint = make(is_server=True, limits=limits)
    part = b"x" * 9 * KIB
    endpoint.receive(open_frame(1, WHOLE, b"x" * 19 * KIB))
    endpoint.receive(open_frame(3, MESSAGE | MORE, part), data(3, part + part[:KIB], WHOLE))
    assert [endpoint.protocol.streams[n].request_size // KIB for n in (1, 3)] == [19, 19]
    events = endpoint.receive(open_frame(5, WHOLE, b"x" * 17 * KIB), open_frame(7))
    assert [event[1].id for event in events if event[1]] == [7]
    (reset,) = endpoint.take_frames()[-1:]
    assert (reset.kind, reset.flags, reset.stream_id) == (RESET, UNSERVED, 5)
    code, message, details = read_reset(reset.body)
    assert (code, details) == (Code.RESOURCE_EXHAUSTED, {"limit": "max_requests"})
    assert message.endswith("the limit is 40960")
    endpoint.protocol.send_data(endpoint.protocol.streams[1], WHOLE, b"", b"answer")
    (event,) = endpoint.receive(open_frame(9, WHOLE, b"x" * 17 * KIB))
    assert event[0] == OPEN
    assert endpoint.protocol.error is None


def test_a_part_does_not_keep_a_much_larger_chunk_alive() -> None:
    endpoint = make(is_server=True)
    part = Frame(OPEN, MESSAGE | MORE, 1, META, b"x" * 8 * KIB).encode()
    endpoint.feed(part + Frame(77, 0, 0, b"", b"j" * 40 * KIB).encode())
    parts = endpoint.protocol.streams[1].parts
    assert parts is not None
    assert [type(part) for part in parts] == [bytes]


def test_an_open_over_max_message_is_reset_unserved_and_not_reported() -> None:
    limits = Limits(max_message=10 * KIB, max_frame=16 * KIB)
    for frames in (
        [open_frame(1, WHOLE, b"x" * 11 * KIB)],
        [open_frame(1, MESSAGE | MORE, b"x" * 6 * KIB), data(1, b"x" * 6 * KIB, WHOLE)],
    ):
        server = make(is_server=True, limits=limits)
        assert server.receive(*frames) == []
        (reset,) = server.take_frames()
        assert reset[:3] == (RESET, UNSERVED, 1)
        assert not server.protocol.streams


def test_a_reset_before_the_open_is_complete_is_not_reported() -> None:
    server = make(is_server=True)
    reset = Frame(RESET, 0, 1, b"", pack([1, "", {}]))
    assert server.receive(open_frame(1, MESSAGE | MORE), reset, data(1, b"late")) == []
    assert not server.protocol.streams


def test_a_reset_drops_a_partial_message() -> None:
    for endpoint in both_sides():
        body = pack([1, "", {}])
        events = endpoint.receive(data(1, b"x", MESSAGE | MORE), Frame(RESET, 255, 1, b"", body))
        assert [event[0] for event in events] == [RESET]
        assert events[0][2] == UNSERVED
        assert events[0][4] == body
        assert events[0][1].parts is None  # type: ignore[union-attr]


def test_small_bodies_are_copies_and_large_ones_views_of_their_chunk() -> None:
    server = make(is_server=True)
    small, large = open_frame(1, WHOLE, b"x" * 4000), open_frame(3, WHOLE, b"x" * 4096)
    bodies = [event[4] for event in server.receive(small, large)]
    assert [type(body) for body in bodies] == [bytes, memoryview]


def test_a_body_does_not_keep_a_much_larger_chunk_alive() -> None:
    server = make(is_server=True)
    events = server.receive(open_frame(1, WHOLE, b"x" * 5000), open_frame(3, WHOLE, b"x" * 90_000))
    assert [type(event[4]) for event in events] == [bytes, memoryview]


def test_the_first_of_two_violations_in_a_chunk_is_reported() -> None:
    limits = Limits(stream_window=64 * KIB, connection_window=64 * KIB)
    server = make(is_server=True, limits=limits)
    server.receive(open_frame(1, 0, b""), open_frame(3, 0, b""))
    fill(server, 1, 60 * KIB)
    server.receive(data(3, b"x" * 10 * KIB), data(99, b""))
    assert server.violation() == "Data on stream 99, which was never opened"
    assert kinds(server.take_frames()) == [GOAWAY]


# One turn takes no more than its share of a chunk; the rest waits for the next.


def turns_of(endpoint: Endpoint, data: bytes) -> list[int]:
    """Return how many events each turn had."""
    counts = [len(endpoint.protocol.receive_data(data))]
    while endpoint.protocol.more:
        counts.append(len(endpoint.protocol.receive_data(b"")))
    return counts


def test_calls_that_are_opened_at_once_are_spread_over_turns() -> None:
    endpoint = make(is_server=True)
    calls = b"".join(open_frame(n).encode() for n in range(1, 601, 2))
    assert turns_of(endpoint, calls) == [64, 64, 64, 64, 44]
    assert len(endpoint.protocol.streams) == 300


def test_so_are_channels_and_calls_that_are_refused() -> None:
    endpoint = make(is_server=True, limits=Limits(max_streams=100))
    calls = b"".join(open_frame(n, 0, b"").encode() for n in range(1, 401, 2))
    assert turns_of(endpoint, calls) == [64, 36, 0, 0]
    assert len(endpoint.take_frames()) == 100


def test_a_call_opened_and_cancelled_in_one_chunk_is_not_reported() -> None:
    endpoint = make(is_server=True)
    cancels = [Frame(RESET, 0, n, b"", pack([1, "", {}])) for n in (1, 3, 5)]
    events = endpoint.receive(open_frame(1), cancels[0], open_frame(3), open_frame(5), *cancels[1:])
    assert [event[0] for event in events] == [RESET, OPEN, OPEN, RESET, RESET]
    assert not endpoint.protocol.streams


def test_a_client_that_repeats_done_takes_no_more_of_a_turn_than_other_control_frames() -> None:
    endpoint = make(is_server=True)
    endpoint.receive(open_frame(1, MESSAGE))
    counts = [len(endpoint.protocol.receive_data(Frame(DONE, 0, 1).encode() * 60))]
    while endpoint.protocol.more:
        counts.append(len(endpoint.protocol.receive_data(b"")))
    assert counts == [33, 28]  # 32 of Done are told as one event more
    assert endpoint.take_frames()[1:] == []


def test_control_frames_are_spread_over_turns() -> None:
    endpoint = make(is_server=True)
    endpoint.take_frames()
    ping = Frame(PING, 0, 0, b"", b"12345678").encode()
    answers = []
    endpoint.protocol.receive_data(ping * 60)
    while endpoint.protocol.more:
        answers.append(len(endpoint.take_frames()))
        endpoint.protocol.receive_data(b"")
    assert answers == [32]
    assert len(endpoint.take_frames()) == 28


def test_messages_are_spread_over_turns() -> None:
    endpoint = make(is_server=True)
    endpoint.receive(open_frame(1, MESSAGE))
    message = Frame(DATA, MESSAGE, 1, b"", b"\x01").encode()
    assert turns_of(endpoint, message * 1200) == [512, 512, 176]


@pytest.mark.parametrize("flags", [0, MESSAGE | MORE], ids=["nothing", "an empty part"])
def test_data_without_content_is_spread_over_turns_and_counted(flags: int) -> None:
    endpoint = make(is_server=True)
    endpoint.receive(open_frame(1, MESSAGE))
    events, turns = [], 0
    events += endpoint.protocol.receive_data(Frame(DATA, flags, 1).encode() * 640)
    while endpoint.protocol.more:
        turns += 1
        events += endpoint.protocol.receive_data(b"")
    assert turns == 2  # after the first
    assert [event[0] for event in events].count(IDLE) == 640 / IDLE_FRAMES


def test_late_data_is_spread_over_turns() -> None:
    endpoint = make(is_server=True)
    endpoint.receive(open_frame(1, MESSAGE), Frame(RESET, 0, 1, b"", pack([1, "", {}])))
    late = Frame(DATA, MESSAGE, 1, b"", b"\x01").encode()
    assert len(turns_of(endpoint, late * 600)) == 3


def test_calls_with_long_headers_are_spread_over_turns() -> None:
    endpoint = make(is_server=True)
    calls = b"".join(Frame(OPEN, WHOLE, n, bytes(32 * KIB)).encode() for n in range(1, 11, 2))
    assert turns_of(endpoint, calls) == [1, 1, 1, 1, 1]
    calls = b"".join(Frame(OPEN, WHOLE, n, bytes(KIB)).encode() for n in range(11, 111, 2))
    assert turns_of(endpoint, calls) == [22, 22, 6]


def test_bytes_that_arrive_between_turns_follow_those_that_wait() -> None:
    endpoint = make(is_server=True)
    frames = [open_frame(n).encode() for n in range(1, 601, 2)]
    receive = endpoint.protocol.receive_data
    events = receive(b"".join(frames[:250]) + frames[250][:7])
    assert endpoint.protocol.more
    events += receive(frames[250][7:] + b"".join(frames[251:]))
    while endpoint.protocol.more:
        events += receive(b"")
    assert [event[1].id for event in events if event[1]] == list(range(1, 601, 2))
    assert endpoint.protocol.partial is None
    assert endpoint.protocol.recv_window + endpoint.protocol.consumed == 8 * 1024 * KIB


def test_a_client_that_keeps_opening_calls_after_a_final_go_away_is_cut() -> None:
    endpoint = make(is_server=True)
    endpoint.protocol.go_away(0)
    for n in range(1, 2001, 2):
        endpoint.receive(open_frame(n))
    assert endpoint.protocol.error is None
    endpoint.receive(open_frame(2001))
    assert endpoint.violation() == "1001 calls were opened after GoAway"
