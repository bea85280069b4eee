"""Two connected endpoints, and the model of what each said and what must arrive of it."""

from collections import defaultdict
from random import Random

from rap.errors import Code, ResourceExhausted
from rap.wire.frames import (
    CREDIT,
    DATA,
    DONE,
    END,
    HEADER_SIZE,
    MESSAGE,
    OPEN,
    RESET,
    Frame,
    parse_frames,
    read_reset,
)
from rap.wire.hello import Limits
from rap.wire.stream import CLOSED, LOCAL_DONE, REMOTE_END, StreamState
from tests.wire.endpoints import KIB, META, WHOLE, make

Body = bytes | memoryview


def any_limits(rng: Random) -> Limits:
    return Limits(
        max_frame=rng.choice([16, 64]) * KIB,
        max_message=256 * KIB,
        max_unfinished=rng.choice([1024, 8192]) * KIB,
        max_streams=rng.choice([3, 100]),
        stream_window=rng.choice([64, 100]) * KIB,
        connection_window=rng.choice([100, 300]) * KIB,
        fragment=rng.choice([1, 4, 128]) * KIB,
    )


class Conversation:
    """Side 0 is the client, side 1 the server; `pipes[n]` is on its way to side n."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.limits = [any_limits(rng), any_limits(rng)]
        self.ends = [
            make(is_server=False, limits=self.limits[0], told=self.limits[1]),
            make(is_server=True, limits=self.limits[1], told=self.limits[0]),
        ]
        self.pipes = [b"", b""]
        self.sent: list[dict[int, list[bytes]]] = [defaultdict(list), defaultdict(list)]
        self.got: list[dict[int, list[bytes]]] = [defaultdict(list), defaultdict(list)]
        self.untaken: list[list[tuple[StreamState, int]]] = [[], []]
        self.known: list[set[int]] = [set(), set()]
        self.cut_off: set[int] = set()  # streams that were reset by either side
        self.count = 0

    def step(self) -> None:
        """Do something that can happen."""
        rng, side = self.rng, self.rng.randrange(2)
        size = rng.randrange(rng.choice([100, 5000, 200_000]))
        action = rng.randrange(21)
        if action < 3:
            self.open(size, rng.choice([WHOLE, MESSAGE, 0]), rng.random() < 0.5)
        elif action < 8:
            self.send(side, size, rng.choice([WHOLE, MESSAGE, MESSAGE, END]))
        elif action < 9:
            self.reset(side)
        elif action < 12:
            self.ends[side].protocol.send_pending(rng.randrange(1, 100_000))
        elif action < 13:
            self.hold(side, rng.randrange(3) == 0)
        elif action < 17:
            self.deliver(side, rng.randrange(1, rng.choice([40, 300_000])))
        elif action < 20:
            self.take(side)
        else:
            self.stop_reading()

    def body(self, size: int) -> bytes:
        """Return a body that is like no other."""
        self.count += 1
        return self.count.to_bytes(4, "big") + b"." * size

    def open(self, size: int, flags: int, unary: bool) -> None:
        body = self.body(size) if flags & MESSAGE else b""
        stream = StreamState(0, 0, 0)
        protocol = self.ends[0].protocol
        full = len(protocol.streams) >= self.limits[1].max_streams
        try:
            if unary:
                protocol.open_unary(stream, META, body)
            else:
                protocol.open_stream(stream, flags, META, body)
        except ResourceExhausted:
            assert full
            return
        assert not full
        self.known[0].add(stream.id)
        if flags & MESSAGE or unary:
            self.sent[0][stream.id].append(body)

    def send(self, side: int, size: int, flags: int) -> None:
        streams = [
            stream
            for stream in self.ends[side].protocol.streams.values()
            if not stream.state & LOCAL_DONE and stream.id in self.known[side]
        ]
        if streams:
            stream = self.rng.choice(streams)
            body = self.body(size) if flags & MESSAGE else b""
            self.ends[side].protocol.send_data(stream, flags, b"", body)
            if flags & MESSAGE:
                self.sent[side][stream.id].append(body)

    def reset(self, side: int) -> None:
        streams = list(self.ends[side].protocol.streams.values())
        if streams:
            stream = self.rng.choice(streams)
            self.cut_off.add(stream.id)
            self.ends[side].protocol.reset_stream(stream, Code.CANCELLED)

    def stop_reading(self) -> None:
        """Let the client say that it reads nothing more of a stream."""
        streams = list(self.ends[0].protocol.streams.values())
        if streams:
            self.ends[0].protocol.send_done(self.rng.choice(streams))

    def pump(self, side: int, budget: int) -> None:
        self.ends[side].protocol.send_pending(budget)

    def hold(self, side: int, held: bool) -> None:
        protocol = self.ends[side].protocol
        if held:
            protocol.pause()
        else:
            protocol.resume()

    def deliver(self, side: int, count: int) -> None:
        """Let up to `count` bytes arrive at a side."""
        pipe = self.pipes[side] + self.ends[1 - side].take_bytes()
        chunk, self.pipes[side] = pipe[:count], pipe[count:]
        for kind, stream, flags, _, body, held in self.ends[side].feed(chunk):
            if stream is None:
                continue
            if kind == DONE:
                assert side == 1
                continue
            if kind == RESET:
                assert read_reset(bytes(body))[0] == Code.CANCELLED  # not for want of room
                self.cut_off.add(stream.id)
            elif kind == OPEN:
                self.known[side].add(stream.id)
            if kind != RESET and flags & MESSAGE:
                self.got[side][stream.id].append(bytes(body))
            if held:
                self.untaken[side].append((stream, held))

    def take(self, side: int) -> None:
        """Let user code take one message."""
        if self.untaken[side]:
            stream, held = self.untaken[side].pop(self.rng.randrange(len(self.untaken[side])))
            self.ends[side].protocol.acknowledge(stream, held)

    def on_the_way(self, side: int) -> list[Frame]:
        """Return the frames that a side has not read yet."""
        begun = bytes(self.ends[side].protocol.partial or b"")
        return parse_frames(begun + self.pipes[side] + b"".join(self.ends[1 - side].protocol.out))

    def check_rules(self) -> None:
        assert [end.protocol.error for end in self.ends] == [None, None]
        for end, limits in zip(self.ends, self.limits, strict=True):
            assert end.protocol.unfinished <= limits.most_unfinished
            assert end.protocol.excess >= 0
            assert all(stream.held for stream in end.protocol.unread_parts)
            assert not any(each.state == CLOSED for each in end.protocol.unread_parts)

    def credit_is_neither_made_nor_lost(self) -> None:
        """What the sender has left, what is on its way, and what the receiver has: one window."""
        for side in (0, 1):
            receiver, sender = self.ends[side].protocol, self.ends[1 - side].protocol
            there, back = self.on_the_way(side), self.on_the_way(1 - side)
            costs: dict[int, int] = defaultdict(int)
            grants: dict[int, int] = defaultdict(int)
            for frame in there:
                if frame.kind in (OPEN, DATA):
                    costs[frame.stream_id] += HEADER_SIZE + len(frame.meta) + len(frame.body)
            for frame in back:
                if frame.kind == CREDIT:
                    grants[frame.stream_id] += int.from_bytes(frame.body, "big")
            held = sum(stream.held for stream in receiver.streams.values())
            window = self.limits[side].connection_window
            left = sender.send_window
            assert left >= 0
            assert left + sum(costs.values()) + held + receiver.consumed + grants[0] == window
            for stream in receiver.streams.values():
                other = sender.streams.get(stream.id)
                assert stream.used == stream.held + stream.consumed or stream.state & REMOTE_END
                if other is None or stream.state & REMOTE_END or other.state & LOCAL_DONE:
                    continue
                number = stream.id
                left = other.send_window
                assert left >= 0
                used = stream.used + costs[number] + grants[number]
                assert left + used == self.limits[side].stream_window

    def messages_arrive_once_and_in_order(self) -> None:
        for side in (0, 1):
            for number, bodies in self.got[side].items():
                assert bodies == self.sent[1 - side][number][: len(bodies)]

    def finish(self) -> None:
        """Let everything arrive and be taken: all is there, and all credit is back."""
        moved = True
        while moved:
            moved = False
            for side in (0, 1):
                protocol = self.ends[1 - side].protocol
                protocol.resume()
                protocol.send_pending(1 << 30)
                moved |= bool(self.pipes[side] or protocol.out)
                self.deliver(side, 1 << 30)
                while self.untaken[side]:
                    stream, held = self.untaken[side].pop()
                    self.ends[side].protocol.acknowledge(stream, held)
        self.check_rules()
        self.credit_is_neither_made_nor_lost()
        for side in (0, 1):
            protocol = self.ends[side].protocol
            limits = self.limits[side]
            assert not protocol.pending
            assert protocol.partial is None
            assert (protocol.unfinished, protocol.excess, protocol.held) == (0, 0, 0)
            assert protocol.recv_window + protocol.consumed == limits.connection_window
            assert protocol.consumed <= limits.connection_window // 2
            for number, bodies in self.sent[1 - side].items():
                if number not in self.cut_off:
                    assert self.got[side][number] == bodies
            for number, stream in protocol.streams.items():
                assert number not in self.cut_off
                assert stream.state & CLOSED != CLOSED
                assert stream.consumed < limits.stream_window // 2 or stream.state & REMOTE_END
