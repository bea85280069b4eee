"""Limits on open connections: per server and per address, for one instance or all together."""

import logging
from dataclasses import dataclass
from typing import Any

from rap.clock import Clock, clock_of
from rap.server.middleware.base import BaseConnMiddleware
from rap.shared_state import (
    ConnectionCounter,
    MemoryConnections,
    SharedState,
    StateUnavailable,
    state_from_url,
)
from rap.shared_state.base import check_number
from rap.transport import Connection

__all__ = ["ConnLimitMiddleware", "IpMaxConnMiddleware"]

_log = logging.getLogger("rap.server")

_ALL = "all"  # the only key of a limit that does not depend on the peer
_MAX_ADDRESSES = 65_536  # without an open connection whose statistics are kept


class _CountedMiddleware(BaseConnMiddleware):
    """Middleware that counts connections, in this process or together with other instances.

    Args:
        scope: Part of the keys in the store that names the limit.
        state: URL for `state_from_url`, a counter, or `None` to count in this process only.
        clock: Source of time.
    """

    def __init__(
        self, scope: str, state: str | ConnectionCounter | None, clock: Clock | None
    ) -> None:
        self._scope = scope
        self._clock = clock_of(clock)
        self._shared: SharedState | None = None
        self._counter: ConnectionCounter = MemoryConnections()
        if isinstance(state, str):
            self._shared = state_from_url(state, clock=self._clock)
        elif state is not None:
            if not hasattr(state, "acquire"):
                text = "state must be a URL or a ConnectionCounter"
                raise TypeError(f"{text}, got {state!r}")
            self._counter = state

    def start_event_handle(self) -> None:
        """Create the counter that all instances of the service share."""
        if self._shared is not None:
            scope = f"{self.service}/{self._scope}" if self.service else self._scope
            self._counter = self._shared.connections(scope)

    async def stop_event_handle(self) -> None:
        """Release the connections held in the store."""
        if self._shared is not None:
            await self._counter.aclose()

    @property
    def alone(self) -> bool:
        """Whether the store is unreachable, so that this instance enforces its share alone."""
        return bool(getattr(self._counter, "away", False))

    async def _total(self, key: str) -> int | None:
        """Return the open connections of all instances; `None` if the store is unreachable."""
        try:
            return await self._counter.total(key)
        except StateUnavailable:
            return None


