"""Large messages take turns: their receiver never holds more in parts than it has room for."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rap.errors import Code
from rap.wire.codec import pack
from rap.wire.frames import DATA, END, HELLO, MESSAGE, MORE, OPEN, Frame
from rap.wire.hello import Limits
from rap.wire.stream import StreamState
from tests.wire.conversation import Conversation
from tests.wire.endpoints import KIB, META, WHOLE, Endpoint, make, open_frame

# Room for one message of the largest size, and for 96 KiB each of three kinds of other messages.
ROOM = Limits(
    max_frame=16 * KIB,
    max_message=128 * KIB,
    max_unfinished=512 * KIB,
    max_streams=200,
    stream_window=64 * KIB,
    connection_window=8192 * KIB,
    fragment=4 * KIB,
)
FIRST = 1024  # bytes of the body in the Open of a request that waits


class Pair:
    """A client and a server with nothing between them."""

    def __init__(self, limits: Limits = ROOM) -> None:
        self.client = make(is_server=False, limits=limits, told=limits)
        self.server = make(is_server=True, limits=limits, told=limits)
        self.most = 0  # bytes that the server or the client held in parts

    def move(self, budget: int = 1 << 30) -> bool:
        """Let both sides send once; return whether something was on its way."""
        moved = False
        for sender, receiver in ((self.client, self.server), (self.server, self.client)):
            sender.protocol.send_pending(budget)
            data = sender.take_bytes()
            moved |= bool(data)
            receiver.feed(data)
            self.most = max(self.most, receiver.protocol.unfinished)
        return moved

    def settle(self, budget: int = 1 << 30) -> None:
        while self.move(budget):
            pass

    def answers(self, size: int, count: int) -> list[StreamState]:
        """Let the server answer `count` calls at once, with `size` bytes each."""
        for _ in range(count):
            self.client.open()
        self.settle()
        streams = list(self.server.protocol.streams.values())
        for stream in streams:
            self.server.protocol.send_response(stream, b"x" * size)
        return streams


def messages(endpoint: Endpoint) -> list[tuple[int, int]]:
    """Return id and size of the messages that have arrived, in order."""
    return [(e[1].id, len(e[4])) for e in endpoint.events if e[0] == DATA and e[1] is not None]


def opened(endpoint: Endpoint) -> list[int]:
    return [event[1].id for event in endpoint.events if event[0] == OPEN and event[1] is not None]


@pytest.mark.parametrize("size", [60 * KIB, 128 * KIB])
def test_all_large_answers_of_one_moment_arrive(size: int) -> None:
    pair = Pair()
    streams = pair.answers(size, 100)
    pair.settle(8 * KIB)
    assert messages(pair.client) == [(stream.id, size) for stream in streams]
    assert 0 < pair.most <= 512 * KIB


@pytest.mark.parametrize("size", [60 * KIB, 128 * KIB])
def test_all_large_requests_of_one_moment_arrive_in_the_order_of_their_calls(size: int) -> None:
    pair = Pair(ROOM.replace(max_requests=200 * 128 * KIB))
    streams = [pair.client.open(WHOLE, b"x" * size) for _ in range(100)]
    pair.settle(8 * KIB)
    assert opened(pair.server) == [stream.id for stream in streams]
    assert 0 < pair.most <= 512 * KIB


def test_messages_of_one_size_begin_in_order_and_are_sent_in_parts_side_by_side() -> None:
    pair = Pair()
    first, second, third = pair.answers(100 * KIB, 3)
    pair.server.protocol.send_pending(16 * KIB)
    frames = pair.server.take_frames()
    assert [each.stream_id for each in frames] == [first.id, second.id] * 2
    assert all(frame.flags == MESSAGE | MORE for frame in frames)
    assert third.outbox is not None
    pair.client.receive(*frames)
    pair.settle()
    assert messages(pair.client) == [(s.id, 100 * KIB) for s in (first, second, third)]


def test_the_open_of_a_request_that_waits_has_the_first_kibibyte() -> None:
    pair = Pair()
    for _ in range(4):
        pair.client.open(WHOLE, b"x" * 100 * KIB)
    small = pair.client.open(WHOLE, b"small")
    pair.client.protocol.send_pending(24 * KIB)
    frames = pair.client.take_frames()
    sizes = {frame.stream_id: len(frame.body) for frame in frames if frame.kind == OPEN}
    whole = 4 * KIB - len(META)
    assert sizes == {1: whole, 3: whole, 5: FIRST, 7: FIRST, small.id: 5}
    assert not [frame for frame in frames if frame.kind == DATA and frame.stream_id > 3]
    pair.server.receive(*frames)
    pair.settle()
    assert opened(pair.server) == [small.id, 1, 3, 5, 7]


def test_a_medium_message_does_not_wait_behind_large_ones() -> None:
    limits = ROOM.replace(max_message=1024 * KIB, max_unfinished=8192 * KIB)
    pair = Pair(limits)
    pair.answers(1024 * KIB, 20)
    pair.client.open()
    pair.move(64 * KIB)
    stream = pair.server.protocol.streams[41]
    pair.server.protocol.send_response(stream, b"x" * 100 * KIB)
    while stream.id not in dict(messages(pair.client)):
        assert pair.move(64 * KIB)
    assert len(messages(pair.client)) < 4


@pytest.mark.parametrize("cut_by", ["client", "server"])
def test_a_call_that_ends_while_it_waits_leaves_the_line(cut_by: str) -> None:
    pair = Pair()
    streams = pair.answers(100 * KIB, 6)
    pair.move(16 * KIB)
    near, far = pair.server.protocol, pair.client.protocol
    begun, waiting = streams[0], streams[3]
    for stream in (begun, waiting):
        if cut_by == "server":
            near.reset_stream(stream, Code.CANCELLED)
        else:
            far.reset_stream(far.streams[stream.id], Code.CANCELLED)
    pair.settle()
    assert [number for number, _ in messages(pair.client) if number] == [
        streams[n].id for n in (1, 2, 4, 5)
    ]
    assert not near.streams
    assert not far.unfinished


def test_every_call_in_the_line_may_end() -> None:
    pair = Pair()
    streams = pair.answers(100 * KIB, 6)
    pair.move(16 * KIB)
    for stream in streams:
        pair.server.protocol.reset_stream(stream, Code.CANCELLED)
    pair.settle()
    pair.answers(100 * KIB, 6)
    pair.settle()
    assert len(messages(pair.client)) == 6


def deliver(pair: Pair, stream: StreamState, *sizes: int) -> None:
    for size in sizes:
        pair.server.protocol.send_data(stream, MESSAGE, b"", b"x" * size)
    pair.settle()


def read(pair: Pair, stream: StreamState) -> None:
    """Let the client's user take the first message of a stream that it has not taken."""
    events = pair.client.events
    event = next(each for each in events if each[5] and each[1] and each[1].id == stream.id)
    events.remove(event)
    assert event[1] is not None
    pair.client.protocol.acknowledge(event[1], event[5])


