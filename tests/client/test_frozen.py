"""A server that is frozen is found in time for the calls that wait for it."""

import asyncio

from rap.client import Client
from tests.fault_proxy import Fate, FaultProxy
from tests.loopback import eventually, serving, within


async def named() -> str:
    return "alive"


async def test_calls_of_3_s_outlive_a_server_that_is_frozen() -> None:
    async with serving(named) as frozen, serving(named) as alive:
        async with FaultProxy(frozen.addresses[0].port) as proxy:
            hosts = [f"127.0.0.1:{proxy.port}", str(alive.addresses[0])]
            async with Client(hosts, connect_timeout=1) as client:

                @client.register("named", idempotent=True, timeout=3)
                async def name() -> str:
                    raise NotImplementedError

                await eventually(lambda: len(client.cluster.ready) == 2)
                assert {await name() for _ in range(20)} == {"alive"}
                proxy.judge = lambda _: Fate.SWALLOW
                calls = [asyncio.create_task(name()) for _ in range(20)]
                assert await within(asyncio.gather(*calls)) == ["alive"] * 20
                assert proxy.lost
