"""Standard input as lines on an event loop, and without an input."""

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from rap.cli.stdin import input_lines
from tests.loopback import within


class Unreadable(io.RawIOBase):
    """An input that breaks off."""

    def __init__(self) -> None:
        self.chunks = [b"one\ntw"]

    def read(self, size: int = -1) -> bytes:
        if not self.chunks:
            raise OSError("an I/O error")
        return self.chunks.pop()


@pytest.mark.parametrize(
    ("stdin", "lines"),
    [
        (SimpleNamespace(buffer=io.BytesIO(b"one\ntwo")), [b"one\n", b"two"]),
        (SimpleNamespace(buffer=io.BytesIO()), []),
        (SimpleNamespace(buffer=Unreadable()), [b"one\n"]),
        (None, []),
    ],
    ids=["file", "empty", "unreadable", "closed"],
)
async def test_lines_come_until_there_is_no_more_to_read(
    monkeypatch: pytest.MonkeyPatch, stdin: Any, lines: list[bytes]
) -> None:
    monkeypatch.setattr(sys, "stdin", stdin)

    async def read() -> list[bytes]:
        return [line async for line in input_lines()]

    assert await within(read()) == lines