def unread(pair: Pair) -> list[tuple[int, int]]:
    return [(e[1].id, len(e[4])) for e in pair.client.events if e[1] is not None and e[5]]


def channels(pair: Pair, count: int) -> list[StreamState]:
    for _ in range(count):
        pair.client.open(0)
    pair.settle()
    return list(pair.server.protocol.streams.values())


def test_streams_whose_readers_are_slow_keep_no_other_message_waiting() -> None:
    pair = Pair()
    slow = channels(pair, 12)
    for stream in slow:
        deliver(pair, stream, 120 * KIB, 120 * KIB)
    assert unread(pair) == [(stream.id, 120 * KIB) for stream in slow]
    (other,) = set(channels(pair, 1)) - set(slow)
    for _ in range(5):
        deliver(pair, other, 100 * KIB)
        read(pair, other)
    assert pair.most <= 512 * KIB
    for stream in slow:
        read(pair, stream)
    pair.settle()
    assert unread(pair) == [(stream.id, 120 * KIB) for stream in slow]


def test_a_message_after_an_unread_one_in_parts_waits_until_that_is_read() -> None:
    """The window of its stream is nearly full again, so it looks as if nothing were unread."""
    pair = Pair()
    streams = channels(pair, 12)
    for stream in streams:
        deliver(pair, stream, 100 * KIB)
        assert stream.send_window > ROOM.stream_window // 2
    for stream in streams:
        deliver(pair, stream, 100 * KIB)
    assert unread(pair) == [(stream.id, 100 * KIB) for stream in streams]
    for stream in reversed(streams):
        read(pair, stream)
    pair.settle()
    assert sorted(unread(pair)) == [(stream.id, 100 * KIB) for stream in streams]
    assert pair.most <= 512 * KIB


