"""While a client does not read responses, the server starts no more of its calls."""

import asyncio

from faults.raw import Raw, opening, speaking
from rap.errors import Code
from rap.server import Server
from rap.wire.codec import pack
from rap.wire.frames import DATA, RESET, Frame, credit_frame, parse_frames
from rap.wire.hello import hello_frame
from tests.loopback import calling, eventually, serving, within

MIB = 1024 * 1024
SIZE = 600 * 1024
HELLO = hello_frame({"rap": 1, "random": b"r" * 16})  # 64 KiB of credit
begun: list[int] = []


async def big(number: int) -> bytes:
    begun.append(number)
    return bytes(SIZE)


async def fine() -> int:
    return 1


def ask(raw: Raw, numbers: range) -> None:
    """Make calls; nothing is said of credit, so their answers wait."""
    raw.writer.writelines(opening(2 * n + 1, pack([n]), "big") for n in numbers)


async def is_quiet(server: Server, count: int) -> None:
    """Return when so many calls are open, and the loop has done what it could."""
    await eventually(lambda: server.connection_manager.open_calls == count)
    for _ in range(20):
        await asyncio.sleep(0)


async def test_calls_wait_until_responses_are_read_and_none_is_lost() -> None:
    begun.clear()
    async with serving(big, fine, max_backlog=MIB) as server:
        async with speaking(server.addresses[0].port, HELLO) as raw:
            for number in range(20):
                ask(raw, range(number, number + 1))
                await is_quiet(server, number + 1)
            assert begun == [0, 1]
            async with calling(server) as client:
                assert await client.raw_call("fine") == 1
            raw.writer.write(credit_frame(0, 20 * MIB))
            raw.writer.writelines(credit_frame(2 * n + 1, MIB) for n in range(20))
            data = b""
            while sum(len(f.body) for f in parse_frames(data) if f.kind == DATA) < 20 * SIZE:
                data += await within(raw.reader.read(1 << 20))
        assert begun == list(range(20))


async def test_a_call_cancelled_while_it_waits_is_not_started() -> None:
    begun.clear()
    async with serving(big, max_backlog=MIB) as server:
        async with speaking(server.addresses[0].port, HELLO) as raw:
            for number in range(5):
                ask(raw, range(number, number + 1))
                await is_quiet(server, number + 1)
            cancel = pack([Code.CANCELLED, "", {}])
            raw.writer.write(Frame(RESET, 0, 7, b"", cancel).encode())
            await is_quiet(server, 4)
            raw.writer.writelines(Frame(RESET, 0, n, b"", cancel).encode() for n in (1, 3))
            await eventually(lambda: len(begun) == 4)
        assert begun == [0, 1, 2, 4]
        await eventually(lambda: not server.connection_manager.connections)


async def test_waiting_calls_end_with_their_connection() -> None:
    begun.clear()
    async with serving(big, max_backlog=MIB) as server:
        async with speaking(server.addresses[0].port, HELLO) as raw:
            for number in range(5):
                ask(raw, range(number, number + 1))
                await is_quiet(server, number + 1)
        await eventually(lambda: not server.connection_manager.connections)
        for _ in range(20):
            await asyncio.sleep(0)
        assert begun == [0, 1]
