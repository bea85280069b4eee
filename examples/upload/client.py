"""The client of the files: uploads and downloads, and shows the progress."""

import asyncio
import sys
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from rap import Client

PIECE = 256 * 1024

client = Client("localhost:9000")


class Files(Protocol):
    """The functions of the server."""

    def put(
        self, name: str, size: int, pieces: AsyncIterable[bytes] | Iterable[bytes]
    ) -> AsyncIterator[int]: ...
    async def size(self, name: str) -> int: ...
    def get(self, name: str, start: int = 0) -> AsyncIterator[bytes]: ...


files = client.bind(Files, group="default")


def size_of(path: Path) -> int:
    """Return the size of a local file in bytes."""
    return path.stat().st_size


def pieces_of(path: Path) -> Iterator[bytes]:
    """Read a file in pieces. rap asks for the next one when the server is ready for it."""
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


async def put(path: Path) -> None:
    """Upload a file."""
    size = size_of(path)
    async for stored in files.put(path.name, size, pieces_of(path)):
        show(path.name, stored, size)


async def get(name: str, path: Path) -> None:
    """Download a file, or what is still missing of it."""
    size = await files.size(name)
    with path.open("ab") as file:
        async for piece in files.get(name, size_of(path)):
            file.write(piece)
            show(name, file.tell(), size)


def show(name: str, done: int, size: int) -> None:
    """Show the progress on one line of the terminal."""
    print(f"\r{name}: {done:,} of {size:,} bytes", end="\n" if done == size else "", flush=True)


async def main(command: str, *arguments: str) -> None:
    async with client:
        if command == "put":
            await put(Path(arguments[0]))
        else:
            await get(arguments[0], Path(arguments[1]))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
