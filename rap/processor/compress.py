"""Compression of bodies with zlib, for messages that are large enough to gain from it.

A message is compressed only for a peer that can inflate it: its Hello names the ability, or, for a
release that does not know the ability, it has sent a compressed message on this connection.

Load the processor before any encryption, because encrypted data cannot be compressed. Do
not put a secret and the text of an attacker into one body: its size, which is visible on the wire,
shows how much they have in common (CRIME, 2012).

A compressed body can expand a thousandfold, so its header has the expanded size. A body that would
be larger than allowed, or than its header says, is refused before it is expanded. Bodies that wait
to be decoded have at most `max_message` bytes together.
"""

import asyncio
import zlib
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, TypeVar, cast

from rap.call import Request, Response, Side
from rap.errors import InvalidArgument, ResourceExhausted
from rap.processor.base import BaseProcessor, bytes_of, encode_body
from rap.schema.function import decode_any
from rap.turns import Party, Turns

__all__ = ["HEADER_NAME", "CompressProcessor"]

HEADER_NAME = ":deflate"  # bytes of the body after inflation
_ABILITY = "deflate"

_SLICE = 16 * 1024  # compressed bytes per step while the size is counted
_PIECE = 64 * 1024  # inflated bytes per step
_COUNTED = 1024 * 1024  # inflated bytes from which the rest may be counted before it is kept
_MOST = 1032  # inflated bytes for each compressed one; zlib cannot compress better
_FRAME = 64  # more inflated bytes that are not due to `_MOST`
_THREADED = 128 * 1024  # bytes from which a thread does the work
_LIMITS = (1, 2**31)

M = TypeVar("M", Request, Response)
R = TypeVar("R")


class CompressProcessor(BaseProcessor):
    """Compresses the messages that this side sends, and inflates those that it receives.

    A peer that has not loaded the processor is sent its messages as they are.

    Args:
        min_size: Smallest body to compress, in bytes.
        level: The compression level of zlib, 1 (fastest) to 9 (smallest).
        max_message: Largest received body after inflation, in bytes.

    Raises:
        ValueError: An argument is out of bounds; the message names it.
    """

    header_name = HEADER_NAME
    ability = _ABILITY

    def __init__(
        self, min_size: int = 1024, *, level: int = 6, max_message: int = 16 * 1024 * 1024
    ) -> None:
        self._min_size = _checked("min_size", min_size, _LIMITS)
        self._level = _checked("level", level, (1, 9))
        self._max_message = _checked("max_message", max_message, _LIMITS)
        self._room = _Room(self._max_message)

    async def process_request(self, request: Request) -> Request:
        """Compress a message on a client, inflate it on a server."""
        if request.call.side is Side.CLIENT:
            return await self._compress(request)
        return await self._inflate(request)

    async def process_response(self, response: Response) -> Response:
        """Compress a message on a server, inflate it on a client."""
        if response.call.side is Side.SERVER:
            return await self._compress(response)
        return await self._inflate(response)

    async def _compress(self, message: M) -> M:
        peer = message.call.peer
        if peer is None or not (_ABILITY in peer.abilities or HEADER_NAME in peer.state):
            return message
        content = encode_body(message)
        size = len(content)
        if size < self._min_size:
            return message
        if size < _THREADED:
            small = zlib.compress(content, self._level)
        else:
            small = await asyncio.to_thread(zlib.compress, content, self._level)
        if len(small) < size:
            message.body = small
            message.header[HEADER_NAME] = size
        return message

    async def _inflate(self, message: M) -> M:
        """Inflate the body of a message, if it is compressed.

        Raises:
            ResourceExhausted: The body would be larger than `max_message`.
            InvalidArgument: The body does not match its header.
        """
        size = message.header.pop(HEADER_NAME, None)
        if size is None:
            return message
        where = message.method
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InvalidArgument(f"{where}: {HEADER_NAME} must be a number of bytes, got {size!r}")
        if size > self._max_message:
            raise ResourceExhausted(
                f"{where}: a body of {size} bytes when inflated, max_message is {self._max_message}"
            )
        body = bytes_of(message)
        if body is None:
            raise InvalidArgument(f"{where}: a compressed body must be bytes")
        try:
            if size < _THREADED:
                content = _inflate(body, size)
            else:
                # This task goes on to decode the body before the next one is inflated.
                content = await self._room.run(_client(message), size, _inflate, body, size)
        except (zlib.error, ValueError) as exc:
            raise InvalidArgument(f"{where}: a compressed body of {size} bytes: {exc}") from exc
        message.set_encoded(content, decode_any)
        if message.call.peer is not None:
            message.call.peer.state[HEADER_NAME] = True  # a peer that compresses can inflate
        return message


