"""The limit of pure Python: `bench.thin`."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from bench.adapter import HOST, Adapter, Connection, Pings, Setup, certificate, run_uvloop
from bench.payload import KIB

__all__ = ["ADAPTER"]

ADD, ECHO, STREAM, STREAM_KIB, CHANNEL = range(5)


async def add(a: int, b: int) -> int:
    return a + b


async def echo(data: object) -> object:
    return data


async def stream(count: int) -> AsyncIterator[int]:
    for number in range(abs(count)):
        if count < 0:
            await asyncio.sleep(0)
        yield number


async def stream_kib(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield KIB


async def channel(pipe: Any) -> None:
    async for item in pipe:
        pipe.send(item)


HANDLERS: dict[int, Callable[..., Any]] = {
    ADD: add,
    ECHO: echo,
    STREAM: stream,
    STREAM_KIB: stream_kib,
    CHANNEL: channel,
}


class LimitThin(Adapter):
    name = "limit"
    extras = frozenset({"apart", "huge"})
    imports = ("msgpack", "uvloop")
    settings = "uvloop; no flow control, deadlines, cancellation, metadata or checks"

    def serve(self, port: int, setup: Setup) -> None:
        from bench.thin import ThinServer

        async def main() -> None:
            loop = asyncio.get_running_loop()
            context = None
            if setup == "tls":
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*certificate())
            server = await loop.create_server(
                lambda: ThinServer(loop, HANDLERS), HOST, port, backlog=1024, ssl=context
            )
            await server.serve_forever()

        run_uvloop(main)

    async def connect(self, ports: Sequence[int], setup: Setup) -> Connection:
        from bench.thin import ThinClient

        loop = asyncio.get_running_loop()
        context = None
        if setup == "tls":
            context = ssl.create_default_context(cafile=certificate()[0])
        _, client = await loop.create_connection(
            lambda: ThinClient(loop), HOST, ports[0], ssl=context
        )
        return _Connection(client)


class _Connection(Connection):
    """A call returns its bare future: an ``async def`` around it would cost."""

    def __init__(self, client: Any) -> None:
        self._client = client
        call = client.call
        self.add = lambda a, b: call(ADD, (a, b))  # type: ignore[method-assign]
        self.echo = lambda data: call(ECHO, (data,))  # type: ignore[method-assign]

    async def records(self, rows: list[dict[str, Any]]) -> int:
        return sum(row["id"] for row in await self._client.call(ECHO, (rows,)))

    def stream(self, count: int) -> AsyncIterator[object]:
        items: AsyncIterator[object] = self._client.stream(STREAM, (count,))
        return items

    def stream_kib(self, count: int) -> AsyncIterator[object]:
        items: AsyncIterator[object] = self._client.stream(STREAM_KIB, (count,))
        return items

    async def open_channel(self) -> Pings:
        return _Pings(self._client.channel(CHANNEL))

    async def close(self) -> None:
        self._client.transport.close()


class _Pings(Pings):
    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    async def ping(self, item: int) -> int:
        self._pipe.send(item)
        answer: int = await anext(self._pipe)
        return answer

    async def close(self) -> None:
        self._pipe.close()


ADAPTER = LimitThin()
