"""A channel: a duplex call in which both sides send messages.

One task may read and one may write at a time. Flow control works both ways: if a reader stalls, the
writer at the other end waits.
"""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Generic

from rap.call import Call, Request, Response, Side
from rap.errors import CallError, ChannelClosed, Code
from rap.processor.base import Pipeline
from rap.schema.function import decode_any, encode_any, encode_written
from rap.transport.stream import EndOfStream, Message, Stream
from rap.wire.codec import pack, unpack
from rap.wire.frames import END, MESSAGE
from rap.wire.stream import CLOSED, LOCAL_DONE

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    In = TypeVar("In", default=Any)
    Out = TypeVar("Out", default=Any)
else:
    from typing import TypeVar

    In = TypeVar("In")
    Out = TypeVar("Out")

__all__ = ["Channel"]

_DONE = CLOSED | LOCAL_DONE


class Channel(Generic[In, Out]):
    """A duplex call, on either side.

    ``Channel[In, Out]`` is a channel whose messages have types: this side reads ``In`` and writes
    ``Out``. Each type that is left out is any type.

    Args:
        stream: The stream of the call.
        call: The call.
        pipeline: The processors of this side.
    """

    __rap_channel__ = True

    def __init__(self, stream: Stream, call: Call, pipeline: Pipeline) -> None:
        self._stream = stream
        self._call = call
        self._pipeline = pipeline
        self._is_client = call.side is Side.CLIENT
        self._encode = encode_any if self._is_client else encode_written
        self._finish: str | None = None
        self._proved = False  # the processors have accepted the end of the peer

    if not TYPE_CHECKING:

        def __class_getitem__(cls, types: Any) -> Any:
            """Return the class with types, of which any may be left out."""
            given = types if isinstance(types, tuple) else (types,)
            return super().__class_getitem__((*given, Any, Any)[: max(2, len(given))])

    def __repr__(self) -> str:
        stream = self._stream
        state = "open"
        if self._finish is not None:
            state = "closed"
        elif stream.error is not None:
            state = f"failed: {stream.error}"
        elif stream.state & _DONE:
            state = "closed"
        elif stream.ended:
            state = "closed by the peer"
            if stream.inbox:
                state += f", {len(stream.inbox)} messages unread"
        return f"<{type(self).__name__} {self._call.method} {state}>"

    @property
    def call(self) -> Call:
        """The call of this channel, with method, header and peer."""
        return self._call

    @property
    def is_close(self) -> bool:
        """Whether no message is left to read, because either side has closed the channel."""
        stream = self._stream
        if self._finish is not None:
            return True
        if self._pipeline.proves_ends and stream.inbox and stream.inbox[0][0] & END:
            self._on_end(stream.try_recv())
        return not stream.inbox and (stream.ended or stream.error is not None)

    @property
    def draining(self) -> bool:
        """Whether the server is about to stop and asks to finish soon."""
        return self._stream.conn.draining

    async def read(self) -> Any:
        """Return the next message: a `Response` on a client, a `Request` on a server.

        Raises:
            ChannelClosed: The peer has closed the channel, or this side has.
            CallError: The peer's function raised, or the connection was lost.
        """
        message = await self._next()
        if message is None:
            raise ChannelClosed(self._finish or f"{self._call.method}: the peer closed the channel")
        return message

    async def read_body(self) -> In:
        """Return the body of the next message; raises as `read`."""
        body: In
        if self._pipeline.transforms:
            body = (await self.read()).body
            return body
        if self._finish is not None:
            raise ChannelClosed(self._finish)
        stream = self._stream
        try:
            _, _, raw = stream.take() if stream.inbox else await stream.recv()
        except EndOfStream:
            text = self._finish or f"{self._call.method}: the peer closed the channel"
            raise ChannelClosed(text) from None
        body = decode_any(raw)
        return body

    async def write(self, body: Out) -> None:
        """Send one message; wait while the peer does not read.

        Raises:
            ChannelClosed: The peer has closed the channel, or this side has.
            CallError: The peer's function raised, the connection was lost, or `body` cannot be
                sent.
        """
        stream = self._stream
        if stream.state & _DONE or stream.error is not None or self._finish is not None:
            raise stream.error or ChannelClosed(
                self._finish or f"{self._call.method}: the channel is closed"
            )
        if not self._pipeline.transforms:  # `Stream.send`, inlined
            conn = stream.conn
            if not conn.send_data(stream, MESSAGE, b"", self._encode(body)) or conn.paused:
                await stream.writable()
            return
        message: Request | Response
        if self._is_client:
            message = await self._pipeline.request(Request(self._call, body))
        else:
            message = await self._pipeline.response(Response(self._call, body))
        meta = pack(message.header) if message.header else b""
        await stream.send(self._encode(message.body), meta)

    async def close(self) -> None:
        """Close this side; later messages of the peer are dropped."""
        self.set_finish(f"{self._call.method}: this side closed the channel")

    def set_finish(self, msg: str = "") -> None:
        """Close this side now; reads, including one in progress, raise `ChannelClosed(msg)`."""
        if self._finish is None:
            self._finish = msg or f"{self._call.method}: this side closed the channel"
            self._stream.leave(self._pipeline.send_end(self._call))

    async def wait_close(self) -> None:
        """Return when the peer has closed the channel, or the connection was lost."""
        await self._stream.wait_ended()

    async def loop(self, flag: bool = True) -> bool:
        """Return whether to continue: `flag` is true and the channel is open."""
        return bool(flag) and not self.is_close

    async def iter_body(self) -> AsyncIterator[In]:
        """Yield bodies until the peer closes; a `CallError` of the peer is raised."""
        if self._pipeline.transforms:
            async for message in self.iter_response():
                yield message.body
            return
        stream = self._stream
        while self._finish is None:
            try:
                _, _, body = stream.take() if stream.inbox else await stream.recv()
            except EndOfStream:
                return
            yield decode_any(body)

    async def iter_response(self) -> AsyncIterator[Any]:
        """Yield messages with their headers until the peer closes."""
        while (message := await self._next()) is not None:
            yield message

    def __aiter__(self) -> AsyncIterator[In]:
        return self.iter_body()

    async def _next(self) -> Request | Response | None:
        """Return the next message, or `None` at the end."""
        if self._finish is not None:
            return None
        try:
            received = self._stream.try_recv() or await self._stream.recv()
        except EndOfStream:
            self._on_end(None)
            return None
        if self._pipeline.proves_ends and received[0] & END:
            self._on_end(received)
            return None
        return await self._inbound(received)

    def _on_end(self, last: Message | None) -> None:
        """Let the processors check the end of the peer's messages; they raise to refuse it."""
        if not self._proved and self._finish is None:
            self._pipeline.receive_end(self._call, b"" if last is None else last[2])
            self._proved = True

    async def _inbound(self, received: Message) -> Request | Response:
        _, meta, raw = received
        header: Any = {}
        if meta:
            try:
                header = unpack(meta)
                if not isinstance(header, dict):
                    raise ValueError(f"it must be a map, got {type(header).__name__}")
            except ValueError as exc:
                raise CallError(f"a malformed header: {exc}", code=Code.INTERNAL) from exc
        body = decode_any(raw)
        if self._is_client:
            return await self._pipeline.response(Response(self._call, body, header))
        return await self._pipeline.request(Request(self._call, body, header))
