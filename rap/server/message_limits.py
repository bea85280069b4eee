"""Limits of inbound headers and bodies that are lower than those of the protocol.

A server with the default limits pays nothing: its streams are plain `ServerStream` objects.
"""

from collections.abc import Callable
from functools import partial

from rap.call import Encoded
from rap.errors import CallError, InvalidArgument, ResourceExhausted
from rap.record import Record
from rap.server.dispatch import Dispatcher, ServerStream
from rap.transport import Connection
from rap.wire.codec import MAX_DEPTH, MAX_ELEMENTS, check_body
from rap.wire.frames import BATCH, MAX_META, MESSAGE

__all__ = ["MessageLimits", "OnOpen", "stream_hooks"]

OnOpen = Callable[[ServerStream, int, bytes, Encoded], None]
NewStream = Callable[[Connection, int, int, int], ServerStream]


class MessageLimits(Record, frozen=True):
    """Limits of one inbound message.

    Args:
        max_header: Maximum bytes of its header.
        max_depth: Maximum nesting of arrays and maps in its body.
        max_elements: Maximum number of values in its body.
    """

    max_header: int = MAX_META
    max_depth: int = MAX_DEPTH
    max_elements: int = MAX_ELEMENTS

    def check(self, flags: int, meta: bytes, body: Encoded) -> None:
        """Check a message.

        Raises:
            ResourceExhausted: The header is too large.
            InvalidArgument: The body nests too deep, or has too many values.
        """
        if len(meta) > self.max_header:
            text = f"a header of {len(meta)} bytes; max_header is {self.max_header}"
            raise ResourceExhausted(text, details={"limit": "max_header"})
        # A batch is an array of messages.
        self._check_body(body, self.max_depth + (1 if flags & BATCH else 0))

    def check_of_bodies(self) -> Callable[[Encoded], None] | None:
        """Return the check of a body that processors have decrypted or inflated, if it needs one.

        The check raises `InvalidArgument` as `check` does.
        """
        if (self.max_depth, self.max_elements) == (MAX_DEPTH, MAX_ELEMENTS):
            return None
        return partial(self._check_body, depth=self.max_depth)

    def _check_body(self, body: Encoded, depth: int) -> None:
        try:
            # The types of the function decide about keys.
            check_body(body, max_depth=depth, max_elements=self.max_elements, any_keys=True)
        except ValueError as exc:
            raise InvalidArgument(str(exc)) from exc


def stream_hooks(dispatcher: Dispatcher, limits: MessageLimits) -> tuple[NewStream, OnOpen]:
    """Return the functions that make a server's streams and that take each one opened."""
    if limits == MessageLimits():
        return ServerStream, dispatcher.open
    return partial(_LimitedStream, limits, dispatcher), partial(_open, limits, dispatcher)


class _LimitedStream(ServerStream):
    """A stream that checks each message after the first before it is queued."""

    def __init__(
        self,
        limits: MessageLimits,
        dispatcher: Dispatcher,
        conn: Connection,
        stream_id: int,
        send_window: int,
        state: int,
    ) -> None:
        super().__init__(conn, stream_id, send_window, state)
        self._limits = limits
        self._dispatcher = dispatcher

    def on_data(self, flags: int, meta: bytes, body: Encoded, size: int) -> None:
        """Take the message, or end the call if it exceeds a limit."""
        try:
            if flags & MESSAGE:
                self._limits.check(flags, meta, body)
        except CallError as exc:
            self._dispatcher.fail(self, exc, began=True)
            self.fail(exc)
        else:
            super().on_data(flags, meta, body, size)


def _open(
    limits: MessageLimits,
    dispatcher: Dispatcher,
    stream: ServerStream,
    flags: int,
    meta: bytes,
    body: Encoded,
) -> None:
    try:
        limits.check(flags, meta, body)
    except CallError as exc:
        dispatcher.fail(stream, exc)
    else:
        dispatcher.open(stream, flags, meta, body)
