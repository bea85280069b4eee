"""Mistakes that keep a client and a server from talking."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from rap import Client, Server
from tests.loopback import LOOPBACK, eventually
from tests.mistakes.catalogue import Scene, mistake
from tests.ports import free_address
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


@mistake(
    "no server listens at the address",
    3,
    what="connection refused",
    where="127.0.0.1:<port> (connecting: cannot reach it",
    remedy="does the server run, and is this its address?",
)
async def refused(scene: Scene) -> Any:
    await _call(free_address())


@mistake(
    "`async with` finds no server",
    3,
    what="connection refused",
    where="127.0.0.1:<port> (connecting: cannot reach it",
    remedy="does the server run, and is this its address?",
)
async def refused_connect(scene: Scene) -> Any:
    async with Client(free_address(), connect_timeout=1):
        pass


@mistake(
    "the host name does not exist",
    3,
    what="cannot reach",
    where="shop.invalid:9000",
    remedy="is the host name spelled right?",
)
async def unknown_host(scene: Scene) -> Any:
    await _call("shop.invalid:9000")


@mistake(
    "an HTTP server listens at the address",
    3,
    what="the peer speaks HTTP",
    where="127.0.0.1:<port> (connecting: cannot reach it",
    remedy="is this the right port?",
)
async def http_server(scene: Scene) -> Any:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with _other_program(answer) as address:
        await _call(address)


@mistake(
    "a Redis server listens at the address",
    3,
    what="the peer speaks the protocol of Redis",
    where="127.0.0.1:<port> (connecting: cannot reach it",
    remedy="is this the right port?",
)
async def redis_server(scene: Scene) -> Any:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"-ERR unknown command 'RAP', with args beginning with: \r\n")
        writer.close()

    async with _other_program(answer) as address:
        await _call(address)


@mistake(
    "a server that never says anything listens at the address",
    3,
    what="no answer in 0.1 s",
    where="127.0.0.1:<port> (connecting: cannot reach it",
    remedy="does a rap server run there, and does no firewall drop what is sent?",
)
async def mute_server(scene: Scene) -> Any:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with _other_program(answer) as address:
        await _call(address, connect_timeout=0.1)


@mistake(
    "an HTTP client asks the port of a server: what the server logs",
    3,
    what="the peer speaks HTTP",
    where="connection with 127.0.0.1:<port>",
    remedy="HTTP clients call through rap.gateway",
)
async def http_client(scene: Scene) -> Any:
    async with _serving() as server:
        reader, writer = await asyncio.open_connection(*_host_and_port(server))
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.read()
        writer.close()
        await eventually(lambda: scene.logged("closed"))
    return scene.log


def _host_and_port(server: Server) -> tuple[str, int]:
    address = server.addresses[0]
    return address.host, address.port


@mistake(
    "a client with TLS calls a server without",
    3,
    what="it does not speak TLS",
    where="127.0.0.1:<port> (connecting: cannot reach it",
    remedy="leave out the TLS options here, or give the server ssl_crt_path and ssl_key_path",
)
async def tls_to_plain(scene: Scene) -> Any:
    async with _serving() as server:
        await _call(server.addresses, ssl_ca_path=certificates().authority.crt_path)


@mistake(
    "a client without TLS calls a server with",
    3,
    what="lost before its Hello",
    where="127.0.0.1:<port> (connecting: cannot reach it",
    remedy="or does it speak TLS? Its log says why",
)
async def plain_to_tls(scene: Scene) -> Any:
    own = certificates().server
    async with _serving(ssl_crt_path=own.crt_path, ssl_key_path=own.key_path) as server:
        await _call([f"tcp://{each.host}:{each.port}" for each in server.addresses])


@mistake(
    "the certificate has expired",
    3,
    what="certificate has expired",
    where="tls://127.0.0.1:<port> (connecting: cannot reach it",
    remedy="renew it",
)
async def expired_certificate(scene: Scene) -> Any:
    own = certificates().expired
    async with _serving(ssl_crt_path=own.crt_path, ssl_key_path=own.key_path) as server:
        await _call(server.addresses, ssl_ca_path=certificates().authority.crt_path)


@mistake(
    "the certificate is of an authority that the client does not know",
    3,
    what="its certificate is refused",
    where="tls://127.0.0.1:<port> (connecting: cannot reach it",
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
    where="tls://127.0.0.1:<port> (connecting: cannot reach it",
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
    "the file of a certificate does not exist",
    2,
    what="no such file",
    where="ssl_ca_path",
)
async def missing_certificate(scene: Scene) -> Any:
    await _call("localhost:9000", ssl_ca_path=f"{scene.folder}/ca.pem")


@mistake(
    "only one of certificate and key is given",
    3,
    what="ssl_key_path is missing",
    where="ssl_crt_path and",
    remedy="go together",
)
def key_missing(scene: Scene) -> Any:
    Server(LOOPBACK, ssl_crt_path="server.crt")


@mistake(
    "the token is wrong",
    3,
    what="the token was refused",
    where="127.0.0.1:<port> refused the connection",
    remedy="verify_token of the server does not accept this client's token",
)
async def wrong_token(scene: Scene) -> Any:
    async with _serving(verify_token="right") as server:
        await _call(server.addresses, token="wrong")


@mistake(
    "the client has no token",
    3,
    what="a token is needed",
    where="127.0.0.1:<port> refused the connection",
    remedy="option token of the client",
)
async def no_token(scene: Scene) -> Any:
    async with _serving(verify_token="right") as server:
        await _call(server.addresses)


@mistake(
    "two servers listen at one address",
    3,
    what="Address already in use",
    where="cannot listen on 127.0.0.1:<port>",
    remedy="this process listens there: stop it, use another port, or port 0 for a free one",
)
async def port_in_use(scene: Scene) -> Any:
    async with _serving() as first:
        async with _serving(host=str(first.addresses[0])):
            pass


@mistake(
    "a server is to listen at an address of another machine",
    3,
    what="Cannot assign requested address",
    where="cannot listen on 203.0.113.9:9000",
    remedy="use 0.0.0.0 or [::] for all that it has",
)
async def foreign_address(scene: Scene) -> Any:
    async with _serving(host="203.0.113.9:9000"):
        pass


@mistake(
    "the folder of a unix socket does not exist",
    3,
    what="No such file or directory",
    where="cannot listen on unix://<folder>/run/shop.sock",
    remedy="make the folder <folder>/run first",
)
async def missing_folder(scene: Scene) -> Any:
    async with _serving(host=f"unix://{scene.folder}/run/shop.sock"):
        pass


@mistake(
    "the unix socket of a server is not there",
    3,
    what="No such file or directory",
    where="unix://<folder>/shop.sock (connecting: cannot reach it",
    remedy="does the server run, and is this its address?",
)
async def missing_socket(scene: Scene) -> Any:
    await _call(f"unix://{scene.folder}/shop.sock")


@mistake(
    "the path of a unix socket is too long",
    3,
    what="AF_UNIX path too long",
    where="cannot listen on unix:///tmp/xxx",
    remedy="use a shorter one",
)
async def long_path(scene: Scene) -> Any:
    async with _serving(host=f"unix:///tmp/{'x' * 120}"):
        pass


@mistake(
    "an inproc:// address is used in another process",
    3,
    what="no server of this process listens there",
    where="inproc://shop (connecting: cannot reach it",
    remedy="between processes, use host:port or unix://",
)
async def inproc_elsewhere(scene: Scene) -> Any:
    await _call("inproc://shop")


@mistake(
    "a server limits connections per address",
    3,
    what="more than 1 connections",
    where="127.0.0.1:<port> refused the connection",
    remedy="option max_conn",
)
async def too_many_connections(scene: Scene) -> Any:
    from rap.server.middleware import ConnLimitMiddleware

    async with _serving(middleware_list=[ConnLimitMiddleware(max_conn=1)]) as server:
        async with Client(server.addresses):
            await _call(server.addresses)
