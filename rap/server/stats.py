"""The state of a server, for metrics, health checks and tools."""

from collections.abc import Iterator, Mapping
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
    """How often a limit has refused connections or requests.

    Args:
        name: Class name of the middleware or processor, or name of an option of the server.
        refused: Number of refusals.
        alone: Whether it cannot reach the store that it shares with other instances; `None` if it
            shares none.
    """

    name: str
    refused: int
    alone: bool | None = None


def limits_of(server: Server) -> Iterator[Limit]:
    """Yield the limits on connections and calls of a server."""
    for name, refused in server.connection_manager.accept_limiter.refused.items():
        yield Limit(name, refused)
    manager = server.connection_manager
    yield Limit("max_connections", manager.limit.refused)
    yield Limit("max_memory", 0 if manager.memory is None else manager.memory.refused)
    yield Limit("max_cancels", manager.cancels_excessive)
    yield Limit("message_timeout", manager.messages_cut)
    for each in (*server.middlewares, *server.processors):
        if isinstance(each, BaseConnMiddleware | LimitProcessor):
            yield Limit(type(each).__name__, each.refused, getattr(each, "alone", None))


def replay_guards_of(server: Server) -> Iterator[ReplayGuard]:
    """Yield the replay guards of the encryption processors of a server."""
    for each in server.processors:
        guard = getattr(each, "guard", None)
        if isinstance(guard, ReplayGuard):
            yield guard


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """The state of a server at one moment.

    Args:
        address: The first address that it listens on, or will.
        serving: Whether it accepts new calls: started and not draining.
        connections: Open connections.
        memory: Bytes that are held for clients: messages and requests of open calls.
        calls: Open calls, of every stream type.
        registered: Whether the last renewal of its lease succeeded; `None` without a registry.
        unregistered: Why it has not been registered since its start; `None` if it has been, or has
            no registry.
        lease_lag: Seconds by which the last renewal was late, because the loop was blocked.
        lease_left: Seconds until the lease expires, unless it is renewed.
        lease_failures: Failed renewals so far.
        certificate_not_after: When its certificate expires, in seconds since the epoch; `None` if
            it has none.
        crl_next_update: When the first of its revocation lists expires, likewise.
        opened: Connections opened so far.
        tokens_refused: Connections rejected for a missing or invalid token; `None` if
            authentication is off.
        versions_refused: Connections so far of clients that speak no version of the protocol that
            the server speaks.
        paused: Connections whose peer is not reading (write buffer full).
        threads: Maximum number of threads of `def` functions.
        threads_busy: Threads that run a function.
        threads_waiting: Functions that wait for a thread.
        threads_waited: Seconds that functions have waited for a thread so far.
        threads_expired: Calls whose deadline passed before a thread was free.
        waiting: Calls that wait for their turn.
        queue_delay: Seconds that the call that began last has waited; 0 while no call waits.
        queue_waited: Seconds that calls have waited for their turn so far.
        concurrency_limits: Calls that may run at a time, by method, of functions with a limit.
        shed: Calls that were refused because of overload, by reason, method and priority.
        blocks: How often a function held the event loop too long, by method.
        blocked_seconds: For how many seconds in all, by method.
        cancel_pauses: How often new calls of a client waited because it cancels most of its calls.
        received: Bytes received on connections that are counted; see `count_traffic`.
        sent: Bytes sent on connections that are counted.
    """

    address: str
    serving: bool
    connections: int
    memory: int
    calls: int
    registered: bool | None
    unregistered: str | None
    lease_lag: float
    lease_left: float
    lease_failures: int
    certificate_not_after: float | None
    crl_next_update: float | None
    opened: int
    tokens_refused: int | None
    versions_refused: int
    paused: int
    threads: int
    threads_busy: int
    threads_waiting: int
    threads_waited: float
    threads_expired: int
    waiting: int
    queue_delay: float
    queue_waited: float
    concurrency_limits: Mapping[str, float]
    shed: Mapping[tuple[str, str, str], int]
    blocks: Mapping[str, int]
    blocked_seconds: Mapping[str, float]
    cancel_pauses: int
    received: int
    sent: int


def server_status(server: Server) -> ServerStatus:
    """Return the state of a server; call it on its event loop."""
    manager, registration = server.connection_manager, server.registration
    lease, threads, overload = registration.lease, server.threads, server.overload_state
    return ServerStatus(
        address=str((manager.addresses or manager.hosts)[0]),
        serving=server.is_serving,
        connections=len(manager.connections),
        memory=0 if manager.memory is None else manager.memory.held,
        calls=manager.open_calls,
        registered=(False if lease is None else lease.healthy)
        if registration.is_configured
        else None,
        unregistered=registration.pending,
        lease_lag=0.0 if lease is None else lease.lag,
        lease_left=0.0 if lease is None else lease.left,
        lease_failures=0 if lease is None else lease.failures,
        certificate_not_after=None if manager.tls is None else manager.tls.not_after,
        crl_next_update=None if manager.tls is None else manager.tls.next_update,
        opened=manager.opened,
        tokens_refused=manager.tokens_refused,
        versions_refused=manager.versions_refused,
        paused=sum(conn.paused for conn in manager.connections),
        threads=0 if threads is None else threads.limit,
        threads_busy=0 if threads is None else threads.busy,
        threads_waiting=0 if threads is None else threads.waiting,
        threads_waited=0.0 if threads is None else threads.waited,
        threads_expired=0 if threads is None else threads.expired,
        waiting=overload.waiting,
        queue_delay=overload.delay,
        queue_waited=overload.waited,
        concurrency_limits=overload.limits,
        shed=overload.refused,
        blocks=dict(server.loop_monitor.blocks),
        blocked_seconds=dict(server.loop_monitor.seconds),
        cancel_pauses=manager.cancel_pauses,
        received=0 if manager.traffic is None else manager.traffic.received,
        sent=0 if manager.traffic is None else manager.traffic.sent,
    )


def count_traffic(server: Server) -> None:
    """Count the bytes of the connections made from now on."""
    server.connection_manager.count_traffic()
