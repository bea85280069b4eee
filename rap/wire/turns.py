"""Which large messages are being sent at the same time (PROTOCOL.md §6.3).

If all of them began at once, the receiver would hold parts of all of them, and none would be
complete for long; beyond its `max_unfinished` it resets their calls. So some are sent at a time.
The others wait in a line, in the order in which they came.

Only a message that is *sure* to get all its credit may keep others waiting. A receiver gives credit
for the parts of a message as they arrive, whatever user code does, unless unread messages before it
take most of the stream's window. So a message is sure if it fits into the window that is left, or
if unread messages take less than half of the window. Any other one may stay unfinished for as long
as its reader is slow: no other message waits for it, and if it may not begin, it waits for credit.
The receiver owes this credit as soon as everything was read.
"""

from rap.wire.frames import HEADER_SIZE, OPEN
from rap.wire.hello import PeerLimits
from rap.wire.stream import Outgoing, Share, StreamState

__all__ = ["MIN_FRAGMENT", "Turns"]

# Bytes of a fragment, unless it is the whole rest; fewer are not worth a frame.
MIN_FRAGMENT = 1024
_LEAST = HEADER_SIZE + MIN_FRAGMENT  # credit with which a message can go on
_MESSAGES = 8  # of the largest size: what a receiver holds in part if its Hello does not say it
_MEDIUM = 64  # medium messages in the spare room of a receiver; a larger one is large


class Turns:
    """The large messages that one side sends, and those that wait to be sent.

    Of the receiver's `max_unfinished`, room for one message of the largest size and a quarter of
    the rest is for large messages. A quarter is for medium ones, so that they do not wait behind
    large ones, and a quarter for those that are not sure. The last quarter is for the first pieces
    of messages that wait.

    Args:
        peer: The limits of the receiver.
    """

    __slots__ = ("_half", "_is_prompt", "_large", "_max_medium", "_medium", "_unsure")

    def __init__(self, peer: PeerLimits) -> None:
        self._large, self._medium, self._unsure = Share(), Share(), Share()
        self.set_peer(peer)

    def set_peer(self, peer: PeerLimits) -> None:
        """Apply the limits of the receiver."""
        self._is_prompt = peer.max_unfinished is not None
        most = _MESSAGES * peer.max_message if peer.max_unfinished is None else peer.max_unfinished
        spare = max(0, most - peer.max_message)
        self._max_medium = spare // _MEDIUM
        self._medium.set_most(spare // 4)
        self._unsure.set_most(spare // 4)
        self._large.set_most(peer.max_message + spare // 4)
        self._half = peer.stream_window // 2

    def may_begin(self, stream: StreamState, message: Outgoing) -> bool:
        """Return whether a message may be sent in parts.

        Otherwise it is in line, and `Share.end` for another one returns its stream; or it is not
        sure, and is to be tried again when the stream gets credit.
        """
        if message.share is not None:
            return message.counted > 0
        size = len(message.body)
        if self._is_sure(stream, message):
            share = self._medium if size <= self._max_medium else self._large
            return share.begin_in_turn(stream, message)
        if self._is_prompt:
            if not self._unsure.has_room(size):
                return False
            self._unsure.begin(message)
        return True

    def needs_opening(self, stream: StreamState, message: Outgoing) -> bool:
        """Return whether the first piece of a message that waits is to be sent.

        An Open keeps those of later calls from being sent. Any other message could wait in vain if
        a little less than half of the window is used: with the piece, the receiver owes credit.
        """
        return message.kind == OPEN or 0 < stream.send_window - self._half < _LEAST

    def _is_sure(self, stream: StreamState, message: Outgoing) -> bool:
        """Return whether the receiver will give credit for all of a message, read or not."""
        left = stream.send_window
        if stream.unproven <= 0 and left >= self._half + _LEAST:
            return True
        size = len(message.body)
        frames = size // MIN_FRAGMENT + 1  # at most
        return size + len(message.meta) + frames * HEADER_SIZE <= left
