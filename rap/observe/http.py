"""A small HTTP/1.1 server for metrics and probes, and the client that asks it.

The server answers GET and HEAD, one request per connection, and closes connections that are slow.
Probes are answered whatever others do: each address has a share of the connections, and one without
a whole request makes room for another one.
"""

import asyncio
import inspect
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import NamedTuple

from rap.address import Address, Peer
from rap.clock import Pace
from rap.tasks import start_task
from rap.transport.fork import descriptors_of, let_go_in_children
from rap.transport.listen import PlainServer, bind

__all__ = ["TEXT", "Endpoint", "HttpResponse", "HttpServer", "fetch"]

_log = logging.getLogger("rap.server")

TEXT = "text/plain; charset=utf-8"
_MAX_HEAD = 8192  # bytes of a request line and its headers
_TIMEOUT = 5.0  # seconds to send a request and to read the response
_MAX_CONNECTIONS = 32
_SHARE = 16  # of them for one address; IPv6: for one /64
_BACKLOG = 100  # connections that wait to be accepted
_LOG_PAUSE = 10.0  # seconds between two tracebacks in the log, as anyone may ask again and again


class HttpResponse(NamedTuple):
    """A response.

    Args:
        status: Code and reason, such as ``200 OK``.
        content_type: Value of the header Content-Type.
        body: Bytes of the body.
    """

    status: str
    content_type: str
    body: bytes

    @classmethod
    def lines(cls, lines: list[str] | tuple[str, ...], *, good: bool = True) -> "HttpResponse":
        """Return lines of text with status 200, or with 503 if not `good`."""
        status = "200 OK" if good else "503 Service Unavailable"
        return cls(status, TEXT, "".join(f"{line}\n" for line in lines).encode())


# Takes the header Accept.
Endpoint = Callable[[str], HttpResponse | Awaitable[HttpResponse]]


