"""FakeClock: deadlines, retries and leases of real clients and servers, moved by hand."""

import asyncio
import random
from typing import Any

import pytest

from rap import Client, Server
from rap.errors import DeadlineExceeded, Unavailable
from rap.registry import MemoryRegistry, State
from rap.testing import FakeClock, TestClient

client = Client("stock:9000", timeout=5)


@client.register
async def wait() -> None: ...


def make_server(clock: FakeClock) -> Server:
    server = Server()

    async def wait() -> None:
        await clock.sleep(3600)

    server.register(wait)
    return server


async def test_a_call_fails_at_its_deadline_and_not_before() -> None:
    clock = FakeClock()
    async with TestClient(make_server(clock), clock=clock) as client:
        call = asyncio.create_task(client.raw_call("wait", timeout=30))
        await clock.advance(29.9)
        assert not call.done()
        await clock.advance(0.2)
        with pytest.raises(DeadlineExceeded):
            await call


async def test_the_stub_of_a_module_goes_by_the_clock_of_the_test() -> None:
    clock = FakeClock()
    async with TestClient(make_server(clock), client=client, clock=clock):
        call = asyncio.create_task(wait())
        await clock.advance(4.9)
        assert not call.done()
        await clock.advance(0.2)
        with pytest.raises(DeadlineExceeded):
            await call


async def test_a_jump_moves_the_clock_at_once() -> None:
    clock = FakeClock(monotonic=5.0, epoch=100.0)
    slept = asyncio.create_task(clock.sleep(2))
    await asyncio.sleep(0)
    clock.jump(1.5)
    await asyncio.sleep(0)
    assert not slept.done()
    clock.jump(0.5)
    await slept
    assert (clock.monotonic(), clock.time(), clock.timers) == (7.0, 102.0, 0)


async def test_what_is_due_meanwhile_runs_at_its_own_moment() -> None:
    clock, seen = FakeClock(monotonic=0.0), []

    async def tick() -> None:
        for _ in range(3):
            await clock.sleep(1)
            seen.append(clock.monotonic())

    ticking = asyncio.create_task(tick())
    await clock.advance(10)
    await ticking
    assert seen == [1.0, 2.0, 3.0]
    assert clock.monotonic() == 10.0


async def test_a_retry_waits_by_the_clock() -> None:
    clock, attempts = FakeClock(), 0
    server = Server()

    @server.register
    async def flaky() -> int:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise Unavailable("not now")
        return attempts

    rng = random.Random(7)  # draws pauses of some seconds
    options: dict[str, Any] = {"retry_pause": 10, "rng": rng}
    async with TestClient(server, clock=clock, timeout=60, **options) as client:

        @client.register(name="flaky", idempotent=True)
        async def remote() -> int: ...  # type: ignore[empty-body]  # a declaration

        call = asyncio.create_task(remote())
        await clock.advance(0)
        assert (attempts, call.done()) == (1, False)
        await clock.advance(30)
        assert await call == 3


async def test_a_server_renews_its_lease_by_the_clock() -> None:
    clock = FakeClock()
    registry = MemoryRegistry(clock=clock)
    options: dict[str, Any] = {"service": "stock", "registry": registry, "clock": clock}
    async with Server("inproc://leased", **options, drain_delay=0):
        watch = registry.watch("stock")
        await clock.advance(60)
        (endpoint,) = (await anext(watch)).values()
        assert endpoint.state is State.UP
        await watch.aclose()


async def test_a_call_without_a_server_waits_by_the_clock() -> None:
    clock = FakeClock()
    client = Client("inproc://nowhere", clock=clock)
    call = asyncio.create_task(client.raw_call("add", 1, 2, timeout=60, wait_for_ready=20))
    await clock.advance(19.9)
    assert not call.done()
    await clock.advance(0.2)
    with pytest.raises(Unavailable, match="no server of this process listens there"):
        await call
    await client.close()
