"""Streams: the messages of one call inside a connection, in order, in both directions.

One task at a time may await `recv`, and one task at a time may await `send`. `reset` is synchronous
and idempotent, so it is safe in `finally`, in callbacks and in `__del__`.
"""

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from rap.call import HEADER_DETAIL, TRAILER, Header
from rap.clock import NEVER
from rap.errors import CallError, ChannelClosed, Code, InvalidArgument, RapError
from rap.tasks import start_task
from rap.wire.codec import PLAIN_SIZES, ValueSizes, decoded_size, unpack_map
from rap.wire.frames import BATCH, END, MESSAGE, MORE
from rap.wire.stream import CLOSED, LOCAL_DONE, REMOTE_END, StreamState

if TYPE_CHECKING:
    from rap.transport.connection import Connection

__all__ = [
    "DEADLINE_PASSED",
    "EndOfStream",
    "Message",
    "Stream",
    "UnaryStream",
    "answer_header",
    "answer_trailer",
]

ITEMS_ARRIVED = "a generator answers: iterate over it, by iterator_call or a stub with `yield`"
DEADLINE_PASSED = "the deadline of the call passed"
"""Message of the error of a deadline until the client has named the call."""

_EAGER = sys.version_info >= (3, 12)
_WHOLE_LAST = MESSAGE | END
_MESSAGE_SIZE = 120  # bytes of a message in an inbox besides its own: a tuple and a bytes object
_KNOWN = MESSAGE | MORE | END | BATCH  # flags of later protocol versions are ignored
# Flags, meta, body.
Message = tuple[int, bytes, bytes | memoryview]
# Meta of a frame that answers a call; of a call that failed, the header and the trailer that its
# Reset has, by `HEADER_DETAIL` and `TRAILER`.
AnswerMeta = bytes | Header
# Takes code, message and details of a Reset before the error is made; returns replacements.
SeeError = Callable[[tuple[int, str, dict[str, Any]]], tuple[int, str, dict[str, Any]]]


class EndOfStream(RapError):
    """The peer has sent its last message."""


class UnaryStream(StreamState):
    """A unary call on a client: one future.

    Args:
        conn: Its connection.
        deadline: In seconds on the monotonic clock.

    Attributes:
        future: The response, or the error of the call.
        meta: Meta of the response.
        failed_meta: Header and trailer of a call that failed; see `AnswerMeta`.
        see_error: Takes an error of the server before `future` does.
    """

    deadline_text = DEADLINE_PASSED
    send_window = 0  # everything is sent with the Open, but the peer may grant credit
    meta = b""
    failed_meta: Header | None = None
    see_error: SeeError | None = None

    def __init__(self, conn: "Connection", deadline: float) -> None:
        self.conn = conn
        self.deadline = deadline
        self.held = 0
        self.future: asyncio.Future[bytes | memoryview] = conn.new_future()

    def on_error(self, see_error: SeeError) -> None:
        """Let `see_error` take an error of the server before `future` does."""
        self.see_error = see_error

    def on_data(self, flags: int, meta: bytes, body: bytes | memoryview, size: int) -> None:
        """Take the response; an END without a message ends the call without one."""
        future = self.future
        if (flags == _WHOLE_LAST or flags & _KNOWN == _WHOLE_LAST) and self.state == CLOSED:
            if meta:
                self.meta = meta
            if not future.done():
                future.set_result(body)
        elif not future.done():
            # An item of a generator, or an END without a response.
            future.set_exception(InvalidArgument(ITEMS_ARRIVED))
            self.conn.reset(self, Code.CANCELLED)

    def on_failed_meta(self, meta: Header) -> None:
        """Keep header and trailer of a call that is about to fail, as the Reset has them."""
        self.failed_meta = meta

    def on_stopped(self) -> None:
        """Fail: the server has ended the call without a response."""
        self.fail(CallError("the server ended the call without a response"))

    def fail(self, error: CallError) -> None:
        """End the call with `error`."""
        if not self.future.done():
            self.future.set_exception(error)

    def on_lost(self, error: CallError, had_ended: bool) -> None:
        """End the call: its connection was lost."""
        self.fail(error)

    def on_flushed(self) -> None:
        """Do nothing: no one waits for a unary request to be written."""


