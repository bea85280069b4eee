"""Whatever a peer says, a connection lives or ends; nothing is raised and no task is left."""

from random import Random

import pytest

from rap.errors import CallError
from rap.transport import EndOfStream, Stream, UnaryStream
from rap.wire.codec import pack
from rap.wire.frames import Frame
from rap.wire.stream import LOCAL_DONE
from tests.loopback import Unnoticed, within
from tests.transport.facing import Facing, facing
from tests.transport.pairs import META
from tests.wire.endpoints import data, open_frame

BODIES = [
    b"",
    b"\0\0\0\1",
    b"12345678",
    pack([1, "m", {}]),
    pack([0, "", {}]),
    b"\xc1",
    b"x" * 5000,
]


def any_frame(rng: Random) -> Frame:
    """Return a frame that may make sense, of streams that may be there."""
    return Frame(
        rng.choice([0, 0, 0, 1, 2, 3, 4, 5, rng.randrange(256)]),
        rng.choice([0, 1, 1, 3, 4, 5, 5, rng.randrange(256)]),
        rng.choice([0, 1, 3, 5, 7, 9, rng.randrange(2**32)]),
        rng.choice([b"", b"", META, b"\x80", b"\xff"]),
        rng.choice(BODIES),
    )


async def say_anything(side: Facing, rng: Random) -> None:
    try:
        for _ in range(rng.randrange(1, 30)):
            raw = bytearray(any_frame(rng).encode())
            if rng.random() < 0.05:
                raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
            await side.send_bytes(bytes(raw))
    except ConnectionError:
        assert side.conn.closed


async def read_all(stream: Stream) -> None:
    """Take what has come, as user code would."""
    while stream.inbox:
        await within(stream.recv())
    if stream.error is not None or stream.ended:
        with pytest.raises((EndOfStream, CallError)):
            await within(stream.recv())


@pytest.mark.parametrize("seed", range(25))
async def test_a_server_takes_anything(seed: int, unnoticed: Unnoticed) -> None:
    rng = Random(seed)
    async with facing() as side:
        await side.send(open_frame(1, 0, b""), open_frame(3), open_frame(5, 3, b"part"))
        await say_anything(side, rng)
        for inbound in side.inbound:
            await read_all(inbound.stream)
            if inbound.stream.error is None and not inbound.stream.state & LOCAL_DONE:
                side.conn.protocol.send_response(inbound.stream, b"\1")
        side.advance(rng.choice([0.0, 1.0, 10.0]))
        await side.run_loop()
    await unnoticed.check()


@pytest.mark.parametrize("seed", range(25))
async def test_a_client_takes_anything(seed: int, unnoticed: Unnoticed) -> None:
    rng = Random(seed)
    async with facing(is_server=False) as side:
        now = side.clock.monotonic()
        calls = [UnaryStream(side.conn, now + 5.0) for _ in range(2)]
        for call in calls:
            side.conn.open_unary(call, META, b"")
        streams = [Stream(side.conn) for _ in range(3)]
        for stream in streams:
            side.conn.open(stream, 0, META, b"")
        await say_anything(side, rng)
        for stream in streams:
            await read_all(stream)
        side.advance(5.0)
        await side.run_loop()
        for call in calls:
            if not side.conn.closed or call.future.done():
                call.future.exception()
    for call in calls:
        assert call.future.done()
        call.future.exception()
    await unnoticed.check()


async def test_a_good_peer_is_served_while_a_bad_one_attacks(unnoticed: Unnoticed) -> None:
    async with facing() as good, facing() as bad:
        await bad.send(data(99))
        await within(bad.conn.ended)
        await good.send(open_frame(1))
        assert len(good.inbound) == 1
    await unnoticed.check()
