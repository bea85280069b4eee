"""Request bodies that are read line by line while they arrive: newline-delimited JSON."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

from rap.gateway.arrivals import Arrivals
from rap.gateway.errors import BadRequest
from rap.gateway.request import parse_json

__all__ = ["NDJSON", "RequestLines"]

NDJSON = "application/x-ndjson"  # media type


class RequestLines:
    """The lines of a request body.

    Args:
        arrivals: The request; nothing else may read its body.
        max_line: Maximum bytes of a line.
        max_size: Maximum bytes of the body.
    """

    def __init__(self, arrivals: Arrivals, max_line: int, max_size: int) -> None:
        self._arrivals = arrivals
        self._chunks = arrivals.body()
        self._max_line = max_line
        self._max_size = max_size
        self._size = 0
        self._lines: deque[bytes] = deque()
        self._rest = bytearray()
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
                    yield parse_json(line, f"line {self._number}")
        finally:
            self._arrivals.discard()

    async def _next(self) -> bytes | None:
        """Return the next line, or `None` after the last one."""
        while not self._lines and not self._ended:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                self._ended = True
                if self._rest:
                    self._lines.append(bytes(self._rest))
            else:
                self._take(chunk)
        if not self._lines:
            return None
        self._number += 1
        line = self._lines.popleft()
        self._check_line(len(line), self._number)
        return line

    def _take(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size > self._max_size:
            text = f"the body has more than {self._max_size} bytes, which is max_stream"
            raise BadRequest(413, text)
        self._rest += chunk
        if b"\n" in chunk:
            *lines, rest = self._rest.split(b"\n")
            self._lines.extend(map(bytes, lines))
            self._rest = rest
        self._check_line(len(self._rest), self._number + len(self._lines) + 1)

    def _check_line(self, size: int, number: int) -> None:
        if size > self._max_line:
            text = f"line {number} has more than {self._max_line} bytes, which is max_body"
            raise BadRequest(413, text)
