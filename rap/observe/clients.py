"""What is told of the clients of a process; those of one service are added up."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from rap.client import Client
from rap.client.status import NODE_STATES, ClientStatus, client_status
from rap.observe.family import Family, Row, families

__all__ = ["CLIENT_ROWS", "client_families"]

_MOST_NODES = 100  # servers of a service that have series of their own; with more none has

# The clients of one service.
_Clients = Sequence[ClientStatus]


def _sum(read: Callable[[ClientStatus], int]) -> Callable[[_Clients], float]:
    return lambda clients: sum(map(read, clients))


def _most(read: Callable[[ClientStatus], float | None]) -> Callable[[_Clients], float | None]:
    return lambda clients: max(
        (value for value in map(read, clients) if value is not None), default=None
    )


def _states(clients: _Clients) -> Mapping[str, float]:
    return {state: sum(each.nodes[state] for each in clients) for state in NODE_STATES}


def _calls(clients: _Clients) -> Mapping[str, float]:
    found: Counter[str] = Counter()
    for client in clients:
        found.update({key: node.calls for key, node in client.servers.items()})
    return found if len(found) <= _MOST_NODES else {}


def _latencies(clients: _Clients) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for client in clients:
        for key, node in client.servers.items():
            if node.latency is not None:
                found[key] = max(found.get(key, 0.0), node.latency)
    return found if len(found) <= _MOST_NODES else {}


CLIENT_ROWS: Sequence[Row[_Clients]] = (
    Row("rap_client_nodes", "Servers known, by state.", _states, "state"),
    Row("rap_client_ready_nodes", "Servers that take calls now.", _sum(lambda it: it.ready)),
    Row("rap_client_connections", "Open connections.", _sum(lambda it: it.connections)),
    Row(
        "rap_client_connections_opened_total",
        "Connections there have been.",
        _sum(lambda it: it.opened),
    ),
    Row(
        "rap_client_connections_failed_total",
        "Connections that could not be opened.",
        _sum(lambda it: it.failed),
    ),
    Row("rap_client_calls", "Open calls of every shape.", _sum(lambda it: it.calls)),
    Row("rap_client_waiting_calls", "Calls that wait for a server.", _sum(lambda it: it.waiting)),
    Row(
        "rap_client_received_bytes_total",
        "Bytes from servers, inside of TLS.",
        _sum(lambda it: it.received),
    ),
    Row(
        "rap_client_sent_bytes_total", "Bytes to servers, inside of TLS.", _sum(lambda it: it.sent)
    ),
    Row(
        "rap_client_node_calls_total",
        "Attempts of calls given to each server; for up to 100 servers.",
        _calls,
        "node",
    ),
    Row(
        "rap_client_node_latency_seconds",
        "Recent peak latency by which the picker knows a server; for up to 100 servers.",
        _latencies,
        "node",
    ),
    Row(
        "rap_client_ejections_total",
        "Times that a server was taken out for failing.",
        _sum(lambda it: it.ejections),
    ),
    Row(
        "rap_client_hedges_total",
        "Second copies of late calls.",
        _sum(lambda it: it.hedges),
    ),
    Row(
        "rap_client_retries_refused_total",
        "Retries and second copies that the retry budget did not allow.",
        _sum(lambda it: it.refused),
    ),
    Row(
        "rap_client_registry_degraded",
        "1 while the registry does not answer.",
        _most(lambda it: it.degraded),
    ),
    Row(
        "rap_client_registry_age_seconds",
        "Seconds since the registry last answered.",
        _most(lambda it: it.age),
    ),
)


def client_families(clients: Sequence[Client]) -> Iterator[Family]:
    """Yield the metrics of clients; the label is the name of the service that they call."""
    services: dict[str, list[ClientStatus]] = {}
    for client in clients:
        status = client_status(client)
        services.setdefault(status.service, []).append(status)
    return families(CLIENT_ROWS, "service", services.items())