def test_a_message_does_not_wait_in_vain_when_nearly_half_of_the_window_is_used() -> None:
    pair = Pair()
    *slow, stream = channels(pair, 12)
    for each in slow:
        deliver(pair, each, 120 * KIB, 120 * KIB)  # what is not certain to get credit has no room
    for size in [3000] * 10 + [2000]:
        deliver(pair, stream, size)
        read(pair, stream)
    left = stream.send_window - ROOM.stream_window // 2
    assert 0 < left < FIRST, "credit is not due yet, and would be with the first piece"
    deliver(pair, stream, 100 * KIB)
    assert unread(pair)[-1] == (stream.id, 100 * KIB)


def test_credit_is_due_when_the_last_message_in_parts_was_read() -> None:
    client = make(is_server=False, limits=ROOM, told=ROOM)
    stream = client.open(0)
    client.take_frames()
    sent = [b"x" * 5000, b"x" * 100, b"x" * 5000, b"x" * 100]
    server = make(is_server=True, limits=ROOM, told=ROOM)
    server.receive(open_frame(1, 0, b""))
    for body in sent:
        server.protocol.send_data(server.protocol.streams[1], MESSAGE, b"", body)
        server.protocol.send_pending(1 << 30)
        client.feed(server.take_bytes())
    costs = [event[5] for event in client.events]
    credit = []
    for cost in costs:
        client.protocol.acknowledge(stream, cost)
        credit.append([int.from_bytes(f.body, "big") for f in client.take_frames()])
    assert credit == [[], [], [sum(costs[:3])], []]


def test_no_message_waits_for_credit_that_an_earlier_release_does_not_give() -> None:
    server = Endpoint(is_server=True, limits=ROOM)
    told = {name: value for name, value in ROOM.to_hello().items() if name != "max_unfinished"}
    server.receive(Frame(HELLO, 0, 0, b"", pack({"rap": 1, **told})))
    server.take_bytes()
    server.receive(*(open_frame(n, 0, b"") for n in range(1, 41, 2)))
    for stream in list(server.protocol.streams.values()):
        stream.send_window = stream.send_window // 2
        server.protocol.send_data(stream, MESSAGE, b"", b"x" * 100 * KIB)
    server.protocol.send_pending(1 << 30)
    assert {frame.stream_id for frame in server.take_frames()} == set(range(1, 41, 2))


class Crowd(Conversation):
    """A conversation of many large messages."""

    def step(self) -> None:
        rng, side = self.rng, self.rng.randrange(2)
        size = rng.randrange(rng.choice([20_000, 60_000, 130_000, 250_000]))
        action = rng.randrange(40)
        if action < 6:
            self.open(size, rng.choice([WHOLE, MESSAGE, 0]), rng.random() < 0.5)
        elif action < 18:
            self.send(side, size, rng.choice([WHOLE, MESSAGE, MESSAGE, MESSAGE, MESSAGE, END]))
        elif action < 19:
            self.reset(side)
        elif action < 27:
            self.pump(side, rng.randrange(1, 1_000_000))
        elif action < 35:
            self.deliver(side, rng.randrange(1, rng.choice([4000, 1_000_000])))
        else:
            self.take(side)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_no_message_is_refused_or_waits_for_ever(seed: int) -> None:
    talk = Crowd(Random(seed))
    for _ in range(300):
        talk.step()
        talk.check_rules()
    talk.finish()
