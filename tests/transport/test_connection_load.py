"""A loaded connection: small calls during a large message, and very many streams."""

import asyncio

from rap.transport import ConnectionOptions, Stream
from rap.wire.frames import MESSAGE
from rap.wire.hello import Limits
from tests.loopback import within
from tests.transport.pairs import MIB, Inbound, connected

LARGE = 100 * MIB


async def test_a_hundred_megabytes_do_not_block_small_calls() -> None:
    options = ConnectionOptions(limits=Limits(max_message=2 * LARGE))
    async with connected("socketpair", client=options, server=options) as pair:
        pair.echo()
        large = pair.call(bytes(LARGE))
        answered = 0
        while not large.future.done():
            assert await within(pair.call(b"small").future) == b"small"
            answered += 1
        assert len(await large.future) == LARGE
        assert answered > 100


async def test_ten_thousand_streams_are_open_at_once() -> None:
    async with connected("socketpair") as pair:
        count = 10_000
        opened: list[Stream] = []

        def take(inbound: Inbound) -> None:
            opened.append(inbound.stream)

        pair.on_open = take
        ours = []
        for n in range(count):
            ours.append(pair.open())
            if n % 100 == 99:
                await asyncio.sleep(0)
        for n, stream in enumerate(ours):
            await stream.send(b"%d" % n)
        await pair.settled()
        assert len(opened) == len(pair.server.streams) == count
        for stream in opened:
            _, _, body = await within(stream.recv())
            pair.server.protocol.send_data(stream, MESSAGE, b"", bytes(body))
            stream.end()
        for n, stream in enumerate(ours):
            assert (await within(stream.recv()))[2] == b"%d" % n
            stream.end()
        await pair.settled()
        assert not pair.client.streams
        assert not pair.server.streams
        for conn in (pair.client, pair.server):
            protocol = conn.protocol
            window = protocol.limits.connection_window
            assert protocol.recv_window + protocol.consumed == window
