"""The lines of standard input as they come, on an event loop.

A thread reads them, as a file cannot be waited for; a daemon, as nobody can end its read.
"""

import asyncio
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

__all__ = ["input_lines"]

_AHEAD = 64  # lines that are read before they are asked for
_CHUNK = 65536  # bytes


async def input_lines() -> AsyncGenerator[bytes, None]:
    """Yield each line with its end, if it has one."""
    reader = _Reader(asyncio.get_running_loop())
    threading.Thread(target=reader.run, name="rap input", daemon=True).start()
    try:
        while line := await reader.lines.get():
            reader.room.release()
            yield line
    finally:
        reader.left = True
        reader.room.release()


class _Reader:
    """What the thread runs.

    Attributes:
        lines: What was read; nothing stands for the end.
        room: Counts the lines that may still be read.
        left: Nobody asks for lines any more.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lines: asyncio.Queue[bytes] = asyncio.Queue()
        self.room = threading.Semaphore(_AHEAD)
        self.left = False
        self._loop = loop

    def run(self) -> None:
        """Read until the end of the input, or nobody asks for more."""
        with suppress(RuntimeError):  # the loop has ended
            with suppress(OSError):  # what cannot be read is at its end
                self._read()
            self._put(b"")

    def _read(self) -> None:
        if sys.stdin is None:  # closed by who started the program
            return
        stdin: Any = sys.stdin.buffer
        source = getattr(stdin, "raw", stdin)  # its buffer has a lock that Python takes at its end
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
        if not self.left:
            self._loop.call_soon_threadsafe(self.lines.put_nowait, line)
        return not self.left
