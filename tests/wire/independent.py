"""A rap peer written from PROTOCOL.md alone, as somebody would in another language.

It imports nothing of rap and knows only what the page says, so a test that passes with it shows
that the page suffices. It reads when somebody waits: whoever needs a frame, credit or the end of
a connection reads frames until it has come.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Self

import msgpack

__all__ = ["Call", "Failed", "Frame", "Peer", "Violation", "serve"]

_HEADER = struct.Struct(">IBBIH")
DATA, OPEN, RESET, CREDIT, PING, GOAWAY, HELLO, LOAD, DONE = range(9)
MESSAGE, MORE, END, BATCH = 1, 2, 4, 8  # of Open and Data
UNSERVED = 1  # of Reset
ACK = 1  # of Ping
_START = 64 * 1024  # credit before the Hello
NOTHING: Mapping[str, Any] = {}
_DEFAULTS = {
    "max_frame": 16 * 1024,
    "max_message": 16 * 1024 * 1024,
    "max_streams": 16384,
    "stream_window": _START,
    "connection_window": _START,
}


class Frame(NamedTuple):
    """One frame as it crosses the wire."""

    kind: int
    flags: int
    stream: int
    meta: bytes
    body: bytes

    @property
    def cost(self) -> int:
        """Return the bytes of the whole frame."""
        return _HEADER.size + len(self.meta) + len(self.body)


class Violation(Exception):
    """The other side broke a rule of the page."""


class Failed(Exception):
    """A call ended by Reset."""

    def __init__(self, unserved: bool, code: int, message: str, details: Mapping[str, Any]) -> None:
        super().__init__(code, message)
        self.unserved, self.code, self.message, self.details = unserved, code, message, details


class Window:
    """What the other side may still send, on a stream or on all together.

    Args:
        size: What it may send at the start.
    """

    def __init__(self, size: int) -> None:
        self.size = self.left = size
        self.due = 0  # to be given back; below 0 while a message is held that came in parts

    def take(self, cost: int) -> None:
        """Count a frame that came."""
        self.left -= cost
        if self.left < 0:
            raise Violation(f"{-self.left} bytes beyond the credit")

    def grant(self) -> bytes:
        """Return the body of a Credit for what is due."""
        amount, self.due = self.due, 0
        self.left += amount
        return amount.to_bytes(4, "big")


class Call:
    """One stream, as either side sees it."""

    def __init__(self, peer: "Peer", stream: int, method: str = "") -> None:
        self.peer, self.stream, self.method = peer, stream, method
        self.timeout_ms, self.header = 0, dict[str, Any]()
        self.may_send = peer.theirs["stream_window"]
        self.window = Window(peer.ours["stream_window"])
        self.held = 0  # bytes of messages that nobody has taken
        self.ended = self.we_ended = False
        self.failure: Failed | None = None
        self.headers: list[Mapping[str, Any]] = []  # of the frames that began a message or END
        self.last_header: Mapping[str, Any] = {}  # of the message or frame with END
        self.result: Any = None  # of a channel
        self.messages_ended = False  # the server's, before its call
        self.is_done = False  # the client of a channel reads nothing more
        self.stopped = False  # the server needs no more of what we send
        self._inbox: deque[tuple[Any, int]] = deque()  # with what the message gives back
        self._parts: list[bytes] = []
        self._lent = 0  # given back for them

    @property
    def done(self) -> bool:
        """Whether both sides have ended, or one has reset the stream."""
        return self.stream not in self.peer.calls

    async def finish(self) -> None:
        """Leave the table of open streams; what nobody has taken is the connection's again."""
        self.peer.calls.pop(self.stream, None)
        held, self.held = self.held, 0
        await self.peer.give_back(None, held)

    @property
    def answer_header(self) -> Mapping[str, Any]:
        """Return the header of the answer: of a call that failed, the details have it."""
        if self.failure is not None and ":header" in self.failure.details:
            return _names_of_users(self.failure.details[":header"])
        return _names_of_users(self.headers[0] if self.headers else {})

    @property
    def answer_trailer(self) -> Mapping[str, Any]:
        """Return the trailer of the answer: of a call that failed, the details have it."""
        last = self.failure.details if self.failure is not None else self.last_header
        return _names_of_users(last.get(":trailer", {}))

    async def send(
        self,
        value: Any,
        *,
        end: bool = False,
        batch: bool = False,
        header: Mapping[str, Any] | None = None,
    ) -> None:
        """Send one message, or a batch of them."""
        flags = MESSAGE | (END if end else 0) | (BATCH if batch else 0)
        meta = msgpack.packb(header) if header else b""
        await self.peer.send_message(self, DATA, flags, meta, msgpack.packb(value))

    async def end(self, header: Mapping[str, Any] | None = None) -> None:
        """Say that nothing more is sent."""
        meta = msgpack.packb(header) if header else b""
        await self.peer.send_message(self, DATA, END, meta, b"")

    async def leave(self) -> None:
        """End a channel, and say that nothing more is read, if the server understands that."""
        if "outcome" in (await self.peer.greeted()).get("abilities", ()):
            await self.done_reading()
        if not self.we_ended:
            await self.end()

    async def done_reading(self) -> None:
        """Say that nothing more is read."""
        await self.peer.send(DONE, 0, self.stream, b"", b"")

    async def receive(self) -> Any:
        """Return the next message and give its credit back.

        Raises:
            StopAsyncIteration: The other side has ended.
            Failed: The other side has reset the stream.
        """
        while not self._inbox and not self.ended and self.failure is None:
            await self.peer.read()
        if self._inbox:
            value, cost = self._inbox.popleft()
            if self.held:
                self.held -= cost
                await self.peer.give_back(self, cost)
            return value
        if self.failure is not None:
            raise self.failure
        raise StopAsyncIteration

    async def rest(self) -> list[Any]:
        """Return what comes until the end."""
        found = []
        while True:
            try:
                found.append(await self.receive())
            except StopAsyncIteration:
                return found

    async def stop(self) -> None:
        """Tell the client, as a server that has ended, to send nothing more."""
        if not self.done:
            await self.reset(0)

    async def reset(self, code: int, message: str = "", *, unserved: bool = False) -> None:
        """End the stream at once."""
        body = msgpack.packb([code, message, {}])
        await self.peer.send(RESET, UNSERVED if unserved else 0, self.stream, b"", body)
        self.ended = self.we_ended = True
        await self.finish()

    async def take(self, frame: Frame) -> None:
        """Take an Open or Data that came."""
        if self.ended:
            raise Violation("Data after END")
        cost = frame.cost
        self.window.take(cost)
        more, last = frame.flags & MORE, frame.flags & END and not frame.flags & MORE
        if not self._parts:
            has_header = frame.kind == DATA and frame.meta
            self.headers.append(msgpack.unpackb(frame.meta) if has_header else {})
        if frame.flags & MESSAGE:
            self._parts.append(frame.body)
        elif self._parts:
            raise Violation("a message breaks off")
        if more:
            self._lent += cost
            await self.peer.give_back(self, cost)
            return
        self.ended = bool(last)
        header = self.headers[-1]
        if last:
            self.last_header = header
        if header.get(":result") is True and self._parts:
            self.result = msgpack.unpackb(b"".join(self._parts))
            self._parts.clear()
            await self.peer.give_back(self, cost)
        elif header.get(":end") is True and self._parts:
            self.messages_ended = True
            self._parts.clear()
            await self.peer.give_back(self, cost)
        elif self._parts and frame.kind == DATA:
            await self.peer.give_back(self, -self._lent)
            self.held += cost + self._lent
            self._put(frame, cost + self._lent)
        else:
            if self._parts:
                self._put(frame, 0)
            await self.peer.give_back(self, cost)
        self._lent = 0
        if last and self.we_ended:
            await self.finish()

    def _put(self, frame: Frame, cost: int) -> None:
        value = msgpack.unpackb(b"".join(self._parts))
        self._parts.clear()
        items = value if frame.flags & BATCH else [value]
        self._inbox.extend((item, 0) for item in items[:-1])
        self._inbox.append((items[-1], cost))


