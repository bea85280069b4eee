"""grpclib: gRPC in Python, on h2, with protobuf (upb)."""

import ssl
from collections.abc import AsyncIterator, Sequence
from typing import Any

from bench.adapter import HOST, Adapter, Connection, Pings, Setup, certificate, run_uvloop
from bench.payload import KIB

__all__ = ["ADAPTER"]

_SERVICE = "bench.Bench"
_WINDOW = 4 << 20  # bytes


class Grpclib(Adapter):
    name = "grpclib"
    package = "grpclib"
    imports = ("grpclib.client", "google.protobuf.message", "uvloop")
    settings = "uvloop; HTTP/2 windows of 4 MiB"

    def serve(self, port: int, setup: Setup) -> None:
        from grpclib.server import Server

        async def main() -> None:
            server = Server([_Service()], config=_config())
            context = None
            if setup == "tls":
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*certificate())
                context.set_alpn_protocols(["h2"])
            await server.start(HOST, port, ssl=context)
            await server.wait_closed()

        run_uvloop(main)

    async def connect(self, ports: Sequence[int], setup: Setup) -> Connection:
        from grpclib.client import Channel

        context = None
        if setup == "tls":
            context = ssl.create_default_context(cafile=certificate()[0])
            context.set_alpn_protocols(["h2"])
        return _Connection(Channel(HOST, ports[0], ssl=context, config=_config()))


def _config() -> Any:
    from grpclib.config import Configuration

    return Configuration(http2_connection_window_size=_WINDOW, http2_stream_window_size=_WINDOW)


class _Service:
    """What generated code makes of a service: its methods by path."""

    def __mapping__(self) -> dict[str, Any]:
        from grpclib.const import Cardinality, Handler

        from bench.adapters import protobuf as pb

        async def add(stream: Any) -> None:
            request = await stream.recv_message()
            await stream.send_message(pb.Number(value=request.a + request.b))

        async def echo(stream: Any) -> None:
            request = await stream.recv_message()
            await stream.send_message(pb.Blob(data=request.data))

        async def records(stream: Any) -> None:
            await stream.send_message(await stream.recv_message())

        async def numbers(stream: Any) -> None:
            request = await stream.recv_message()
            for number in range(request.value):
                await stream.send_message(pb.Number(value=number))

        async def kibs(stream: Any) -> None:
            request = await stream.recv_message()
            for _ in range(request.value):
                await stream.send_message(pb.Blob(data=KIB))

        async def channel(stream: Any) -> None:
            async for item in stream:
                await stream.send_message(item)

        one, many = Cardinality.UNARY_UNARY, Cardinality.UNARY_STREAM
        both = Cardinality.STREAM_STREAM
        return {
            f"/{_SERVICE}/Add": Handler(add, one, pb.Addends, pb.Number),
            f"/{_SERVICE}/Echo": Handler(echo, one, pb.Blob, pb.Blob),
            f"/{_SERVICE}/Records": Handler(records, one, pb.Rows, pb.Rows),
            f"/{_SERVICE}/Stream": Handler(numbers, many, pb.Number, pb.Number),
            f"/{_SERVICE}/StreamKib": Handler(kibs, many, pb.Number, pb.Blob),
            f"/{_SERVICE}/Channel": Handler(channel, both, pb.Number, pb.Number),
        }


class _Connection(Connection):
    def __init__(self, channel: Any) -> None:
        from grpclib.client import StreamStreamMethod, UnaryStreamMethod, UnaryUnaryMethod

        from bench.adapters import protobuf as pb

        def method(kind: Any, name: str, takes: Any, gives: Any) -> Any:
            return kind(channel, f"/{_SERVICE}/{name}", takes, gives)

        self._pb = pb
        self._channel = channel
        self._add = method(UnaryUnaryMethod, "Add", pb.Addends, pb.Number)
        self._echo = method(UnaryUnaryMethod, "Echo", pb.Blob, pb.Blob)
        self._records = method(UnaryUnaryMethod, "Records", pb.Rows, pb.Rows)
        self._stream = method(UnaryStreamMethod, "Stream", pb.Number, pb.Number)
        self._stream_kib = method(UnaryStreamMethod, "StreamKib", pb.Number, pb.Blob)
        self._pings = method(StreamStreamMethod, "Channel", pb.Number, pb.Number)

    async def add(self, a: int, b: int) -> int:
        answer: int = (await self._add(self._pb.Addends(a=a, b=b))).value
        return answer

    async def echo(self, data: bytes) -> object:
        return (await self._echo(self._pb.Blob(data=data))).data

    async def records(self, rows: list[dict[str, Any]]) -> int:
        answer = await self._records(self._pb.to_rows(rows))
        return sum(row.id for row in answer.rows)

    async def stream(self, count: int) -> AsyncIterator[object]:
        async with self._stream.open() as stream:
            await stream.send_message(self._pb.Number(value=count), end=True)
            async for item in stream:
                yield item.value

    async def stream_kib(self, count: int) -> AsyncIterator[object]:
        async with self._stream_kib.open() as stream:
            await stream.send_message(self._pb.Number(value=count), end=True)
            async for item in stream:
                yield item.data

    async def open_channel(self) -> Pings:
        context = self._pings.open()
        stream = await context.__aenter__()
        await stream.send_request()
        return _Pings(context, stream, self._pb.Number)

    async def close(self) -> None:
        self._channel.close()


class _Pings(Pings):
    def __init__(self, context: Any, stream: Any, number: Any) -> None:
        self._context = context
        self._stream = stream
        self._number = number

    async def ping(self, item: int) -> int:
        await self._stream.send_message(self._number(value=item))
        answer: int = (await self._stream.recv_message()).value
        return answer

    async def close(self) -> None:
        await self._stream.end()
        await self._context.__aexit__(None, None, None)


ADAPTER = Grpclib()
