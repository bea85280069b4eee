"""Mistakes that keep a client and a server from talking."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from rap import Client, Server
from tests.loopback import LOOPBACK
from tests.mistakes.catalogue import Scene, mistake
from tests.transport.certificates import Certificates


@cache
def certificates() -> Certificates:
    return Certificates(Path(mkdtemp(prefix="rap-")))


async def _fine() -> int:
    return 1


@asynccontextmanager
async def _serving(**options: Any) -> AsyncIterator[Server]:
    server = Server(options.pop("host", LOOPBACK), close_timeout=0.1, **options)
    server.register(_fine, name="fine")
    async with server:
        yield server


async def _call(hosts: Any, **options: Any) -> Any:
    client = Client(hosts, **{"wait_for_ready": False, "connect_timeout": 1, **options})
    try:
        await client.raw_call("fine")
    finally:
        await client.close()


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@asynccontextmanager
async def _other_program(answer: Answer) -> AsyncIterator[str]:
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def _host_and_port(server: Server) -> tuple[str, int]:
    address = server.addresses[0]
    return address.host, address.port


@mistake(
    "the certificate is of an authority that the client does not know",
    3,
    what="its certificate is refused",
    where="cannot reach tls://127.0.0.1:<port>",
    remedy="option ssl_ca_path: the authority that issued it",
)
async def unknown_authority(scene: Scene) -> Any:
    own = certificates().server
    async with _serving(ssl_crt_path=own.crt_path, ssl_key_path=own.key_path) as server:
        await _call([f"tls://{each.host}:{each.port}" for each in server.addresses])


@mistake(
    "the certificate has another name",
    3,
    what="certificate is not valid for 'shop.example'",
    where="cannot reach tls://127.0.0.1:<port>",
    remedy="options ssl_server_name, ssl_identity: whom to expect",
)
async def wrong_name(scene: Scene) -> Any:
    own = certificates().server
    async with _serving(ssl_crt_path=own.crt_path, ssl_key_path=own.key_path) as server:
        await _call(
            server.addresses,
            ssl_ca_path=certificates().authority.crt_path,
            ssl_server_name="shop.example",
        )


@mistake(
    "only one of certificate and key is given",
    3,
    what="ssl_key_path is missing",
    where="ssl_crt_path and",
    remedy="go together",
)
def key_missing(scene: Scene) -> Any:
    Server(LOOPBACK, ssl_crt_path="server.crt")
