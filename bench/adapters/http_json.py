"""JSON over HTTP/1.1: starlette under uvicorn, called by aiohttp."""

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from bench.adapter import HOST, Adapter, Connection, Setup, certificate, no_module
from bench.payload import KIB

__all__ = ["ADAPTER"]

_JSON = {"content-type": "application/json"}


class HttpJson(Adapter):
    name = "http"
    package = "uvicorn"
    imports = ("aiohttp", "orjson", "uvloop")
    settings = (
        "uvicorn (httptools), starlette, aiohttp, orjson, uvloop; "
        "as many connections as calls in flight, for HTTP/1.1 cannot multiplex"
    )

    def not_installed(self) -> str | None:
        served = ("httptools", "starlette", "uvicorn")
        return super().not_installed() or next(filter(None, map(no_module, served)), None)

    def missing(self) -> Mapping[str, str]:
        return {"channel": "HTTP/1.1 answers once"}

    def serve(self, port: int, setup: Setup) -> None:
        import uvicorn

        crt, key = certificate() if setup == "tls" else (None, None)
        uvicorn.run(
            _app(),
            host=HOST,
            port=port,
            loop="uvloop",
            http="httptools",
            log_level="error",
            access_log=False,
            ssl_certfile=crt,
            ssl_keyfile=key,
        )

    async def connect(self, ports: Sequence[int], setup: Setup) -> Connection:
        import aiohttp

        context: Any = True
        if setup == "tls":
            context = ssl.create_default_context(cafile=certificate()[0])
        scheme = "https" if setup == "tls" else "http"
        session = aiohttp.ClientSession(
            f"{scheme}://{HOST}:{ports[0]}",
            connector=aiohttp.TCPConnector(limit=0, ssl=context),
            auto_decompress=False,
        )
        return _Connection(session)


def _app() -> Any:
    import orjson
    from starlette.applications import Starlette
    from starlette.responses import Response, StreamingResponse
    from starlette.routing import Route

    async def add(request: Any) -> Any:
        body = orjson.loads(await request.body())
        return Response(orjson.dumps({"value": body["a"] + body["b"]}), headers=_JSON)

    async def echo(request: Any) -> Any:
        return Response(await request.body(), media_type="application/octet-stream")

    async def records(request: Any) -> Any:
        return Response(orjson.dumps(orjson.loads(await request.body())), headers=_JSON)

    async def stream(request: Any) -> Any:
        async def lines() -> AsyncIterator[bytes]:
            for number in range(int(request.query_params["count"])):
                yield b"%d\n" % number

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def stream_kib(request: Any) -> Any:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(int(request.query_params["count"])):
                yield KIB

        return StreamingResponse(pieces(), media_type="application/octet-stream")

    return Starlette(
        routes=[
            Route("/add", add, methods=["POST"]),
            Route("/echo", echo, methods=["POST"]),
            Route("/records", records, methods=["POST"]),
            Route("/stream", stream),
            Route("/stream_kib", stream_kib),
        ]
    )


class _Connection(Connection):
    def __init__(self, session: Any) -> None:
        import orjson

        self._session = session
        self._dumps, self._loads = orjson.dumps, orjson.loads

    async def add(self, a: int, b: int) -> int:
        body = self._dumps({"a": a, "b": b})
        async with self._session.post("/add", data=body, headers=_JSON) as answer:
            value: int = self._loads(await answer.read())["value"]
            return value

    async def echo(self, data: bytes) -> object:
        async with self._session.post("/echo", data=data) as answer:
            return await answer.read()

    async def records(self, rows: list[dict[str, Any]]) -> int:
        async with self._session.post("/records", data=self._dumps(rows), headers=_JSON) as answer:
            return sum(row["id"] for row in self._loads(await answer.read()))

    async def stream(self, count: int) -> AsyncIterator[object]:
        async with self._session.get(f"/stream?count={count}") as answer:
            async for line in answer.content:
                yield self._loads(line)

    async def stream_kib(self, count: int) -> AsyncIterator[object]:
        async with self._session.get(f"/stream_kib?count={count}") as answer:
            for _ in range(count):
                yield await answer.content.readexactly(len(KIB))

    async def close(self) -> None:
        await self._session.close()


ADAPTER = HttpJson()
