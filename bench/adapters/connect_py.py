"""connectrpc: the Connect protocol, its client in Rust, its server in Envoy; protobuf (upb)."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.adapter import HOST, Adapter, Connection, Pings, Setup
from bench.payload import KIB

__all__ = ["ADAPTER", "make_app"]

_SERVICE = "bench.Bench"


class ConnectPy(Adapter):
    name = "connectrpc"
    package = "connectrpc"
    imports = ("connectrpc.client", "pyqwest", "google.protobuf.message", "uvloop")
    settings = "HTTP/2 without upgrade, pyvoy as server, no compression; client on uvloop"

    def not_installed(self) -> str | None:
        reason = super().not_installed()
        if reason is None and not _pyvoy().exists():
            return f"there is no {_pyvoy()}"
        return reason

    def missing(self) -> Mapping[str, str]:
        return {"tls": "its server takes TLS by a file of settings of Envoy"}

    def serve(self, port: int, setup: Setup) -> None:
        program = str(_pyvoy())
        app = "bench.adapters.connect_app:app"
        os.execv(program, [program, app, "--address", HOST, "--port", str(port)])

    async def connect(self, ports: Sequence[int], setup: Setup) -> Connection:
        from connectrpc.client import ConnectClient
        from connectrpc.compat import google_protobuf_binary_codec
        from pyqwest import Client, HTTPTransport, HTTPVersion

        transport = HTTPTransport(
            http_version=HTTPVersion.HTTP2,
            enable_gzip=False,
            enable_brotli=False,
            enable_zstd=False,
            enable_otel=False,
        )
        client = ConnectClient(
            f"http://{HOST}:{ports[0]}",
            http_client=Client(transport),
            send_compression=None,
            accept_compression=[],
            codec=google_protobuf_binary_codec(),
        )
        return _Connection(client, transport)


def _pyvoy() -> Path:
    return Path(sys.executable).with_name("pyvoy")


def _methods() -> dict[str, Any]:
    """Return what generated code says of each method."""
    from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType

    from bench.adapters import protobuf as pb

    one, many, both = StreamType.UNARY, StreamType.SERVER_STREAM, StreamType.BIDI_STREAM
    table = {
        "Add": (pb.Addends, pb.Number, one),
        "Echo": (pb.Blob, pb.Blob, one),
        "Records": (pb.Rows, pb.Rows, one),
        "Stream": (pb.Number, pb.Number, many),
        "StreamKib": (pb.Number, pb.Blob, many),
        "Channel": (pb.Number, pb.Number, both),
    }
    return {
        name: MethodInfo(
            name=name,
            service_name=_SERVICE,
            input=takes,
            output=gives,
            idempotency_level=IdempotencyLevel.UNKNOWN,
            stream_type=stream_type,
        )
        for name, (takes, gives, stream_type) in table.items()
    }


def make_app() -> Any:
    """Return the ASGI application of the server."""
    from connectrpc.compat import google_protobuf_codecs
    from connectrpc.server import ConnectASGIApplication, Endpoint

    from bench.adapters import protobuf as pb

    async def add(request: Any, _: Any) -> Any:
        return pb.Number(value=request.a + request.b)

    async def echo(request: Any, _: Any) -> Any:
        return pb.Blob(data=request.data)

    async def records(request: Any, _: Any) -> Any:
        return request

    async def stream(request: Any, _: Any) -> AsyncIterator[Any]:
        for number in range(request.value):
            yield pb.Number(value=number)

    async def stream_kib(request: Any, _: Any) -> AsyncIterator[Any]:
        for _number in range(request.value):
            yield pb.Blob(data=KIB)

    async def channel(requests: AsyncIterator[Any], _: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield request

    methods = _methods()
    endpoints = {
        "Add": Endpoint.unary(methods["Add"], add),
        "Echo": Endpoint.unary(methods["Echo"], echo),
        "Records": Endpoint.unary(methods["Records"], records),
        "Stream": Endpoint.server_stream(methods["Stream"], stream),
        "StreamKib": Endpoint.server_stream(methods["StreamKib"], stream_kib),
        "Channel": Endpoint.bidi_stream(methods["Channel"], channel),
    }

    class App(ConnectASGIApplication):  # type: ignore[misc]
        @property
        def path(self) -> str:
            return f"/{_SERVICE}"

    return App(
        service=object(),
        endpoints=lambda _: {f"/{_SERVICE}/{name}": each for name, each in endpoints.items()},
        compressions=[],
        codecs=google_protobuf_codecs(),
        read_max_bytes=None,
    )


class _Connection(Connection):
    def __init__(self, client: Any, transport: Any) -> None:
        from bench.adapters import protobuf as pb

        self._pb = pb
        self._client = client
        self._transport = transport
        self._methods = _methods()

    async def add(self, a: int, b: int) -> int:
        request = self._pb.Addends(a=a, b=b)
        answer = await self._client.execute_unary(request=request, method=self._methods["Add"])
        value: int = answer.value
        return value

    async def echo(self, data: bytes) -> object:
        request = self._pb.Blob(data=data)
        answer = await self._client.execute_unary(request=request, method=self._methods["Echo"])
        return answer.data

    async def records(self, rows: list[dict[str, Any]]) -> int:
        request = self._pb.to_rows(rows)
        answer = await self._client.execute_unary(request=request, method=self._methods["Records"])
        return sum(row.id for row in answer.rows)

    async def stream(self, count: int) -> AsyncIterator[object]:
        request = self._pb.Number(value=count)
        method = self._methods["Stream"]
        async for item in self._client.execute_server_stream(request=request, method=method):
            yield item.value

    async def stream_kib(self, count: int) -> AsyncIterator[object]:
        request = self._pb.Number(value=count)
        method = self._methods["StreamKib"]
        async for item in self._client.execute_server_stream(request=request, method=method):
            yield item.data

    async def open_channel(self) -> Pings:
        return _Pings(self._client, self._methods["Channel"], self._pb.Number)

    async def close(self) -> None:
        await self._transport.aclose()


class _Pings(Pings):
    def __init__(self, client: Any, method: Any, number: Any) -> None:
        self._number = number
        self._queue: asyncio.Queue[int | None] = asyncio.Queue()
        self._answers = client.execute_bidi_stream(request=self._requests(), method=method)

    async def _requests(self) -> AsyncIterator[Any]:
        while (item := await self._queue.get()) is not None:
            yield self._number(value=item)

    async def ping(self, item: int) -> int:
        self._queue.put_nowait(item)
        answer: int = (await anext(self._answers)).value
        return answer

    async def close(self) -> None:
        self._queue.put_nowait(None)


ADAPTER = ConnectPy()
