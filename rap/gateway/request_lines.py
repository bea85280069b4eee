"""Request bodies that are read line by line while they arrive: newline-delimited JSON."""

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Any

from rap.gateway.arrivals import Arrivals
from rap.gateway.errors import BadRequest
from rap.gateway.request import Parser

__all__ = ["NDJSON", "RequestLines"]

NDJSON = "application/x-ndjson"  # media type
_TURN = 1024  # lines after which other requests have a turn
_BLANK = re.compile(rb"\s*")


class RequestLines:
    """The lines of a request body.

    Args:
        arrivals: The request; nothing else may read its body.
        parser: Parses the lines.
        max_line: Maximum bytes of a line.
        max_size: Maximum bytes of the body.
    """

    def __init__(self, arrivals: Arrivals, parser: Parser, max_line: int, max_size: int) -> None:
        self._arrivals = arrivals
        self._chunks = arrivals.body()
        self._parser = parser
        self._max_line = max_line
        self._max_size = max_size
        self._size = 0
        self._buffer = bytearray()
        self._begin = 0  # of the next line in the buffer
        self._searched = 0  # in the buffer; there is no end of that line before
        self._number = 0  # of the last line that was taken
        self._ended = False

    async def first(self, timeout: float) -> bytes:
        """Return the first line.

        Raises:
            BadRequest: It is too long, or took longer than `timeout` seconds.
            ClientDisconnect: The client has disconnected.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._next() or b""
        except TimeoutError:
            raise BadRequest(408, f"the first line did not arrive within {timeout:g} s") from None

    async def items(self) -> AsyncGenerator[Any, None]:
        """Yield the values of the other lines; empty lines are skipped.

        Raises:
            BadRequest: A line is not JSON, or a limit is exceeded.
            ClientDisconnect: The client has disconnected.
        """
        try:
            while (line := await self._next()) is not None:
                if line and not line.isspace():
                    yield await self._parser.parse_json(line, f"line {self._number}")
                else:
                    self._skip_blank()
                if self._number % _TURN == 0:
                    await asyncio.sleep(0)
        finally:
            self._arrivals.discard()

    async def _next(self) -> bytes | None:
        """Return the next line, or `None` after the last one."""
        while (end := self._buffer.find(b"\n", self._searched)) < 0 and not self._ended:
            self._searched = len(self._buffer)
            self._check_line(len(self._buffer) - self._begin, self._number + 1)
            chunk = await anext(self._chunks, None)
            if chunk is None:
                self._ended = True
            else:
                self._take(chunk)
        if end < 0:
            end = len(self._buffer)
            if end == self._begin:
                return None
        self._number += 1
        self._check_line(end - self._begin, self._number)
        line = bytes(self._buffer[self._begin : end])
        self._begin = self._searched = min(end + 1, len(self._buffer))
        return line

    def _skip_blank(self) -> None:
        """Skip the empty lines that have arrived, without an object for each of them."""
        found = _BLANK.match(self._buffer, self._begin)
        assert found is not None  # it matches nothing, too
        end = self._buffer.rfind(b"\n", self._begin, found.end()) + 1
        if end:
            self._number += self._buffer.count(b"\n", self._begin, end)
            self._begin = self._searched = end

    def _take(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size > self._max_size:
            text = f"the body has more than {self._max_size} bytes, which is max_stream"
            raise BadRequest(413, text)
        del self._buffer[: self._begin]
        self._searched -= self._begin
        self._begin = 0
        self._buffer += chunk

    def _check_line(self, size: int, number: int) -> None:
        if size > self._max_line:
            text = f"line {number} has more than {self._max_line} bytes, which is max_body"
            raise BadRequest(413, text)
