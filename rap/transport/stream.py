"""The ordered two-way messages of one call inside a connection.

`recv` may be awaited by one task at a time, `send` by one task at a time; `reset` is synchronous
and idempotent, so it is safe in `finally`, callbacks and `__del__`.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rap.errors import CallError, ChannelClosed, Code, InvalidArgument, RapError
from rap.wire.frames import BATCH, END, MESSAGE, MORE
from rap.wire.stream import CLOSED, LOCAL_DONE, REMOTE_END, StreamState

if TYPE_CHECKING:
    from rap.transport.connection import Connection

__all__ = ["EndOfStream", "Message", "Stream", "UnaryStream"]

_ANSWER = MESSAGE | END
_KNOWN = MESSAGE | MORE | END | BATCH  # flags of a later protocol are ignored
# Flags, meta, body.
Message = tuple[int, bytes, bytes | memoryview]
# Sees code, message and details of a Reset before the error is made; returns what stands for them.
SeeError = Callable[[tuple[int, str, dict[str, Any]]], tuple[int, str, dict[str, Any]]]


class EndOfStream(RapError):
    """The peer has sent its last message."""


class UnaryStream(StreamState):
    """The client's record of a unary call: one future."""

    deadline_text = "the deadline of the call passed"
    complete = False
    send_window = 0  # everything was sent with the Open; the peer may give credit all the same
    meta = b""
    see_error: SeeError | None = None

    def __init__(self, conn: "Connection", deadline: float) -> None:
        self.conn = conn
        self.deadline = deadline
        self.held = 0
        self.future: asyncio.Future[bytes | memoryview] = conn.new_future()

    def on_data(self, flags: int, meta: bytes, body: bytes | memoryview, size: int) -> None:
        """Take the answer; an END without a message is a call without an answer."""
        future = self.future
        if (flags == _ANSWER or flags & _KNOWN == _ANSWER) and self.state == CLOSED:
            if meta:
                self.meta = meta
            if not future.done():
                future.set_result(body)
        elif not future.done():
            # An item of a generator, or an END without an answer.
            text = "a generator answers: iterate over it, by iterator_call or a stub with `yield`"
            future.set_exception(InvalidArgument(text))
            self.conn.reset(self, Code.CANCELLED)

    def on_stopped(self) -> None:
        """The server is done without an answer."""
        self.fail(CallError("the server ended the call without an answer"))

    def fail(self, error: CallError) -> None:
        """End the call with `error`."""
        if not self.future.done():
            self.future.set_exception(error)

    def on_lost(self, error: CallError, had_ended: bool) -> None:
        """End the call: its connection was lost."""
        self.fail(error)

    def on_flushed(self) -> None:
        """Do nothing: no one waits for a unary request to be written."""


