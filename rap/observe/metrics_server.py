"""``/metrics``, ``/healthz`` and ``/readyz`` of a process.

The page runs on the event loop of what it tells of: a loop that is stuck does not answer
``/healthz``, which is the truth. It stays up while a server drains, so that ``/readyz`` can say so.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

from prometheus_client import REGISTRY, CollectorRegistry, Histogram, Info
from prometheus_client.exposition import choose_encoder

from rap import __version__
from rap.address import Address
from rap.client import Client
from rap.client.stats import ClientStatus, client_status
from rap.observe.http import Answer, Pages
from rap.observe.metrics import StatusCollector
from rap.server import Server
from rap.server.stats import ServerStatus, server_status

__all__ = ["LoopLag", "MetricsServer", "Readiness", "readiness", "serve_metrics"]


class Readiness(NamedTuple):
    """An answer and its reasons.

    Args:
        ready: Send work here.
        reasons: One line for each server or client that was asked.
    """

    ready: bool
    reasons: tuple[str, ...]


def readiness(servers: Sequence[Server], clients: Sequence[Client]) -> Readiness:
    """Return whether every server serves; without servers, whether every client has one to call.

    A server is ready although what it calls is not: else one failure takes down all that depend
    on it, and none of them could say so. A registry that does not answer makes it degraded, not
    less ready: known servers stand, and connections are the truth.
    """
    if servers:
        told = [server_status(server) for server in servers]
        return Readiness(all(each.serving for each in told), tuple(map(_of_server, told)))
    asked = [client_status(client) for client in clients]
    return Readiness(all(each.ready for each in asked), tuple(map(_of_client, asked)))


def _of_server(status: ServerStatus) -> str:
    if not status.serving:
        return f"{status.address}: draining"
    degraded = ", degraded: not registered" if status.registered is False else ""
    return f"{status.address}: serving{degraded}"


def _of_client(status: ClientStatus) -> str:
    degraded = ", degraded: the registry does not answer" if status.degraded else ""
    return f"{status.service or 'servers'}: {status.ready} ready{degraded}"


_INTERVAL = 0.25  # seconds
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class LoopLag:
    """Measures the running loop, as ``rap_loop_lag_seconds``, until it is closed.

    Args:
        registry: Where the histogram is.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._loop = asyncio.get_running_loop()
        self._lag = Histogram(
            "rap_loop_lag_seconds",
            "Seconds by which the event loop was late.",
            registry=registry,
            buckets=_SECONDS,
        )
        self._timer = self._loop.call_later(_INTERVAL, self._look)

    def close(self) -> None:
        """Stop measuring, and forget."""
        self._timer.cancel()
        self._registry.unregister(self._lag)

    def _look(self) -> None:
        self._lag.observe(max(0.0, self._loop.time() - self._timer.when()))
        self._timer = self._loop.call_later(_INTERVAL, self._look)


_log = logging.getLogger("rap.server")


class MetricsServer:
    """Serves the three pages between `start` and `close`; use ``async with``.

    Args:
        servers: Told of; they decide whether the process is ready.
        clients: Told of.
        where: Host and port to listen on, port 0 is any free one; or a socket that is bound.
        registry: What ``/metrics`` shows.
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
        self._pages = Pages({"/metrics": self._metrics, "/healthz": _alive, "/readyz": self._ready})
        self._undo = contextlib.ExitStack()

    @property
    def address(self) -> Address:
        """What is listened on, with the real port; only while it is."""
        return self._pages.address

    async def start(self) -> Self:
        """Listen.

        Raises:
            OSError: The address cannot be bound.
            ValueError: Another page shows the same registry.
        """
        with contextlib.ExitStack() as undo:
            collector = StatusCollector(self._servers, self._clients)
            lag = LoopLag(self._registry)  # refuses a second page: the name is taken
            undo.callback(lag.close)
            build = Info("rap_build", "Version of rap.", registry=self._registry)
            build.info({"version": __version__})
            undo.callback(self._registry.unregister, build)
            self._registry.register(collector)
            undo.callback(self._registry.unregister, collector)
            await self._pages.start(self._where)
            self._undo = undo.pop_all()
        _log.info("metrics at http://%s/metrics", self.address)
        return self

    async def close(self) -> None:
        """Stop; may be called again."""
        await self._pages.close()
        self._undo.close()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def _metrics(self, accept: str) -> Answer:
        encode, content_type = choose_encoder(accept)  # exemplars only exist in OpenMetrics
        return Answer("200 OK", content_type, encode(self._registry))

    def _ready(self, accept: str) -> Answer:
        ready, reasons = readiness(self._servers, self._clients)
        return Answer.lines(reasons, good=ready)


def serve_metrics(
    server: Server | Iterable[Server] = (),
    client: Client | Iterable[Client] = (),
    *,
    port: int = 0,
    host: str = "127.0.0.1",
    sock: socket.socket | None = None,
    registry: CollectorRegistry = REGISTRY,
) -> MetricsServer:
    """Return what serves ``/metrics``, ``/healthz`` and ``/readyz``, for ``async with``.

    Put it around the servers, so that it outlives their drain::

        async with serve_metrics(server, port=9464), server: ...

    Args:
        server: One or several, of this event loop.
        client: One or several, of this event loop.
        port: 0 is any free one.
        host: Address to listen on; ``0.0.0.0`` for scrapers on other machines. The page asks
            nobody who they are.
        sock: What to listen on instead: a socket that is bound, such as one that was handed to
            this process. It is closed with the page.
        registry: What is shown; by default the registry of the process.

    Raises:
        ValueError: The port is no port.
    """
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise ValueError(f"port must be an integer from 0 to 65535, got {port!r}")
    servers = [server] if isinstance(server, Server) else server
    clients = [client] if isinstance(client, Client) else client
    where = (host, port) if sock is None else sock
    return MetricsServer(servers, clients, where=where, registry=registry)


def _alive(accept: str) -> Answer:
    return Answer.lines(["alive"])
