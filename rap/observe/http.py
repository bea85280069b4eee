"""A few pages over HTTP/1.1 on a port of their own: the least of a server.

It answers GET and HEAD, one request a connection, and holds up nothing for who is slow.
"""

import asyncio
import inspect
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from rap.address import Address

__all__ = ["TEXT", "Answer", "Page", "Pages", "fetch"]


async def fetch(address: Address, path: str, accept: str, timeout: float) -> tuple[bool, str]:
    """Return whether a page answered with 200, and its text.

    Raises:
        OSError: Nobody listens there, or who did has left.
        TimeoutError: It did not answer in so many seconds.
    """
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        try:
            head = f"GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\n\r\n"
            writer.write(head.encode("latin-1"))
            answer = await reader.read()
        finally:
            writer.transport.abort()
    head, end, body = answer.decode().partition("\r\n\r\n")
    if not end:
        raise ConnectionResetError(f"{address} left without an answer")
    return head.split(" ")[1] == "200", body


_log = logging.getLogger("rap.server")

TEXT = "text/plain; charset=utf-8"
_MOST_HEAD = 8192  # bytes of a request line and its headers
_TIMEOUT = 5.0  # seconds to send a request, and to take the answer
_MOST_CONNECTIONS = 64


class Answer(NamedTuple):
    """What comes back.

    Args:
        status: Number and words.
        content_type: Of the body.
        body: Bytes.
    """

    status: str
    content_type: str
    body: bytes

    @classmethod
    def lines(cls, lines: list[str] | tuple[str, ...], *, good: bool = True) -> "Answer":
        """Return lines of text, as 200, or else as 503."""
        status = "200 OK" if good else "503 Service Unavailable"
        return cls(status, TEXT, "".join(f"{line}\n" for line in lines).encode())


# Takes the header Accept.
Page = Callable[[str], Answer | Awaitable[Answer]]


class Pages:
    """Serves pages between `start` and `close`.

    Args:
        pages: By path.
    """

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = dict(pages)
        self._listener: asyncio.Server | None = None
        self._answering: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> Address:
        """What is listened on, with the real port; only while it is."""
        if self._listener is None or not self._listener.sockets:
            raise RuntimeError("the metrics are not being served")
        name = self._listener.sockets[0].getsockname()
        return Address("tcp", name[0], name[1])

    async def start(self, where: tuple[str, int] | socket.socket) -> None:
        """Listen.

        Args:
            where: Host and port, or a socket that is bound; that is closed with this.

        Raises:
            OSError: The address cannot be bound.
        """
        if isinstance(where, socket.socket):
            self._listener = await asyncio.start_server(
                self._on_connection, sock=where, limit=_MOST_HEAD
            )
        else:
            self._listener = await asyncio.start_server(
                self._on_connection, *where, limit=_MOST_HEAD
            )

    async def close(self) -> None:
        """Stop; may be called again."""
        if self._listener is not None:
            self._listener.close()
            for task in self._answering:
                task.cancel()
            await asyncio.gather(*self._answering, return_exceptions=True)
            await self._listener.wait_closed()
            self._listener = None

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
                    method, answer = "GET", Answer("400 Bad Request", TEXT, b"bad request\n")
                else:
                    answer = await self._page(method, path, accept)
                writer.write(_response(answer, with_body=method != "HEAD"))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            writer.close()

    async def _page(self, method: str, path: str, accept: str) -> Answer:
        page = self._pages.get(path)
        if page is None:
            return Answer("404 Not Found", TEXT, ("\n".join(self._pages) + "\n").encode())
        if method not in ("GET", "HEAD"):
            return Answer("405 Method Not Allowed", TEXT, b"GET or HEAD\n")
        try:
            answer = page(accept)
            return await answer if inspect.isawaitable(answer) else answer
        except Exception:
            _log.exception("%s failed", path)
            return Answer("500 Internal Server Error", TEXT, b"see the log\n")


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


def _response(answer: Answer, *, with_body: bool) -> bytes:
    head = (
        f"HTTP/1.1 {answer.status}\r\nContent-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\nCache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (answer.body if with_body else b"")
