"""What is held for the peer is known at any time, and growth is told in steps."""

from random import Random

import pytest

from rap.errors import Code
from rap.wire.frames import DATA, MESSAGE, MORE, OPEN, Frame
from rap.wire.hello import Limits
from rap.wire.protocol import WireProtocol
from rap.wire.stream import StreamState, held_by
from tests.wire.endpoints import KIB, META, WHOLE, Endpoint, data, hello, open_frame

LIMITS = Limits(
    max_frame=64 * KIB, max_message=256 * KIB, stream_window=256 * KIB, connection_window=1024 * KIB
)


class Told(Endpoint):
    """A server that counts how often it was told that more is held."""

    def __init__(self) -> None:
        super().__init__(is_server=True, limits=LIMITS)
        self.notes: list[int] = []
        self.protocol: WireProtocol[StreamState] = WireProtocol(
            is_server=True, new_stream=StreamState, limits=LIMITS, on_grown=self.note
        )
        self.receive(hello())
        self.take_bytes()

    def note(self) -> None:
        self.notes.append(self.protocol.held)

    @property
    def told(self) -> int:
        return len(self.notes)


def test_what_is_held_is_the_sum_of_parts_unread_messages_and_waiting_ones() -> None:
    server = Told()
    server.receive(
        open_frame(1, 0, b""),
        data(1, b"x" * 5000),
        data(1, b"y" * 3000, MESSAGE | MORE),
        Frame(OPEN, MESSAGE | MORE, 3, META, b"z" * 2000),
    )
    first = server.protocol.streams[1]
    assert server.protocol.held == 5012 + 3000 + 2000
    assert sum(map(held_by, server.protocol.streams.values())) == server.protocol.held
    server.protocol.send_data(first, MESSAGE, b"", b"a" * 300 * KIB)
    assert server.protocol.held == 10_012 + 300 * KIB
    server.protocol.acknowledge(first, 5012)
    assert server.protocol.held == 5000 + 300 * KIB
    for stream in list(server.protocol.streams.values()):
        server.protocol.reset_stream(stream, Code.CANCELLED)
    assert server.protocol.held == 0


def test_a_part_that_keeps_its_chunk_alive_counts_with_the_chunk() -> None:
    server = Told()
    part = Frame(OPEN, MESSAGE | MORE, 1, META, b"x" * 30 * KIB).encode()
    other = Frame(DATA, MESSAGE | MORE, 1, b"", b"y" * 60 * KIB).encode()
    server.feed(part + other[:-1])  # more than half of the chunk is a part that has not all come
    kept = server.protocol.excess
    assert server.protocol.held == server.protocol.unfinished + kept
    server.feed(other[-1:])
    server.receive(data(1, b"", WHOLE))
    assert (server.protocol.unfinished, server.protocol.excess) == (0, 0)


def test_growth_of_parts_is_told_from_a_step_on() -> None:
    server = Told()
    server.protocol.tell_growth(10_000, 1000)
    server.receive(Frame(OPEN, MESSAGE | MORE, 1, META, b"x" * 9000))
    server.receive(data(1, b"x" * 2000, MESSAGE | MORE))
    assert min(server.notes) > 10_000
    told = len(server.notes)
    server.protocol.tell_growth(10_000, 1000)
    server.receive(data(1, b"x" * 9000, MESSAGE | MORE))
    assert len(server.notes) == told


def test_growth_of_unread_messages_is_told_and_that_of_read_ones_is_not() -> None:
    server = Told()
    server.receive(open_frame(1, 0, b""))
    server.protocol.tell_growth(50_000, 1000)
    stream = server.protocol.streams[1]
    for _ in range(100):
        ((*_, held),) = server.receive(data(1, b"x" * 10_000))
        server.protocol.acknowledge(stream, held)
    assert not server.notes
    for _ in range(11):  # at the latest after two steps
        server.receive(data(1, b"x" * 10_000))
    assert server.notes


def test_growth_is_told_of_messages_that_wait_to_be_sent() -> None:
    server = Told()
    server.receive(open_frame(1))
    server.protocol.tell_growth(10_000, 1000)
    server.protocol.send_response(server.protocol.streams[1], b"x" * 200 * KIB)
    assert server.told == 1


def test_large_requests_are_told_by_their_bytes() -> None:
    server = Told()
    for number in range(1, 129, 2):
        server.receive(open_frame(number, WHOLE, b"x" * 20 * KIB))
    assert server.told == 1


@pytest.mark.parametrize("steps", [[700], [5, 7, 11], [1, 500, 9000, 50_000]])
@pytest.mark.parametrize("size", [10, 3000])
def test_many_open_calls_are_told_and_none_is_lost_however_they_arrive(
    size: int, steps: list[int]
) -> None:
    rng = Random(size)
    sent = b"".join(open_frame(n, WHOLE, b"x" * size).encode() for n in range(1, 801, 2))
    server = Told()
    server.protocol.tell_growth(1 << 30, 40)
    at = 0
    while at < len(sent):
        step = rng.choice(steps)
        for event in server.protocol.receive_data(sent[at : at + step]):
            server.events.append(event)
        at += step
        while server.protocol.more:
            if rng.random() < 0.5 and at < len(sent):  # the transport had read it already
                server.events += server.protocol.receive_data(sent[at : at + 5])
                at += 5
            else:
                server.events += server.protocol.receive_data(b"")
            if server.told and server.protocol.more:
                server.protocol.tell_growth(1 << 30, 40)
    assert [event[1].id for event in server.events if event[0] == OPEN and event[1]] == list(
        range(1, 801, 2)
    )
    assert server.told >= 1
