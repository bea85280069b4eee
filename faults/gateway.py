"""Attacks through the HTTP gateway: clients that leave or stay, and pages of other origins.

``python -m faults.gateway server`` serves functions and ``python -m faults.gateway gateway PORT`` a
gateway to them; both print their port. ``python -m faults.gateway visit PORT SECONDS`` is an HTTP
client that behaves, and prints the 99th percentile of its calls in seconds. The gateway believes
`X-Forwarded-For` of all, so that they can have any address.
"""

import asyncio
import json
import random
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

from faults.scenario import Measured, Scale, Scenario
from faults.visitor import percentile, print_percentile
from rap.client import Client
from rap.server import Server

__all__ = ["SCENARIOS"]

_ROOT = Path(__file__).parents[1]
_ROUNDS = 3
_AT_ONCE = 50  # clients that leave
_STAYING = 1200  # more than the client of the gateway has places
_PLACES = 512  # half of these: those that calls may have that wait for their first item
_SETTLED = 10.0  # seconds
_HONEST = "10.0.0.1"
_EVENTS = "accept: text/event-stream"
_JSON = "content-type: application/json"
# Requests that a page of another origin can send without asking, or that it sends nevertheless.
_FOREIGN = [
    f"content-type: {kind}\r\norigin: {origin}"
    for kind in (
        "text/plain",
        "text/plain; application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    )
    for origin in ("http://127.0.0.1", "http://evil.example", "null")
]
_FOREIGN += [f"{_JSON}\r\norigin: {origin}" for origin in ("http://evil.example", "null", "")]
_FOREIGN += ["origin: http://127.0.0.1", "x-without: a type"]


class _Handlers:
    """The functions of the server behind the gateway."""

    def __init__(self) -> None:
        self.waiting = 0
        self.ran = 0

    async def echo(self, value: Any) -> Any:
        """Return the argument."""
        return value

    async def silent(self) -> AsyncIterator[int]:
        """Wait to be cancelled."""
        self.waiting += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.waiting -= 1
        yield 1

    async def record(self) -> None:
        """Count the call."""
        self.ran += 1

    async def counts(self) -> list[int]:
        """Tell how many calls wait, and how many were counted."""
        return [self.waiting, self.ran]


class _Gateway:
    """A gateway in a process of its own."""

    def __init__(self, port: int) -> None:
        self.port = port

    @asynccontextmanager
    async def request(
        self, name: str, body: Any, *lines: str, address: str = _HONEST
    ) -> AsyncIterator[asyncio.StreamReader]:
        """Send a request from an address, and disconnect at the end of the block."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(_request(name, body, *lines, f"x-forwarded-for: {address}"))
            yield reader
        finally:
            writer.transport.abort()

    async def call(self, name: str, body: Any, *lines: str) -> Any:
        """Return status and value of an answer."""
        async with self.request(name, body, *(lines or (_JSON,))) as reader:
            return await _answer(reader)

    async def percentile(self) -> float:
        """Return the 99th percentile of the calls of a client that behaves."""
        return await percentile(self.port, program=("faults.gateway", "visit"))

    async def waiting(self, expected: int) -> int:
        """Return how many calls wait for ever, once these are as many as expected; -1: unknown."""
        stop = time.monotonic() + _SETTLED
        while True:
            status, counts = await self.call("counts", {})
            found = counts[0] if status == 200 else -1  # it has no time for this
            if found == expected or time.monotonic() > stop:
                return found
            await asyncio.sleep(0.05)

    async def leave(self, count: int) -> None:
        """Send requests whose clients leave before the first event."""
        for _ in range(0, count, _AT_ONCE):
            await asyncio.gather(*(self._leave() for _ in range(min(count, _AT_ONCE))))

    async def _leave(self) -> None:
        async with self.request("silent", {}, _JSON, _EVENTS, address=_any_address()) as reader:
            # Half of them leave at once, the others when the call has reached the server.
            if random.random() < 0.5:
                await asyncio.wait([asyncio.ensure_future(reader.read(1))], timeout=0.02)


def _any_address() -> str:
    return ".".join(str(random.randrange(1, 255)) for _ in range(4))


def _request(name: str, body: Any, *lines: str) -> bytes:
    content = json.dumps(body).encode()
    head = [
        f"POST /call/default/{name} HTTP/1.1",
        "host: gateway.example",
        f"content-length: {len(content)}",
        *lines,
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + content


async def _answer(reader: asyncio.StreamReader) -> tuple[int, Any]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    size = int(head.partition(b"content-length:")[2].split()[0])
    return int(head.split()[1]), json.loads(await reader.readexactly(size)).get("data")


@asynccontextmanager
async def _running(*arguments: object) -> AsyncIterator[int]:
    """Run this module in a process of its own; return the port that it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "faults.gateway", *map(str, arguments)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=_ROOT,
    )
    try:
        assert process.stdout is not None
        yield int(await process.stdout.readline())
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def _gateway() -> AsyncIterator[_Gateway]:
    async with _running("server") as server, _running("gateway", server) as port:
        yield _Gateway(port)


