"""Two connections that talk to each other, over every transport there is."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from rap.address import Address
from rap.clock import Clock, SystemClock
from rap.errors import ConnectionClosed
from rap.transport import Connection, ConnectionOptions, Stream, UnaryStream
from rap.transport.dial import dial
from rap.transport.inproc import new_address
from rap.transport.listen import listen
from rap.transport.tls import ServerTls, ServerTrust, client_context, pinned_certificate
from rap.wire.codec import pack
from rap.wire.frames import END, MESSAGE
from tests.loopback import within
from tests.transport.certificates import Certificates

KINDS = ["socketpair", "tcp", "tls", "pinned tls", "unix", "inproc"]
META = pack(["/g/f", 0])
WHOLE = MESSAGE | END
KIB = 1024
MIB = 1024 * KIB
LOG = logging.getLogger("rap.test")
DEFAULTS = ConnectionOptions()


class Inbound(NamedTuple):
    """A stream that the client opened."""

    stream: Stream
    flags: int
    meta: bytes
    body: bytes


class Pair:
    """A client's and a server's connection; `inbound` has what the client opened.

    `near` and `far` are the same two: `near` is the client, or the server if `swapped`.
    """

    swapped = False

    def __init__(
        self, client: ConnectionOptions, server: ConnectionOptions, clock: Clock | None
    ) -> None:
        self.client: Connection = None  # type: ignore[assignment]  # set when connected
        self.server: Connection = None  # type: ignore[assignment]
        self.inbound: asyncio.Queue[Inbound] = asyncio.Queue()
        self.on_open: Callable[[Inbound], object] = self.inbound.put_nowait
        self.changes: list[Connection] = []
        self.lost: list[Connection] = []
        self.options = (client, server)
        self.clock: Clock = clock or SystemClock()

    def make_client(self) -> Connection:
        self.client = Connection(
            self.options[0],
            clock=self.clock,
            log=LOG,
            on_change=self.changes.append,
            on_lost=self.lost.append,
        )
        return self.client

    def make_server(self) -> Connection:
        self.server = Connection(
            self.options[1],
            clock=self.clock,
            log=LOG,
            new_stream=Stream,
            stream_handler=lambda conn: self._open,
            on_lost=self.lost.append,
        )
        return self.server

    def _open(self, stream: Stream, flags: int, meta: bytes, body: bytes | memoryview) -> None:
        self.on_open(Inbound(stream, flags, meta, bytes(body)))

    def echo(self) -> None:
        """Let the server answer every unary call with what it was sent."""

        def answer(inbound: Inbound) -> None:
            inbound.stream.conn.protocol.send_response(inbound.stream, inbound.body)

        self.on_open = answer

    def open(self, flags: int = 0, body: bytes = b"", deadline: float = inf) -> Stream:
        """Open a stream on the client."""
        stream = Stream(self.client)
        stream.deadline = deadline
        self.client.open(stream, flags, META, body)
        return stream

    def call(self, body: bytes = b"", deadline: float = inf) -> UnaryStream:
        """Open a unary call on the client; its answer is in the future of what is returned."""
        stream = UnaryStream(self.client, deadline)
        self.client.open_unary(stream, META, body)
        return stream

    @property
    def near(self) -> Connection:
        return self.server if self.swapped else self.client

    @property
    def far(self) -> Connection:
        return self.client if self.swapped else self.server

    async def both(self) -> tuple[Stream, Stream]:
        """Return both ends of a new stream, the near one first."""
        opened = self.open()
        taken = (await within(self.inbound.get())).stream
        return (taken, opened) if self.swapped else (opened, taken)

    async def settled(self) -> None:
        """Return when everything that was sent before has arrived, both ways."""
        for conn in (self.client, self.server):
            pong = conn.new_future()
            answered = conn.watchdog.keepalive.on_pong

            def on_answer(
                now: float,
                pong: asyncio.Future[None] = pong,
                answered: Callable[[float], None] = answered,
            ) -> None:
                answered(now)
                if not pong.done():
                    pong.set_result(None)

            conn.watchdog.keepalive = _Watched(conn.watchdog.keepalive, on_answer)  # type: ignore[assignment]
            conn.ping()
            await within(pong)
            conn.watchdog.keepalive = conn.watchdog.keepalive.watched  # type: ignore[attr-defined]

    async def end(self) -> None:
        for conn in (self.client, self.server):
            await end(conn)


async def wait_ended(stream: Stream) -> None:
    """Wait until the peer has ended or reset the stream, or the connection is lost."""
    while not stream.ended and stream.error is None:
        await stream.wait_news()


async def end(conn: Connection | None) -> None:
    """End a connection, if it was ever made."""
    if conn is not None and conn.transport is not None:
        conn.abort(ConnectionClosed("the test is over"))
        await within(asyncio.shield(conn.ended))


class _Watched:
    """A keepalive that tells of each answer."""

    def __init__(self, watched: Any, on_answer: Callable[[float], None]) -> None:
        self.watched = watched
        self.on_pong = on_answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.watched, name)


@asynccontextmanager
async def connected(
    kind: str,
    *,
    client: ConnectionOptions = DEFAULTS,
    server: ConnectionOptions = DEFAULTS,
    clock: Clock | None = None,
    certificates: Certificates | None = None,
    path: Path | None = None,
) -> AsyncIterator[Pair]:
    """Connect a pair over one kind of transport."""
    pair = Pair(client, server, clock)
    listener = None
    try:
        if kind == "socketpair":
            await _over_socketpair(pair)
        else:
            address, tls, trust = _way(kind, certificates, path)
            listener = await listen(address, pair.make_server, backlog=10, tls=tls)
            await dial(listener.address, pair.make_client, timeout=10, trust=trust)
            await within(pair.server.wait_handshake())
        yield pair
    finally:
        if listener is not None:
            listener.close()
        await pair.end()


async def _over_socketpair(pair: Pair) -> None:
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    await loop.connect_accepted_socket(pair.make_server, far)
    await loop.create_unix_connection(pair.make_client, sock=near)
    await within(pair.client.wait_handshake())
    await within(pair.server.wait_handshake())


def _way(
    kind: str, certificates: Certificates | None, path: Path | None
) -> tuple[Address, ServerTls | None, ServerTrust | None]:
    """Return address and TLS of both sides."""
    if kind == "unix":
        return Address("unix", path=str(path)), None, None
    if kind == "inproc":
        return new_address("pair"), None, None
    if kind == "tcp":
        return Address("tcp", "127.0.0.1"), None, None
    assert certificates is not None
    address = Address("tls", "127.0.0.1")
    if kind == "pinned tls":
        own = certificates.self_signed
        context = client_context(pinned_path=own.crt_path)
        trust = ServerTrust(context, pinned_certificate(own.crt_path))
        return address, ServerTls(own.crt_path, own.key_path), trust
    own, mine = certificates.server, certificates.client
    authority = certificates.authority.crt_path
    context = client_context(ca_path=authority, crt_path=mine.crt_path, key_path=mine.key_path)
    return address, ServerTls(own.crt_path, own.key_path, authority), ServerTrust(context)
