"""Connections before they are served: each waits unread until middleware has admitted it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from rap.errors import ConnectionClosed
from rap.server.authentication import Authenticator
from rap.transport import Connection
from rap.transport.closing import close_all
from rap.transport.holding import Holding

__all__ = ["Admission"]

_NOT_ADMITTED = ConnectionClosed("the connection was not admitted")
_CLOSE_TIMEOUT = 5.0  # seconds for middleware to do what is left after its connections have ended

Serve = Callable[[Connection], Awaitable[None]]


class Admission:
    """Runs connection middleware, one task for each connection.

    Args:
        fold: Takes what serves a connection; returns that with middleware before it.
        log: Logger of the server.
        authenticator: Verifies tokens, after the middleware has admitted a connection.
    """

    def __init__(
        self,
        fold: Callable[[Serve], Serve],
        log: logging.Logger,
        authenticator: Authenticator | None = None,
    ) -> None:
        self._authenticator = authenticator
        self._dispatch = fold(self._serve)
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def tokens_refused(self) -> int | None:
        """How many clients had no token that is good; `None` where none needs one."""
        return None if self._authenticator is None else self._authenticator.failures.total

    def take(self, conn: Connection) -> None:
        """Decide on a new connection; until then it is held back."""
        Holding(conn)
        task = asyncio.create_task(self._run(conn), name=f"rap connection {conn.peer}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Return when all tasks have ended; connections are closed by now."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=_CLOSE_TIMEOUT)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    async def _run(self, conn: Connection) -> None:
        try:
            await self._dispatch(conn)
        except Exception:
            self._log.exception("middleware failed on the connection with %s", conn.peer)
        finally:
            if not conn.closed:
                await close_all([conn], _NOT_ADMITTED)

    async def _serve(self, conn: Connection) -> None:
        """Serve a connection that was admitted, until it has ended."""
        if self._authenticator is None:
            if conn.held is not None:
                conn.held.release()
        elif not await self._authenticator.admit(conn):
            return
        await asyncio.shield(conn.ended)