class CountedInbox(deque[tuple[int, bytes, bytes | memoryview, int]]):
    """An inbox that counts the messages that are taken from it, as `taken`."""

    taken = 0

    def popleft(self) -> tuple[int, bytes, bytes | memoryview, int]:
        """Take the first message."""
        self.taken += 1
        return super().popleft()


class Stream(StreamState):
    """A stream whose messages are taken one by one.

    Args:
        conn: Its connection.
        stream_id: Its id; 0 until it is opened.
        send_window: Bytes that may be sent on it.
        state: See `rap.wire.stream`.

    Attributes:
        error: Why the stream failed.
        complete: The peer had sent its last message when the connection was lost.
        unwritten: This side cancelled the call while a message waited to be written.
        body: On a server, the body of the Open, which is kept for as long as the call runs.
        inflated: Bytes of the request after a processor has inflated it.
        header_size: Bytes of the decoded header of the request, if no other call has the same.
        is_new: On a server, no handler has begun: the call can be retried on another server.
        discard: This side takes no more messages; those that still arrive are dropped.
        time_limit: Seconds between the opening of the call and its deadline, as a server counts.
        first_meta: Meta of the first Data of the peer; `None` before.
        end_meta: Meta of an END without a message; if the call failed, the map that
            `on_failed_meta` has given.
        see_error: Takes an error of the peer before it is raised.
        inbox: Messages that were not taken yet: flags, meta, body, size. It is made with the
            first, because a unary call on a server never has one.
    """

    error: CallError | None = None
    complete = False
    unwritten = False
    body: "bytes | memoryview" = b""
    inflated = 0
    header_size = 0
    _decoded = -1  # bytes of the decoded arguments; not estimated yet
    is_new = False
    see_error: SeeError | None = None
    discard = False
    time_limit: float = NEVER
    first_meta: bytes | None = None
    end_meta: AnswerMeta = b""
    inbox: "deque[tuple[int, bytes, bytes | memoryview, int]] | tuple[()]" = ()
    _reader: "asyncio.Future[None] | None" = None
    _writer: "asyncio.Future[None] | None" = None
    _ender: "asyncio.Future[None] | None" = None
    _processing: "asyncio.Task[Any] | None" = None
    _is_joined = False

    def __init__(
        self, conn: "Connection", stream_id: int = 0, send_window: int = 0, state: int = 0
    ) -> None:
        self.conn = conn
        self.id = stream_id
        self.state = state
        self.send_window = send_window
        self.held = 0

    def set_deadline(self, deadline: float) -> None:
        """Set when the call ends at the latest, in seconds on the monotonic clock."""
        self.deadline = deadline

    def value_sizes(self) -> ValueSizes:
        """Return what the values of the arguments of the call become when they are decoded."""
        return PLAIN_SIZES

    def count_decoded(self, body: "bytes | memoryview") -> None:
        """Count the arguments that are decoded from another body than that of the Open."""
        self._decoded = decoded_size(body, self.value_sizes())

    def decoded_memory(self) -> int:
        """Return about how many bytes the decoded header and arguments of the call take.

        The objects that messages are until they are read count too, but not the bytes of these.
        """
        if self._decoded < 0 and self.body:  # it has arrived
            self.count_decoded(self.body)
        unread = _MESSAGE_SIZE * len(self.inbox)
        return self.header_size + max(self._decoded, 2 * self.inflated) + unread

    def on_error(self, see_error: SeeError) -> None:
        """Let `see_error` take an error of the peer before it is raised."""
        self.see_error = see_error

    @property
    def deadline_text(self) -> str:
        """Message of the error when the deadline passes."""
        return DEADLINE_PASSED

    @property
    def ended(self) -> bool:
        """Whether the peer has sent its last message; messages may still be in the inbox."""
        return bool(self.state & REMOTE_END)

    @property
    def answer_header(self) -> Header:
        """The header of the answer, on a client; empty until it has arrived."""
        first, end = self.first_meta, self.end_meta
        in_end = first is None or (isinstance(end, dict) and HEADER_DETAIL in end)
        return answer_header(end if in_end else first or b"")

    @property
    def answer_trailer(self) -> Header:
        """The trailer of the answer, on a client; empty until the end has arrived."""
        return answer_trailer(self.end_meta)

    def on_data(self, flags: int, meta: bytes, body: bytes | memoryview, size: int) -> None:
        """Put a message into the inbox, unless it is to be discarded."""
        inbox = self.inbox
        if isinstance(inbox, tuple):
            inbox = self._first_message(meta)
        if self.discard:
            self.conn.acknowledge(self, size)
            if meta and not flags & MESSAGE:
                self.on_header(flags, meta)
        elif flags & MESSAGE:
            inbox.append((flags, meta, body, size))
        elif meta:
            self.on_header(flags, meta)
        reader = self._reader
        if reader is not None and not reader.done():
            reader.set_result(None)
        if self._ender is not None and (meta or self.state & REMOTE_END):
            self._wake()

    def on_header(self, flags: int, meta: bytes) -> None:
        """Take a header that came without a message: with END, or to say something else."""
        if flags & END:
            self.end_meta = meta

    def on_done(self) -> None:
        """Ignore that the client reads nothing more."""

    def on_proven_end(self, meta: bytes, content: object) -> None:
        """Keep the header and the trailer that the processors have found in the end of the peer.

        Args:
            meta: Meta of the frame, which they do not protect.
            content: A map like that of `on_failed_meta`, or `None`.
        """
        if self.first_meta is meta:
            self.first_meta = None
        self.end_meta = content if isinstance(content, dict) else {}

    def on_proven_header(self, meta: bytes, header: bytes) -> None:
        """Keep the header that the processors have found in the end of the peer's messages.

        Args:
            meta: Meta of the message, which they do not protect.
            header: What replaces it if it was the first.
        """
        if self.first_meta is meta:
            self.first_meta = header

    def on_failed_meta(self, meta: Header) -> None:
        """Keep header and trailer of a call that is about to fail, as the Reset has them."""
        self.end_meta = meta

    def _first_message(self, meta: bytes) -> "deque[tuple[int, bytes, bytes | memoryview, int]]":
        """Set the attributes that later messages read on the instance, where reading is faster."""
        if self.first_meta is None:
            self.first_meta = meta
        self.error, self.discard = self.error, self.discard
        self._reader, self._ender = self._reader, self._ender
        inbox = self.inbox = deque()
        return inbox

    def on_flushed(self) -> None:
        """Wake the writer: its message has been written."""
        writer = self._writer
        if writer is not None:
            self._writer = None
            if not writer.done():
                writer.set_result(None)

    def on_stopped(self) -> None:
        """Wake the reader and the writer: the peer has stopped the stream without an error."""
        self._wake()
        self.on_flushed()

    def fail(self, error: CallError) -> None:
        """End the stream with `error`; messages that arrived before can still be taken."""
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

    def count_taken(self) -> CountedInbox:
        """Count the messages that are taken from now on."""
        inbox = self.inbox = CountedInbox(self.inbox)
        return inbox

    def clear_inbox(self) -> None:
        """Drop the messages that were not taken."""
        self.inbox = ()

    def try_recv(self) -> Message | None:
        """Return the next message if it has arrived."""
        return self.take() if self.inbox else None

    def take(self) -> Message:
        """Return the next message, which has arrived."""
        flags, meta, body, size = self.inbox.popleft()  # type: ignore[union-attr]  # not empty
        if size:
            self.conn.acknowledge(self, size)
        return flags, meta, body

    async def recv(self) -> Message:
        """Return the next message.

        Raises:
            EndOfStream: The peer has sent its last one, or this side discards what arrives.
            CallError: The stream was reset, or its connection was lost.
            RuntimeError: Another task is reading from this stream.
        """
        while not self.inbox:
            if self.error is not None and not self.complete:
                raise self.error
            if self.state & REMOTE_END or self.discard:
                raise EndOfStream
            if self._reader is not None:
                raise RuntimeError("another task is already reading from this stream")
            reader = self._reader = self.conn.new_future()
            try:
                await reader
            finally:
                if self._reader is reader:
                    self._reader = None
        return self.take()

    @property
    def is_processing(self) -> bool:
        """Whether a message was taken that the processors have not returned to a reader."""
        return self._processing is not None

    async def process(self, passing: Coroutine[Any, Any, Any]) -> Any:
        """Return what the processors make of the message that was taken.

        A task of the stream runs them. If the reader is cancelled, the next one calls
        `join_processing` before it takes a message, so that no message is lost.
        """
        if _EAGER:
            loop = asyncio.get_running_loop()
            task = asyncio.Task(passing, loop=loop, eager_start=True)  # type: ignore[call-arg,unused-ignore]  # 3.12+
            if task.done() and not task.cancelled():
                return task.result()
        else:
            task = start_task(passing)
        self._processing = task
        return await self.join_processing()

    async def join_processing(self, *, shared: bool = False) -> Any:
        """Return the message that the processors have, when they are done.

        Args:
            shared: The caller drops the message, so another task may return it.

        Raises:
            RuntimeError: Another task is reading from this stream.
        """
        task = self._processing
        assert task is not None
        if self._is_joined and not shared:
            raise RuntimeError("another task is already reading from this stream")
        self._is_joined = True
        ended = True
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            ended = task.cancelled()
            raise
        finally:
            self._is_joined = False
            if ended and self._processing is task:
                self._processing = None

    def stop_processing(self) -> None:
        """Drop the message that the processors have, if a cancelled reader has left one."""
        task, self._processing = self._processing, None
        if task is not None:
            task.cancel()

    async def send(self, body: bytes, meta: bytes = b"", flags: int = MESSAGE) -> None:
        """Send one message; return when it has been handed to the transport.

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
        """Return when everything was handed to the transport, and it takes more.

        Raises:
            ChannelClosed: This side cancelled the call in the meantime.
            CallError: The stream was reset, or its connection was lost.
        """
        while self.outbox is not None:
            await self._flushed()
        if self.conn.paused:
            await self.conn.wait_writable()
        if self.error is not None:
            raise self.error
        if self.unwritten:
            raise ChannelClosed("this side cancelled the call")

    def end(self, proof: bytes = b"", meta: bytes = b"") -> None:
        """End this side of the stream; does nothing if it has ended.

        Args:
            proof: A last message of the processors, sent with END.
            meta: The header that is sent with END.
        """
        if not self.state & LOCAL_DONE:
            self.conn.send_data(self, _WHOLE_LAST if proof else END, meta, proof)

    def interrupt(self) -> None:
        """Let the reader that waits for a message see the end of the stream."""
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_exception(EndOfStream())

    def leave(self, proof: bytes = b"", meta: bytes = b"") -> None:
        """Send END, and discard what the peer still sends."""
        self.stop_receiving()
        self.end(proof, meta)
        self._wake()

    def stop_receiving(self) -> None:
        """Discard what the peer has sent, and what it still sends."""
        self.discard = True
        for _, _, _, size in self.inbox:
            self.conn.acknowledge(self, size)
        self.inbox = ()

    def reset(self, code: Code = Code.CANCELLED, message: str = "") -> None:
        """End the stream in both directions; does nothing if it has ended.

        A reader sees the end of the stream. A writer that waits gets `ChannelClosed`.
        """
        self.unwritten = self.outbox is not None
        self.inbox = ()
        if self._processing is not None:
            self.stop_processing()
        self.conn.reset(self, code, message)
        self._wake()
        self.on_flushed()

    async def wait_news(self) -> None:
        """Wait until the stream may have ended, or a message with a header has arrived."""
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


def answer_header(meta: AnswerMeta) -> Header:
    """Return the header of an answer from the meta of its first frame; empty if it has none."""
    content: Any = meta.get(HEADER_DETAIL) if isinstance(meta, dict) else _read_meta(meta)
    return _names_of_users(content)


def answer_trailer(meta: AnswerMeta) -> Header:
    """Return the trailer of an answer from the meta of its last frame; empty if it has none."""
    content = meta if isinstance(meta, dict) else _read_meta(meta)
    return _names_of_users(content.get(TRAILER))


def _read_meta(meta: bytes) -> Header:
    try:
        return unpack_map(meta) if meta else {}
    except ValueError:
        return {}


def _names_of_users(content: Any) -> Header:
    if not isinstance(content, dict):
        return {}
    return {name: value for name, value in content.items() if name[:1] != ":"}
