"""The sending half: direct or queued, in fragments, in order, within every limit."""

from functools import partial

import pytest

from rap.errors import Code, LocalProtocolError, ResourceExhausted
from rap.wire.frames import (
    CREDIT,
    DATA,
    DONE,
    END,
    HEADER_SIZE,
    MESSAGE,
    MORE,
    OPEN,
    RESET,
    Frame,
    credit_frame,
    parse_frames,
)
from rap.wire.hello import Limits
from rap.wire.sender import BULK
from rap.wire.stream import StreamState, is_unsent
from tests.wire.endpoints import KIB, META, SMALL, WHOLE, Endpoint, data, hello, make, open_frame

BIG = b"x" * 20 * KIB


def grant(endpoint: Endpoint, stream_id: int, count: int) -> None:
    endpoint.receive(parse_frames(credit_frame(stream_id, count))[0])


def client_of(limits: Limits = SMALL) -> Endpoint:
    """Return a client that sends frames of 4 KiB to a server with `limits`."""
    return make(is_server=False, limits=SMALL, told=limits)


def sent(endpoint: Endpoint, budget: int = 1 << 30) -> list[tuple[int, int, int, int]]:
    """Pump; return kind, stream, flags and size of body of the frames."""
    endpoint.protocol.send_pending(budget)
    return [(f.kind, f.stream_id, f.flags, len(f.body)) for f in endpoint.take_frames()]


def test_stream_ids_are_odd_and_grow() -> None:
    client = client_of()
    assert [client.open().id for _ in range(4)] == [1, 3, 5, 7]


def test_a_message_larger_than_a_frame_goes_in_fragments() -> None:
    client = client_of()
    client.open(WHOLE | 8, b"x" * 9000)
    more = MESSAGE | MORE | 8
    first = 4096 - len(META)
    assert sent(client) == [
        (OPEN, 1, more, first),
        (DATA, 1, more, 4096),
        (DATA, 1, WHOLE | 8, 9000 - first - 4096),
    ]
    assert not client.protocol.pending


def test_an_open_that_waits_is_not_overtaken_by_a_later_one() -> None:
    client = client_of()
    client.open(WHOLE, BIG)
    client.open(WHOLE, b"small")
    client.protocol.open_unary(StreamState(0, 0, 0), META, b"small")
    frames = sent(client)
    opens = [stream_id for kind, stream_id, _, _ in frames if kind == OPEN]
    assert opens == [1, 3, 5]
    client.open(WHOLE, b"small")
    assert [(frame.kind, frame.stream_id) for frame in client.take_frames()] == [(OPEN, 7)]


def test_a_cancelled_open_that_was_never_sent_does_not_block_others() -> None:
    client = client_of()
    stream = client.open(WHOLE, BIG)
    assert is_unsent(stream)
    client.protocol.reset_stream(stream, Code.CANCELLED)
    client.open(WHOLE, b"small")
    assert sent(client) == [(OPEN, 3, WHOLE, 5)]


def test_a_reset_between_fragments_is_sent_to_the_peer() -> None:
    client = client_of()
    stream = client.open(WHOLE, BIG)
    assert [frame[0] for frame in sent(client, 1)] == [OPEN]
    assert not is_unsent(stream)
    client.protocol.reset_stream(stream, Code.CANCELLED)
    assert [frame[:2] for frame in sent(client)] == [(RESET, 1)]
    assert not client.protocol.pending


def test_small_messages_pass_between_the_fragments_of_a_large_one() -> None:
    client = client_of()
    large, other = client.open(0), client.open(0)
    client.take_bytes()
    client.protocol.send_data(large, MESSAGE, b"", BIG)
    assert client.protocol.send_data(other, MESSAGE, b"", b"small")
    assert [frame[1] for frame in sent(client)] == [3, 1, 1, 1, 1, 1]


def test_large_messages_take_turns() -> None:
    client = client_of()
    streams = [client.open(0) for _ in range(3)]
    client.take_bytes()
    for stream in streams:
        client.protocol.send_data(stream, MESSAGE, b"", b"x" * 8000)
    assert [frame[1] for frame in sent(client)] == [1, 3, 5, 1, 3, 5]


def test_messages_of_one_stream_keep_their_order() -> None:
    client = client_of()
    stream = client.open(0)
    client.take_bytes()
    assert not client.protocol.send_data(stream, MESSAGE, b"", b"x" * 8000)
    assert not client.protocol.send_data(stream, MESSAGE, b"m", b"small")
    assert not client.protocol.send_data(stream, END, b"", b"")
    sizes = [(flags, size) for _, _, flags, size in sent(client)]
    assert sizes == [(MESSAGE | MORE, 4096), (MESSAGE, 3904), (MESSAGE, 5), (END, 0)]
    assert stream.outbox is None


