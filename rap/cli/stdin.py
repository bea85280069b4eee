"""The lines of standard input as they arrive, on an event loop.

A thread reads them, because an event loop cannot wait for a file. It is a daemon thread, because
its read cannot be interrupted.
"""

import asyncio
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

__all__ = ["input_lines"]

_READ_AHEAD = 64  # lines
_CHUNK = 65536  # bytes that are read at once


async def input_lines() -> AsyncGenerator[bytes, None]:
    """Yield each line, including its line end if there is one."""
    reader = _Reader(asyncio.get_running_loop())
    threading.Thread(target=reader.run, name="rap input", daemon=True).start()
    try:
        while line := await reader.lines.get():
            reader.room.release()
            yield line
    finally:
        reader.stop()


class _Reader:
    """Reads lines in a thread.

    Attributes:
        lines: The lines that were read; an empty one marks the end of the input.
        room: Counts the lines that may still be read ahead.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lines: asyncio.Queue[bytes] = asyncio.Queue()
        self.room = threading.Semaphore(_READ_AHEAD)
        self._stopped = False
        self._loop = loop

    def run(self) -> None:
        """Read until the end of the input, or until `stop`."""
        with suppress(RuntimeError):  # the loop has ended
            with suppress(OSError):  # an input that cannot be read has ended
                self._read()
            self._put(b"")

    def stop(self) -> None:
        """Let the thread end after its current read."""
        self._stopped = True
        self.room.release()

    def _read(self) -> None:
        if sys.stdin is None:  # the parent process has closed it
            return
        stdin: Any = sys.stdin.buffer
        # Not the buffer: it has a lock, which Python takes when it exits.
        source = getattr(stdin, "raw", stdin)
        rest = b""
        while chunk := source.read(_CHUNK):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                if not self._put(line + b"\n"):
                    return
        if rest:
            self._put(rest)

    def _put(self, line: bytes) -> bool:
        self.room.acquire()
        if not self._stopped:
            self._loop.call_soon_threadsafe(self.lines.put_nowait, line)
        return not self._stopped