async def through_the_gateway(scale: Scale) -> Measured:
    """Leave, stay, and call as a page of another origin."""
    count = scale.cancels // 10
    quiet, after = [], []
    async with _gateway() as other, _gateway() as gateway:
        for _ in range(_ROUNDS):
            quiet.append(await other.percentile())
            await gateway.leave(count // _ROUNDS)
            left = await gateway.waiting(0)
            after.append(await gateway.percentile())
        async with AsyncExitStack() as stack:
            for _ in range(_STAYING):
                staying = gateway.request("silent", {}, _JSON, _EVENTS, address=_any_address())
                await stack.enter_async_context(staying)
            stayed = await gateway.waiting(_PLACES)
            beside = await gateway.percentile()
        found = [await gateway.call("record", {}, *lines.split("\r\n")) for lines in _FOREIGN]
        ran = (await gateway.call("counts", {}))[1][1]
    factor, beside = median(after) / median(quiet), beside / median(quiet)
    text = (
        f"{count} left: p99 then {factor:.1f} times, {left} calls go on; {stayed} of {_STAYING}"
        f" that stay have a place: p99 {beside:.1f} times; {ran} of {len(found)} foreign calls ran"
    )
    refused = {status for status, _ in found} <= {403, 415}
    good = max(factor, beside) <= 2 and (left, stayed, ran) == (0, _PLACES, 0) and refused
    return Measured(text, good)


async def _serve() -> None:
    handlers = _Handlers()
    server = Server("127.0.0.1:0", close_timeout=0.2, run_timeout=600.0)
    for func in (handlers.echo, handlers.silent, handlers.record, handlers.counts):
        server.register(func)
    async with server:
        print(server.addresses[0].port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def _open_gateway(server: str) -> None:
    import uvicorn  # only this process needs it

    from rap.gateway import create_app

    app = create_app(
        "",
        Client(f"127.0.0.1:{server}"),
        trusted_proxies=["127.0.0.1"],
        first_item_timeout=600.0,
    )
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        config = uvicorn.Config(app, log_config=None, proxy_headers=False)
        print(listener.getsockname()[1], flush=True)  # connections wait until it serves
        await uvicorn.Server(config).serve([listener])


async def _visit(port: str, seconds: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port))

    async def call() -> None:
        writer.write(_request("echo", {"value": 7}, _JSON, f"x-forwarded-for: {_HONEST}"))
        assert await _answer(reader) == (200, 7)

    await print_percentile(call, float(seconds))
    writer.close()


SCENARIOS = (
    Scenario(
        37,
        "HTTP clients that leave, stay, or are pages of other origins",
        "honest p99 < 2x, 0 calls left, 0 foreign calls",
        through_the_gateway,
    ),
)

if __name__ == "__main__":
    modes: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
        "server": _serve,
        "gateway": _open_gateway,
        "visit": _visit,
    }
    asyncio.run(modes[sys.argv[1]](*sys.argv[2:]))