def test_send_pending_keeps_to_its_budget_and_returns_finished_streams() -> None:
    client = client_of()
    stream = client.open(0)
    client.protocol.send_data(stream, MESSAGE, b"", b"x" * 8000)
    assert client.protocol.send_pending(1) == []
    assert client.protocol.pending
    assert client.protocol.send_pending(1) == [stream]


def test_nothing_is_sent_beyond_the_credit_of_the_stream() -> None:
    client = client_of()
    stream = client.open(0)
    client.protocol.send_data(stream, MESSAGE, b"", b"x" * 100_000)
    cost = sum(HEADER_SIZE + len(f.meta) + len(f.body) for f in pumped(client))
    assert SMALL.stream_window - 1036 < cost <= SMALL.stream_window
    assert not client.protocol.pending
    grant(client, 1, 40_000)
    assert client.protocol.pending
    assert pumped(client) != []
    assert stream.outbox is None


def pumped(endpoint: Endpoint) -> list[Frame]:
    endpoint.protocol.send_pending(1 << 30)
    return endpoint.take_frames()


def test_nothing_is_sent_beyond_the_credit_of_the_connection() -> None:
    client = client_of()
    streams = [client.open(0) for _ in range(3)]
    for stream in streams:
        client.protocol.send_data(stream, MESSAGE, b"", b"x" * 60_000)
    cost = sum(HEADER_SIZE + len(f.meta) + len(f.body) for f in pumped(client))
    assert SMALL.connection_window - 1036 < cost <= SMALL.connection_window
    assert client.protocol.pending
    assert not client.protocol.send_data(streams[0], MESSAGE, b"", b"y" * 2000)
    grant(client, 0, 100_000)
    assert sum(len(f.body) for f in pumped(client)) > 50_000


def test_a_small_message_also_waits_for_the_window_of_the_connection() -> None:
    client = client_of()
    client.protocol.send_window = 20
    stream = StreamState(0, 0, 0)
    client.protocol.open_unary(stream, META, b"body")
    assert client.take_frames() == []
    grant(client, 0, 1000)
    assert sent(client) == [(OPEN, 1, WHOLE, 4)]


def test_a_fragment_is_not_cut_shorter_than_a_kilobyte() -> None:
    client = client_of()
    stream = client.open(0)
    client.take_bytes()
    stream.send_window = 1035
    client.protocol.send_data(stream, MESSAGE, b"", b"x" * 5000)
    assert sent(client) == []
    grant(client, 1, 1)
    assert sent(client) == [(DATA, 1, MESSAGE | MORE, 1024)]


def test_a_waiting_call_continues_when_the_hello_has_larger_windows() -> None:
    client = Endpoint(is_server=False)
    stream = client.open(0)
    client.protocol.send_data(stream, MESSAGE, b"", b"x" * 100_000)
    client.protocol.send_pending(1 << 30)
    assert not client.protocol.pending
    client.take_bytes()
    client.receive(hello())
    assert sent(client) != []
    assert stream.outbox is None


def test_until_the_hello_frames_and_windows_are_small() -> None:
    client = Endpoint(is_server=False)
    stream = client.open(0)
    client.protocol.send_data(stream, MESSAGE, b"", b"x" * 100_000)
    client.take_bytes()
    frames = pumped(client)
    assert max(len(frame.body) for frame in frames) <= 16 * KIB
    assert sum(HEADER_SIZE + len(frame.body) for frame in frames) <= 64 * KIB


def test_a_server_answers_within_the_frames_of_its_client() -> None:
    server = make(is_server=True, told=Limits(max_frame=16 * KIB))
    server.receive(open_frame(1))
    server.protocol.send_response(server.protocol.streams[1], b"x" * 30_000)
    assert max(len(frame.body) for frame in pumped(server)) <= 16 * KIB


def test_a_response_on_the_fast_path_is_one_frame_and_ends_the_stream() -> None:
    server = make(is_server=True)
    server.receive(open_frame(1))
    stream = server.protocol.streams[1]
    server.protocol.send_response(stream, b"\1")
    server.protocol.send_response(stream, b"\1")
    assert server.take_frames() == [data(1, b"\1", WHOLE)]
    assert not server.protocol.streams


def test_the_peer_limits_the_number_of_calls() -> None:
    client = client_of()
    for _ in range(SMALL.max_streams):
        client.open()
    with pytest.raises(ResourceExhausted, match="has 4 calls open; the server allows 4") as caught:
        client.protocol.open_unary(StreamState(0, 0, 0), META, b"")
    assert caught.value.unserved
    assert client.protocol.next_id == 9


