"""The server of the files: stores what clients upload, and sends it back."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile

from rap import InvalidArgument, NotFound, Server

FOLDER = Path(os.environ.get("FOLDER", "files"))
PIECE = 256 * 1024
MAX_SIZE = 1024 * 1024 * 1024

server = Server("localhost:9000")


def path_of(name: str) -> Path:
    """Return where a file is stored.

    Raises:
        InvalidArgument: The name is not the name of a file in the folder.
    """
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise InvalidArgument(f"not a file name: {name!r}")
    return FOLDER / name


@server.register
def put(name: str, size: int, pieces: Iterator[bytes]) -> Iterator[int]:
    """Store a file; yield how many bytes are stored so far, after each piece.

    It runs in a thread, since it writes to the disk. The file appears when all of it is stored. If
    the client goes away before, the iteration of the pieces raises an error.
    """
    path = path_of(name)
    if size > MAX_SIZE:
        raise InvalidArgument(f"{name} has {size} bytes, at most {MAX_SIZE} are stored")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=FOLDER, prefix=".", delete=False) as file:
        try:
            stored = 0
            for piece in pieces:
                stored += len(piece)
                if stored > size:
                    break
                file.write(piece)
                yield stored
            if stored != size:
                raise InvalidArgument(f"{name} should have {size} bytes, got {stored}")
            file.flush()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


@server.register
def size(name: str) -> int:
    """Return the size of a file in bytes."""
    try:
        return path_of(name).stat().st_size
    except FileNotFoundError:
        raise NotFound(f"there is no file {name!r}") from None


@server.register
def get(name: str, start: int = 0) -> Iterator[bytes]:
    """Yield the content of a file from a position on."""
    with path_of(name).open("rb") as file:
        file.seek(start)
        while piece := file.read(PIECE):
            yield piece
