"""Metrics of the state of servers and clients: connections, nodes, leases, limits.

They are read at each scrape. `rap.processor.metrics.prometheus` counts calls. The label values here
are addresses of servers, names of services, states and classes of limits, so their number does not
grow with traffic.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

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
    """How one metric is read.

    Args:
        name: Name of the metric; the name of a counter ends in ``_total``.
        text: Help text.
        read: Returns the value of a subject; with `label`, a mapping of label value, or values, to
            value. `None`: the metric does not apply.
        label: Name of an additional label, or names of several.
    """

    name: str
    text: str
    read: Callable[[T], float | Mapping[Any, float] | None]
    label: str | tuple[str, ...] = ""


def families(
    rows: Sequence[Row[T]], label: str, subjects: Iterable[tuple[str, T]]
) -> Iterator[Family]:
    """Yield the metrics of some subjects.

    Args:
        rows: The metrics to read.
        label: Name of the label that identifies the subject.
        subjects: Each subject with the value of its label.
    """
    subjects = tuple(subjects)
    for row in rows:
        kind = CounterMetricFamily if row.name.endswith("_total") else GaugeMetricFamily
        more = [row.label] if isinstance(row.label, str) else row.label
        labels = [label, *more] if row.label else [label]
        family: Family = kind(row.name, row.text, labels=labels)
        for name, subject in subjects:
            found = row.read(subject)
            if isinstance(found, Mapping):
                for value, number in found.items():
                    values = [value] if isinstance(value, str) else value
                    family.add_metric([name, *values], number)
            elif found is not None:
                family.add_metric([name], found)
        if family.samples:
            yield family


_MAX_NODES = 100  # servers of a service; with more, no server has its own series

# The clients of one service.
_Clients = Sequence[ClientStatus]


def _sum(read: Callable[[ClientStatus], int]) -> Callable[[_Clients], float]:
    return lambda clients: sum(map(read, clients))


def _max(read: Callable[[ClientStatus], float | None]) -> Callable[[_Clients], float | None]:
    return lambda clients: max(
        (value for value in map(read, clients) if value is not None), default=None
    )


def _min(read: Callable[[ClientStatus], float | None]) -> Callable[[_Clients], float | None]:
    return lambda clients: min(
        (value for value in map(read, clients) if value is not None), default=None
    )


def _states(clients: _Clients) -> Mapping[str, float]:
    return {state: sum(each.nodes[state] for each in clients) for state in NODE_STATES}


def _calls(clients: _Clients) -> Mapping[str, float]:
    found: Counter[str] = Counter()
    for client in clients:
        found.update({key: node.calls for key, node in client.servers.items()})
    return found if len(found) <= _MAX_NODES else {}


def _latencies(clients: _Clients) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for client in clients:
        for key, node in client.servers.items():
            if node.latency is not None:
                found[key] = max(found.get(key, 0.0), node.latency)
    return found if len(found) <= _MAX_NODES else {}


CLIENT_ROWS: Sequence[Row[_Clients]] = (
    Row("rap_client_nodes", "Known servers, by state.", _states, "state"),
    Row("rap_client_ready_nodes", "Servers that calls can be sent to.", _sum(lambda it: it.ready)),
    Row("rap_client_connections", "Open connections.", _sum(lambda it: it.connections)),
    Row(
        "rap_client_connections_opened_total",
        "Connections opened.",
        _sum(lambda it: it.opened),
    ),
    Row(
        "rap_client_connections_failed_total",
        "Connections that could not be opened.",
        _sum(lambda it: it.failed),
    ),
    Row("rap_client_calls", "Open calls of every stream type.", _sum(lambda it: it.calls)),
    Row("rap_client_waiting_calls", "Calls waiting for a server.", _sum(lambda it: it.waiting)),
    Row(
        "rap_client_received_bytes_total",
        "Bytes received from servers, after TLS decryption.",
        _sum(lambda it: it.received),
    ),
    Row(
        "rap_client_sent_bytes_total",
        "Bytes sent to servers, before TLS encryption.",
        _sum(lambda it: it.sent),
    ),
    Row(
        "rap_client_node_calls_total",
        "Attempts sent to each server; only for up to 100 servers.",
        _calls,
        "node",
    ),
    Row(
        "rap_client_node_latency_seconds",
        "Recent peak latency of each server; only for up to 100 servers.",
        _latencies,
        "node",
    ),
    Row(
        "rap_client_ejections_total",
        "Ejections of servers by outlier detection.",
        _sum(lambda it: it.ejections),
    ),
    Row(
        "rap_client_outliers_total",
        "Ejections of servers that failed far more calls than the others.",
        _sum(lambda it: it.outliers),
    ),
    Row(
        "rap_client_suspicions_total",
        "Connections that were suspected to be dead.",
        _sum(lambda it: it.suspicions),
    ),
    Row(
        "rap_client_messages_cut_total",
        "Calls given up because a message did not go on, or came too slowly.",
        _sum(lambda it: it.messages_cut),
    ),
    Row(
        "rap_client_hedges_total",
        "Hedged attempts sent.",
        _sum(lambda it: it.hedges),
    ),
    Row(
        "rap_client_rescues_total",
        "Second attempts of calls that waited in vain.",
        _sum(lambda it: it.rescues),
    ),
    Row(
        "rap_client_retries_refused_total",
        "Retries, hedges and rescues that the retry budget did not allow.",
        _sum(lambda it: it.refused),
    ),
    Row(
        "rap_client_throttled_total",
        "Calls not sent because overloaded servers had refused most of them.",
        _sum(lambda it: it.throttled),
    ),
    Row(
        "rap_client_certificate_not_after_seconds",
        "When the certificate of the client expires, in seconds since the epoch.",
        _min(lambda it: it.certificate_not_after),
    ),
    Row(
        "rap_client_records_refused_total",
        "Registrations that were ignored for lack of a valid signature.",
        _sum(lambda it: it.records_refused),
    ),
    Row(
        "rap_client_registry_degraded",
        "1 while the registry does not answer.",
        _max(lambda it: it.degraded),
    ),
    Row(
        "rap_client_registry_age_seconds",
        "Seconds since the registry last answered.",
        _max(lambda it: it.age),
    ),
)


def client_families(clients: Sequence[Client]) -> Iterator[Family]:
    """Yield the metrics of clients; the label is the name of the service they call."""
    services: dict[str, list[ClientStatus]] = {}
    for client in clients:
        status = client_status(client)
        services.setdefault(status.service, []).append(status)
    return families(CLIENT_ROWS, "service", services.items())


class _Server(NamedTuple):
    """The state of one server."""

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
    Row(
        "rap_server_serving", "1 while the server accepts new calls.", lambda it: it.status.serving
    ),
    Row("rap_server_connections", "Open connections.", lambda it: it.status.connections),
    Row(
        "rap_server_held_bytes",
        "Memory that is held for clients, which max_memory limits.",
        lambda it: it.status.memory,
    ),
    Row(
        "rap_server_paused_connections",
        "Connections whose peer is not reading (write buffer full).",
        lambda it: it.status.paused,
    ),
    Row(
        "rap_server_connections_opened_total",
        "Connections opened.",
        lambda it: it.status.opened,
    ),
    Row(
        "rap_server_tokens_refused_total",
        "Connections rejected for a missing or invalid token.",
        lambda it: it.status.tokens_refused,
    ),
    Row(
        "rap_server_versions_refused_total",
        "Connections of clients without a version of the wire protocol in common.",
        lambda it: it.status.versions_refused,
    ),
    Row(
        "rap_server_cancel_pauses_total",
        "Times that new calls of a client waited because it cancels most of its calls.",
        lambda it: it.status.cancel_pauses,
    ),
    Row(
        "rap_server_threads",
        "Maximum number of threads of def functions.",
        lambda it: it.status.threads,
    ),
    Row(
        "rap_server_threads_busy",
        "Threads that run a function.",
        lambda it: it.status.threads_busy,
    ),
    Row(
        "rap_server_threads_waiting_calls",
        "Functions that wait for a thread.",
        lambda it: it.status.threads_waiting,
    ),
    Row(
        "rap_server_threads_wait_seconds_total",
        "Seconds that functions have waited for a thread.",
        lambda it: it.status.threads_waited,
    ),
    Row(
        "rap_server_threads_expired_total",
        "Calls whose deadline passed before a thread was free.",
        lambda it: it.status.threads_expired,
    ),
    Row(
        "rap_server_waiting_calls",
        "Calls that wait for their turn, because the server is asked for more than it can do.",
        lambda it: it.status.waiting,
    ),
    Row(
        "rap_server_queue_delay_seconds",
        "Seconds that the call that began last has waited; 0 while no call waits.",
        lambda it: it.status.queue_delay,
    ),
    Row(
        "rap_server_queue_wait_seconds_total",
        "Seconds that calls have waited for their turn.",
        lambda it: it.status.queue_waited,
    ),
    Row(
        "rap_server_concurrency_limit",
        "Calls of a function that may run at a time, of functions that have a limit.",
        lambda it: it.status.concurrency_limits,
        "method",
    ),
    Row(
        "rap_server_shed_total",
        "Calls that were refused because the server is overloaded.",
        lambda it: it.status.shed,
        ("reason", "method", "priority"),
    ),
    Row(
        "rap_server_loop_blocks_total",
        "Times that a function held the event loop for longer than block_threshold.",
        lambda it: it.status.blocks,
        "method",
    ),
    Row(
        "rap_server_loop_blocked_seconds_total",
        "Seconds for which a function held the event loop in these cases.",
        lambda it: it.status.blocked_seconds,
        "method",
    ),
    Row(
        "rap_server_certificate_not_after_seconds",
        "When the certificate of the server expires, in seconds since the epoch.",
        lambda it: it.status.certificate_not_after,
    ),
    Row(
        "rap_server_crl_next_update_seconds",
        "When the first revocation list (CRL) expires, in seconds since the epoch.",
        lambda it: it.status.crl_next_update,
    ),
    Row("rap_server_calls", "Open calls of every stream type.", lambda it: it.status.calls),
    Row(
        "rap_server_received_bytes_total",
        "Bytes received from clients, after TLS decryption.",
        lambda it: it.status.received,
    ),
    Row(
        "rap_server_sent_bytes_total",
        "Bytes sent to clients, before TLS encryption.",
        lambda it: it.status.sent,
    ),
    Row(
        "rap_server_registered",
        "1 if the last renewal of the lease succeeded.",
        lambda it: it.status.registered,
    ),
    Row(
        "rap_server_lease_lag_seconds",
        "Seconds by which the last renewal was late.",
        lambda it: _of_lease(it.status.lease_lag, it),
    ),
    Row(
        "rap_server_lease_left_seconds",
        "Seconds until the lease expires, unless it is renewed.",
        lambda it: _of_lease(it.status.lease_left, it),
    ),
    Row(
        "rap_server_lease_failures_total",
        "Failed renewals of the lease.",
        lambda it: _of_lease(it.status.lease_failures, it),
    ),
    Row(
        "rap_server_limit_refused_total",
        "Connections or requests that a limit refused.",
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
        "Encrypted calls, by the result of checking their nonce and time.",
        _checked,
        "result",
    ),
    Row(
        "rap_server_nonces_remembered",
        "Nonces remembered by this process.",
        lambda it: sum(map(len, it.guards)) if it.guards else None,
    ),
)


def server_families(servers: Sequence[Server]) -> Iterator[Family]:
    """Yield the metrics of servers; the label is the address, which no peer can choose."""
    states = [
        _Server(server_status(each), tuple(limits_of(each)), tuple(replay_guards_of(each)))
        for each in servers
    ]
    return families(SERVER_ROWS, "address", [(each.status.address, each) for each in states])


class StatusCollector(Collector):
    """Collects the metrics of servers and clients; to be scraped on their event loop.

    The clients of one service are added up. Bytes are counted on connections made from now on.

    Args:
        servers: Servers of this process.
        clients: Clients of this process.
    """

    def __init__(self, servers: Sequence[Server] = (), clients: Sequence[Client] = ()) -> None:
        self._servers = tuple(servers)
        self._clients = tuple(clients)
        for server in self._servers:
            count_server_traffic(server)
        for client in self._clients:
            count_client_traffic(client)

    def collect(self) -> Iterator[Family]:
        """Yield the metrics."""
        yield from server_families(self._servers)
        yield from client_families(self._clients)