class _Room:
    """The bytes that threads may inflate at the same time, for the clients in turn.

    Args:
        size: So many bytes.
    """

    def __init__(self, size: int) -> None:
        self._left = size
        self._turns: Turns[_Turn] = Turns(levels=2)
        self._next: _Turn | None = None  # whose turn it is when there is room for it

    async def run(self, client: Party, size: int, work: Callable[..., R], *args: Any) -> R:
        """Wait until there is room for `size` bytes, and run a function in a thread.

        If the caller is cancelled, the room is free when the thread has ended, which keeps the
        bytes until then. A function that no thread has begun does not run any more.
        """
        await self.take(client, size)
        is_cancelled, began_at = False, monotonic()

        def give(_: object = None) -> None:
            self.give(client, size, monotonic() - began_at)

        def unless_cancelled() -> R | None:
            return None if is_cancelled else work(*args)

        loop = asyncio.get_running_loop()
        try:
            running = loop.run_in_executor(None, unless_cancelled)
            result = await asyncio.shield(running)
        except asyncio.CancelledError:
            is_cancelled = True
            running.add_done_callback(give)
            raise
        except BaseException:  # raised again
            give()
            raise
        give()
        return cast(R, result)

    async def take(self, client: Party, size: int) -> None:
        """Wait until there is room for `size` bytes, and take it."""
        if self._next is None and not self._turns.waiting and size <= self._left:
            self._turns.begin(client)
            self._left -= size
            return
        turn = _Turn(client, size)
        self._turns.add(client, turn)
        try:
            await turn.future
        except asyncio.CancelledError:
            if turn.future.cancelled():
                self._turns.remove(client, turn)
                self._serve()  # it may have been the next one
            else:
                self.give(client, size)
            raise

    def give(self, client: Party, size: int, seconds: float = 0.0) -> None:
        """Return room that a client had for so many seconds."""
        self._left += size
        self._turns.end(client, seconds)
        self._serve()

    def _serve(self) -> None:
        """Let those go on whose turn it is, while there is room."""
        while (turn := self._next or self._turns.next()) is not None:
            self._next = None
            if turn.future.done():  # it was cancelled
                self._turns.end(turn.client, 0.0)
            elif turn.size > self._left:
                self._next = turn
                return
            else:
                self._left -= turn.size
                turn.future.set_result(None)


class _Turn:
    """A wait for room; its future ends when there is room.

    Args:
        client: Who waits.
        size: For so many bytes.
    """

    __slots__ = ("client", "future", "size")

    def __init__(self, client: Party, size: int) -> None:
        self.client = client
        self.size = size
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()


def _client(message: Request | Response) -> Party:
    """Return who takes turns: the network of the peer, and within it the connection."""
    peer = message.call.peer
    return ("", 0) if peer is None else (peer.network, (peer.port, peer.binding))


def _inflate(data: bytes, size: int) -> bytes:
    """Return `data` inflated.

    If it expands much faster than its size promises, it is counted before more of it is kept.

    Raises:
        ValueError: The result does not have `size` bytes.
        zlib.error: It is not compressed data.
    """
    if size > _MOST * len(data) + _FRAME:
        raise ValueError("so few bytes cannot have so many")
    pieces: list[bytes] = []
    seen, is_counted = 0, False
    inflating = zlib.decompressobj()
    for piece, consumed in _pieces(inflating, data):
        seen += len(piece)
        if seen > size:
            raise ValueError("it is larger")
        pieces.append(piece)
        if seen > _COUNTED and not is_counted and seen * len(data) > 2 * consumed * size:
            _count(data, size)
            is_counted = True
    if seen != size or not inflating.eof or inflating.unused_data:
        raise ValueError("it has another size, or is cut off")
    return b"".join(pieces)


def _count(data: bytes, size: int) -> None:
    """Inflate without keeping the result; raise `ValueError` above `size` bytes."""
    seen = 0
    for piece, _ in _pieces(zlib.decompressobj(), data):
        seen += len(piece)
        if seen > size:
            raise ValueError("it is larger")


def _pieces(inflating: "zlib._Decompress", data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield what `data` inflates to, piece by piece, and how much of `data` that took."""
    view = memoryview(data)
    for start in range(0, len(data), _SLICE):
        rest: bytes | memoryview = view[start : start + _SLICE]
        end = start + len(rest)
        while rest and not inflating.eof:
            piece = inflating.decompress(rest, _PIECE)
            rest = inflating.unconsumed_tail
            yield piece, end - len(rest)
        if inflating.eof and end < len(data):
            raise ValueError("there is more behind its end")


def _checked(option: str, value: int, bounds: tuple[int, int]) -> int:
    low, high = bounds
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{option} must be an integer from {low} to {high}, got {value!r}")
    return value
