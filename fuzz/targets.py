"""What is fuzzed, and what is a finding: an exception, a task that stays, an ERROR logged."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any, Protocol

from fuzz.memory_transport import MemoryTransport
from rap.clock import SystemClock
from rap.errors import RapError, VersionMismatch
from rap.processor.compress import CompressProcessor
from rap.server import Channel, Server
from rap.server.processor import CryptoProcessor
from rap.transport import Connection, ConnectionOptions, Stream, UnaryStream
from rap.transport.stream import EndOfStream
from rap.wire.codec import pack
from rap.wire.frames import END, MESSAGE, RESET
from rap.wire.hello import Limits
from rap.wire.protocol import WireProtocol
from rap.wire.stream import StreamState

__all__ = ["TARGETS", "ClientTarget", "Finding", "ProtocolTarget", "ServerTarget", "Target"]

_KIB = 1024
_SMALL = Limits(
    max_frame=16 * _KIB,
    max_message=32 * _KIB,
    max_streams=4,
    stream_window=64 * _KIB,
    connection_window=128 * _KIB,
    fragment=4 * _KIB,
)
_META = pack(["/default/f", 0])
_TURNS = 200  # of the loop, in which what an input began has to end
_PATIENCE = 1.0  # seconds more, for what waits for a thread


class Finding(AssertionError):
    """An input did what no input may do."""


class Target(Protocol):
    """Something that takes bytes of the network."""

    def run(self, data: bytes) -> None:
        """Take one input; raise if it does harm."""

    def close(self) -> None:
        """Release what was held."""


def _chunks(data: bytes) -> Iterator[bytes]:
    """Cut an input as its second byte says: not at all, or into pieces of so many bytes."""
    size = data[1] or len(data)
    for start in range(2, len(data), size):
        yield data[start : start + size]


class ProtocolTarget:
    """`WireProtocol.receive_data`, on the side that the first byte says."""

    def run(self, data: bytes) -> None:
        """Feed, do what a transport does, and check what holds of every conversation."""
        if len(data) < 3:
            return
        is_server = not data[0] & 1
        protocol: WireProtocol[StreamState] = WireProtocol(
            is_server=is_server, new_stream=StreamState, limits=_SMALL
        )
        if not is_server:
            for flags in (MESSAGE | END, 0, MESSAGE | END):
                protocol.open_stream(StreamState(0, 0, 0), flags, _META, b"\x90")
        for chunk in _chunks(data):
            broken = protocol.error is not None
            protocol.out.clear()
            events = protocol.receive_data(chunk)
            if broken and (events or protocol.out):
                raise Finding("something happened after a violation")
            for kind, stream, _, _, _, held in events:
                if stream is not None and kind != RESET:
                    protocol.acknowledge(stream, held)
                    if not stream.state & 21:
                        protocol.send_data(stream, MESSAGE | END, b"", b"answer")
            protocol.send_pending(1 << 20)
            if protocol.recv_window + protocol.consumed > _SMALL.connection_window:
                raise Finding("more credit than the window")
            if len(protocol.streams) > _SMALL.max_streams:
                raise Finding("more streams than max_streams")

    def close(self) -> None:
        """Nothing is held."""


class _Errors(logging.Handler):
    """Keeps what is logged as a bug."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one. That a peer has another version of the protocol is said to the operator."""
        if isinstance(record.args, tuple) and any(
            isinstance(each, VersionMismatch) for each in record.args
        ):
            return
        self.found.append(logging.Formatter().format(record))


