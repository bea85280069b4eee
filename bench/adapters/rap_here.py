"""rap, as it is in this checkout."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bench.adapter import (
    HOST,
    Adapter,
    Connection,
    Pings,
    Row,
    Setup,
    no_module,
    run_uvloop,
)
from bench.adapters.rap_setups import NEEDS, client_options, server_options
from bench.payload import KIB

if TYPE_CHECKING:
    from rap.client import Client

__all__ = ["ADAPTER"]


class RapHere(Adapter):
    name = "rap"
    imports = ("rap.client", "uvloop")
    extras = frozenset({"replicas", "threads", "sync", "apart", "upload", *NEEDS})
    settings = "uvloop; default settings"

    def missing(self) -> Mapping[str, str]:
        return {name: why for name, module in NEEDS.items() if (why := no_module(module))}

    def serve(self, port: int, setup: Setup) -> None:
        from rap.server import Channel, Server

        server = Server(f"{HOST}:{port}", **server_options(setup))
        if setup == "metrics":
            from rap.observe import StatusCollector

            StatusCollector([server])  # bytes are counted as where a page is shown

        @server.register
        async def add(a: int, b: int) -> int:
            return a + b

        @server.register
        async def echo(data: bytes) -> bytes:
            return data

        @server.register
        async def records(rows: list[Row]) -> list[Row]:
            return rows

        @server.register
        async def stream(count: int) -> AsyncIterator[int]:
            for number in range(abs(count)):
                if count < 0:
                    await asyncio.sleep(0)
                yield number

        @server.register
        async def stream_kib(count: int) -> AsyncIterator[bytes]:
            for _ in range(count):
                yield KIB

        @server.register
        async def upload(items: AsyncIterator[int]) -> int:
            total = 0
            async for item in items:
                total += item
            return total

        @server.register
        async def pings(channel: Channel) -> None:
            async for item in channel:
                await channel.write(item)

        @server.register
        def add_blocking(a: int, b: int) -> int:
            return a + b

        async def main() -> None:
            await server.serve_forever()

        run_uvloop(main)

    async def connect(self, ports: Sequence[int], setup: Setup) -> Connection:
        from rap.client import Client

        client = Client([f"{HOST}:{port}" for port in ports], **client_options(setup))
        if setup == "metrics":
            from rap.observe import StatusCollector

            StatusCollector(clients=[client])
        await client.connect()
        return _Connection(client)

    @contextmanager
    def connect_sync(self, port: int) -> Iterator[Callable[[int, int], int]]:
        from rap.client.sync import SyncClient

        with SyncClient(f"{HOST}:{port}") as client:

            @client.register()
            def add(a: int, b: int) -> int: ...  # type: ignore[empty-body]

            yield add


class _Connection(Connection):
    """The stubs that a user would make, each when it is needed first."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    @cached_property
    def add(self) -> Any:
        @self._client.register()
        async def add(a: int, b: int) -> int: ...  # type: ignore[empty-body]

        return add

    @cached_property
    def add_blocking(self) -> Any:
        @self._client.register()
        async def add_blocking(a: int, b: int) -> int: ...  # type: ignore[empty-body]

        return add_blocking

    @cached_property
    def echo(self) -> Any:
        @self._client.register()
        async def echo(data: bytes) -> bytes: ...  # type: ignore[empty-body]

        return echo

    @cached_property
    def stream(self) -> Any:
        @self._client.register()
        async def stream(count: int) -> AsyncIterator[int]:
            yield 0

        return stream

    @cached_property
    def stream_kib(self) -> Any:
        @self._client.register()
        async def stream_kib(count: int) -> AsyncIterator[bytes]:
            yield b""

        return stream_kib

    @cached_property
    def _records(self) -> Any:
        @self._client.register("records")
        async def records(rows: list[Row]) -> list[Row]: ...  # type: ignore[empty-body]

        return records

    async def records(self, rows: list[Row]) -> int:
        return sum(row["id"] for row in await self._records(rows))

    @cached_property
    def _upload(self) -> Any:
        @self._client.register("upload")
        async def upload(items: AsyncIterator[int]) -> int: ...  # type: ignore[empty-body]

        return upload

    async def upload(self, items: Iterable[int] | AsyncIterator[int]) -> int:
        total: int = await self._upload(items)
        return total

    async def open_channel(self) -> Pings:
        pings = _Pings(self._client)
        await pings.opened
        return pings

    async def close(self) -> None:
        await self._client.await_close()


class _Pings(Pings):
    """A channel's function that waits until its measurement is over."""

    def __init__(self, client: "Client") -> None:
        from rap.client import Channel

        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()

        async def pings(channel: Channel) -> None:
            self._write, self._read = channel.write, channel.read_body
            self.opened.set_result(None)
            await self._over.wait()

        stub: Any = client.register()(pings)
        self._task = asyncio.ensure_future(stub())

    async def ping(self, item: int) -> int:
        await self._write(item)
        answer: int = await self._read()
        return answer

    async def close(self) -> None:
        self._over.set()
        await self._task


ADAPTER = RapHere()
