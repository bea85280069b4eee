"""Close many connections at once, within a time that no peer can prolong."""

import asyncio
from collections.abc import Iterable

from rap.errors import RapError
from rap.transport.connection import Connection

__all__ = ["close_all"]

_GRACE = 1.0  # seconds for a peer to take what is queued; one that is frozen would never


async def close_all(connections: Iterable[Connection], error: RapError) -> None:
    """Write what is queued, close, and return when all have ended.

    Args:
        connections: Which to close.
        error: Why a connection ends whose peer does not take what is left within a second.
    """
    left: dict[asyncio.Future[None], Connection] = {}
    for conn in connections:
        conn.begin_close()
        left[conn.ended] = conn
    if not left:
        return
    try:
        _, slow = await asyncio.wait(left, timeout=_GRACE)
    except asyncio.CancelledError:
        slow = set(left)
        raise
    finally:
        for closing in slow:
            left[closing].abort(error)
    if slow:
        await asyncio.wait(slow)
