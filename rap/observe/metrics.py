"""What stands still between calls, read when somebody scrapes: connections, nodes, leases, limits.

Calls are counted by `rap.processor.metrics.prometheus`. A label here is the address of a
server, the name of a service, a state, or the class of a limit: their number does not grow with
traffic.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from rap.client import Client
from rap.client.stats import NODE_STATES, ClientStatus, client_status
from rap.client.stats import count_traffic as count_client_traffic
from rap.processor.encryption.replay import ReplayGuard
from rap.server import Server
from rap.server.stats import Limit, ServerStatus, limits_of, replay_guards_of, server_status
from rap.server.stats import count_traffic as count_server_traffic

__all__ = [
    "CLIENT_ROWS",
    "SERVER_ROWS",
    "Family",
    "Row",
    "StatusCollector",
    "client_families",
    "families",
    "server_families",
]


T = TypeVar("T")
Family = CounterMetricFamily | GaugeMetricFamily


@dataclass(frozen=True, slots=True)
class Row(Generic[T]):
    """One metric.

    Args:
        name: Of the metric; that of a counter ends in ``_total``.
        text: What it means.
        read: Returns the value; with `label`, values by its value. `None`: there is nothing to
            tell.
        label: Beside the name of what is read.
    """

    name: str
    text: str
    read: Callable[[T], float | Mapping[str, float] | None]
    label: str = ""


def families(
    rows: Sequence[Row[T]], label: str, subjects: Iterable[tuple[str, T]]
) -> Iterator[Family]:
    """Yield the metrics of some subjects.

    Args:
        rows: The table.
        label: Tells subjects apart.
        subjects: Each with its value of that label.
    """
    subjects = tuple(subjects)
    for row in rows:
        kind = CounterMetricFamily if row.name.endswith("_total") else GaugeMetricFamily
        labels = [label, row.label] if row.label else [label]
        family: Family = kind(row.name, row.text, labels=labels)
        for name, subject in subjects:
            found = row.read(subject)
            if isinstance(found, Mapping):
                for value, number in found.items():
                    family.add_metric([name, value], number)
            elif found is not None:
                family.add_metric([name], found)
        if family.samples:
            yield family


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


class _Server(NamedTuple):
    """All there is to tell of one server."""

    status: ServerStatus
    limits: tuple[Limit, ...]
    guards: tuple[ReplayGuard, ...]


def _of_lease(value: float, each: _Server) -> float | None:
    return None if each.status.registered is None else value


def _refused(each: _Server) -> Mapping[str, float]:
    found: Counter[str] = Counter()
    for limit in each.limits:
        found[limit.name] += limit.refused
    return found


def _alone(each: _Server) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for limit in each.limits:
        if limit.alone is not None:
            found[limit.name] = max(found.get(limit.name, 0), limit.alone)
    return found


def _checked(each: _Server) -> Mapping[str, float]:
    found: Counter[str] = Counter()
    for guard in each.guards:
        found.update(guard.results)
    return found


SERVER_ROWS: Sequence[Row[_Server]] = (
    Row("rap_server_serving", "1 while new calls are welcome.", lambda it: it.status.serving),
    Row("rap_server_connections", "Open connections.", lambda it: it.status.connections),
    Row(
        "rap_server_paused_connections",
        "Open connections whose peer takes nothing now of what is sent.",
        lambda it: it.status.paused,
    ),
    Row(
        "rap_server_connections_opened_total",
        "Connections there have been.",
        lambda it: it.status.opened,
    ),
    Row(
        "rap_server_tokens_refused_total",
        "Connections of clients without a token that is good.",
        lambda it: it.status.tokens_refused,
    ),
    Row("rap_server_calls", "Open calls of every shape.", lambda it: it.status.calls),
    Row(
        "rap_server_received_bytes_total",
        "Bytes from clients, inside of TLS.",
        lambda it: it.status.received,
    ),
    Row(
        "rap_server_sent_bytes_total", "Bytes to clients, inside of TLS.", lambda it: it.status.sent
    ),
    Row(
        "rap_server_registered",
        "1 if the last renewal of the lease succeeded.",
        lambda it: it.status.registered,
    ),
    Row(
        "rap_server_lease_lag_seconds",
        "How late the last renewal came.",
        lambda it: _of_lease(it.status.lease_lag, it),
    ),
    Row(
        "rap_server_lease_left_seconds",
        "Seconds until the lease runs out, unless it is renewed.",
        lambda it: _of_lease(it.status.lease_left, it),
    ),
    Row(
        "rap_server_lease_failures_total",
        "Renewals of the lease that have failed.",
        lambda it: _of_lease(it.status.lease_failures, it),
    ),
    Row(
        "rap_server_limit_refused_total",
        "Connections or requests that a limit has refused.",
        _refused,
        "limit",
    ),
    Row(
        "rap_server_limit_alone",
        "1 while a limit cannot reach the store that it shares with other instances.",
        _alone,
        "limit",
    ),
    Row(
        "rap_server_nonces_checked_total",
        "Encrypted calls by what was found of their nonce and time.",
        _checked,
        "result",
    ),
    Row(
        "rap_server_nonces_remembered",
        "Nonces that this process remembers.",
        lambda it: sum(map(len, it.guards)) if it.guards else None,
    ),
)


def server_families(servers: Sequence[Server]) -> Iterator[Family]:
    """Yield the metrics of servers; the label is their address, and nothing that a peer chose."""
    asked = [
        _Server(server_status(each), tuple(limits_of(each)), tuple(replay_guards_of(each)))
        for each in servers
    ]
    return families(SERVER_ROWS, "address", [(each.status.address, each) for each in asked])


class StatusCollector(Collector):
    """Says how servers and clients are doing; scraped on their event loop.

    Clients of one service are added up. Bytes are counted on connections that are made from now
    on.

    Args:
        servers: Of this process.
        clients: Of this process.
    """

    def __init__(self, servers: Sequence[Server] = (), clients: Sequence[Client] = ()) -> None:
        self._servers = tuple(servers)
        self._clients = tuple(clients)
        for server in self._servers:
            count_server_traffic(server)
        for client in self._clients:
            count_client_traffic(client)

    def collect(self) -> Iterator[Family]:
        """Yield what is known now."""
        yield from server_families(self._servers)
        yield from client_families(self._clients)
