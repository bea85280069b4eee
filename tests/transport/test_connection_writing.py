import asyncio
import socket

import pytest

from rap.transport import connection as writing
from rap.transport.connection import writelines_of


@pytest.mark.parametrize("never_pauses", [False, True])
async def test_many_pieces_fill_the_buffer_and_pause_their_writer(
    never_pauses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On loops that do not do so themselves, too."""
    monkeypatch.setattr(writing, "_NEVER_PAUSES", writing._NEVER_PAUSES or never_pauses)
    paused = asyncio.Event()

    class Writer(asyncio.Protocol):
        def pause_writing(self) -> None:
            paused.set()

    near, far = socket.socketpair()
    near.setblocking(False)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_unix_connection(Writer, sock=near)
    writelines_of(transport)([b"x" * 100_000, memoryview(b"y" * 1_000_000)] * 2)
    assert paused.is_set()
    transport.abort()
    far.close()
    await asyncio.sleep(0)