class Stream(StreamState):
    """A stream whose messages are taken one by one."""

    error: CallError | None = None
    complete = False  # the peer had ended when the connection was lost
    unwritten = False  # this side gave up while a message waited
    see_error: SeeError | None = None
    discard = False  # user code has left; what still comes is dropped
    # Flags, meta, body, size of messages not yet taken. Made with the first: a unary call on a
    # server never has one.
    inbox: "deque[tuple[int, bytes, bytes | memoryview, int]] | tuple[()]" = ()
    _reader: "asyncio.Future[None] | None" = None
    _writer: "asyncio.Future[None] | None" = None
    _ender: "asyncio.Future[None] | None" = None

    def __init__(
        self, conn: "Connection", stream_id: int = 0, send_window: int = 0, state: int = 0
    ) -> None:
        self.conn = conn
        self.id = stream_id
        self.state = state
        self.send_window = send_window
        self.held = 0

    @property
    def deadline_text(self) -> str:
        """What the error says when the deadline passes."""
        return "the deadline of the call passed"

    @property
    def ended(self) -> bool:
        """Whether the peer will send nothing more; messages may still wait to be taken."""
        return bool(self.state & REMOTE_END)

    @property
    def can_send(self) -> bool:
        """Whether this side may still send."""
        return not self.state & LOCAL_DONE and self.error is None

    def on_data(self, flags: int, meta: bytes, body: bytes | memoryview, size: int) -> None:
        """Put a message into the inbox, unless nobody will read it."""
        inbox = self.inbox
        if isinstance(inbox, tuple):
            inbox = self._first_message()
        if self.discard:
            self.conn.acknowledge(self, size)
        elif flags & MESSAGE:
            inbox.append((flags, meta, body, size))
        reader = self._reader
        if reader is not None and not reader.done():
            reader.set_result(None)
        if self._ender is not None and self.state & REMOTE_END:
            self._wake()

    def _first_message(self) -> "deque[tuple[int, bytes, bytes | memoryview, int]]":
        """Set what every further message reads on the instance, where CPython finds it faster."""
        self.error, self.discard = self.error, self.discard
        self._reader, self._ender = self._reader, self._ender
        inbox = self.inbox = deque()
        return inbox

    def on_flushed(self) -> None:
        """Go on: what waited for credit has been written."""
        writer = self._writer
        if writer is not None:
            self._writer = None
            if not writer.done():
                writer.set_result(None)

    def on_stopped(self) -> None:
        """The peer neither sends nor reads any more; it is no error."""
        self._wake()
        self.on_flushed()

    def fail(self, error: CallError) -> None:
        """End the stream with `error`; messages that came before can still be taken."""
        if self.error is None:
            self.error = error
        self._wake()
        self.on_flushed()

    def on_lost(self, error: CallError, had_ended: bool) -> None:
        """End the stream: its connection was lost.

        Args:
            error: What to raise.
            had_ended: The peer had sent its last message: a reader sees the end, not the error.
        """
        self.complete = had_ended
        self.fail(error)

    def clear_inbox(self) -> None:
        """Drop the messages that were not taken."""
        self.inbox = ()

    def try_recv(self) -> Message | None:
        """Return the next message if it has come."""
        return self.take() if self.inbox else None

    def take(self) -> Message:
        """Return the next message, which has come."""
        flags, meta, body, size = self.inbox.popleft()  # type: ignore[union-attr]  # not empty
        if size:
            self.conn.acknowledge(self, size)
        return flags, meta, body

    async def recv(self) -> Message:
        """Return the next message.

        Raises:
            EndOfStream: The peer has sent its last one, or this side has left.
            CallError: The stream was reset, or its connection was lost.
            RuntimeError: Another task is waiting for a message of this stream.
        """
        while not self.inbox:
            if self.error is not None and not self.complete:
                raise self.error
            if self.state & REMOTE_END or self.discard:
                raise EndOfStream
            if self._reader is not None:
                raise RuntimeError("another task is already reading from this stream")
            self._reader = self.conn.new_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return self.take()

    async def send(self, body: bytes, meta: bytes = b"", flags: int = MESSAGE) -> None:
        """Send one message; return when it was handed to the transport.

        Raises:
            ChannelClosed: This side has ended the stream.
            CallError: The stream was reset, or its connection was lost.
        """
        if self.state & LOCAL_DONE:
            raise self.error or ChannelClosed("the stream is closed")
        conn = self.conn
        if not conn.send_data(self, flags, meta, body) or conn.paused:
            await self.writable()

    async def writable(self) -> None:
        """Return when what was sent has left for the transport, and that takes more.

        Raises:
            ChannelClosed: This side gave the call up meanwhile.
            CallError: The stream was reset, or its connection was lost.
        """
        while self.outbox is not None:
            await self._flushed()
        if self.conn.paused:
            await self.conn.wait_writable()
        if self.error is not None:
            raise self.error
        if self.unwritten:
            raise ChannelClosed("this side gave the call up")

    def end(self, proof: bytes = b"") -> None:
        """Say that this side is done; does nothing if it has said so or the stream has ended.

        Args:
            proof: What processors send with it.
        """
        if not self.state & LOCAL_DONE:
            self.conn.send_data(self, _ANSWER if proof else END, b"", proof)

    def leave(self, proof: bytes = b"") -> None:
        """Send END, and drop what the peer still sends until it ends too."""
        self.discard = True
        for _, _, _, size in self.inbox:
            self.conn.acknowledge(self, size)
        self.inbox = ()
        self.end(proof)
        self._wake()

    def reset(self, code: Code = Code.CANCELLED, message: str = "") -> None:
        """End the stream in both directions; does nothing if it has ended.

        Who reads it sees the end; who waits to write is told that nothing was written.
        """
        self.unwritten = self.outbox is not None
        self.inbox = ()
        self.conn.reset(self, code, message)
        self._wake()
        self.on_flushed()

    async def wait_ended(self) -> None:
        """Return when the peer has ended or reset the stream, or the connection is lost."""
        while not self.state & REMOTE_END and self.error is None:
            if self._ender is None:
                self._ender = self.conn.new_future()
            await asyncio.shield(self._ender)

    async def _flushed(self) -> None:
        if self._writer is None:
            self._writer = self.conn.new_future()
        await asyncio.shield(self._writer)

    def _wake(self) -> None:
        reader = self._reader
        if reader is not None and not reader.done():
            reader.set_result(None)
        ender, self._ender = self._ender, None
        if ender is not None and not ender.done():
            ender.set_result(None)