class ConnLimitMiddleware(_CountedMiddleware):
    """Refuses connections above a limit, and then all new connections for a while.

    Private functions: `get_conn_limit_info`, `modify_max_conn`, `modify_release_timestamp`.

    Args:
        max_conn: Maximum open connections, at least 0.
        block_time: Seconds for which new connections are refused once the limit was exceeded.
            Refused connections do not extend it.
        state: URL of a store, to count the connections of all instances of the service; while it
            is unreachable, each instance enforces its share. Or a `ConnectionCounter`. `None`
            counts in this process only.
        clock: Source of time.

    Raises:
        ValueError: An option has an invalid value; the message names it.
    """

    def __init__(
        self,
        max_conn: int = 1024,
        *,
        block_time: float = 30,
        state: str | ConnectionCounter | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__("conn", state, clock)
        self._max_conn = _check_count("max_conn", max_conn)
        self._block_time = check_number("block_time", block_time, least=0)
        self._released_at = 0.0  # on the monotonic clock
        self.register(self.get_conn_limit_info)
        self.register(self.modify_max_conn)
        self.register(self.modify_release_timestamp)

    async def dispatch(self, conn: Connection) -> None:
        """Admit the connection unless too many are open, or were within `block_time`."""
        if self._clock.monotonic() < self._released_at:
            await self._refuse(conn)
        elif not await self._counter.acquire(_ALL, self._max_conn):
            self._released_at = self._clock.monotonic() + self._block_time
            _log.warning(
                "%d connections are open: new ones are refused for %g s",
                self._max_conn,
                self._block_time,
            )
            await self._refuse(conn)
        else:
            try:
                await self.call_next(conn)
            finally:
                self._counter.release(_ALL)

    async def get_conn_limit_info(self) -> dict[str, Any]:
        """Return the limits and counts.

        ``conn_count`` is for this process, ``total_conn_count`` for all instances, `None` if
        unknown. ``release_timestamp`` is when the block ends, in seconds since the epoch; 0 without
        a block.
        """
        left = self._released_at - self._clock.monotonic()
        return {
            "max_conn": self._max_conn,
            "block_time": self._block_time,
            "conn_count": self._counter.held(_ALL),
            "total_conn_count": await self._total(_ALL),
            "refused_count": self.refused,
            "release_timestamp": self._clock.time() + left if left > 0 else 0,
        }

    def modify_max_conn(self, max_conn: int) -> None:
        """Change the limit; open connections stay open."""
        self._max_conn = _check_count("max_conn", max_conn)

    def modify_release_timestamp(self, release_timestamp: float) -> None:
        """Refuse new connections until a time in seconds since the epoch; 0 ends the block."""
        check_number("release_timestamp", release_timestamp, least=0)
        left = release_timestamp - self._clock.time()
        self._released_at = self._clock.monotonic() + left if left > 0 else 0.0

    async def _refuse(self, conn: Connection) -> None:
        await self.refuse(conn, f"more than {self._max_conn} connections (option max_conn)")


@dataclass(slots=True)
class _Statistics:
    open: int = 0
    refused: int = 0
    seen: float = 0.0  # last attempt, in seconds on the monotonic clock


class IpMaxConnMiddleware(_CountedMiddleware):
    """Refuses connections from an address that has too many open.

    An IPv6 network of 64 bits counts as one address, because one host may own all of it. Clients
    on a unix socket have no address, and no limit. Private functions: `get_info`,
    `modify_max_ip_max_conn`, `modify_ip_max_timeout`.

    Args:
        ip_max_conn: Maximum open connections per address, at least 0.
        timeout: Seconds after the last attempt of an address without open connections until its
            statistics are dropped.
        state: As in `ConnLimitMiddleware`.
        clock: Source of time.

    Raises:
        ValueError: An option has an invalid value; the message names it.
    """

    def __init__(
        self,
        ip_max_conn: int = 128,
        *,
        timeout: float = 180,
        state: str | ConnectionCounter | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__("ip", state, clock)
        self._ip_max_conn = _check_count("ip_max_conn", ip_max_conn)
        self._timeout = check_number("timeout", timeout, least=0, above=True)
        self._addresses: dict[str, _Statistics] = {}  # least recent attempt first
        self.register(self.get_info)
        self.register(self.modify_max_ip_max_conn)
        self.register(self.modify_ip_max_timeout)

    async def dispatch(self, conn: Connection) -> None:
        """Admit the connection unless its address has too many open."""
        host = conn.peer.network
        if not host:
            await self.call_next(conn)
            return
        statistics = self._note(host)
        if not await self._counter.acquire(host, self._ip_max_conn):
            statistics.refused += 1
            text = f"more than {self._ip_max_conn} connections from {host} (option ip_max_conn)"
            await self.refuse(conn, text)
            return
        statistics.open += 1
        try:
            await self.call_next(conn)
        finally:
            statistics.open -= 1
            self._counter.release(host)

    def get_info(self) -> dict[str, Any]:
        """Return the limit, and the open and refused connections per address, of this process."""
        self._forget(self._clock.monotonic(), len(self._addresses))
        return {
            "ip_max_conn": self._ip_max_conn,
            "timeout": self._timeout,
            "ip": {
                host: {"conn_count": it.open, "refused_count": it.refused}
                for host, it in self._addresses.items()
            },
        }

    def modify_max_ip_max_conn(self, ip_max_conn: int) -> None:
        """Change the limit per address; open connections stay open."""
        self._ip_max_conn = _check_count("ip_max_conn", ip_max_conn)

    def modify_ip_max_timeout(self, timeout: float) -> None:
        """Change the seconds after which statistics are dropped."""
        self._timeout = check_number("timeout", timeout, least=0, above=True)

    def _note(self, host: str) -> _Statistics:
        now = self._clock.monotonic()
        statistics = self._addresses.pop(host, None) or _Statistics()
        statistics.seen = now
        self._forget(now, 2)
        self._addresses[host] = statistics
        return statistics

    def _forget(self, now: float, number: int) -> None:
        """Drop old statistics among the first few; addresses with open connections go last."""
        for _ in range(min(number, len(self._addresses))):
            host = next(iter(self._addresses))
            statistics = self._addresses[host]
            is_old = statistics.seen + self._timeout <= now
            if not is_old and len(self._addresses) < _MAX_ADDRESSES:
                return
            del self._addresses[host]
            if statistics.open:
                self._addresses[host] = statistics


def _check_count(option: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{option} must be an integer of at least 0, got {value!r}")
    return value