class Peer:
    """One connection, of a client or of a server.

    Args:
        limits: What our Hello tells; what is absent has the value of the page.
        hello: Further keys of our Hello.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        limits: Mapping[str, int],
        hello: Mapping[str, Any],
        on_open: Callable[[Call], None] | None = None,
    ) -> None:
        self._reader, self._writer, self._on_open = reader, writer, on_open
        self._own_hello = {"rap": 1, **limits, **hello}
        self.ours, self.theirs = {**_DEFAULTS, **limits}, dict(_DEFAULTS)
        self.hello: dict[str, Any] = {}
        self.calls: dict[int, Call] = {}
        self.may_send = _START
        self.window = Window(self.ours["connection_window"])
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        self.loads: list[dict[str, Any]] = []  # what the server said of its load
        self.asked = 0  # times that a client wanted to know ours, which is told to nobody
        self.goaways: list[tuple[int, int, str]] = []
        self.closed = False
        self.version = 0  # none in common, or not known yet
        self._next = 1

    @classmethod
    async def connect(
        cls, host: str, port: int, limits: Mapping[str, int] = NOTHING, **hello: Any
    ) -> Self:
        """Open a connection as a client."""
        reader, writer = await asyncio.open_connection(host, port)
        peer = cls(reader, writer, limits, hello)
        await peer.say_hello()
        return peer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        with suppress(OSError):  # the other side has gone
            await self._writer.wait_closed()

    def close(self) -> None:
        """Close our end."""
        self._writer.close()

    async def say_hello(self) -> None:
        """Send our Hello, without waiting for the other."""
        await self.send(HELLO, 0, 0, b"", msgpack.packb(self._own_hello))

    async def greeted(self) -> Mapping[str, Any]:
        """Return the Hello of the other side."""
        while not self.hello:
            await self.read()
        return self.hello

    async def send(self, kind: int, flags: int, stream: int, meta: bytes, body: bytes) -> None:
        """Write one frame as it is."""
        self.write(
            _HEADER.pack(len(meta) + len(body), kind, flags, stream, len(meta)) + meta + body
        )
        await self._writer.drain()

    def write(self, data: bytes) -> None:
        """Write bytes as they are."""
        self._writer.write(data)

    async def open(
        self,
        method: str,
        *message: Any,
        timeout_ms: int = 0,
        header: Mapping[str, Any] | None = None,
        end: bool = True,
    ) -> Call:
        """Begin a call; with a message, it is the first."""
        call = self.new_call(method)
        meta = msgpack.packb([method, timeout_ms, *([header] if header else ())])
        flags = (MESSAGE if message else 0) | (END if end else 0)
        body = msgpack.packb(message[0]) if message else b""
        await self.send_message(call, OPEN, flags, meta, body)
        return call

    def new_call(self, method: str = "") -> Call:
        """Return a call with the next id; nothing is sent."""
        call = self.calls[self._next] = Call(self, self._next, method)
        self._next += 2
        return call

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Return the answer of a unary call."""
        return await (await self.open(method, arguments, **options)).receive()

    async def send_message(
        self, call: Call, kind: int, flags: int, meta: bytes, body: bytes
    ) -> None:
        """Send Open or Data in as many parts as frames and credit ask for."""
        while True:
            while True:
                credit = min(call.may_send, self.may_send) - _HEADER.size
                room = min(credit, self.theirs["max_frame"]) - len(meta)
                if room >= len(body) or room > 0:
                    break
                await self.read()
                if call.failure is not None:
                    raise call.failure
            part, body = body[:room], body[room:]
            more = bool(body)
            now = (flags & ~END) | MORE if more else flags
            frame = Frame(kind, now, call.stream, meta, part)
            call.may_send -= frame.cost
            self.may_send -= frame.cost
            await self.send(*frame)
            if not more:
                call.we_ended = bool(flags & END)
                if call.we_ended and call.ended:
                    await call.finish()
                return
            kind, meta = DATA, b""

    async def give_back(self, call: Call | None, cost: int) -> None:
        """Count what may be sent again; say so when it is due."""
        if call is not None and not call.ended:
            call.window.due += cost
            if call.window.due >= call.window.size // 2:
                await self.send(CREDIT, 0, call.stream, b"", call.window.grant())
        self.window.due += cost
        if self.window.due >= max(1, self.window.left):
            await self.send(CREDIT, 0, 0, b"", self.window.grant())

    async def ping(self, body: bytes = b"8 bytes.") -> None:
        """Send a Ping and return when it is answered."""
        before = len(self.pongs)
        await self.send(PING, 0, 0, b"", body)
        while len(self.pongs) == before:
            await self.read()

    async def until_closed(self) -> None:
        """Read until the other side closes."""
        while not self.closed:
            await self.read()

    async def read(self) -> None:
        """Read one frame and do what it asks for."""
        try:
            size, kind, flags, stream, meta_size = _HEADER.unpack(
                await self._reader.readexactly(_HEADER.size)
            )
        except (asyncio.IncompleteReadError, ConnectionResetError) as exc:
            if self.closed:
                raise ConnectionError("read after the end") from exc
            self.closed = True
            return
        if size > self.ours["max_frame"] or meta_size > size:
            raise Violation("a frame too large")
        payload = await self._reader.readexactly(size)
        await self._handle(Frame(kind, flags, stream, payload[:meta_size], payload[meta_size:]))

    async def _handle(self, frame: Frame) -> None:
        if not self.hello and frame.kind != HELLO:
            raise Violation("no Hello")
        if frame.kind in (DATA, OPEN):
            await self._stream_frame(frame)
        elif frame.kind == RESET:
            if (call := self.calls.get(frame.stream)) is not None:
                code, message, details = msgpack.unpackb(frame.body)[:3]
                call.ended = True
                call.stopped = not code
                if code or self._on_open is not None:
                    call.failure = Failed(bool(frame.flags & UNSERVED), code, message, details)
                await call.finish()
        elif frame.kind == CREDIT:
            amount = int.from_bytes(frame.body, "big")
            if frame.stream == 0:
                self.may_send += amount
            elif (sender := self.calls.get(frame.stream)) is not None:
                sender.may_send += amount
        elif frame.kind == PING:
            if frame.flags & ACK:
                self.pongs.append(frame.body)
            else:
                self.pings.append(frame.body)
                await self.send(PING, ACK, 0, b"", frame.body)
        elif frame.kind == GOAWAY:
            self.goaways.append((frame.stream, *msgpack.unpackb(frame.body)[:2]))
        elif frame.kind == DONE:
            if (done := self.calls.get(frame.stream)) is not None and self._on_open is not None:
                done.is_done = True
        elif frame.kind == LOAD and self._on_open is not None:
            self.asked += 1
        elif frame.kind == LOAD:
            self.loads.append(msgpack.unpackb(frame.body))
        elif frame.kind == HELLO:
            self._greet(msgpack.unpackb(frame.body))

    def _greet(self, hello: dict[str, Any]) -> None:
        if self.hello:
            raise Violation("a second Hello")
        self.hello = hello
        low, own_low = hello["rap"], self._own_hello["rap"]
        high, own_high = hello.get("rap_max", low), self._own_hello.get("rap_max", own_low)
        if {type(own_low), type(own_high)} == {int} and max(low, own_low) <= min(high, own_high):
            self.version = min(high, own_high)
        self.theirs |= {key: hello[key] for key in _DEFAULTS if key in hello}
        self.may_send += self.theirs["connection_window"] - _START
        for call in self.calls.values():
            call.may_send += self.theirs["stream_window"] - _START

    async def _stream_frame(self, frame: Frame) -> None:
        self.window.take(frame.cost)
        if frame.kind == OPEN:
            if self._on_open is None or not frame.stream & 1 or frame.stream < self._next:
                raise Violation("an Open by a server, or with a wrong id")
            self._next = frame.stream + 2
            call = self.calls[frame.stream] = Call(self, frame.stream)
            call.method, call.timeout_ms, call.header = (*msgpack.unpackb(frame.meta), {})[:3]
            await call.take(frame)
            self._on_open(call)
        elif (call_of := self.calls.get(frame.stream)) is not None:
            await call_of.take(frame)
        elif frame.stream >= self._next:
            raise Violation("Data of a stream that was never opened")
        else:  # late
            await self.give_back(None, frame.cost)


def _names_of_users(header: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in header.items() if not name.startswith(":")}


async def serve(
    answer: Callable[[Call], Awaitable[None]], limits: Mapping[str, int] = NOTHING, **hello: Any
) -> asyncio.Server:
    """Listen on a free port; every call is given to `answer` when its Open has come."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting: deque[Call] = deque()
        peer = Peer(reader, writer, limits, hello, waiting.append)
        async with peer:
            await peer.say_hello()
            while not peer.closed:
                await peer.read()
                while waiting:
                    await answer(waiting.popleft())

    return await asyncio.start_server(connected, "127.0.0.1", 0)
