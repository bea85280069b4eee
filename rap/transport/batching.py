"""Batches: many small items of a stream in one frame (PROTOCOL.md §8.3).

Both sides send items this way: a server those of a generator, a client those of a request stream.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from rap.transport.stream import Stream
from rap.wire.codec import batch_header
from rap.wire.frames import BATCH, END, MESSAGE
from rap.wire.stream import CLOSED

__all__ = ["BATCH_ITEMS", "send_items"]

BATCH_ITEMS = 64
_BATCH_BYTES = 32 * 1024  # at which a batch is full
_LARGE_ITEM = 8 * 1024  # bytes at which an item is sent alone
# Items or bytes after which a source that never waits lets other tasks run.
_TURN_ITEMS = 256
_TURN_BYTES = 64 * 1024


async def send_items(
    stream: Stream,
    items: AsyncIterator[Any],
    encode: Callable[[Any], bytes],
    first_meta: Callable[[], bytes] | None = None,
    last_meta: Callable[[], bytes] | None = None,
) -> None:
    """Send the items of one side in batches, then its END; wait while the peer does not read.

    Items that were produced before an error are sent, and those before a cancellation are not.

    Args:
        stream: The call.
        items: What to send.
        encode: Encodes one item. It is called at once, because the source may change the item
            later.
        first_meta: Returns the meta of the first frame; called when its first item is there.
        last_meta: Returns what the last frame has as its meta if it is not the first.

    Raises:
        CallError: The call failed, or `encode` refused an item.
    """
    batch = _Batch(stream)
    parts = batch.parts
    room = stream.conn.peer_limits.max_message // _LARGE_ITEM - 1
    most = max(1, min(BATCH_ITEMS, room))
    size = 0
    try:
        async for item in items:
            data = encode(item)
            large = len(data) >= _LARGE_ITEM
            if large and parts:
                batch.send()
            if not parts:
                if first_meta is not None:
                    batch.meta = first_meta()
                    first_meta = None
                batch.schedule()
                size = 0
            parts.append(data)
            size += len(data)
            if large or size >= _BATCH_BYTES or len(parts) >= most:
                await batch.send_full()
    except (Exception, SystemExit, KeyboardInterrupt):
        if parts:
            batch.send()  # items yielded before the error still arrive
        if stream.outbox is not None:
            await stream.writable()
        raise
    except asyncio.CancelledError:
        parts.clear()
        raise
    batch.finish(b"" if last_meta is None else last_meta())


class _Batch:
    """Items waiting to be sent: until there are 64, or 32 KiB, or the loop's iteration ends."""

    def __init__(self, stream: Stream) -> None:
        self.parts: list[bytes] = []
        self.meta = b""  # of the next frame
        self._stream = stream
        self._scheduled = False
        self._items = self._bytes = 0  # sent since other tasks last ran
        self._call_soon = asyncio.get_running_loop().call_soon

    def schedule(self) -> None:
        """Send the batch when the loop's iteration ends.

        Raises:
            asyncio.CancelledError: The call has ended. The source was cancelled then, and has
                swallowed that; it must not go on for a caller that is gone.
        """
        if self._stream.state == CLOSED:
            raise asyncio.CancelledError
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._at_turn_end)

    def send(self, flags: int = MESSAGE | BATCH) -> None:
        """Send the items now."""
        parts = self.parts
        body = batch_header(len(parts)) + b"".join(parts)
        self._items += len(parts)
        self._bytes += len(body)
        parts.clear()
        meta, self.meta = self.meta, b""
        self._stream.conn.send_data(self._stream, flags, meta, body)

    async def send_full(self) -> None:
        """Send a full batch; wait while the peer is not reading."""
        self.send()
        stream = self._stream
        if stream.outbox is not None or stream.conn.paused:
            self._items = self._bytes = 0
            await stream.writable()
        elif self._items >= _TURN_ITEMS or self._bytes >= _TURN_BYTES:
            self._items = self._bytes = 0
            await asyncio.sleep(0)

    def finish(self, meta: bytes) -> None:
        """Send the remaining items and the end of the stream.

        Args:
            meta: The header that is sent with END.
        """
        if self.parts and not (meta and self.meta):
            self.meta = meta or self.meta
            self.send(MESSAGE | BATCH | END)
            return
        if self.parts:
            self.send()
        self._stream.end(meta=meta)

    def _at_turn_end(self) -> None:
        self._scheduled = False
        if self.parts:
            self.send()
        self._items = self._bytes = 0
