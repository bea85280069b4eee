"""pycapnp: Cap'n Proto's RPC, written in C++."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bench.adapter import HOST, Adapter, Connection, Main, Setup

__all__ = ["ADAPTER"]

_CALLBACKS = "a stream would have to be written as calls back to an object of the client"


@cache
def _schema() -> Any:
    import capnp

    return capnp.load(str(Path(__file__).with_name("bench.capnp")))


class CapnpPy(Adapter):
    name = "pycapnp"
    package = "pycapnp"
    imports = ("capnp",)
    settings = "asyncio's own loop, which its server needs; no limit of sizes"

    def missing(self) -> Mapping[str, str]:
        no_tls = "its streams take no TLS context"
        return {"stream": _CALLBACKS, "channel": _CALLBACKS, "tls": no_tls}

    def serve(self, port: int, setup: Setup) -> None:
        import capnp

        schema = _schema()

        class Server(schema.Bench.Server):  # type: ignore[misc, name-defined]
            async def add(self, a: int, b: int, **_: Any) -> int:
                return a + b

            async def echo(self, data: bytes, **_: Any) -> bytes:
                return data

            async def records(self, rows: Any, **_: Any) -> Any:
                return rows

        async def serve_one(stream: Any) -> None:
            await capnp.TwoPartyServer(
                stream, bootstrap=Server(), traversal_limit_in_words=1 << 40
            ).on_disconnect()

        async def main() -> None:
            server = await capnp.AsyncIoStream.create_server(serve_one, HOST, port)
            async with server:
                await server.serve_forever()

        self.run(main)

    def run(self, main: Main) -> None:
        import capnp

        asyncio.run(capnp.run(main()))

    async def connect(self, ports: Sequence[int], setup: Setup) -> Connection:
        import capnp

        stream = await capnp.AsyncIoStream.create_connection(HOST, ports[0])
        client = capnp.TwoPartyClient(stream, traversal_limit_in_words=1 << 40)
        return _Connection(client, client.bootstrap().cast_as(_schema().Bench), stream)


class _Connection(Connection):
    def __init__(self, client: Any, bench: Any, stream: Any) -> None:
        self._client = client
        self._bench = bench
        self._stream = stream

    async def add(self, a: int, b: int) -> int:
        answer: int = (await self._bench.add(a=a, b=b)).value
        return answer

    async def echo(self, data: bytes) -> object:
        return (await self._bench.echo(data=data)).data

    async def records(self, rows: list[dict[str, Any]]) -> int:
        answer = await self._bench.records(rows=rows)
        return sum(row.id for row in answer.rows)

    async def close(self) -> None:
        self._bench = None
        self._client.close()
        self._stream.close()


ADAPTER = CapnpPy()
