"""Real processes that do not answer, in short; `make faults` measures them at length."""

import asyncio

import pytest

from faults.replica import Replica, replicas
from rap.client import Client
from tests.loopback import eventually, within

AT_ONCE = 30  # calls


def client_of(servers: list[Replica]) -> Client:
    return Client([f"127.0.0.1:{server.port}" for server in servers])


async def work(number: int) -> int:
    raise AssertionError("it runs on the server")


@pytest.mark.parametrize("frozen", [1, 2])
async def test_calls_of_a_second_outlive_processes_that_are_frozen(frozen: int) -> None:
    async with replicas(3) as servers, client_of(servers) as client:
        await eventually(lambda: len(client.cluster.ready) == 3)
        call = client.register(idempotent=True, timeout=1)(work)
        await within(asyncio.gather(*(call(number) for number in range(AT_ONCE))))
        for server in servers[:frozen]:
            server.freeze()
        calls = [call(number) for number in range(AT_ONCE)]
        assert await within(asyncio.gather(*calls)) == [*range(AT_ONCE)]
        assert client.invoker.budget.rescues <= AT_ONCE
        for server in servers[:frozen]:
            server.thaw()
        await eventually(lambda: len(client.cluster.ready) == 3)


async def test_calls_of_a_second_outlive_handlers_that_hang_on_one_server() -> None:
    async with replicas(3) as servers, client_of(servers) as client:
        await eventually(lambda: len(client.cluster.ready) == 3)
        call = client.register(idempotent=True, timeout=1)(work)
        servers[0].toggle_hanging()
        calls = [call(number) for number in range(AT_ONCE)]
        assert await within(asyncio.gather(*calls)) == [*range(AT_ONCE)]
        assert client.cluster.counters.suspicions == 0


async def test_servers_whose_loops_are_blocked_for_a_moment_are_not_suspect() -> None:
    async with replicas(2, block=0.15) as servers, client_of(servers) as client:
        await eventually(lambda: len(client.cluster.ready) == 2)
        call = client.register(idempotent=True, timeout=9)(work)
        loop = asyncio.get_running_loop()
        until = loop.time() + 2.0  # each is blocked about twice
        while loop.time() < until:
            await asyncio.gather(*(call(number) for number in range(10)))
        assert client.cluster.counters.suspicions == 0
