"""A connection that is held back sends and processes nothing until it is admitted."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from rap.errors import Code
from rap.transport import Connection, Stream
from rap.transport.connection import AdmissionGate
from rap.wire.frames import HEADER, HEADER_SIZE, HELLO, MAX_HELLO, PING, parse_frames, read_go_away
from tests.fake_clock import FakeClock
from tests.loopback import eventually, within
from tests.transport.pairs import DEFAULTS, LOG, end
from tests.wire.endpoints import hello, open_frame


class Held:
    """A connection that is held back, and the bare socket of its client."""

    def __init__(self, conn: Connection, gate: AdmissionGate, client: socket.socket) -> None:
        self.conn = conn
        self.gate = gate
        self.opened: list[int] = []
        self._client = client
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await within(self._loop.sock_sendall(self._client, data))

    async def receive(self) -> bytes:
        return await within(self._loop.sock_recv(self._client, 1 << 16))

    def take(self, stream: Stream, flags: int, meta: bytes, body: bytes | memoryview) -> None:
        self.opened.append(stream.id)


@asynccontextmanager
async def held_back() -> AsyncIterator[Held]:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    gates: list[AdmissionGate] = []
    conn = Connection(
        DEFAULTS,
        clock=FakeClock(),
        log=LOG,
        new_stream=Stream,
        stream_handler=lambda conn: held.take,
        on_made=lambda conn: gates.append(conn.hold_back()),
    )
    await asyncio.get_running_loop().connect_accepted_socket(lambda: conn, far)
    held = Held(conn, gates[0], near)
    try:
        yield held
    finally:
        await end(conn)
        near.close()


async def test_nothing_is_sent_or_processed_until_it_is_admitted() -> None:
    async with held_back() as held:
        await held.send(hello().encode() + open_frame(1).encode())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not held.conn.handshake.done()
        held.conn.admit()
        assert parse_frames(await held.receive())[0].kind == HELLO
        await eventually(lambda: held.opened == [1])
        assert held.conn.gate is None


async def test_the_gate_reads_the_hello_before_the_connection_does() -> None:
    async with held_back() as held:
        data = hello(token="secret").encode()
        reading = asyncio.create_task(held.gate.receive_hello())
        for n in range(0, len(data), 7):
            await held.send(data[n : n + 7])
        await within(reading)
        content = held.gate.decode_hello()
        assert content is not None
        assert content["token"] == "secret"
        assert not held.conn.handshake.done()
        await held.send(open_frame(1).encode())
        held.conn.admit()
        await eventually(lambda: held.opened == [1])
        assert "token" not in held.conn.peer_hello


@pytest.mark.parametrize("kind", [PING, HELLO])
async def test_a_first_frame_that_is_not_a_hello_has_no_content(kind: int) -> None:
    async with held_back() as held:
        await held.send(hello()._replace(kind=kind, body=b"\xc1").encode())
        await within(held.gate.receive_hello())
        assert held.gate.decode_hello() is None


async def test_a_hello_is_decoded_once() -> None:
    async with held_back() as held:
        await held.send(hello(token="secret").encode())
        await within(held.gate.receive_hello())
        content = held.gate.decode_hello()
        assert content is not None
        content["abilities"] = ["seen"]
        held.conn.admit()
        await within(held.conn.handshake)
        assert held.conn.peer_hello is not content
        assert held.conn.protocol.peer_hello.keys() == {"random"} & content.keys()


async def test_no_more_than_a_hello_is_kept_until_it_is_admitted() -> None:
    """A client without a token could otherwise fill the memory with what it sends after it."""
    async with held_back() as held:
        first = hello(token="secret").encode()
        rest = b"".join(open_frame(n, 5, b"x" * 1000).encode() for n in range(1, 120, 2))
        sending = asyncio.create_task(held.send(first + rest))
        await within(held.gate.receive_hello())
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(held.gate.take_data()) <= HEADER_SIZE + MAX_HELLO + 1024
        sending.cancel()


async def test_what_was_not_kept_is_read_when_it_is_admitted() -> None:
    async with held_back() as held:
        rest = b"".join(open_frame(n, 5, b"x" * 1000).encode() for n in range(1, 120, 2))
        sending = asyncio.create_task(held.send(hello(token="secret").encode() + rest))
        await within(held.gate.receive_hello())
        held.conn.admit()
        await within(sending)
        await eventually(lambda: held.opened == [*range(1, 120, 2)])


async def test_a_hello_over_the_limit_ends_the_connection() -> None:
    async with held_back() as held:
        await held.send(HEADER.pack(MAX_HELLO + 1, HELLO, 0, 0, 0))
        await within(held.gate.receive_hello())
        assert f"the limit is {MAX_HELLO}" in str(held.conn.error)
        said, away = parse_frames(await held.receive())
        assert said.kind == HELLO
        assert read_go_away(away.body)[0] == Code.RESOURCE_EXHAUSTED


async def test_a_connection_that_is_lost_has_no_hello() -> None:
    async with held_back() as held:
        reading = asyncio.create_task(held.gate.receive_hello())
        await asyncio.sleep(0)
        held.conn.transport.abort()
        await within(reading)
        assert held.gate.decode_hello() is None
        held.conn.admit()
        assert held.conn.closed


async def test_admitting_twice_does_nothing() -> None:
    async with held_back() as held:
        held.conn.admit()
        held.conn.admit()
        frames = parse_frames(await held.receive())
        assert [frame.kind for frame in frames] == [HELLO]