class _LoopTarget:
    """What both ends have in common: a loop, and eyes for what goes wrong in it."""

    def __init__(self, logger: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._errors = _Errors()
        self._loop.set_exception_handler(self._unhandled)
        self._log = logging.getLogger(logger)
        self._log.addHandler(self._errors)
        self._log.propagate = False  # a warning for each input is for nobody
        self._tasks: set[asyncio.Task[Any]] = set()

    def run(self, data: bytes) -> None:
        """Feed a new connection, end it, and look for what is left."""
        if len(data) < 3:
            return
        self._loop.run_until_complete(self._run(data))
        if self._errors.found:
            found = "\n".join(self._errors.found)
            self._errors.found.clear()
            raise Finding(found)

    def close(self) -> None:
        """Give back the logger and the loop."""
        self._log.removeHandler(self._errors)
        self._log.propagate = True
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    async def _run(self, data: bytes) -> None:
        raise NotImplementedError

    async def _feed(self, conn: Connection, transport: MemoryTransport, data: bytes) -> None:
        """Give a connection its input, then end it."""
        for chunk in _chunks(data):
            if transport.is_closing():
                break
            conn.data_received(chunk)
            await asyncio.sleep(0)
        for _ in range(4):
            await asyncio.sleep(0)
        transport.close()
        await self._quiet()
        if conn.streams:
            raise Finding("the connection has ended and has streams")

    async def _quiet(self) -> None:
        """Return when no task is left that was not there before."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)
            if not self._left():
                return
        try:
            async with asyncio.timeout(_PATIENCE):
                while self._left():  # noqa: ASYNC110  # tasks of whatever kind
                    await asyncio.sleep(0.001)
        except TimeoutError:
            raise Finding(f"leaked tasks: {self._left()}") from None

    def _left(self) -> set[asyncio.Task[Any]]:
        return asyncio.all_tasks() - self._tasks - {asyncio.current_task()}

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._errors.found.append(repr(context))


class ServerTarget(_LoopTarget):
    """A whole server, plain or with compression and encryption, as the first byte says."""

    def __init__(self) -> None:
        super().__init__("rap.server")
        self._servers = [self._loop.run_until_complete(_server(kind)) for kind in (False, True)]
        self._tasks = asyncio.all_tasks(self._loop)

    def close(self) -> None:
        """Stop the servers."""
        for server in self._servers:
            self._loop.run_until_complete(server.await_closed())
        super().close()

    async def _run(self, data: bytes) -> None:
        # There is no listener to make the connection, so it is made here.
        manager = self._servers[data[0] & 1].connection_manager
        conn = manager.new_connection()
        transport = MemoryTransport(conn)
        conn.connection_made(transport)
        await self._feed(conn, transport, data)
        if conn in manager.connections:
            raise Finding("the connection has ended and is still there")


class ClientTarget(_LoopTarget):
    """A client's connection with calls of every shape open, at the mercy of its server."""

    def __init__(self) -> None:
        super().__init__("rap.client")

    async def _run(self, data: bytes) -> None:
        conn = Connection(ConnectionOptions(), clock=SystemClock(), log=self._log)
        transport = MemoryTransport(conn)
        conn.connection_made(transport)
        now = conn.clock.monotonic()
        unary = [UnaryStream(conn, now + 60.0) for _ in range(2)]
        for each in unary:
            conn.open_unary(each, _META, b"\x90")
        streams = [Stream(conn) for _ in range(2)]
        for stream, flags in zip(streams, (MESSAGE | END, 0), strict=True):
            conn.open(stream, flags, _META, b"\x90")
        waiting: list[asyncio.Future[Any]] = [asyncio.ensure_future(each.future) for each in unary]
        waiting += [asyncio.create_task(_read_all(stream)) for stream in streams]
        await self._feed(conn, transport, data)
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, RapError):
                raise Finding(f"a call ended with {result!r}")


async def _read_all(stream: Stream) -> None:
    with suppress(EndOfStream):
        while True:
            await stream.recv()


async def add(a: int, b: int) -> int:
    """Add."""
    return a + b


async def echo(value: Any) -> Any:
    """Return the argument."""
    return value


async def count(n: int) -> AsyncIterator[int]:
    """Yield up to a hundred numbers."""
    for i in range(min(n, 100)):
        yield i


async def talk(channel: Channel) -> None:
    """Return each message."""
    async for body in channel:
        await channel.write(body)


async def upload(name: str, rows: AsyncIterator[int]) -> int:
    """Return the sum of the requests."""
    return sum([row async for row in rows])


async def doubled(rows: AsyncIterator[int]) -> AsyncIterator[int]:
    """Yield each request, doubled."""
    async for row in rows:
        yield 2 * row


async def room(channel: Channel[int, int], name: str) -> str:
    """Return each number, and at the end the argument."""
    async for number in channel:
        await channel.write(number)
    return name


async def wait() -> None:
    """Wait until cancelled."""
    await asyncio.Event().wait()


async def _server(sealed: bool) -> Server:
    processors = [CompressProcessor(), CryptoProcessor({"id": "k" * 16})] if sealed else []
    server = Server("127.0.0.1:0", processor_list=processors, close_timeout=0.2)
    for func in (add, echo, count, talk, upload, doubled, room, wait):
        server.register(func)
    await server.create_server()
    gc.freeze()  # what is there stays: collections need not look at it
    return server


TARGETS: dict[str, type[ProtocolTarget | ClientTarget | ServerTarget]] = {
    "protocol": ProtocolTarget,
    "client": ClientTarget,
    "server": ServerTarget,
}
