"""What can be told of a client from outside: for metrics, health checks and people."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from rap.client.core import Client

__all__ = ["NODE_STATES", "ClientStatus", "client_status"]

NODE_STATES = ("up", "connecting", "draining", "suspect", "ejected")


@dataclass(frozen=True, slots=True)
class ClientStatus:
    """A client at one moment.

    Args:
        service: What it calls; empty for a list of addresses.
        ready: How many servers take calls now; 0 also while it is not connected.
        nodes: How many servers are in each of `NODE_STATES`.
        connections: How many are open.
        calls: How many are open, of every shape.
        waiting: Calls that wait for a server.
        degraded: Its registry does not answer; `None` if the registry does not tell.
        age: Seconds since the registry last answered; `None` if it does not tell.
    """

    service: str
    ready: int
    nodes: Mapping[str, int]
    connections: int
    calls: int
    waiting: int
    degraded: bool | None
    age: float | None


def client_status(client: Client) -> ClientStatus:
    """Return how a client is doing; to be asked on its event loop."""
    discovery, cluster = client._discovery, client._cluster
    nodes = [] if cluster is None else list(cluster.nodes.values())
    connections = [conn for node in nodes for conn in node.pool.connections]
    states = Counter(node.state for node in nodes)
    return ClientStatus(
        service=discovery.service,
        ready=0 if cluster is None else len(cluster.ready),
        nodes={state: states[state] for state in NODE_STATES},
        connections=len(connections),
        calls=sum(len(conn.streams) for conn in connections),
        waiting=0 if cluster is None else len(cluster.waiters),
        degraded=getattr(discovery.resolver, "degraded", None),
        age=getattr(discovery.resolver, "age", None),
    )