class HttpServer:
    """Serves endpoints between `start` and `close`.

    Args:
        endpoints: By path.
    """

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self._endpoints = dict(endpoints)
        self._log_pace = Pace(_LOG_PAUSE, monotonic)
        self._sockets: list[socket.socket] = []
        self._listeners: list[PlainServer] = []
        self._tasks: dict[asyncio.Task[None], asyncio.WriteTransport] = {}
        self._open: dict[asyncio.WriteTransport, str] = {}  # and its network, the oldest first
        self._answering: set[asyncio.WriteTransport] = set()  # those with a whole request
        let_go_in_children(self)

    @property
    def address(self) -> Address:
        """The address that it listens on, with the real port.

        Raises:
            RuntimeError: It does not listen.
        """
        if not self._sockets:
            raise RuntimeError("the metrics are not being served")
        name = self._sockets[0].getsockname()
        return Address("tcp", name[0], name[1])

    async def start(self, where: tuple[str, int] | socket.socket) -> None:
        """Listen.

        Args:
            where: Host and port; or a bound socket, which `close` closes.

        Raises:
            OSError: The address cannot be bound.
        """
        if isinstance(where, socket.socket):
            where.setblocking(False)
            self._sockets = [where]
        else:
            address = Address("tcp", where[0] or "::", where[1])
            try:
                self._sockets = await bind(address)
            except OSError as exc:
                text = f"cannot serve metrics on {address}: {exc.strerror or exc}"
                raise OSError(exc.errno, text) from exc
        self._listeners = [
            PlainServer(sock, self._protocol, backlog=_BACKLOG, spare=True)
            for sock in self._sockets
        ]

    async def close(self) -> None:
        """Stop listening and close all connections; it may be called again."""
        for listener in self._listeners:
            listener.close()
        for listener in self._listeners:
            await listener.wait_closed()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listeners, self._sockets = [], []

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(
            asyncio.StreamReader(limit=_MAX_HEAD), self._on_connection
        )

    def let_go(self) -> list[int]:
        """In a forked child, return the descriptors of the connections."""
        return [each for transport in self._tasks.values() for each in descriptors_of(transport)]

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        network = Peer.from_sockname(writer.get_extra_info("peername")).network
        self._make_room(network)
        self._open[writer.transport] = network
        task = start_task(self._serve(reader, writer), name="rap metrics request")
        self._tasks[task] = writer.transport
        task.add_done_callback(self._ended)

    def _make_room(self, network: str) -> None:
        """End a connection if one more of this network would be too many.

        It is one of the same network if that has its share, else one of those networks that have
        the most. The oldest without a whole request goes first, else the oldest.
        """
        counts = Counter(self._open.values())
        if counts[network] >= _SHARE:
            crowd = [each for each in self._open if self._open[each] == network]
        elif len(self._open) >= _MAX_CONNECTIONS:
            most = max(counts.values())
            crowd = [each for each in self._open if counts[self._open[each]] == most]
        else:
            return
        unfinished = (each for each in crowd if each not in self._answering)
        oldest = next(unfinished, crowd[0])
        self._forget(oldest)
        oldest.abort()

    def _forget(self, transport: asyncio.WriteTransport) -> None:
        self._open.pop(transport, None)
        self._answering.discard(transport)

    def _ended(self, task: asyncio.Task[None]) -> None:
        transport = self._tasks.pop(task)
        self._forget(transport)
        transport.close()  # the task does it, unless it was cancelled before it began

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close the connection."""
        try:
            async with asyncio.timeout(_TIMEOUT):
                try:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                    self._answering.add(writer.transport)
                    method, path, accept = _parse(head)
                except (asyncio.LimitOverrunError, ValueError):
                    method, response = (
                        "GET",
                        HttpResponse("400 Bad Request", TEXT, b"bad request\n"),
                    )
                else:
                    response = await self._respond(method, path, accept)
                writer.write(_encode(response, with_body=method != "HEAD"))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            writer.close()

    async def _respond(self, method: str, path: str, accept: str) -> HttpResponse:
        endpoint = self._endpoints.get(path)
        if endpoint is None:
            paths = "".join(f"{each}\n" for each in self._endpoints)
            return HttpResponse("404 Not Found", TEXT, paths.encode())
        if method not in ("GET", "HEAD"):
            return HttpResponse("405 Method Not Allowed", TEXT, b"GET or HEAD\n")
        try:
            response = endpoint(accept)
            return await response if inspect.isawaitable(response) else response
        except Exception:  # of an endpoint, which may call code of the user
            if self._log_pace.allow():
                _log.exception("%s failed", path)
            return HttpResponse("500 Internal Server Error", TEXT, b"see the log\n")


async def fetch(address: Address, path: str, accept: str, timeout: float) -> tuple[bool, str]:
    """Return whether a request was answered with 200, and the text of the response.

    Raises:
        OSError: The connection was refused, or lost before a response.
        TimeoutError: There was no response within `timeout` seconds.
    """
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        try:
            head = f"GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\n\r\n"
            writer.write(head.encode("latin-1"))
            response = await reader.read()
        finally:
            writer.transport.abort()
    head, end, body = response.decode().partition("\r\n\r\n")
    if not end:
        raise ConnectionResetError(f"{address} closed the connection without a response")
    return head.split(" ")[1] == "200", body


def _parse(head: str) -> tuple[str, str, str]:
    """Return method, path and the header Accept of a request.

    Raises:
        ValueError: It is not an HTTP/1 request.
    """
    first, *lines = head.split("\r\n")
    method, target, version = first.split(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(f"{version!r} is not supported")
    fields = (line.partition(":") for line in lines)
    accept = [value.strip() for name, _, value in fields if name.lower() == "accept"]
    return method, target.partition("?")[0], ",".join(accept)


def _encode(response: HttpResponse, *, with_body: bool) -> bytes:
    head = (
        f"HTTP/1.1 {response.status}\r\nContent-Type: {response.content_type}\r\n"
        f"Content-Length: {len(response.body)}\r\nCache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (response.body if with_body else b"")
