"""A channel: a duplex call in which both sides send messages.

One task may read and one may write at a time. Flow control works both ways: if a reader stalls, the
writer at the other end waits.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol

from rap.call import (
    HEADER_DETAIL,
    MESSAGES_END,
    RESULT,
    Call,
    Header,
    Request,
    Response,
    Side,
)
from rap.errors import ChannelClosed, Internal, InvalidArgument, Unauthenticated
from rap.processor.base import Pipeline, encode_body
from rap.schema.costs import NEVER_SLOW, SLOW_FROM
from rap.schema.function import Function, decode_any, encode_any, encode_written
from rap.tasks import start_task
from rap.transport.stream import (
    CountedInbox,
    EndOfStream,
    Message,
    Stream,
)
from rap.wire.codec import pack, unpack_map
from rap.wire.frames import BATCH, END, MESSAGE
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

_CLOSED = CLOSED | LOCAL_DONE
_MAX_ERRORS = 7  # of a channel that are kept while its handler runs, besides the last one
# Flags that no message of a channel has. A client may send END with its last message.
_REFUSED_OF_SERVERS = BATCH | END
_REFUSED_OF_CLIENTS = BATCH
_RESULT_NAME = RESULT.encode()
_MESSAGES_END_NAME = MESSAGES_END.encode()


class ServerSide(Protocol):
    """What a channel of a server needs to know of its call."""

    def begin_response(self) -> Header:
        """Return the header of the response, which goes with its first message."""
        ...

    async def reserve_inflated(self, header: Header) -> None:
        """Count the bytes that a compressed message will have, before it is inflated."""
        ...

    def end_response(self, pipeline: Pipeline) -> tuple[bytes, bytes]:
        """Return body and meta of the END of the response."""
        ...

    def end_messages(self, pipeline: Pipeline) -> tuple[bytes, bytes]:
        """Return body and meta of the message that ends the messages before that END."""
        ...


class Channel(Generic[In, Out]):
    """A duplex call, on either side.

    ``Channel[In, Out]`` is a channel whose messages have types: this side reads ``In`` and writes
    ``Out``. Each type that is left out is any type.

    Args:
        stream: The stream of the call.
        call: The call.
        pipeline: The processors of this side.
        function: The declaration, which has the types of messages and result; `None`: any types.
        server: On a server, what it knows of the call.
        decode_apart: Called with a function and a message that takes long to decode; runs the
            function in a thread, and returns its result.
    """

    __rap_channel__ = True

    def __init__(
        self,
        stream: Stream,
        call: Call,
        pipeline: Pipeline,
        function: Function | None = None,
        server: ServerSide | None = None,
        *,
        decode_apart: Callable[..., Awaitable[Any]] = asyncio.to_thread,
    ) -> None:
        self._stream = stream
        self._call = call
        self._pipeline = pipeline
        self._server = server
        self._decode_apart = decode_apart
        self._is_client = call.side is Side.CLIENT
        self._refused_flags = _REFUSED_OF_SERVERS if self._is_client else _REFUSED_OF_CLIENTS
        self._encode_any = encode_any if self._is_client else encode_written
        self._encode, self._decode = self._encode_any, decode_any
        self._is_typed = function is not None and function.has_typed_messages
        if function is not None and self._is_typed:
            codec = function.client_messages if self._is_client else function.server_messages
            self._encode, self._decode = codec
        # Only for the slowest types: a task for each message is dear.
        is_slow = function is not None and self._is_typed and function.slow_message == SLOW_FROM
        self._slow_from = SLOW_FROM if is_slow else NEVER_SLOW
        # Whether a task makes a message of what arrives, which goes on if the reader is cancelled.
        self._processes = pipeline.transforms or is_slow
        self._decode_result: Callable[[Any], Any] = decode_any
        if function is not None and function.signature.return_annotation is not None:
            self._decode_result = function.decode_result
        # A client that knows half-closing may end its messages and read on. An older one that ends
        # its messages has left.
        half_closes = not self._is_client and stream.conn.peer_has("outcome")
        self._unwritable = LOCAL_DONE if half_closes else _CLOSED  # states in which nothing is sent
        self._outlives_end = half_closes  # a server's outcome comes after the end of its messages
        self._has_ended = False  # this side has sent such an end
        self._finish: str | None = None
        # Nothing is left to read: this side has closed, or the end of the messages was read.
        self._is_read = False
        self._peer_has_ended = False  # the end of the peer's messages was read
        # Whether a write takes the slow way: it has a header, passes processors, or cannot be sent.
        self._is_slow = pipeline.transforms or server is not None
        self._inbox: CountedInbox | None = None  # set when the peer reads nothing more
        self._taken = -1  # messages taken at the last write after that
        self._closed_errors: list[ChannelClosed] = []  # raised last, on a server
        self._proved = False  # the processors have accepted the end of the peer
        # On a client: the encoded value of the server's function, and what waits for it.
        self._result: bytes | memoryview | None = None
        self._drainer: asyncio.Task[None] | None = None

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
        elif stream.state & _CLOSED or self._has_ended:
            state = "closed"
        elif stream.ended or self._peer_has_ended:
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
        if self._is_read:
            return True
        if stream.is_processing:
            return False
        if self._pipeline.proves_ends and stream.inbox and stream.inbox[0][0] & END:
            self._on_end(stream.try_recv())
        if stream.inbox and stream.inbox[0][1]:
            mark = self._mark(stream.inbox[0][1])
            if mark == MESSAGES_END:
                _, meta, body = stream.take()
                self._on_messages_end(meta, body)
            if mark:
                return True
        return not stream.inbox and (stream.ended or stream.error is not None)

    @property
    def header(self) -> Header:
        """On a client, the header of the answer; empty until the first message has arrived."""
        return self._stream.answer_header

    @property
    def trailer(self) -> Header:
        """On a client, the trailer of the answer; empty until the server's function has ended."""
        return self._stream.answer_trailer

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
            raise self._closed("the peer closed the channel")
        return message

    async def read_body(self) -> In:
        """Return the body of the next message; raises as `read`."""
        body: In
        if self._processes:
            body = (await self.read()).body
            return body
        if self._is_read:
            raise self._closed("the peer closed the channel")
        stream = self._stream
        try:
            flags, meta, raw = stream.take() if stream.inbox else await stream.recv()
            if meta and self._take_mark(meta, raw):
                raise EndOfStream
            if flags & self._refused_flags:
                raise self._not_a_channel()
        except EndOfStream:
            raise self._closed("the peer closed the channel") from None
        body = self._decode(raw)
        return body

    async def write(self, body: Out) -> None:
        """Send one message; wait while the peer does not read.

        Raises:
            ChannelClosed: The peer has closed the channel, or this side has.
            CallError: The peer's function raised, the connection was lost, or `body` cannot be
                sent.
        """
        stream = self._stream
        if self._is_slow or stream.state & self._unwritable or stream.error is not None:
            await self._write_slowly(body)
            return
        conn = stream.conn  # `Stream.send`, inlined
        if not conn.send_data(stream, MESSAGE, b"", self._encode(body)) or conn.paused:
            await stream.writable()

    async def end(self) -> None:
        """Send the end of this side's messages; this side may still read.

        The peer's iteration ends. Does nothing if this side has ended.
        """
        if self._finish is None and self._stream.error is None:
            self._end_messages()

    async def result(self) -> Any:
        """On a client, return the value of the server's function when that has returned.

        It ends this side. Messages that were not read are dropped. Messages and the result are
        those of one reader: no other task may be waiting for a message.

        Raises:
            CallError: The server's function raised, or the connection was lost.
            RuntimeError: This is the server's side.
        """
        if not self._is_client:
            raise RuntimeError(f"{self._call.method}: the result is what this function returns")
        await self.end()
        if self._drainer is not None:
            await asyncio.shield(self._drainer)
        else:
            await self._drain()
        return None if self._result is None else self._decode_result(self._result)

    async def close(self) -> None:
        """Close this side; later messages of the peer are dropped."""
        self.set_finish(f"{self._call.method}: this side closed the channel")

    def set_finish(self, msg: str = "") -> None:
        """Close this side now; reads, including one in progress, raise `ChannelClosed(msg)`."""
        if self._finish is None and self._finish_now(msg) and not self._stream.ended:
            self._drainer = start_task(self._drain())
            self._drainer.add_done_callback(_look_at)

    async def wait_outcome(self) -> None:
        """On a client, close this side; return when the server's function has returned.

        It does not wait for a server that does not know results.

        Raises:
            CallError: The server's function raised, or the connection was lost.
        """
        if self._finish is None:
            self._finish_now("")
        if self._drainer is not None:
            await asyncio.shield(self._drainer)
        else:
            await self._drain()

    def on_peer_done(self) -> None:
        """Drop what is written, or raise `ChannelClosed`: the client reads nothing more.

        A function that answers each message may so handle the last ones and return its result.
        A write raises if no message was read since the one before.
        """
        self._is_slow = True
        self._inbox = self._stream.count_taken()

    def ended_by(self, error: BaseException) -> bool:
        """Return whether a handler was ended by its client: this channel raised `error` for it.

        Each error of an `ExceptionGroup` must be one of this channel, as those of a `TaskGroup` are
        whose tasks read and write.
        """
        if isinstance(error, BaseExceptionGroup):
            return all(self.ended_by(each) for each in error.exceptions)
        has_left = self._inbox is not None or self._stream.ended
        return has_left and any(error is each for each in self._closed_errors)

    def release(self) -> None:
        """Drop the errors, whose tracebacks refer to the channel."""
        self._closed_errors.clear()

    async def wait_close(self) -> None:
        """Return when the peer has closed the channel, or the connection was lost."""
        stream = self._stream
        while not (stream.ended or stream.error is not None or self._messages_ended()):
            await stream.wait_news()

    async def loop(self, flag: bool = True) -> bool:
        """Return whether to continue: `flag` is true and the channel is open."""
        return bool(flag) and not self.is_close

    async def iter_body(self) -> AsyncIterator[In]:
        """Yield bodies until the peer closes; a `CallError` of the peer is raised."""
        if self._processes:
            async for message in self.iter_response():
                yield message.body
            return
        stream = self._stream
        while not self._is_read:
            try:
                flags, meta, body = stream.take() if stream.inbox else await stream.recv()
                if meta and self._take_mark(meta, body):
                    return
                if flags & self._refused_flags:
                    raise self._not_a_channel()
            except EndOfStream:
                return
            yield self._decode(body)

    async def iter_response(self) -> AsyncIterator[Any]:
        """Yield messages with their headers until the peer closes."""
        while (message := await self._next()) is not None:
            yield message

    def __aiter__(self) -> AsyncIterator[In]:
        return self.iter_body()

    async def _write_slowly(self, body: Any) -> None:
        stream, pipeline = self._stream, self._pipeline
        if stream.error is not None:
            raise stream.error
        if self._finish is not None:
            raise self._closed()
        if self._inbox is not None and self._inbox.taken == self._taken:
            raise self._closed("the peer closed the channel")
        if stream.state & self._unwritable or self._has_ended:
            raise self._closed("the channel is closed")
        if self._inbox is not None:
            self._taken = self._inbox.taken
            self._encode(body)  # checks the declared type
            return
        header: Header | None = None
        if self._server is not None:
            header = self._server.begin_response()
            self._is_slow = pipeline.transforms
        raw = self._encode(body)
        if pipeline.transforms:
            message: Request | Response
            if self._is_client:
                message = await pipeline.request(Request(self._call, body))
            else:
                message = await pipeline.response(Response(self._call, body, header))
            header = message.header
            is_encoded = message.encoded is not None
            raw = encode_body(message) if is_encoded else self._encode_any(message.body)
        await stream.send(raw, pack(header) if header else b"")
        if self._has_ended:  # while the processors had the message, so the client drops it
            raise self._closed("the channel is closed")

    def _end_messages(self) -> None:
        """Send the end of this side's messages, unless it is sent."""
        stream = self._stream
        if self._server is None or not self._outlives_end:
            stream.end(*self._last_frame())
        elif not (self._has_ended or stream.state & LOCAL_DONE):
            self._has_ended = self._is_slow = True
            body, meta = self._server.end_messages(self._pipeline)
            stream.conn.send_data(stream, MESSAGE, meta, body)

    def _last_frame(self) -> tuple[bytes, bytes]:
        """Return body and meta of the END of this side, unless it has ended."""
        if self._stream.state & LOCAL_DONE:
            return b"", b""
        if self._server is not None:
            return self._server.end_response(self._pipeline)
        return self._pipeline.send_end(self._call), b""

    def _not_a_channel(self) -> InvalidArgument:
        """Return the error for a batch, or an answer, of a peer that declares no channel.

        A call with a request stream opens like a channel with arguments, so only its messages tell.
        """
        method = self._call.method
        if self._is_client:
            return InvalidArgument(f"{method} is not a channel function; declare its items")
        return InvalidArgument(f"{method} is a channel function; declare it with a Channel")

    def _wrong_end(self) -> Unauthenticated:
        """Return the error for an end that the peer has not sent as the one that arrived."""
        text = "the end of the messages and that of the call were exchanged on their way"
        return Unauthenticated(f"{self._call.method}: {text}", details={"reason": "seal"})

    def _closed(self, text: str = "") -> ChannelClosed:
        """Return the error of a channel that is closed, by this side or as `text` says."""
        error = ChannelClosed(self._finish or f"{self._call.method}: {text}")
        if not self._is_client:
            self._closed_errors = [*self._closed_errors[-_MAX_ERRORS:], error]
        return error

    async def _next(self) -> Request | Response | None:
        """Return the next message, or `None` at the end."""
        return None if self._is_read else await self._receive()

    async def _receive(self, to_outcome: bool = False) -> Request | Response | None:
        """Return the next message, or `None` at the end, of a channel that may be closed.

        Args:
            to_outcome: The end is that of the call, not that of the messages of a server.
        """
        stream = self._stream
        message: Request | Response
        while True:
            if stream.is_processing:  # a read was cancelled
                message = await stream.join_processing(shared=to_outcome)
                if self._is_message(message):
                    return message
                continue
            try:
                received = stream.try_recv() or await stream.recv()
            except EndOfStream:
                if not (stream.discard or (self._finish is not None and not stream.ended)):
                    self._on_end(None)
                return None
            if self._pipeline.proves_ends and received[0] & END:
                self._on_end(received)
                return None
            if received[0] & self._refused_flags:
                raise self._not_a_channel()
            if received[1] and self._mark(received[1]) == MESSAGES_END:
                self._on_messages_end(received[1], received[2])
                if to_outcome:
                    continue
                return None
            passing = self._inbound(received)
            message = await (stream.process(passing) if self._processes else passing)
            if self._is_message(message):
                return message

    def _is_message(self, message: Request | Response) -> bool:
        """Keep the result, which is not one of the messages; return whether it is one."""
        if not (self._is_client and message.header.get(RESULT) is True):
            return True
        self._result = encode_body(message)
        return False

    async def _drain(self) -> None:
        """Drop all messages that are left, but for the result; raise the error of the server."""
        if self._stream.discard:
            return
        if self._pipeline.transforms:
            while await self._receive(to_outcome=True) is not None:
                pass
            return
        stream = self._stream
        while True:
            try:
                flags, meta, body = stream.try_recv() or await stream.recv()
            except EndOfStream:
                return
            if flags & self._refused_flags:
                raise self._not_a_channel()
            if meta:
                self._take_mark(meta, body)

    def _finish_now(self, msg: str) -> bool:
        """Close this side; return whether the outcome of the server will come."""
        stream = self._stream
        self._finish = msg or f"{self._call.method}: this side closed the channel"
        self._is_slow = self._is_read = True
        if self._outlives_end:
            stream.stop_receiving()
            self._end_messages()
            stream.interrupt()
            return False
        last_frame = self._last_frame()
        if not (self._is_client and stream.conn.peer_has("outcome")):
            stream.leave(*last_frame)
            return False
        stream.conn.send_done(stream)
        stream.end(*last_frame)
        stream.interrupt()
        return True

    def _messages_ended(self) -> bool:
        """Return whether the end of the peer's messages has arrived; it may not have been read."""
        if self._peer_has_ended:
            return True
        inbox = self._stream.inbox
        return self._is_client and any(
            inbox[i][1] and self._mark(inbox[i][1]) for i in range(-min(2, len(inbox)), 0)
        )

    def _mark(self, meta: bytes) -> str:
        """Return what the message with this meta is on a client: `RESULT` or `MESSAGES_END`.

        Messages of users return an empty text.
        """
        if not self._is_client or not (_RESULT_NAME in meta or _MESSAGES_END_NAME in meta):
            return ""
        try:
            header = unpack_map(meta)
        except ValueError:
            return ""
        return next((name for name in (RESULT, MESSAGES_END) if header.get(name) is True), "")

    def _take_mark(self, meta: bytes, body: bytes | memoryview) -> bool:
        """Take a message if it is the result, or the end of the messages; return whether it is."""
        mark = self._mark(meta)
        if mark == RESULT:
            self._result = body
        elif mark:
            self._on_messages_end(meta, body)
        return bool(mark)

    def _on_messages_end(self, meta: bytes, body: bytes | memoryview) -> None:
        """Take the end of the messages of a server whose function goes on.

        Raises:
            CallError: A processor refuses it.
        """
        if self._pipeline.proves_ends:
            content = self._pipeline.receive_end(self._call, body)
            if not (isinstance(content, dict) and content.get(MESSAGES_END) is True):
                raise self._wrong_end()
            header = content.get(HEADER_DETAIL)
            self._stream.on_proven_header(meta, pack(header) if header else b"")
        self._is_read = self._peer_has_ended = True

    def _on_end(self, last: Message | None) -> None:
        """Let the processors check the end of the peer's messages; they raise to refuse it."""
        if not self._proved and (self._finish is None or self._is_client):
            content = self._pipeline.receive_end(self._call, b"" if last is None else last[2])
            if isinstance(content, dict) and MESSAGES_END in content:
                raise self._wrong_end()
            if last is not None:
                self._stream.on_proven_end(last[1], content)
            self._proved = True

    async def _inbound(self, received: Message) -> Request | Response:
        _, meta, raw = received
        header: dict[str, Any] = {}
        if meta:
            try:
                header = unpack_map(meta)
            except ValueError as exc:
                error = Internal if self._is_client else InvalidArgument
                raise error(f"a malformed header: {exc}") from exc
        pipeline, is_result = self._pipeline, header.get(RESULT) is True
        message: Request | Response
        if not pipeline.transforms:
            make = Response if self._is_client else Request
            if is_result:
                return make(self._call, None, header, raw, decode_any)
            is_large = len(raw) > self._slow_from
            body = await self._decode_apart(self._decode, raw) if is_large else self._decode(raw)
            return make(self._call, body, header)
        if self._is_client:
            message = await pipeline.pass_response(self._call, raw, header)
        else:
            if self._server is not None:
                await self._server.reserve_inflated(header)
            message = await pipeline.pass_request(self._call, raw, header)
        encoded = pipeline.encode_arrived(message)
        if not is_result:
            is_large = len(encoded) > self._slow_from
            decode = self._decode
            message.body = (
                await self._decode_apart(decode, encoded) if is_large else decode(encoded)
            )
        return message


def _look_at(task: asyncio.Task[None]) -> None:
    """Take the error of a task that nothing may await any more, so that asyncio does not log it."""
    if not task.cancelled():
        task.exception()
