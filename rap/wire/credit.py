"""What this side lets the peer send: credit, and when it is given back (PROTOCOL.md §6).

Open and Data cost their size, header included, on their stream and on the connection. Whole
messages are given back when user code takes them; what nobody will take, on arrival. Parts of an
unfinished message are lent until it is whole.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

from rap.wire.backlog import Backlog
from rap.wire.frames import credit_frame
from rap.wire.limits import Limits
from rap.wire.states import CLOSED, REMOTE_END, StreamState

__all__ = ["Granter"]

S = TypeVar("S", bound=StreamState)

# Credit with which the peer can send any frame: one with the largest meta fits.
_AMPLE = 64 * 1024


def nothing() -> None:
    """Do nothing: nobody asked to be told."""


class Granter(Generic[S]):
    """Credit that the peer has of us, and the streams it belongs to.

    Args:
        limits: What this side accepts.
    """

    __slots__ = tuple(
        (
            "_starved_below _stream_step backlog limits out recv_credit streams unfinished "
            "ungranted wake"
        ).split()
    )

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.streams: dict[int, S] = {}
        self.out: list[bytes | memoryview] = []
        # Bytes that may come before we must have granted more.
        window = self.recv_credit = limits.connection_window
        self.ungranted = 0  # taken or dropped, not yet given back
        self.backlog = Backlog(limits.max_backlog)
        self.unfinished = 0  # bytes of messages of which parts have come
        # What a transport sets: asks it to write when the loop's turn ends; may be called again
        # before it has.
        self.wake: Callable[[], object] = nothing
        self._stream_step = limits.stream_window // 2
        self._starved_below = max(window // 32, min(limits.stream_window // 4, _AMPLE))

    @property
    def starved(self) -> bool:
        """Whether what user code has not taken keeps the peer from sending anything large."""
        return self.recv_credit < self._starved_below

    def take(self, stream: S, size: int) -> None:
        """Say that user code took a message of `size` bytes, so the peer may send as many."""
        if not stream.held:
            return
        stream.held -= size
        stream.ungranted += size
        self.ungranted += size
        if stream.ungranted >= self._stream_step:
            self.grant_stream(stream)
            self.wake()
        if self.ungranted >= self.recv_credit:
            self.grant_connection()
            self.wake()

    def forget(self, stream: S) -> None:
        """Drop a stream that has ended; what it held is given back to the connection."""
        self.streams.pop(stream.id, None)
        stream.state = CLOSED
        if stream.outbox is not None:
            self.backlog.remove(sum(len(each.body) for each in stream.outbox))
            stream.outbox = None
        if stream.parts is not None:
            self.unfinished -= stream.parts_size
            stream.parts = None
        if stream.held:
            self.ungranted += stream.held
            stream.held = 0
            if self.ungranted >= self.recv_credit:
                self.grant_connection()

    def grant_stream(self, stream: S) -> None:
        """Give back what was taken of a stream, if its peer will send more on it."""
        if not stream.state & REMOTE_END:
            stream.used -= stream.ungranted
            self.out.append(credit_frame(stream.id, stream.ungranted))
        stream.ungranted = 0

    def grant_connection(self) -> None:
        """Give back what was taken.

        It is due when it is as much as the peer has left: half the window, or half of what
        readers that stall have left of it. A fixed step would never be reached again once they
        hold more than the rest of the window.
        """
        if self.ungranted:
            self.recv_credit += self.ungranted
            self.out.append(credit_frame(0, self.ungranted))
            self.ungranted = 0
