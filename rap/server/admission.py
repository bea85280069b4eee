"""Which connections a server accepts: limits before the Hello, then connection middleware.

Nothing that a connection sends is read before it is admitted.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from math import inf
from typing import TYPE_CHECKING

from rap.address import Peer
from rap.clock import Clock, Pace
from rap.errors import Code, ConnectionClosed
from rap.server.signals import is_ctrl_c
from rap.tasks import start_task
from rap.tracebacks import compact
from rap.transport import Connection
from rap.transport.connection import close_all
from rap.transport.farewell import Farewell
from rap.transport.listen import Handshake
from rap.transport.rate_limit import TokenBucket

if TYPE_CHECKING:
    from rap.server.authentication import Authenticator  # many servers have no tokens

__all__ = ["AcceptLimiter", "Admission", "ConnectionLimit", "Serve"]

_MAX_NETWORKS = 10_000  # remembered; the one that connected least recently is dropped for a new one
_NOT_ADMITTED = ConnectionClosed("the connection was not admitted")
_CLOSE_TIMEOUT = 5.0  # seconds for middleware to finish after its connections have ended
_LEAVING = 16  # refused connections that are kept until their clients have read why
_LEAVE_TIMEOUT = 0.5  # seconds for such a client to close its connection
_LOG_PAUSE = 60.0  # seconds between two log records about refused connections

Serve = Callable[[Connection], Awaitable[None]]


class AcceptLimiter:
    """Closes connections that come too often or delay their Hello.

    A connection that has said Hello costs nothing here. Peers on this machine have no rate limit,
    because all clients behind a local proxy look local.

    Args:
        max_handshakes: Maximum connections that have not said Hello, those in a TLS handshake
            included. One more closes the oldest: a well-behaved client says Hello at once.
        max_connects: New connections per second from one address, with a burst of ten times that.
        clock: Source of time.

    Attributes:
        refused: Number of closed connections, by the name of the limit.
    """

    def __init__(self, max_handshakes: int, max_connects: int, clock: Clock) -> None:
        self.refused = {"max_handshakes": 0, "max_connects": 0}
        self._max_handshakes = max_handshakes
        self._max_connects = max_connects
        self._clock = clock
        # Connections without a Hello, oldest first, and what to abort to close each.
        self._pending: dict[Connection, Connection | Handshake] = {}
        self._networks: dict[str, TokenBucket] = {}  # the one that connected least recently first

    @property
    def pending(self) -> int:
        """Number of connections that have not said Hello."""
        return len(self._pending)

    def accept_handshake(self, handshake: Handshake) -> bool:
        """Count a new connection that begins a TLS handshake; return `False` if it was closed."""
        return self._accept(handshake.conn, handshake)

    def accept(self, conn: Connection) -> bool:
        """Count a new connection, once with its TLS handshake; return `False` if it was closed."""
        if conn in self._pending:
            self._pending[conn] = conn
            return True
        return self._accept(conn, conn)

    def release(self, conn: Connection) -> None:
        """Stop counting a connection: it has said Hello, or it has ended."""
        self._pending.pop(conn, None)

    def _accept(self, conn: Connection, new: Connection | Handshake) -> bool:
        if not new.peer.is_local and self._exceeds_rate(new.peer):
            self.refused["max_connects"] += 1
            new.abort(ConnectionClosed(f"too many connections from {new.peer.network}"))
            return False
        if len(self._pending) >= self._max_handshakes:
            oldest = self._pending.pop(next(iter(self._pending)))
            self.refused["max_handshakes"] += 1
            oldest.abort(ConnectionClosed(f"{oldest.peer} sent no Hello while many others came"))
        self._pending[conn] = new
        return True

    def _exceeds_rate(self, peer: Peer) -> bool:
        now, network = self._clock.monotonic(), peer.network
        bucket = self._networks.pop(network, None) or TokenBucket(self._max_connects, now)
        self._networks[network] = bucket
        if len(self._networks) > _MAX_NETWORKS:
            del self._networks[next(iter(self._networks))]
        return not bucket.allow(now)


class ConnectionLimit:
    """Refuses connections when as many are open as the process has descriptors for.

    A refused client gets a GoAway that says so, and calls other servers.

    Args:
        most: Maximum open connections; `None` means any number.
        reason: Where the number comes from, for error and log.
        clock: Source of time.
        log: Logger of the server.

    Attributes:
        most: Maximum open connections.
        refused: Number of refused connections.
    """

    def __init__(self, most: int | None, reason: str, clock: Clock, log: logging.Logger) -> None:
        self.most = inf if most is None else most
        self.refused = 0
        self._reason = reason
        self._log = log
        self._log_pace = Pace(_LOG_PAUSE, clock.monotonic)
        self._leaving: dict[Connection, Farewell] = {}  # the one that came first is the first

    def accept_handshake(self, handshake: Handshake, count: int) -> bool:
        """Count a TLS handshake that begins with `count` connections; `False`: it was ended."""
        if count < self.most + _LEAVING:
            return True
        self._refuse()
        handshake.abort(ConnectionClosed(self._text))
        return False

    def accept(self, conn: Connection, count: int) -> bool:
        """Count a new connection, if there are `count` others; `False`: it was refused."""
        if count - len(self._leaving) < self.most:
            return True
        self._refuse()
        farewell = conn.turn_away(Code.RESOURCE_EXHAUSTED, self._text)
        if len(self._leaving) >= _LEAVING:
            self._close_one()
        self._leaving[conn] = farewell
        asyncio.get_running_loop().call_later(_LEAVE_TIMEOUT, conn.begin_close)
        return False

    def release(self, conn: Connection) -> None:
        """Forget a connection that has ended."""
        self._leaving.pop(conn, None)

    def _close_one(self) -> None:
        """Close a refused connection: one that is over, or the one that has had the most time."""
        heard = (conn for conn, farewell in self._leaving.items() if farewell.heard)
        conn = next(heard, None) or next(iter(self._leaving))
        del self._leaving[conn]
        conn.begin_close()

    @property
    def _text(self) -> str:
        return f"the server has {self.most} connections open and takes no more"

    def _refuse(self) -> None:
        self.refused += 1
        if self._log_pace.allow():
            text = "new connections are refused (%d so far): %d are open, and %s"
            self._log.warning(text, self.refused, self.most, self._reason)


class Admission:
    """Runs connection middleware, one task per connection.

    Args:
        fold: Takes the function that serves an admitted connection, and returns one that runs the
            middleware first.
        log: Logger of the server.
        authenticator: Verifies tokens after the middleware has admitted a connection.
    """

    def __init__(
        self,
        fold: Callable[[Serve], Serve],
        log: logging.Logger,
        authenticator: "Authenticator | None" = None,
    ) -> None:
        self._authenticator = authenticator
        self._dispatch = fold(self._serve)
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def tokens_refused(self) -> int | None:
        """Connections rejected for a missing or invalid token; `None` if authentication is off."""
        return None if self._authenticator is None else self._authenticator.throttle.failures

    def verify_again(self) -> None:
        """Verify the tokens once more whose verification has begun: some may be valid no longer."""
        if self._authenticator is not None:
            self._authenticator.verify_again()

    def admit(self, conn: Connection) -> None:
        """Decide on a new connection; it is not read until it is admitted."""
        conn.hold_back()
        task = start_task(self._run(conn), name=f"rap connection {conn.peer}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait for all tasks to end; call it when the connections are closed."""
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
        except asyncio.CancelledError:
            raise
        except BaseException as exc:  # `SystemExit` too: a connection must not stop the server
            if is_ctrl_c(exc):
                raise
            text = "middleware failed on the connection with %s"
            self._log.exception(text, conn.peer, exc_info=compact(exc))
        finally:
            if not conn.closed:
                if conn.gate is not None:  # it was neither admitted nor told why not
                    text = "connection with %s: its middleware ended without `self.call_next(conn)`"
                    self._log.info(text, conn.peer)
                await close_all([conn], _NOT_ADMITTED)

    async def _serve(self, conn: Connection) -> None:
        """Serve an admitted connection until it has ended."""
        if self._authenticator is None:
            conn.admit()
        elif not await self._authenticator.admit(conn):
            return
        await asyncio.shield(conn.ended)
