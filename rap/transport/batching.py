"""Batches: many small items of a stream in one frame (PROTOCOL.md §8.3).

Both sides send items this way: a server those of a generator, a client those of a request stream.
"""

import asyncio
import time
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from typing import Any

from rap.transport.stream import Stream
from rap.wire.codec import batch_header
from rap.wire.frames import BATCH, END, MESSAGE
from rap.wire.stream import CLOSED

__all__ = ["BATCH_ITEMS", "ItemSender", "pull_items"]

BATCH_ITEMS = 64
_BATCH_BYTES = 32 * 1024  # at which a batch is full
_LARGE_ITEM = 8 * 1024  # bytes at which an item is sent alone
# Items or bytes after which a source that never waits lets other tasks run.
_TURN_ITEMS = 256
_TURN_BYTES = 64 * 1024
_PULL_SECONDS = 0.01  # items of a plain iterator are passed on after this time at the latest
_ONE = batch_header(1)


class ItemSender:
    """Sends the items of one side in batches.

    A batch is sent when it has 64 items or 32 KiB, or when the loop's iteration ends.

    Args:
        stream: The call.
        encode: Encodes one item. It is called at once, because the source may change the item
            later.
    """

    def __init__(self, stream: Stream, encode: Callable[[Any], bytes]) -> None:
        self._stream = stream
        self._encode = encode
        self._parts: list[bytes] = []  # the batch
        self._meta = b""  # of the next frame
        room = stream.conn.peer_limits.max_message // _LARGE_ITEM - 1
        self._most = max(1, min(BATCH_ITEMS, room))
        self._scheduled = False
        self._count = 0  # items of batches that were sent
        self._items = self._bytes = 0  # sent since other tasks last ran
        self._call_soon = asyncio.get_running_loop().call_soon

    @property
    def count(self) -> int:
        """The number of items that were encoded so far."""
        return self._count + len(self._parts)

    async def send(
        self,
        items: AsyncIterable[Any] | Iterable[Any],
        first_meta: Callable[[], bytes] | None = None,
        last_meta: Callable[[], bytes] | None = None,
    ) -> None:
        """Send all items, then END; wait while the peer does not read.

        Items that were produced before an error are sent, and those before a cancellation are not.

        Args:
            items: What to send.
            first_meta: Returns the meta of the first frame; called when its first item is there.
            last_meta: Returns what the last frame has as its meta if it is not the first.

        Raises:
            CallError: The call failed, or `encode` refused an item.
        """
        encode, parts, most, size = self._encode, self._parts, self._most, 0
        add = parts.append
        try:
            if isinstance(items, AsyncIterable):
                async for item in items:
                    data = encode(item)
                    length = len(data)
                    large = length >= _LARGE_ITEM
                    if large and parts:
                        self._send_batch()
                    if not parts:
                        if first_meta is not None:
                            self._meta = first_meta()
                            first_meta = None
                        self._schedule()
                        size = 0
                    add(data)
                    size += length
                    if large or size >= _BATCH_BYTES or len(parts) >= most:
                        await self._send_full()
            else:  # the same, but the source never waits, so no batch outlasts an iteration
                for item in items:
                    data = encode(item)
                    length = len(data)
                    large = length >= _LARGE_ITEM
                    if large and parts:
                        self._send_batch()
                    if first_meta is not None:
                        self._meta = first_meta()
                        first_meta = None
                    add(data)
                    size += length
                    if large or size >= _BATCH_BYTES or len(parts) >= most:
                        size = 0
                        await self._send_full()
        except (Exception, SystemExit, KeyboardInterrupt):  # of the source; raised again
            if parts:
                self._send_batch()  # items yielded before the error still arrive
            if self._stream.outbox is not None:
                await self._stream.writable()
            raise
        except asyncio.CancelledError:
            parts.clear()
            raise
        self._finish(b"" if last_meta is None else last_meta())

    def _schedule(self) -> None:
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

    def _send_batch(self, flags: int = MESSAGE | BATCH) -> None:
        parts = self._parts
        if len(parts) == 1:
            body = _ONE + parts[0]
        else:
            body = batch_header(len(parts)) + b"".join(parts)
        self._count += len(parts)
        self._items += len(parts)
        self._bytes += len(body)
        parts.clear()
        meta, self._meta = self._meta, b""
        self._stream.conn.send_data(self._stream, flags, meta, body)

    async def _send_full(self) -> None:
        """Send a full batch; wait while the peer is not reading."""
        self._send_batch()
        stream = self._stream
        if stream.outbox is not None or stream.conn.paused:
            self._items = self._bytes = 0
            await stream.writable()
        elif self._items >= _TURN_ITEMS or self._bytes >= _TURN_BYTES:
            self._items = self._bytes = 0
            await asyncio.sleep(0)

    def _finish(self, meta: bytes) -> None:
        """Send the remaining items and the end of the stream.

        Args:
            meta: The header that is sent with END.
        """
        if self._parts and not (meta and self._meta):
            self._meta = meta or self._meta
            self._send_batch(MESSAGE | BATCH | END)
            return
        if self._parts:
            self._send_batch()
        self._stream.end(meta=meta)

    def _at_turn_end(self) -> None:
        self._scheduled = False
        if self._parts:
            self._send_batch()
        self._items = self._bytes = 0


def pull_items(iterator: Iterator[Any], items: list[Any], most: int) -> bool:
    """Append the next items of a plain iterator to `items`; return whether it has ended.

    It takes at least one item, and no more of them after 10 ms. If the iterator raises, `items` has
    those before the error.

    Args:
        iterator: The source. It may block.
        items: An empty list.
        most: Maximum number of items.
    """
    stop = time.monotonic() + _PULL_SECONDS
    for item in iterator:
        items.append(item)
        if len(items) >= most or time.monotonic() >= stop:
            return False
    return True
