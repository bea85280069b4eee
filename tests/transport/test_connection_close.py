import asyncio

from rap.errors import ConnectionClosed
from rap.transport.connection import close_all
from rap.wire.frames import MESSAGE
from tests.loopback import within
from tests.transport.facing import facing
from tests.transport.pairs import connected
from tests.wire.endpoints import open_frame

ERROR = ConnectionClosed("time is up")


async def test_all_connections_are_closed_and_their_last_messages_arrive() -> None:
    async with connected("socketpair") as one, connected("socketpair") as two:
        ours, theirs = await one.both()
        one.client.protocol.send_data(ours, MESSAGE, b"", b"last")
        await within(close_all([one.client, two.client], ERROR))
        assert one.client.closed
        assert two.client.closed
        assert (await within(theirs.recv()))[2] == b"last"


async def test_closing_no_connections_returns_at_once() -> None:
    await close_all([], ERROR)


async def test_a_peer_that_does_not_read_is_cut() -> None:
    async with facing(small_buffers=True) as side:
        await side.send(open_frame(1, 0, b""))
        for _ in range(8):
            side.conn.protocol.send_data(side.inbound[0].stream, MESSAGE, b"", b"x" * 30_000)
        await side.run_loop()
        await within(close_all([side.conn], ERROR))
        assert side.conn.closed


async def test_cancelling_cuts_all_connections() -> None:
    async with facing(small_buffers=True) as side:
        await side.send(open_frame(1, 0, b""))
        for _ in range(8):
            side.conn.protocol.send_data(side.inbound[0].stream, MESSAGE, b"", b"x" * 30_000)
        await side.run_loop()
        closing = asyncio.create_task(close_all([side.conn], ERROR))
        await side.run_loop()
        closing.cancel()
        await asyncio.wait([closing])
        await within(asyncio.shield(side.conn.ended))
