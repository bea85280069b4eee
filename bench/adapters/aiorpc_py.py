"""aiorpc: msgpack-rpc on asyncio's streams."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from bench.adapter import HOST, Adapter, Connection, Setup, run_uvloop

__all__ = ["ADAPTER"]

_ONE = "one call at a time on a connection"
_NONE = "it has only calls"
_POOL = 16  # connections for echoes, as many as are in flight
_UNPACK = {"use_list": False, "raw": False, "max_buffer_size": 1 << 30}


class AiorpcPy(Adapter):
    name = "aiorpc"
    package = "aiorpc"
    imports = ("aiorpc", "uvloop")
    settings = "uvloop; 16 connections for echoes, since each takes one call at a time"

    def missing(self) -> Mapping[str, str]:
        return {"many": _ONE, "stream": _NONE, "channel": _NONE, "tls": "it knows no TLS"}

    def serve(self, port: int, setup: Setup) -> None:
        from aiorpc import server

        async def add(a: int, b: int) -> int:
            return a + b

        async def echo(data: object) -> object:
            return data

        logging.disable(logging.CRITICAL)
        server.set_timeout(600)  # it drops a connection that is idle for three seconds
        server.msgpack_init(pack_params={}, unpack_params=_UNPACK)
        server.register("add", add)
        server.register("echo", echo)

        async def main() -> None:
            listening = await asyncio.start_server(server.serve, HOST, port, backlog=1024)
            await listening.serve_forever()

        run_uvloop(main)

    async def connect(self, ports: Sequence[int], setup: Setup) -> Connection:
        logging.disable(logging.CRITICAL)
        return _Connection(ports[0], await _open(ports[0]))


async def _open(port: int) -> Any:
    """Connect in its place: what it passes to `open_connection` is refused since Python 3.10."""
    import msgpack
    from aiorpc.client import RPCClient
    from aiorpc.connection import Connection as Wire

    client = RPCClient(HOST, port, timeout=600)
    reader, writer = await asyncio.open_connection(HOST, port)
    # Its server sends bytes as the old raw type.
    client._conn = Wire(reader, writer, msgpack.Unpacker(**_UNPACK | {"raw": True}))
    return client


class _Connection(Connection):
    def __init__(self, port: int, client: Any) -> None:
        self._port = port
        self._client = client
        self._pool: list[Any] = []
        self._free: asyncio.Queue[Any] = asyncio.Queue()

    async def add(self, a: int, b: int) -> int:
        answer: int = await self._client.call("add", a, b)
        return answer

    async def echo(self, data: bytes) -> object:
        if not self._pool:
            self._pool = [await _open(self._port) for _ in range(_POOL)]
            for client in self._pool:
                self._free.put_nowait(client)
        client = await self._free.get()
        try:
            return await client.call("echo", data)
        finally:
            self._free.put_nowait(client)

    async def close(self) -> None:
        self._client.close()
        for client in self._pool:
            client.close()


ADAPTER = AiorpcPy()
