"""Measure the parts of a unary call on each side, without sockets, as the best of many short runs.

Run it with ``python -m bench.parts``. Other load can only make a run slower. Therefore the minimum
of many short runs varies by a few percent, while the figures of whole benchmarks vary by tens.
"""

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Any

from rap.call import current
from rap.cli.runtime import loop_factory
from rap.client import Client
from rap.server import Server
from rap.wire.codec import pack
from rap.wire.frames import DATA, END, MESSAGE, OPEN, Frame, parse_frames
from rap.wire.hello import hello_frame

CHUNK = 16  # frames that arrive together
ROUNDS = 400
CALLERS = 64
META, ARGUMENTS, ANSWER = pack(["/default/add", 9000]), pack([1, 2]), pack(3)
ROOMY = 1 << 30


class Sink:
    """A transport that keeps or drops the written bytes."""

    def __init__(self, real: Any = None) -> None:
        self.real = real
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        if self.real is not None:
            self.written.append(data)

    def writelines(self, pieces: list[bytes]) -> None:
        self.write(b"".join(pieces))

    def get_extra_info(self, name: str, default: object = None) -> object:
        return ("127.0.0.1", 1) if name == "peername" else default

    def get_write_buffer_size(self) -> int:
        return 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name) if self.real is not None else lambda *_, **__: None


class Best:
    """The shortest time of each part, in ns per call."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}

    def note(self, part: str, seconds: float, calls: int) -> None:
        self.times[part] = min(self.times.get(part, 1e9), seconds / calls * 1e9)

    def time(self, part: str, run: Callable[[], object], calls: int = CHUNK) -> None:
        begin = time.perf_counter()
        run()
        self.note(part, time.perf_counter() - begin, calls)


async def add(a: int, b: int) -> int:
    return a + b


def opens(first: int) -> bytes:
    """Return a chunk of calls."""
    ids = range(first, first + 2 * CHUNK, 2)
    return b"".join(Frame(OPEN, MESSAGE | END, n, META, ARGUMENTS).encode() for n in ids)


async def server_side(best: Best) -> None:
    server = Server("127.0.0.1:0")
    server.register(add)
    async with server:
        conn = server.connection_manager.new_connection()
        conn.connection_made(Sink())  # type: ignore[arg-type]  # stands in for a transport
        conn.data_received(hello_frame({"rap": 1, "random": b"x" * 16, "connection_window": ROOMY}))
        next_id = 1
        for _ in range(ROUNDS):
            chunk = opens(next_id)
            next_id += 2 * CHUNK
            begin = time.perf_counter()
            conn.data_received(chunk)
            while conn.streams:  # noqa: ASYNC110  # turns of the loop are what is measured
                await asyncio.sleep(0)
            best.note("server: a call", time.perf_counter() - begin, CHUNK)
            await server_parts(best, conn, next_id)
            next_id += 2 * CHUNK
            conn.protocol.send_window = ROOMY
        conn.connection_lost(None)


async def server_parts(best: Best, conn: Any, first: int) -> None:
    chunk = opens(first)
    begin = time.perf_counter()
    events = conn.protocol.receive_data(chunk)
    best.note("server: parse, make the record", time.perf_counter() - begin, CHUNK)
    for _, stream, flags, meta, body, _ in events:
        conn.on_open(stream, flags, meta, body)
    function = events[0][1].handler.function
    best.time("server: decode arguments", lambda: [function.decode_args(ARGUMENTS) for _ in events])
    best.time("server: encode the result", lambda: [function.encode_result(3) for _ in events])
    best.time("server: set the context variable", lambda: [current.set(None) for _ in events])
    while conn.streams:  # noqa: ASYNC110  # likewise
        await asyncio.sleep(0)

    async def nothing() -> None:
        return None

    create_task = asyncio.get_running_loop().create_task
    best.time("server: make a task", lambda: [create_task(nothing()) for _ in events])
    begin = time.perf_counter()
    await asyncio.sleep(0)
    best.note("server: run an empty task", time.perf_counter() - begin, CHUNK)


async def client_side(best: Best) -> None:
    server = Server("127.0.0.1:0", close_timeout=0.2)
    server.register(add)
    async with server, Client(server.addresses) as client:
        stub = client.register()(add)
        await stub(1, 2)
        conn = client.cluster.ready[0].pool.conn
        assert conn is not None
        sink = Sink(conn.transport)
        conn.transport = sink  # type: ignore[assignment]  # stands in for it

        async def caller() -> None:
            for _ in range(8):
                await stub(1, 2)

        for _ in range(ROUNDS // 2):
            conn.protocol.send_window = ROOMY
            callers = [asyncio.ensure_future(caller()) for _ in range(CALLERS)]
            begin, elsewhere = time.perf_counter(), 0.0
            for _ in range(8):
                await asyncio.sleep(0)
                while not sink.written:  # noqa: ASYNC110  # likewise
                    await asyncio.sleep(0)
                await asyncio.sleep(0)
                pause = time.perf_counter()
                ids = [frame.stream_id for frame in parse_frames(b"".join(sink.written))]
                sink.written.clear()
                answers = b"".join(Frame(DATA, MESSAGE | END, n, b"", ANSWER).encode() for n in ids)
                elsewhere += time.perf_counter() - pause
                conn.data_received(answers)
            await asyncio.gather(*callers)
            best.note("client: a call", time.perf_counter() - begin - elsewhere, 8 * CALLERS)
        conn.transport = sink.real


async def main() -> None:
    best = Best()
    gc.collect()
    gc.freeze()
    gc.disable()
    await server_side(best)
    await client_side(best)
    for part, nanoseconds in best.times.items():
        print(f"{part:36} {nanoseconds:6.0f} ns")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main())
