"""grpc.aio: gRPC's C core under asyncio, with protobuf (upb)."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from bench.adapter import HOST, Adapter, Connection, Pings, Setup, certificate, run_uvloop
from bench.payload import KIB

__all__ = ["ADAPTER"]

_SERVICE = "bench.Bench"
_SIZES = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class GrpcAio(Adapter):
    name = "grpc.aio"
    extras = frozenset({"apart", "upload"})
    package = "grpcio"
    imports = ("grpc.aio", "google.protobuf.message", "uvloop")
    settings = "uvloop; a TCP connection of its own per channel, no limit of sizes"
    environment: ClassVar[Mapping[str, str]] = {
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        "GRPC_VERBOSITY": "NONE",
    }

    def serve(self, port: int, setup: Setup) -> None:
        import grpc.aio

        credentials = None
        if setup == "tls":
            crt, key = (Path(path).read_bytes() for path in certificate())
            credentials = grpc.ssl_server_credentials([(key, crt)])
        address = f"{HOST}:{port}"

        async def main() -> None:
            server = grpc.aio.server(options=[*_SIZES, ("grpc.so_reuseport", 0)])
            server.add_generic_rpc_handlers((_handlers(),))
            if credentials is not None:
                server.add_secure_port(address, credentials)
            else:
                server.add_insecure_port(address)
            await server.start()
            await server.wait_for_termination()

        run_uvloop(main)

    async def connect(self, ports: Sequence[int], setup: Setup) -> Connection:
        import grpc.aio

        address = f"{HOST}:{ports[0]}"
        options = [*_SIZES, ("grpc.use_local_subchannel_pool", 1)]
        if setup == "tls":
            channel = grpc.aio.secure_channel(address, _trust(), options=options)
            return _Connection(channel)
        return _Connection(grpc.aio.insecure_channel(address, options=options))


def _trust() -> Any:
    """Return the credentials of a client that trusts the certificate of this run."""
    import grpc

    return grpc.ssl_channel_credentials(Path(certificate()[0]).read_bytes())


def _handlers() -> Any:
    """Return what generated code registers: each method with its two serializers."""
    import grpc

    from bench.adapters import protobuf as pb

    async def add(request: Any, _: Any) -> Any:
        return pb.Number(value=request.a + request.b)

    async def echo(request: Any, _: Any) -> Any:
        return pb.Blob(data=request.data)

    async def records(request: Any, _: Any) -> Any:
        return request

    async def stream(request: Any, _: Any) -> AsyncIterator[Any]:
        for number in range(abs(request.value)):
            if request.value < 0:
                await asyncio.sleep(0)
            yield pb.Number(value=number)

    async def stream_kib(request: Any, _: Any) -> AsyncIterator[Any]:
        for _number in range(request.value):
            yield pb.Blob(data=KIB)

    async def upload(requests: AsyncIterator[Any], _: Any) -> Any:
        total = 0
        async for request in requests:
            total += request.value
        return pb.Number(value=total)

    async def channel(requests: AsyncIterator[Any], _: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield request

    def method(make: Any, behaviour: Any, takes: Any, gives: Any) -> Any:
        return make(
            behaviour,
            request_deserializer=takes.FromString,
            response_serializer=gives.SerializeToString,
        )

    unary, streaming = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    return grpc.method_handlers_generic_handler(
        _SERVICE,
        {
            "Add": method(unary, add, pb.Addends, pb.Number),
            "Echo": method(unary, echo, pb.Blob, pb.Blob),
            "Records": method(unary, records, pb.Rows, pb.Rows),
            "Stream": method(streaming, stream, pb.Number, pb.Number),
            "StreamKib": method(streaming, stream_kib, pb.Number, pb.Blob),
            "Upload": method(grpc.stream_unary_rpc_method_handler, upload, pb.Number, pb.Number),
            "Channel": method(grpc.stream_stream_rpc_method_handler, channel, pb.Number, pb.Number),
        },
    )


class _Connection(Connection):
    def __init__(self, channel: Any) -> None:
        from bench.adapters import protobuf as pb

        def method(make: Any, name: str, takes: Any, gives: Any) -> Any:
            return make(
                f"/{_SERVICE}/{name}",
                request_serializer=takes.SerializeToString,
                response_deserializer=gives.FromString,
            )

        self._pb = pb
        self._channel = channel
        self._add = method(channel.unary_unary, "Add", pb.Addends, pb.Number)
        self._echo = method(channel.unary_unary, "Echo", pb.Blob, pb.Blob)
        self._records = method(channel.unary_unary, "Records", pb.Rows, pb.Rows)
        self._stream = method(channel.unary_stream, "Stream", pb.Number, pb.Number)
        self._stream_kib = method(channel.unary_stream, "StreamKib", pb.Number, pb.Blob)
        self._upload = method(channel.stream_unary, "Upload", pb.Number, pb.Number)
        self._pings = method(channel.stream_stream, "Channel", pb.Number, pb.Number)

    async def add(self, a: int, b: int) -> int:
        answer: int = (await self._add(self._pb.Addends(a=a, b=b))).value
        return answer

    async def echo(self, data: bytes) -> object:
        return (await self._echo(self._pb.Blob(data=data))).data

    async def records(self, rows: list[dict[str, Any]]) -> int:
        answer = await self._records(self._pb.to_rows(rows))
        return sum(row.id for row in answer.rows)

    async def stream(self, count: int) -> AsyncIterator[object]:
        async for item in self._stream(self._pb.Number(value=count)):
            yield item.value

    async def stream_kib(self, count: int) -> AsyncIterator[object]:
        async for item in self._stream_kib(self._pb.Number(value=count)):
            yield item.data

    async def upload(self, items: Iterable[int] | AsyncIterator[int]) -> int:
        number = self._pb.Number
        requests: Any
        if isinstance(items, AsyncIterator):
            requests = (number(value=item) async for item in items)
        else:
            requests = (number(value=item) for item in items)
        answer: int = (await self._upload(requests)).value
        return answer

    async def open_channel(self) -> Pings:
        return _Pings(self._pings(), self._pb.Number)

    async def close(self) -> None:
        await self._channel.close()


class _Pings(Pings):
    def __init__(self, call: Any, number: Any) -> None:
        self._call = call
        self._number = number

    async def ping(self, item: int) -> int:
        await self._call.write(self._number(value=item))
        answer: int = (await self._call.read()).value
        return answer

    async def close(self) -> None:
        await self._call.done_writing()


ADAPTER = GrpcAio()
