"""What can be told of a server from outside: for metrics, health checks and people."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from rap.processor.encryption.replay import ReplayGuard
from rap.processor.limit import LimitProcessor
from rap.server.middleware.base import BaseConnMiddleware
from rap.server.server import Server

__all__ = [
    "Limit",
    "ServerStatus",
    "count_traffic",
    "limits_of",
    "replay_guards_of",
    "server_status",
]


class Limit(NamedTuple):
    """Middleware or a processor that limits something.

    Args:
        name: Of its class, or of an option of the server.
        refused: How often it has refused.
        alone: It cannot reach the store that it shares with other instances; `None`: it has none.
    """

    name: str
    refused: int
    alone: bool | None = None


def limits_of(server: Server) -> Iterator[Limit]:
    """Yield what limits the connections and the calls of a server."""
    for name, refused in server.connection_manager.accept_limiter.refused.items():
        yield Limit(name, refused)
    for each in (*server.middlewares, *server.processors):
        if isinstance(each, BaseConnMiddleware | LimitProcessor):
            yield Limit(type(each).__name__, each.refused, getattr(each, "alone", None))


def replay_guards_of(server: Server) -> Iterator[ReplayGuard]:
    """Yield what lets each encrypted call of a server in once."""
    for each in server.processors:
        guard = getattr(each, "guard", None)
        if isinstance(guard, ReplayGuard):
            yield guard


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """A server at one moment.

    Args:
        address: The first one that it listens on, or shall.
        serving: New calls are welcome: started, not draining.
        connections: How many are open.
        calls: How many are open, of every shape.
        registered: The last renewal of its lease succeeded; `None` without a registry.
        lease_lag: Seconds by which that came late, for something blocked the loop.
        lease_left: Seconds until it runs out, unless it is renewed.
        lease_failures: Renewals that have failed so far.
        opened: Connections there have been.
        tokens_refused: Clients without a token that is good; `None` where none needs one.
        paused: Connections whose peer takes nothing now of what is sent.
        received: Bytes, where they are counted; see `count_traffic`.
        sent: The same.
    """

    address: str
    serving: bool
    connections: int
    calls: int
    registered: bool | None
    lease_lag: float
    lease_left: float
    lease_failures: int
    opened: int
    tokens_refused: int | None
    paused: int
    received: int
    sent: int


def server_status(server: Server) -> ServerStatus:
    """Return how a server is doing; to be asked on its event loop."""
    manager, registration = server.connection_manager, server.registration
    lease = registration.lease
    return ServerStatus(
        address=str((manager.addresses or manager.hosts)[0]),
        serving=server.is_serving,
        connections=len(manager.connections),
        calls=manager.open_calls,
        registered=(False if lease is None else lease.healthy)
        if registration.is_configured
        else None,
        lease_lag=0.0 if lease is None else lease.lag,
        lease_left=0.0 if lease is None else lease.left,
        lease_failures=0 if lease is None else lease.failures,
        opened=manager.opened,
        tokens_refused=manager.tokens_refused,
        paused=sum(conn.paused for conn in manager.connections),
        received=0 if manager.traffic is None else manager.traffic.received,
        sent=0 if manager.traffic is None else manager.traffic.sent,
    )


def count_traffic(server: Server) -> None:
    """Count the bytes of connections that are made from now on."""
    server.connection_manager.count_traffic()
