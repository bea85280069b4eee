"""Gauges of the servers and clients of a process, read when somebody scrapes.

Calls are counted by `rap.processor.prometheus`; here is what stands still between them:
connections, servers known and their states, the registry, the lease. A label is the address of a
server, the name of a service, or one of five states: their number does not grow with traffic.
"""

from collections.abc import Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from rap.client import Client
from rap.client.status import NODE_STATES, ClientStatus, client_status
from rap.server import Server
from rap.server.status import server_status

__all__ = ["StatusCollector"]


class StatusCollector(Collector):
    """Says how servers and clients are doing; scraped on their event loop.

    Clients of one service are added up.

    Args:
        servers: Of this process.
        clients: Of this process.
    """

    def __init__(self, servers: Sequence[Server] = (), clients: Sequence[Client] = ()) -> None:
        self._servers = tuple(servers)
        self._clients = tuple(clients)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield what is known now."""
        if self._servers:
            yield from self._collect_servers()
        if self._clients:
            yield from self._collect_clients()

    def _collect_servers(self) -> Iterator[GaugeMetricFamily]:
        label = ["address"]
        serving = _gauge("rap_server_serving", "1 while new calls are welcome.", label)
        connections = _gauge("rap_server_connections", "Open connections.", label)
        calls = _gauge("rap_server_calls", "Open calls.", label)
        registered = _gauge(
            "rap_server_registered", "1 if the last renewal of the lease succeeded.", label
        )
        lag = _gauge("rap_server_lease_lag_seconds", "How late the last renewal came.", label)
        for server in self._servers:
            status = server_status(server)
            at = [status.address]
            serving.add_metric(at, status.serving)
            connections.add_metric(at, status.connections)
            calls.add_metric(at, status.calls)
            if status.registered is not None:
                registered.add_metric(at, status.registered)
                lag.add_metric(at, status.lease_lag)
        yield from (serving, connections, calls, registered, lag)

    def _collect_clients(self) -> Iterator[GaugeMetricFamily]:
        label = ["service"]
        nodes = _gauge("rap_client_nodes", "Servers known, by state.", [*label, "state"])
        ready = _gauge("rap_client_ready_nodes", "Servers that take calls now.", label)
        connections = _gauge("rap_client_connections", "Open connections.", label)
        calls = _gauge("rap_client_calls", "Open calls.", label)
        waiting = _gauge("rap_client_waiting_calls", "Calls that wait for a server.", label)
        degraded = _gauge(
            "rap_client_registry_degraded", "1 while the registry does not answer.", label
        )
        age = _gauge(
            "rap_client_registry_age_seconds", "Seconds since the registry last answered.", label
        )
        services: dict[str, list[ClientStatus]] = {}
        for client in self._clients:
            status = client_status(client)
            services.setdefault(status.service, []).append(status)
        for service, statuses in services.items():
            of = [service]
            for state in NODE_STATES:
                nodes.add_metric([service, state], sum(each.nodes[state] for each in statuses))
            ready.add_metric(of, sum(each.ready for each in statuses))
            connections.add_metric(of, sum(each.connections for each in statuses))
            calls.add_metric(of, sum(each.calls for each in statuses))
            waiting.add_metric(of, sum(each.waiting for each in statuses))
            told = [each.degraded for each in statuses if each.degraded is not None]
            if told:
                degraded.add_metric(of, any(told))
            ages = [each.age for each in statuses if each.age is not None]
            if ages:
                age.add_metric(of, max(ages))
        yield from (nodes, ready, connections, calls, waiting, degraded, age)


def _gauge(name: str, text: str, labels: Sequence[str]) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)
