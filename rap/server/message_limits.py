"""Limits of headers and bodies that are narrower than those of the protocol.

A server that asks for none of them pays nothing: its streams are plain ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rap.errors import CallError, InvalidArgument, ResourceExhausted
from rap.server.inbound_call import ServerStream
from rap.wire.codec import MAX_DEPTH, MAX_ELEMENTS, check_body
from rap.wire.frames import BATCH, MAX_META, MESSAGE

if TYPE_CHECKING:
    from rap.server.dispatch import Dispatcher
    from rap.transport import Connection

__all__ = ["MessageLimits", "Open", "stream_hooks"]

Open = Callable[[ServerStream, int, bytes, bytes | memoryview], None]
Make = Callable[["Connection", int, int, int], ServerStream]


@dataclass(frozen=True, slots=True)
class MessageLimits:
    """What a message may have, as it arrives.

    Args:
        max_header: Bytes of its header.
        max_depth: Arrays and maps of its body inside each other.
        max_elements: Values of its body.
    """

    max_header: int = MAX_META
    max_depth: int = MAX_DEPTH
    max_elements: int = MAX_ELEMENTS

    def check(self, flags: int, meta: bytes, body: bytes | memoryview) -> None:
        """Check a message.

        Raises:
            ResourceExhausted: The header is too large.
            InvalidArgument: The body nests too deep, or holds too many values.
        """
        if len(meta) > self.max_header:
            text = f"a header of {len(meta)} bytes; max_header is {self.max_header}"
            raise ResourceExhausted(text, details={"limit": "max_header"})
        depth = self.max_depth + (1 if flags & BATCH else 0)  # a batch is an array of messages
        try:
            check_body(body, max_depth=depth, max_elements=self.max_elements)
        except ValueError as exc:
            raise InvalidArgument(str(exc)) from exc


def stream_hooks(dispatcher: "Dispatcher", bounds: MessageLimits) -> tuple[Make, Open]:
    """Return what makes the streams of a server, and what takes each that a client opened."""
    if bounds == MessageLimits():
        return ServerStream, dispatcher.open
    return partial(_LimitedStream, bounds, dispatcher), partial(_open, bounds, dispatcher)


class _LimitedStream(ServerStream):
    """A stream of which each further message is checked before anybody takes it."""

    def __init__(
        self,
        bounds: MessageLimits,
        dispatcher: "Dispatcher",
        conn: "Connection",
        stream_id: int,
        send_credit: int,
        state: int,
    ) -> None:
        super().__init__(conn, stream_id, send_credit, state)
        self._bounds = bounds
        self._dispatcher = dispatcher

    def on_data(self, flags: int, meta: bytes, body: bytes | memoryview, size: int) -> None:
        """Take the message, or end the call."""
        try:
            if flags & MESSAGE:
                self._bounds.check(flags, meta, body)
        except CallError as exc:
            self._dispatcher.fail(self, exc, began=True)
            self.fail(exc)
        else:
            super().on_data(flags, meta, body, size)


def _open(
    bounds: MessageLimits,
    dispatcher: "Dispatcher",
    stream: ServerStream,
    flags: int,
    meta: bytes,
    body: bytes | memoryview,
) -> None:
    try:
        bounds.check(flags, meta, body)
    except CallError as exc:
        dispatcher.fail(stream, exc)
    else:
        dispatcher.open(stream, flags, meta, body)
