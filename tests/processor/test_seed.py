"""The programs for encryption that documented release 0.5.3.8 run in exactly its spelling.

Their text stands here as it was published; only addresses are put in.
"""
# ruff: noqa: E501, W291

import re
from typing import Any

import pytest

from rap.errors import Unauthenticated

CLIENT = """
from rap.client import Client
from rap.client.processor import CryptoProcessor

client = Client()
client.load_processor([CryptoProcessor('key_id', 'xxxxxxxxxxxxxxxx')])
"""

SERVER = """
from rap.server import Server
from rap.server.processor import CryptoProcessor

server = Server()
server.load_processor([CryptoProcessor({'key_id': 'xxxxxxxxxxxxxxxx'})])
"""

COMMENTED_CLIENT = """
from rap.client import Client
from rap.client.processor import CryptoProcessor

client = Client()
# The first parameter is the id of the secret key, the server determines which secret key is used for the current request by the id of the secret key 
# The second parameter is the key of the secret key, currently only support the length of 16 bits of the secret key 
# timeout: Requests that exceed the timeout value compared to the current timestamp will be discarded
# interval: Clear the nonce interval, the shorter the interval, the more frequent the execution, the greater the useless work, the longer the interval, the more likely to occupy memory, the recommended value is the timeout value is 2 times 
client.load_processor([CryptoProcessor("demo_id", "xxxxxxxxxxxxxxxx", timeout=60, interval=120)])
"""

COMMENTED_SERVER = """
from rap.server import Server
from rap.server.processor import CryptoProcessor


server = Server()
# The first parameter is the secret key key-value pair, key is the secret key id, value is the secret key
# timeout: Requests that exceed the timeout value compared to the current timestamp will be discarded
# nonce_timeout: The expiration time of nonce, the recommended setting is greater than timeout 
server.load_processor([CryptoProcessor({"demo_id": "xxxxxxxxxxxxxxxx"}, timeout=60, nonce_timeout=120)])
"""


def declared(program: str, address: str, name: str) -> Any:
    """Run a program with an address put in; return what it declares under a name."""
    names: dict[str, Any] = {}
    text = re.sub(r"\b(Server|Client)\(\)", rf"\1('{address}')", program)
    exec(compile(text, "program", "exec"), names)
    return names[name]


def sync_sum(a: int, b: int) -> int:
    return a + b


PAIRS = [(SERVER, CLIENT), (COMMENTED_SERVER, COMMENTED_CLIENT)]


@pytest.mark.parametrize(("server_program", "client_program"), PAIRS)
async def test_a_client_calls_a_server_of_the_same_key(
    server_program: str, client_program: str
) -> None:
    server = declared(server_program, "localhost:0", "server")
    server.register(sync_sum)
    async with server:
        client = declared(client_program, str(server.addresses[0]), "client")
        async with client:
            assert await client.raw_call("sync_sum", 1, 2) == 3


async def test_a_client_cannot_call_a_server_that_does_not_know_its_key() -> None:
    server = declared(SERVER, "localhost:0", "server")
    server.register(sync_sum)
    async with server:
        client = declared(COMMENTED_CLIENT, str(server.addresses[0]), "client")
        async with client:
            with pytest.raises(Unauthenticated, match="'demo_id'"):
                await client.raw_call("sync_sum", 1, 2)
