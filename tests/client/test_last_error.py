"""The error of a call that finds no server: it tells of servers, registry and time."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from rap.client import Client
from rap.errors import Unavailable
from rap.registry import CachedResolver, DnsResolver, FileRegistry, SnapshotCache
from rap.registry.file import LeaseFiles
from rap.registry.redis import RedisRegistry
from rap.testing import FakeClock
from tests.loopback import eventually, serving, within
from tests.ports import free_address


async def why(client: Client, **options: Any) -> str:
    with pytest.raises(Unavailable) as caught:
        await client.raw_call("which", **options)
    return str(caught.value)


async def test_the_timeout_that_passed_is_named() -> None:
    clock = FakeClock()
    client = Client(free_address(), connect_timeout=0.02, clock=clock)
    connecting = asyncio.create_task(client.connect())
    await clock.advance(0.02)
    with pytest.raises(Unavailable, match=r"; waited 0\.02 s \(option connect_timeout\)$"):
        await within(connecting)
    asking = asyncio.create_task(why(client, timeout=0.03))
    await clock.advance(0.03)
    assert (await within(asking)).endswith("; waited 0.03 s (the timeout of the call)")
    await client.await_close()


async def test_what_a_client_waits_for_at_its_start_is_logged_after_a_second(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, registry = FakeClock(), FileRegistry(tmp_path)
    client = Client(service="calc", registry=registry, clock=clock)
    connecting = asyncio.create_task(client.connect())
    await eventually(lambda: client.connected is not None)
    await eventually(lambda: "lists none" in client.cluster.describe())
    await clock.advance(0.9)
    assert not caplog.records
    await clock.advance(0.2)
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        f"no server of service 'calc': the registry lists none ({registry.place}); start a server"
        " with service='calc' and this registry; waiting for another 8 s (option connect_timeout)"
    )
    await clock.advance(8.0)
    with pytest.raises(Unavailable, match="waited 9 s"):
        await within(connecting)
    await client.await_close()


async def test_a_client_that_waits_for_no_server_logs_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    async with serving() as server, Client(server.addresses, clock=clock):
        await clock.advance(2.0)
    assert not [each for each in caplog.records if "waiting" in each.getMessage()]


async def test_the_error_of_the_registry_is_told_without_its_password() -> None:
    registry = RedisRegistry("redis://me:secret@127.0.0.1:1/0")
    client = Client(service="calc", registry=registry, connect_timeout=0.01)
    text = (
        "no server of service 'calc': the registry has not answered: Redis at redis://127.0.0.1:1"
    )
    with pytest.raises(Unavailable, match=re.escape(text)):
        await client.connect()
    await eventually(lambda: "no answer yet" not in registry.last_error)
    told = await why(client, timeout=0.01)
    assert told.startswith(f"/default/which: {text}")
    assert "connecting to 127.0.0.1:1" in told
    assert "secret" not in told
    await client.await_close()
    await registry.aclose()


async def test_a_directory_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: LeaseFiles) -> None:
        raise PermissionError("not allowed")

    monkeypatch.setattr(LeaseFiles, "snapshot", refuse)  # root may read everything
    registry = FileRegistry(tmp_path)
    client = Client(service="calc", registry=registry, connect_timeout=0.01)
    with pytest.raises(Unavailable, match="no server of service 'calc'"):
        await client.connect()
    await eventually(lambda: registry.last_error)
    told = await why(client, timeout=0.01)
    assert f"the registry lists none: cannot read {tmp_path}/default: not allowed; " in told
    await client.await_close()


async def test_a_name_that_cannot_be_resolved_is_told(tmp_path: Path) -> None:
    async def lookup(name: str) -> list[str]:
        raise OSError("no such name")

    dns = CachedResolver(DnsResolver("calc.prod", 9000, lookup=lookup), SnapshotCache(tmp_path))
    client = Client(service="calc", registry=dns, connect_timeout=0.01)
    assert dns.last_error == "calc.prod has not been resolved yet"
    with pytest.raises(Unavailable, match="no server of service 'calc': the registry has not"):
        await client.connect()
    await eventually(lambda: "yet" not in dns.last_error)
    assert "not answered: cannot resolve calc.prod: no such name; waited" in await why(
        client, timeout=0.01
    )
    await client.await_close()


async def test_of_very_many_servers_the_first_ones_are_named() -> None:
    hosts = [f"127.0.0.1:{port}" for port in range(1, 26)]
    client = Client(hosts, connect_timeout=0.02)
    with pytest.raises(Unavailable) as caught:
        await client.connect()
    told = str(caught.value)
    assert "127.0.0.1:10 (" in told
    assert "127.0.0.1:11 (" not in told
    assert "; and 15 more; waited" in told
    await client.await_close()
