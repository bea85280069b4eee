"""Connections before they are served: each waits unread until middleware has admitted it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from rap.address import Peer
from rap.clock import Clock
from rap.errors import ConnectionClosed
from rap.server.authentication import Authenticator
from rap.transport import Connection
from rap.transport.connection import Holding, close_all
from rap.transport.listen import Handshake
from rap.transport.rate_limit import TokenBucket

__all__ = ["Admission", "Arrivals"]


_MAX_KEPT = 10_000  # networks; the one that came least recently is forgotten for one more


class Arrivals:
    """Cuts what comes too often or waits too long; costs nothing once a connection has said Hello.

    Peers on this machine have no limit of their own: a proxy there makes all clients look local.

    Args:
        max_handshakes: Connections that have not said Hello, also in TLS handshakes; the oldest is
            cut for one more, for a client that means well says it at once.
        max_connects: Connections a second from one address, ten times as many at once.
        clock: Source of time.

    Attributes:
        refused: Connections that were cut, by the name of the limit.
    """

    def __init__(self, max_handshakes: int, max_connects: int, clock: Clock) -> None:
        self.refused = {"max_handshakes": 0, "max_connects": 0}
        self._max_handshakes = max_handshakes
        self._max_connects = max_connects
        self._clock = clock
        # Oldest first; with what can be cut.
        self._silent: dict[Connection, Connection | Handshake] = {}
        self._networks: dict[str, TokenBucket] = {}  # that came least recently first

    def begin(self, handshake: Handshake) -> bool:
        """Count a new connection, which begins with a TLS handshake; `False`: it was cut."""
        return self._take(handshake.conn, handshake)

    def take(self, conn: Connection) -> bool:
        """Count a new connection, unless its TLS handshake was; `False`: it was cut."""
        if conn in self._silent:
            self._silent[conn] = conn
            return True
        return self._take(conn, conn)

    def settle(self, conn: Connection) -> None:
        """Say that a connection has said Hello, or has ended."""
        self._silent.pop(conn, None)

    def _take(self, conn: Connection, new: Connection | Handshake) -> bool:
        if not new.peer.is_local and self._comes_too_often(new.peer):
            self.refused["max_connects"] += 1
            new.abort(ConnectionClosed(f"too many connections from {new.peer.network}"))
            return False
        if len(self._silent) >= self._max_handshakes:
            oldest = self._silent.pop(next(iter(self._silent)))
            self.refused["max_handshakes"] += 1
            oldest.abort(ConnectionClosed(f"{oldest.peer} sent no Hello while many others came"))
        self._silent[conn] = new
        return True

    def _comes_too_often(self, peer: Peer) -> bool:
        now, network = self._clock.monotonic(), peer.network
        bucket = self._networks.pop(network, None) or TokenBucket(self._max_connects, now)
        self._networks[network] = bucket
        if len(self._networks) > _MAX_KEPT:
            del self._networks[next(iter(self._networks))]
        return not bucket.allow(now)


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