def test_stream_ids_run_out_with_a_clear_error() -> None:
    client = client_of()
    client.protocol.next_id = 2**31 - 1
    assert client.open().id == 2**31 - 1
    with pytest.raises(ResourceExhausted, match="has used up its stream ids"):
        client.open()


def test_a_message_over_the_peers_max_message_is_refused_here_and_changes_nothing() -> None:
    client = client_of(Limits(max_message=10 * KIB))
    with pytest.raises(ResourceExhausted, match="10241 bytes; the receiver's max_message is 10240"):
        client.open(WHOLE, b"x" * (10 * KIB + 1))
    stream = client.open(0)
    with pytest.raises(ResourceExhausted, match="10241 bytes"):
        client.protocol.send_data(stream, MESSAGE, b"", b"x" * (10 * KIB + 1))
    assert stream.id == 1
    assert client.protocol.send_data(stream, MESSAGE, b"", b"x" * 1000)
    assert len(client.protocol.streams) == 1


@pytest.mark.parametrize(
    "told", [SMALL, Limits(), Limits(stream_window=2**30, connection_window=2**30)]
)
def test_the_longest_header_arrives_and_a_longer_one_is_refused(told: Limits) -> None:
    client, server = client_of(told), make(is_server=True, limits=told)
    most = min(65535, told.max_frame, told.stream_window // 4) - 1036
    with pytest.raises(
        ResourceExhausted, match=f"header has {most + 1} bytes; the limit is {most}"
    ):
        client.open(WHOLE, b"", b"m" * (most + 1))
    client.open(WHOLE, b"x" * 5000, b"m" * most)
    client.protocol.send_pending(1 << 30)
    (event,) = server.feed(client.take_bytes())
    assert (len(event[3]), len(event[4])) == (most, 5000)


def test_a_paused_sender_queues_messages_and_sends_other_frames() -> None:
    client = client_of()
    first = client.open(0)
    client.take_bytes()
    client.protocol.pause()
    client.protocol.open_unary(second := StreamState(0, 0, 0), META, b"x")
    assert not client.protocol.send_data(first, MESSAGE, b"", b"y")
    client.protocol.ping(b"12345678")
    assert [frame.kind for frame in client.take_frames()] == [4]
    assert is_unsent(second)
    client.protocol.resume()
    client.open(WHOLE, b"z")
    assert [frame[:2] for frame in sent(client)] == [(OPEN, 3), (DATA, 1), (OPEN, 5)]
    assert client.protocol.send_data(first, MESSAGE, b"", b"y")


def test_a_paused_server_queues_its_responses() -> None:
    server = make(is_server=True)
    server.receive(open_frame(1))
    server.protocol.pause()
    server.protocol.send_response(server.protocol.streams[1], b"\1")
    assert server.take_frames() == []
    server.protocol.resume()
    assert sent(server) == [(DATA, 1, WHOLE, 1)]
    assert not server.protocol.streams


def test_only_large_frames_are_marked_as_not_to_be_joined() -> None:
    client = make(is_server=False)
    stream = client.open(0)
    client.protocol.send_data(stream, MESSAGE, b"", b"x" * 30_000)
    assert not client.protocol.bulk
    client.protocol.send_data(stream, MESSAGE, b"", b"x" * 40_000)
    assert client.protocol.bulk


def test_a_reset_is_cut_to_the_max_frame_of_the_peer() -> None:
    server = make(is_server=True, told=Limits(max_frame=16 * KIB))
    server.receive(open_frame(1))
    server.protocol.reset_stream(
        server.protocol.streams[1], Code.UNKNOWN, "text", {"traceback": "x" * 20_000}
    )
    (frame,) = server.take_frames()
    assert len(frame.body) < 16 * KIB


def test_credit_for_a_stream_that_waits_twice_counts_once() -> None:
    client = client_of()
    stream = client.open(0)
    client.protocol.send_data(stream, MESSAGE, b"", BIG)
    grant(client, 1, 100)
    grant(client, 1, 100)
    assert sum(size for kind, _, _, size in sent(client) if kind == DATA) == len(BIG)
    assert not client.protocol.pending


def test_an_end_was_sent_error_names_the_stream() -> None:
    client = client_of()
    stream = client.open(WHOLE)
    with pytest.raises(LocalProtocolError, match="stream 1: END was sent already"):
        client.protocol.send_data(stream, END, b"", b"")
    assert CREDIT not in [frame.kind for frame in client.take_frames()]


def test_data_also_waits_for_the_window_of_the_connection() -> None:
    client = client_of()
    stream = client.open(0)
    client.take_bytes()
    client.protocol.send_window = 12
    assert not client.protocol.send_data(stream, MESSAGE, b"", b"body")
    grant(client, 0, 4)
    assert sent(client) == [(DATA, 1, MESSAGE, 4)]


def test_queued_frames_wake_the_transport_and_a_full_turn_is_flushed_at_once() -> None:
    client = make(is_server=False)
    calls: list[str] = []

    def flush() -> None:
        calls.append("flush")
        client.take_bytes()

    client.protocol._wake = lambda: calls.append("wake")
    client.protocol._flush = flush
    stream = client.open(0)
    for _ in range(30):
        client.protocol.send_data(stream, MESSAGE, b"", b"x")
    assert calls == ["flush", "wake", "flush", "wake"]  # the first at once, for it is alone
    client.take_bytes()
    calls.clear()
    for _ in range(16):
        client.protocol.open_unary(StreamState(0, 0, 0), META, b"x")
    assert calls == ["wake", "flush"]


def test_a_done_follows_its_open_and_overtakes_messages_without_credit() -> None:
    client = client_of()
    first, second = client.open(0), client.open(0)
    client.protocol.send_data(first, MESSAGE, b"", b"x" * 100 * KIB)
    client.protocol.send_data(first, END, b"", b"")
    sent(client)
    left = client.protocol.send_window
    client.protocol.send_done(first)
    client.protocol.send_data(second, END, b"", b"")
    client.protocol.send_done(second)
    frames = [(kind, stream_id) for kind, stream_id, _, _ in sent(client)]
    assert frames == [(DONE, 1), (DATA, 3), (DONE, 3)]
    assert client.protocol.send_window == left - HEADER_SIZE


def test_a_done_waits_for_an_open_that_waits() -> None:
    client = client_of()
    client.protocol.pause()
    for body in (b"", b"x" * 9000):
        stream = client.open(MESSAGE, body)
        client.protocol.send_done(stream)
        client.protocol.send_done(stream)
    assert client.take_frames() == []
    client.protocol.resume()
    kinds = [(kind, stream_id) for kind, stream_id, _, _ in sent(client)]
    assert kinds == [(OPEN, 1), (DONE, 1), (OPEN, 3), (DONE, 3), (DATA, 3), (DATA, 3)]


def test_a_done_wakes_the_transport() -> None:
    client = client_of()
    stream = client.open(0)
    client.take_frames()
    woken: list[int] = []
    client.protocol._wake = partial(woken.append, 1)
    client.protocol.send_done(stream)
    assert woken == [1]


def test_a_done_is_not_sent_when_the_server_has_ended() -> None:
    client = client_of()
    ended, failed = client.open(0), client.open(0)
    client.receive(data(ended.id, b"", END))
    client.protocol.reset_stream(failed, Code.CANCELLED)
    client.take_frames()
    client.protocol.send_done(ended)
    client.protocol.send_done(failed)
    assert client.take_frames() == []


def test_a_message_is_not_flushed_at_once_with_several_streams() -> None:
    server = make(is_server=True)
    calls: list[str] = []
    server.protocol._flush = lambda: calls.append("flush")
    server.protocol._wake = lambda: calls.append("wake")
    server.receive(open_frame(1, 0, b""), open_frame(3, 0, b""))
    for stream in list(server.protocol.streams.values()):
        server.protocol.send_data(stream, MESSAGE, b"", b"x")
    assert calls == ["wake"]


def test_many_answers_of_one_turn_are_written_at_once() -> None:
    server = make(is_server=True)
    calls: list[str] = []
    server.protocol._flush = lambda: calls.append("flush")
    server.receive(*(open_frame(n) for n in range(1, 51, 2)))
    for stream in list(server.protocol.streams.values())[:24]:
        server.protocol.send_response(stream, b"1")
    assert calls == ["flush"]


def test_only_the_first_large_messages_of_a_turn_are_sent_at_once() -> None:
    """Else all answers of a turn would be with the transport before it can say that it is full."""
    client = make(is_server=False)
    size = BULK // 3 - HEADER_SIZE
    streams = [client.open(0) for _ in range(5)]
    sent_at_once = [client.protocol.send_data(s, MESSAGE, b"", b"x" * size) for s in streams]
    assert sent_at_once == [True, True, True, False, False]
    assert client.protocol.send_data(client.open(0), MESSAGE, b"", b"small")


def test_a_small_message_has_its_header_and_may_have_no_body() -> None:
    client = client_of()
    stream = client.open(0)
    client.take_bytes()
    client.protocol.send_data(stream, MESSAGE, b"meta", b"body")
    client.protocol.send_data(stream, MESSAGE, b"", b"")
    assert client.take_frames() == [
        Frame(DATA, MESSAGE, 1, b"meta", b"body"),
        Frame(DATA, MESSAGE, 1, b"", b""),
    ]
