"""Clients and servers whose options are for the network work inside the process as they are."""

from pathlib import Path
from typing import Any

from rap.client import Client
from rap.registry import MemoryRegistry
from rap.server import Server
from rap.testing import TestClient
from tests.transport.certificates import Certificates


async def fine() -> int:
    return 1


async def test_options_of_tls_and_of_a_registry_do_not_matter_inside_the_process(
    tmp_path: Path,
) -> None:
    certificates = Certificates(tmp_path)
    own, ca = certificates.server, certificates.authority.crt_path
    key = "a key of at least 16 bytes"
    place: dict[str, Any] = {"service": "calc", "registry": MemoryRegistry()}
    server = Server(
        ssl_crt_path=own.crt_path,
        ssl_key_path=own.key_path,
        ssl_ca_path=ca,
        verify_token="t",
        registry_key=key,
        **place,
    )
    server.register(fine)
    client = Client(
        ssl_ca_path=ca, ssl_identity="DNS:calc.example", token="t", registry_key=key, **place
    )
    async with TestClient(server, client=client, client_host="192.0.2.1") as connected:
        assert await connected.raw_call("fine") == 1
