"""Limits on open connections: of a server, and of one address, alone or with all instances."""

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

_ALL = "all"  # the one key of a limit that does not look at the peer
_MAX_ADDRESSES = 65_536  # without a connection, whose statistics are kept


class _CountedMiddleware(BaseConnMiddleware):
    """Counts connections, in this process or with others.

    Args:
        scope: What is counted, as a part of keys.
        state: URL as for `state_from_url`, a counter, or `None` for this process alone.
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
        """Make the counter that all instances of the service share."""
        if self._shared is not None:
            scope = f"{self.service}/{self._scope}" if self.service else self._scope
            self._counter = self._shared.connections(scope)

    async def stop_event_handle(self) -> None:
        """Give back what is held in the store."""
        if self._shared is not None:
            await self._counter.aclose()

    @property
    def alone(self) -> bool:
        """Whether the store is away, so that this instance admits up to its share."""
        return bool(getattr(self._counter, "away", False))

    async def _total(self, key: str) -> int | None:
        """Return how many are open on all instances; `None` if it cannot be known."""
        try:
            return await self._counter.total(key)
        except StateUnavailable:
            return None


class ConnLimitMiddleware(_CountedMiddleware):
    """Refuses connections above a limit, and then all new ones for a while.

    Private functions: `get_conn_limit_info`, `modify_max_conn`, `modify_release_timestamp`.

    Args:
        max_conn: Connections that may be open at once.
        block_time: Seconds for which new ones are refused once the limit was exceeded; being
            refused does not extend them.
        state: URL of a store, to count the connections of all instances of the service; while it
            is away, each has its share. Or a `ConnectionCounter`.
        clock: Source of time.

    Raises:
        ValueError: An option has a bad value; the message names it.
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
        """Admit the connection unless there are too many or were lately."""
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
        """Return limits and counts; ``release_timestamp`` in seconds since the epoch, 0 for none.

        ``conn_count`` is of this process, ``total_conn_count`` of all, `None` if it is not known.
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
        """Change the limit; connections that are open stay."""
        self._max_conn = _check_count("max_conn", max_conn)

    def modify_release_timestamp(self, release_timestamp: float) -> None:
        """Refuse new connections until then, in seconds since the epoch; 0 ends a refusal."""
        check_number("release_timestamp", release_timestamp, least=0)
        left = release_timestamp - self._clock.time()
        self._released_at = self._clock.monotonic() + left if left > 0 else 0.0

    async def _refuse(self, conn: Connection) -> None:
        await self.refuse(conn, f"more than {self._max_conn} connections")


@dataclass(slots=True)
class _Statistics:
    open: int = 0
    refused: int = 0
    seen: float = 0.0  # when it last asked, on the monotonic clock


class IpMaxConnMiddleware(_CountedMiddleware):
    """Refuses connections from an address that has too many open.

    Of IPv6 the 64 bits of a network count as one address, for one host may own them. Clients on a
    unix socket have no address, and no limit. Private functions: `get_info`,
    `modify_max_ip_max_conn`, `modify_ip_max_timeout`.

    Args:
        ip_max_conn: Connections that one address may have open at once.
        timeout: Seconds after its last attempt until the statistics of an address that has no
            connection open are forgotten.
        state: As in `ConnLimitMiddleware`.
        clock: Source of time.

    Raises:
        ValueError: An option has a bad value; the message names it.
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
        self._addresses: dict[str, _Statistics] = {}  # that asked least recently first
        self.register(self.get_info)
        self.register(self.modify_max_ip_max_conn)
        self.register(self.modify_ip_max_timeout)

    async def dispatch(self, conn: Connection) -> None:
        """Admit the connection unless its address has too many."""
        host = conn.peer.network
        if not host:
            await self.call_next(conn)
            return
        statistics = self._note(host)
        if not await self._counter.acquire(host, self._ip_max_conn):
            statistics.refused += 1
            await self.refuse(conn, f"more than {self._ip_max_conn} connections from {host}")
            return
        statistics.open += 1
        try:
            await self.call_next(conn)
        finally:
            statistics.open -= 1
            self._counter.release(host)

    def get_info(self) -> dict[str, Any]:
        """Return the limit, and open and refused connections of each address, in this process."""
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
        """Change the limit of an address; connections that are open stay."""
        self._ip_max_conn = _check_count("ip_max_conn", ip_max_conn)

    def modify_ip_max_timeout(self, timeout: float) -> None:
        """Change the seconds after which statistics are forgotten."""
        self._timeout = check_number("timeout", timeout, least=0, above=True)

    def _note(self, host: str) -> _Statistics:
        now = self._clock.monotonic()
        statistics = self._addresses.pop(host, None) or _Statistics()
        statistics.seen = now
        self._forget(now, 2)
        self._addresses[host] = statistics
        return statistics

    def _forget(self, now: float, number: int) -> None:
        """Look at the oldest few; those with open connections go to the end."""
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
