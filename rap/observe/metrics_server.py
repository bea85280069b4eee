"""``/metrics``, ``/healthz`` and ``/readyz`` of a process.

The endpoints run on the event loop that they report on. If the loop is stuck, ``/healthz`` does not
answer, which is the truth. They stay up while a server drains, so that ``/readyz`` can say so.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

from prometheus_client import REGISTRY, CollectorRegistry, Histogram, Info

from rap import __version__
from rap.address import Address
from rap.client import Client
from rap.client.stats import ClientStatus, client_status
from rap.foreign import one_line
from rap.observe.http import HttpResponse, HttpServer
from rap.observe.metrics import StatusCollector
from rap.observe.page import Form, Pages
from rap.server import Server
from rap.server.stats import ServerStatus, server_status

__all__ = ["LoopLag", "MetricsServer", "Readiness", "readiness", "serve_metrics"]

_log = logging.getLogger("rap.server")

_LAG_INTERVAL = 0.25  # seconds between two measurements of the event loop
_LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)  # seconds


def serve_metrics(
    server: Server | Iterable[Server] = (),
    client: Client | Iterable[Client] = (),
    *,
    port: int = 0,
    host: str = "127.0.0.1",
    sock: socket.socket | None = None,
    registry: CollectorRegistry = REGISTRY,
) -> "MetricsServer":
    """Return a server of ``/metrics``, ``/healthz`` and ``/readyz``, for ``async with``.

    Put it around the servers, so that it outlives their drain::

        async with serve_metrics(server, port=9464), server: ...

    Args:
        server: One or several servers of this event loop.
        client: One or several clients of this event loop.
        port: Port to listen on; 0 for any free port.
        host: Address to listen on; ``0.0.0.0`` for scrapers on other machines. There is no
            authentication.
        sock: A bound socket to listen on instead, such as one passed to this process. It is closed
            with the metrics server.
        registry: The metrics to serve; by default the registry of the process.

    Raises:
        ValueError: The port is not an integer from 0 to 65535.
    """
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise ValueError(f"port must be an integer from 0 to 65535, got {port!r}")
    servers = [server] if isinstance(server, Server) else server
    clients = [client] if isinstance(client, Client) else client
    where = (host, port) if sock is None else sock
    return MetricsServer(servers, clients, where=where, registry=registry)


class MetricsServer:
    """Serves metrics and health between `start` and `close`; use ``async with``.

    Args:
        servers: Servers to report on; they decide whether the process is ready.
        clients: Clients to report on.
        where: Host and port to listen on, port 0 for any free port; or a bound socket.
        registry: The metrics to serve.
    """

    def __init__(
        self,
        servers: Iterable[Server],
        clients: Iterable[Client],
        *,
        where: tuple[str, int] | socket.socket,
        registry: CollectorRegistry,
    ) -> None:
        self._servers = tuple(servers)
        self._clients = tuple(clients)
        self._where = where
        self._registry = registry
        self._http = HttpServer(
            {"/metrics": Pages(self._metrics).respond, "/healthz": _health, "/readyz": self._ready}
        )
        self._undo = contextlib.ExitStack()

    @property
    def address(self) -> Address:
        """The address that it listens on, with the real port."""
        return self._http.address

    async def start(self) -> Self:
        """Listen.

        Raises:
            OSError: The address cannot be bound.
            ValueError: Another metrics server uses the same registry.
        """
        with contextlib.ExitStack() as undo:
            collector = StatusCollector(self._servers, self._clients)
            lag = LoopLag(self._registry)  # fails for a second server: the name is taken
            undo.callback(lag.close)
            build = Info("rap_build", "Version of rap.", registry=self._registry)
            build.info({"version": __version__})
            undo.callback(self._registry.unregister, build)
            self._registry.register(collector)
            undo.callback(self._registry.unregister, collector)
            await self._http.start(self._where)
            self._undo = undo.pop_all()
        # Who passes a socket, such as the parent of workers, has one page for all of them.
        level = logging.DEBUG if isinstance(self._where, socket.socket) else logging.INFO
        _log.log(level, "metrics at http://%s/metrics", self.address)
        return self

    async def close(self) -> None:
        """Stop listening; it may be called again."""
        await self._http.close()
        self._undo.close()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def _metrics(self, form: Form) -> bytes:
        return form.encode(self._registry)

    def _ready(self, accept: str) -> HttpResponse:
        ready, reasons = readiness(self._servers, self._clients)
        return HttpResponse.lines(reasons, good=ready)


def _health(accept: str) -> HttpResponse:
    return HttpResponse.lines(["alive"])


class Readiness(NamedTuple):
    """Whether a process is ready, and why.

    Args:
        ready: Whether it should receive calls.
        reasons: One line for each server, or without servers for each client.
    """

    ready: bool
    reasons: tuple[str, ...]


def readiness(servers: Sequence[Server], clients: Sequence[Client]) -> Readiness:
    """Return whether every server serves; without servers, whether every client has one to call.

    A server with a registry is ready once it has been registered, because clients cannot find it
    before. From then on, a registry that does not answer makes it degraded, not unready: clients
    that know it go on with it. A server is ready even if the servers that it calls are not.
    Otherwise one failure would make all servers that depend on it unready, and none could say so.
    """
    if servers:
        serving = [server_status(server) for server in servers]
        ready = all(each.serving and each.unregistered is None for each in serving)
        return Readiness(ready, tuple(map(_of_server, serving)))
    calling = [client_status(client) for client in clients]
    return Readiness(all(each.ready for each in calling), tuple(map(_of_client, calling)))


def _of_server(status: ServerStatus) -> str:
    if not status.serving:
        return f"{status.address}: draining"
    if status.unregistered is not None:
        return f"{status.address}: not registered yet: {one_line(status.unregistered)}"
    degraded = ", degraded: not registered" if status.registered is False else ""
    return f"{status.address}: serving{degraded}"


def _of_client(status: ClientStatus) -> str:
    count = status.nodes["incompatible"]
    unfit = f", {count} incompatible: no version of the protocol in common" if count else ""
    degraded = ", degraded: the registry does not answer" if status.degraded else ""
    return f"{status.service or 'servers'}: {status.ready} ready{unfit}{degraded}"


class LoopLag:
    """Measures how late the running loop is, as ``rap_loop_lag_seconds``, until it is closed.

    Args:
        registry: Where the histogram is registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._loop = asyncio.get_running_loop()
        self._lag = Histogram(
            "rap_loop_lag_seconds",
            "Seconds by which the event loop was late.",
            registry=registry,
            buckets=_LAG_BUCKETS,
        )
        self._timer = self._loop.call_later(_LAG_INTERVAL, self._measure)

    def close(self) -> None:
        """Stop measuring, and remove the histogram."""
        self._timer.cancel()
        self._registry.unregister(self._lag)

    def _measure(self) -> None:
        self._lag.observe(max(0.0, self._loop.time() - self._timer.when()))
        self._timer = self._loop.call_later(_LAG_INTERVAL, self._measure)
