"""``/metrics``, ``/healthz`` and ``/readyz`` of a process, over HTTP/1.1 on a port of their own.

The page runs on the event loop of what it tells of: a loop that is stuck does not answer
``/healthz``, which is the truth. It stays up while a server drains, so that ``/readyz`` can say so.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Self

from prometheus_client import REGISTRY, CollectorRegistry, Info
from prometheus_client.exposition import choose_encoder

from rap import __version__
from rap.address import Address
from rap.client import Client
from rap.observe.health import readiness
from rap.observe.lag import LoopLag
from rap.observe.metrics import StatusCollector
from rap.server import Server

__all__ = ["MetricsServer", "serve_metrics"]

_log = logging.getLogger("rap.server")

_TEXT = "text/plain; charset=utf-8"
_MOST_HEAD = 8192  # bytes of a request line and its headers
_TIMEOUT = 5.0  # seconds to send a request, and to take the answer
_MOST_CONNECTIONS = 64

# Status line, content type, body.
Answer = tuple[str, str, bytes]


class MetricsServer:
    """Serves the three pages between `start` and `close`; use ``async with``.

    Args:
        servers: Told of; they decide whether the process is ready.
        clients: Told of.
        host: Address to listen on.
        port: Port to listen on; 0 is any free one.
        registry: What ``/metrics`` shows.
    """

    def __init__(
        self,
        servers: Iterable[Server],
        clients: Iterable[Client],
        *,
        host: str,
        port: int,
        registry: CollectorRegistry,
    ) -> None:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
            raise ValueError(f"port must be an integer from 0 to 65535, got {port!r}")
        self._servers = tuple(servers)
        self._clients = tuple(clients)
        self._bind = (host, port)
        self._registry = registry
        self._pages: dict[str, Callable[[str], Answer]] = {
            "/metrics": self._metrics,
            "/healthz": _alive,
            "/readyz": self._ready,
        }
        self._listener: asyncio.Server | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self._undo = contextlib.ExitStack()

    @property
    def address(self) -> Address:
        """What is listened on, with the real port; only while it is."""
        if self._listener is None or not self._listener.sockets:
            raise RuntimeError("the metrics are not being served")
        name = self._listener.sockets[0].getsockname()
        return Address("tcp", name[0], name[1])

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
            self._listener = await asyncio.start_server(
                self._on_connection, *self._bind, limit=_MOST_HEAD
            )
            self._undo = undo.pop_all()
        _log.info("metrics at http://%s/metrics", self.address)
        return self

    async def close(self) -> None:
        """Stop; may be called again."""
        if self._listener is not None:
            self._listener.close()
            for task in self._answering:
                task.cancel()
            await asyncio.gather(*self._answering, return_exceptions=True)
            await self._listener.wait_closed()
            self._listener = None
        self._undo.close()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._answering) >= _MOST_CONNECTIONS:
            writer.close()
            return
        task = asyncio.create_task(self._answer(reader, writer), name="rap metrics page")
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close."""
        try:
            async with asyncio.timeout(_TIMEOUT):
                try:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                    method, path, accept = _read(head)
                except (asyncio.LimitOverrunError, ValueError):
                    method, answer = "GET", ("400 Bad Request", _TEXT, b"bad request\n")
                else:
                    answer = self._page(method, path, accept)
                writer.write(_response(*answer, with_body=method != "HEAD"))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            writer.close()

    def _page(self, method: str, path: str, accept: str) -> Answer:
        page = self._pages.get(path)
        if page is None:
            return "404 Not Found", _TEXT, ("\n".join(self._pages) + "\n").encode()
        if method not in ("GET", "HEAD"):
            return "405 Method Not Allowed", _TEXT, b"GET or HEAD\n"
        try:
            return page(accept)
        except Exception:
            _log.exception("%s failed", path)
            return "500 Internal Server Error", _TEXT, b"see the log\n"

    def _metrics(self, accept: str) -> Answer:
        encode, content_type = choose_encoder(accept)  # exemplars only exist in OpenMetrics
        return "200 OK", content_type, encode(self._registry)

    def _ready(self, accept: str) -> Answer:
        ready, reasons = readiness(self._servers, self._clients)
        status = "200 OK" if ready else "503 Service Unavailable"
        return status, _TEXT, "".join(f"{line}\n" for line in reasons).encode()


def serve_metrics(
    server: Server | Iterable[Server] = (),
    client: Client | Iterable[Client] = (),
    *,
    port: int = 0,
    host: str = "127.0.0.1",
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
        registry: What is shown; by default the registry of the process.

    Raises:
        ValueError: The port is no port.
    """
    servers = [server] if isinstance(server, Server) else server
    clients = [client] if isinstance(client, Client) else client
    return MetricsServer(servers, clients, host=host, port=port, registry=registry)


def _alive(accept: str) -> Answer:
    return "200 OK", _TEXT, b"alive\n"


def _read(head: str) -> tuple[str, str, str]:
    """Return method, path and the header Accept of a request.

    Raises:
        ValueError: It is no HTTP request.
    """
    first, *lines = head.split("\r\n")
    method, target, version = first.split(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(f"{version!r} is not spoken here")
    fields = (line.partition(":") for line in lines)
    accept = [value.strip() for name, _, value in fields if name.lower() == "accept"]
    return method, target.partition("?")[0], ",".join(accept)


def _response(status: str, content_type: str, body: bytes, *, with_body: bool) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (body if with_body else b"")
