"""The status of a client, for metrics, health checks and people."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from rap.client.call import Invoker
from rap.client.dialer import Dialer
from rap.client.node import Node
from rap.client.pool import Counters
from rap.client.target import Target

__all__ = [
    "NODE_STATES",
    "ClientStatus",
    "NodeStatus",
    "StatusSource",
    "client_status",
    "count_traffic",
]

NODE_STATES = ("up", "connecting", "incompatible", "draining", "suspect", "ejected")


class StatusSource(Protocol):
    """A client.

    Attributes:
        connected: Makes the calls; `None` while the client is not connected.
        dialer: Opens its connections.
        target: Where it finds its servers.
    """

    connected: Invoker | None
    dialer: Dialer
    target: Target


class NodeStatus(NamedTuple):
    """One server as a client sees it.

    Args:
        calls: Attempts of calls that it was given so far.
        latency: Recent peak latency in seconds; `None` before the first answer.
    """

    calls: int
    latency: float | None


@dataclass(frozen=True, slots=True)
class ClientStatus:
    """A client at one moment.

    Args:
        service: Name of the service that it calls; empty for a list of addresses.
        ready: Number of servers that take calls now; 0 while it is not connected.
        nodes: Number of servers in each of `NODE_STATES`.
        connections: Number of open connections.
        calls: Number of open calls of every type.
        waiting: Number of calls that wait for a server.
        degraded: Whether the registry does not answer; `None` if the registry does not say.
        age: Seconds since the registry last answered; `None` if the registry does not say.
        records_refused: Registrations so far that were ignored because they are not signed.
        certificate_not_after: When its own certificate expires, in seconds since the epoch; `None`
            if it has none.
        servers: Each server that it knows, by its id.
        opened: Connections opened so far.
        failed: Connections so far that could not be opened.
        ejections: Times so far that a server was ejected for failing.
        suspicions: Times so far that a connection was suspected to be dead.
        messages_cut: Calls so far that were given up because a message did not go on.
        outliers: Those of them where it failed far more calls than the other servers.
        hedges: Hedged requests so far.
        rescues: Second attempts so far of calls that waited in vain.
        refused: Retries, hedges and rescues so far that the retry budget did not allow.
        throttled: Calls so far that were not sent because servers refused most of them.
        received: Bytes received; 0 unless they are counted, see `count_traffic`.
        sent: Bytes sent, likewise.
    """

    service: str
    ready: int
    nodes: Mapping[str, int]
    connections: int
    calls: int
    waiting: int
    degraded: bool | None
    age: float | None
    records_refused: int
    certificate_not_after: float | None
    servers: Mapping[str, NodeStatus]
    opened: int
    failed: int
    ejections: int
    suspicions: int
    messages_cut: int
    outliers: int
    hedges: int
    rescues: int
    refused: int
    throttled: int
    received: int
    sent: int


def client_status(client: StatusSource) -> ClientStatus:
    """Return the status of a client. Call it on the event loop of the client."""
    target, traffic, invoker = client.target, client.dialer.traffic, client.connected
    cluster = None if invoker is None else invoker.cluster
    budget = None if invoker is None else invoker.budget
    counters = Counters() if cluster is None else cluster.counters
    nodes = [] if cluster is None else list(cluster.nodes.values())
    connections = [conn for node in nodes for conn in node.pool.connections]
    states = Counter(node.state for node in nodes)
    return ClientStatus(
        service=target.service,
        ready=0 if cluster is None else len(cluster.ready),
        nodes={state: states[state] for state in NODE_STATES},
        connections=len(connections),
        calls=sum(len(conn.streams) for conn in connections),
        waiting=0 if cluster is None else len(cluster.waiters),
        degraded=getattr(target.resolver, "degraded", None),
        age=getattr(target.resolver, "age", None),
        records_refused=getattr(target.resolver, "refused", 0),
        certificate_not_after=client.dialer.tls.not_after,
        servers={node.key: _node_status(node) for node in nodes},
        opened=counters.opened,
        failed=counters.failed,
        ejections=counters.ejections,
        suspicions=counters.suspicions,
        messages_cut=counters.messages_cut + sum(conn.messages_cut for conn in connections),
        outliers=counters.outliers,
        hedges=0 if budget is None else budget.hedges,
        rescues=0 if budget is None else budget.rescues,
        refused=0 if budget is None else budget.refused,
        throttled=0 if invoker is None else invoker.throttled,
        received=0 if traffic is None else traffic.received,
        sent=0 if traffic is None else traffic.sent,
    )


def count_traffic(client: StatusSource) -> None:
    """Count the bytes of connections that a client makes from now on."""
    client.dialer.count_traffic()


def _node_status(node: Node) -> NodeStatus:
    return NodeStatus(node.pool.calls, node.stats.ewma if node.stats.measured else None)
