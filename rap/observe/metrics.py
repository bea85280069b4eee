"""What stands still between calls, read when somebody scrapes: connections, nodes, leases, limits.

Calls are counted by `rap.processor.prometheus`. A label here is the address of a server, the name
of a service, a state, or the class of a limit: their number does not grow with traffic.
"""

from collections.abc import Iterator, Sequence

from prometheus_client.registry import Collector

from rap.client import Client
from rap.client.status import count_traffic as count_client_traffic
from rap.observe.clients import client_families
from rap.observe.family import Family
from rap.observe.servers import server_families
from rap.server import Server
from rap.server.status import count_traffic as count_server_traffic

__all__ = ["StatusCollector"]


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
