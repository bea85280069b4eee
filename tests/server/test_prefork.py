"""A server as one of several worker processes."""

from pathlib import Path

import pytest

from rap.address import Address
from rap.client import Client
from rap.registry.base import Endpoint
from rap.registry.file import FileRegistry
from rap.server import Server
from rap.server.prefork import become_worker


async def first(registry: FileRegistry, service: str) -> Endpoint:
    async for snapshot in registry.watch(service):
        return next(iter(snapshot.values()))
    raise AssertionError("the watch ended")


async def test_workers_without_a_registry_listen_on_the_same_port() -> None:
    one, other = Server("127.0.0.1:0"), Server("127.0.0.1:0")
    assert become_worker(one, 0)
    async with one:
        assert become_worker(other, 1, one.addresses)
        async with other:
            assert other.addresses == one.addresses


async def test_a_port_is_not_shared_unless_asked_for() -> None:
    async with Server("127.0.0.1:0") as server:
        with pytest.raises(OSError, match="cannot listen on"):
            await Server(server.addresses).create_server()


async def test_workers_with_a_registry_listen_on_separate_ports(tmp_path: Path) -> None:
    registry = f"file://{tmp_path}"
    one, other = (Server("127.0.0.1:0", service="s", registry=registry) for _ in range(2))
    assert not become_worker(one, 0)
    assert not become_worker(other, 1)
    async with one, other, Client(service="s", registry=registry):
        assert one.addresses != other.addresses


async def test_ports_of_workers_and_the_advertised_one_count_up(tmp_path: Path) -> None:
    async with Server("127.0.0.1:0") as busy:
        port = busy.addresses[0].port
        server = Server(
            f"127.0.0.1:{port - 7}",
            service="s",
            registry=f"file://{tmp_path}",
            advertise="10.0.0.1:8000",
        )
        become_worker(server, 7)
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            await server.create_server()


async def test_each_worker_advertises_its_own_port(tmp_path: Path) -> None:
    registry = f"file://{tmp_path}"
    server = Server("127.0.0.1:0", service="s", registry=registry, advertise="10.0.0.1:8000")
    become_worker(server, 3)
    async with server:
        endpoint = await first(FileRegistry(tmp_path), "s")
        assert endpoint.address == Address("tcp", "10.0.0.1", 8003)


def test_workers_cannot_share_a_unix_socket() -> None:
    with pytest.raises(ValueError, match="a unix socket is for one process"):
        become_worker(Server("unix:///tmp/a.sock"), 0)


def test_a_worker_port_above_65535_is_refused(tmp_path: Path) -> None:
    server = Server("127.0.0.1:65535", service="s", registry=f"file://{tmp_path}")
    with pytest.raises(ValueError, match="there is no port 65536 for a worker"):
        become_worker(server, 1)
