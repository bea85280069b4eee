"""How many pieces are written at once, where the event loop has a bug in that."""

import asyncio
import sys
from collections.abc import Callable, Sequence

__all__ = ["writelines_of"]

Pieces = Sequence[bytes | memoryview]

# There `writelines` of a plain socket never asks to pause, so its buffer grows without bound
# (CVE-2024-12254).
_NEVER_PAUSES = (3, 12, 0) <= sys.version_info < (3, 12, 9) or (
    (3, 13, 0) <= sys.version_info < (3, 13, 2)
)


def writelines_of(transport: asyncio.Transport) -> Callable[[Pieces], None]:
    """Return what writes several pieces to `transport`."""
    if _NEVER_PAUSES and type(transport).__module__ == "asyncio.selector_events":

        def join_and_write(pieces: Pieces) -> None:
            transport.write(b"".join(pieces))

        return join_and_write
    return transport.writelines
