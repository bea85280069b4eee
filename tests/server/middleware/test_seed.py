"""The fragments that documented middleware in release 0.5.3.8 run in exactly its spelling."""

from typing import Any

import pytest

from rap.server import Server
from tests.loopback import LOOPBACK, calling

LOADING = """
from rap.server import Server
from rap.server.middleware import AccessMsgMiddleware, ConnLimitMiddleware

rpc_server = Server()
rpc_server.load_middleware([ConnLimitMiddleware(), AccessMsgMiddleware()])
"""

LIMITING = """
from rap.server import Server
from rap.server.middleware import ConnLimitMiddleware, IpMaxConnMiddleware 


server = Server()
server.load_middleware(
    [
        # max_conn: Current maximum number of conn
        # block_timeout: Access ban time after exceeding the maximum number of conn
        ConnLimitMiddleware(max_conn=100, block_time=60),
        # ip_max_conn: Maximum number of conn per ip 
        # timeout: The maximum statistics time for each ip, after the time no new requests come in, the relevant statistics will be cleared
        IpMaxConnMiddleware(ip_max_conn=10, timeout=60),
    ]
)
"""  # noqa: E501, W291

BLOCKING = """
from rap.server import Server
from rap.server.middleware import IpBlockMiddleware 


server = Server()
# allow_ip_list: whitelist, support network segment ip, if filled with allow_ip_list, black_ip_list will be invalid 
# black_ip_list: blacklist, support network segment ip 
server.load_middleware([IpBlockMiddleware(allow_ip_list=['192.168.0.0/31'], block_ip_list=['192.168.0.2'])])
"""  # noqa: E501, W291


@pytest.mark.parametrize("program", [LOADING, LIMITING, BLOCKING])
def test_a_fragment_runs(program: str) -> None:
    exec(compile(program, "fragment", "exec"), {})


@pytest.mark.parametrize("program", [LOADING, LIMITING])
async def test_its_server_serves(program: str) -> None:
    def add(a: int, b: int) -> int:
        return a + b

    names: dict[str, Any] = {}
    exec(compile(program.replace("Server()", f"Server({LOOPBACK!r})"), "fragment", "exec"), names)
    server: Server = names.get("server") or names["rpc_server"]
    server.register(add)
    async with server, calling(server) as client:
        assert await client.call(add, 1, 2) == 3
