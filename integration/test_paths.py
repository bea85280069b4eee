"""Ways to reach an instance: TLS, mutual TLS, another service, and HTTP."""

import asyncio
from pathlib import Path

import httpx2
import pytest

from integration.app import probe
from integration.stage import HTTP, HTTP_PORT, ORDERS, PATIENCE, Stage
from rap.client import Client
from rap.errors import Unavailable
from tests.transport.certificates import Certificates


async def test_tls_proves_the_server(
    stage: Stage, tmp_path: Path, certificates: Certificates
) -> None:
    pair = certificates.server
    environ = {"APP_CERTIFICATE": pair.crt_path, "APP_KEY": pair.key_path}
    instance = await asyncio.to_thread(stage.calc, "a", certificates.directory, **environ)
    address = stage.address_of(instance)
    async with Client(address, ssl_ca_path=certificates.authority.crt_path) as client:
        assert await client.raw_call("add", 1, 2) == 3
    wrong = Client(address, ssl_ca_path=certificates.other_authority.crt_path, connect_timeout=1)
    with pytest.raises(Unavailable, match="certificate"):
        await wrong.connect()
    await wrong.await_close()


async def test_mutual_tls_proves_the_client_too(
    stage: Stage, tmp_path: Path, certificates: Certificates
) -> None:
    pair, own, strange = certificates.server, certificates.client, certificates.stranger
    authority = certificates.authority.crt_path
    environ = {"APP_CERTIFICATE": pair.crt_path, "APP_KEY": pair.key_path}
    environ["APP_AUTHORITY"] = authority
    instance = await asyncio.to_thread(stage.calc, "a", certificates.directory, **environ)
    address = stage.address_of(instance)
    async with Client(
        address,
        ssl_ca_path=authority,
        ssl_client_crt_path=own.crt_path,
        ssl_client_key_path=own.key_path,
    ) as client:
        assert await client.raw_call("add", 1, 2) == 3
    for crt, key in ((None, None), (strange.crt_path, strange.key_path)):
        wrong = Client(
            address,
            ssl_ca_path=authority,
            ssl_client_crt_path=crt,
            ssl_client_key_path=key,
            connect_timeout=1,
        )
        with pytest.raises(Unavailable):
            await wrong.connect()
        await wrong.await_close()


async def test_a_service_calls_another_one(stage: Stage, tmp_path: Path) -> None:
    for name in ("a", "b"):
        await asyncio.to_thread(stage.calc, name, tmp_path)
    orders = stage.run("orders", ORDERS, tmp_path, APP_LISTEN=stage.listen)
    await asyncio.to_thread(orders.wait_for, "rap: listening on")
    async with Client(service="orders", registry=stage.redis_url, connect_timeout=30) as shop:
        assert await shop.raw_call("total", [1, 2, 3]) == 6
        orders.terminate()
    assert await asyncio.to_thread(orders.wait) == 0


async def test_the_gateway_follows_a_replacement(stage: Stage, tmp_path: Path) -> None:
    old = await asyncio.to_thread(stage.calc, "old", tmp_path)
    gateway = stage.run("gateway", (*HTTP, *stage.http_options), tmp_path)
    await asyncio.to_thread(gateway.wait_for, "Uvicorn running on")
    url = f"http://{stage.address_of(gateway, HTTP_PORT)}"
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        assert (await http.get(f"{url}/livez")).text == "alive"
        answer = await http.post(f"{url}/api/call/default/add", json={"a": 1, "b": 2})
        assert answer.json() == {"code": 0, "data": 3}
        await asyncio.to_thread(stage.calc, "new", tmp_path)
        old.terminate()
        answered = {"code": 0, "data": "old"}
        async with asyncio.timeout(PATIENCE):
            while answered["data"] != "new":
                answered = (await http.post(f"{url}/api/call/default/who", json={})).json()
                assert answered["code"] == 0, answered
    gateway.terminate()
    await asyncio.to_thread(gateway.wait)


async def test_the_gateway_finds_instances_where_nobody_registers(
    stage: Stage, tmp_path: Path
) -> None:
    alone = {"APP_REGISTRY": "dns://calc:9000"}  # a server does not look there
    instances = [
        await asyncio.to_thread(stage.calc, f"calc-{it}", tmp_path, **alone) for it in "ab"
    ]
    assert "registered" not in instances[0].output()
    gateway = stage.run(
        "gateway",
        (*HTTP, *stage.http_options),
        tmp_path,
        APP_REGISTRY=stage.without_registry(instances),
    )
    await asyncio.to_thread(gateway.wait_for, "Uvicorn running on")
    url = f"http://{stage.address_of(gateway, HTTP_PORT)}/api/call/default/who"
    names: set[str] = set()
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http, asyncio.timeout(PATIENCE):
        while names != {"calc-a", "calc-b"}:
            names.add((await http.post(url, json={})).json()["data"])


async def test_the_probe_of_a_container_tells_a_server_from_nothing(
    stage: Stage, tmp_path: Path
) -> None:
    instance = await asyncio.to_thread(stage.calc, "a", tmp_path)
    port = int(stage.address_of(instance).rpartition(":")[2])
    assert await asyncio.to_thread(probe.answers, port)
    instance.kill()
    await asyncio.to_thread(instance.wait)
    assert not await asyncio.to_thread(probe.answers, port)
