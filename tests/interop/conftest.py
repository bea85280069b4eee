"""The service of the interop cases over TCP, over TLS, and through processors."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rap.client import Client
from rap.server import Server
from tests.event_loops import nothing_goes_unnoticed
from tests.interop.service import Log, Service, processors
from tests.loopback import calling, eventually, serving
from tests.test_seed import write_certificate

__all__ = ["nothing_goes_unnoticed"]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture(params=["tcp", "tls", "processors"])
def way(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Return the options with which a client reaches the server."""
    if request.param == "tls":
        write_certificate(tmp_path)
        crt, key = str(tmp_path / "rap_ssl.crt"), str(tmp_path / "rap_ssl.key")
        files = {"ssl_crt_path": crt, "ssl_key_path": key}
        return {"server": files, "client": {"ssl_crt_path": crt}}
    if request.param == "processors":
        return {side: {"processor_list": processors(side)} for side in ("server", "client")}
    return {"server": {}, "client": {}}


@pytest.fixture
async def server(log: Log, way: dict[str, dict[str, Any]]) -> AsyncIterator[Server]:
    async with serving(**way["server"]) as server:
        server.register(Service(log))
        yield server


@pytest.fixture
async def client(log: Log, server: Server, way: dict[str, dict[str, Any]]) -> AsyncIterator[Client]:
    """Connect a client; when the test has ended, no call and no stream is left on either side."""
    async with calling(server, **way["client"]) as client:
        yield client
        nodes = client.cluster.nodes.values()
        loads = [node.stats for node in nodes]
        assert [(s.in_flight, s.open_streams) for s in loads] == [(0, 0)] * len(loads)
        connections = [conn for node in nodes for conn in node.pool.connections]
        connections += server.connection_manager.connections
        await eventually(lambda: not any(conn.streams for conn in connections))
        await eventually(lambda: log.running == 0)


@pytest.fixture
def stub(client: Client) -> Any:
    """Return the stubs of the service."""
    return client.bind(Service)
