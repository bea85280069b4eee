"""Fleet: several replicas inside the process, and what can happen to them."""

import asyncio
import logging
from typing import Any

import pytest

from rap import Client, Server, SyncClient, context
from rap.errors import CallError, DeadlineExceeded, NotFound, Unavailable
from rap.registry import State
from rap.server.middleware import BaseMsgMiddleware
from rap.testing import FakeClock, Fleet, Replica
from tests.loopback import eventually, within

server = Server("localhost:9000", service="shop", registry="redis://nowhere:1")
client = Client("shop:9000", timeout=5)
waiting = asyncio.Event()


@server.register(idempotent=True)
async def add(a: int, b: int) -> int:
    return a + b


@server.register(group="slow", name="wait")
async def wait_for_ever() -> None:
    waiting.set()
    await asyncio.Event().wait()


@client.register(name="add", idempotent=True)
async def remote_add(a: int, b: int) -> int:  # type: ignore[empty-body]  # a declaration
    ...


async def spread(fleet: Fleet, calls: int = 60) -> dict[str, int]:
    """Make calls one after the other; return how many went to each replica."""
    before = {replica.name: replica.calls for replica in fleet}
    for number in range(calls):
        assert await fleet.client.raw_call("add", number, 1) == number + 1
    return {replica.name: replica.calls - before[replica.name] for replica in fleet}


async def ready(fleet: Fleet, count: int) -> None:
    """Return when the client has so many servers."""
    await eventually(lambda: len(fleet.client.cluster.ready) == count)


async def opened(replica: Replica) -> None:
    """Return when a call waits in a replica."""
    await eventually(waiting.is_set)
    waiting.clear()


async def test_all_replicas_get_calls() -> None:
    async with Fleet(server, 3, picker="round_robin") as fleet:
        await ready(fleet, 3)
        counts = await spread(fleet)
        assert sorted(counts) == ["a", "b", "c"]
        assert min(counts.values()) > 0


async def test_replicas_may_have_names() -> None:
    async with Fleet(server, ["east", "west"]) as fleet:
        assert [replica.name for replica in fleet] == ["east", "west"]
        with pytest.raises(KeyError, match="there are east, west"):
            fleet["north"]
    with pytest.raises(ValueError, match="replicas must be"):
        Fleet(server, ["a", "a"])


async def test_a_killed_replica_fails_its_calls_and_gets_no_more() -> None:
    async with Fleet(server, 2) as fleet:
        await ready(fleet, 2)
        fleet["b"].freeze()
        fleet["b"].kill()
        await ready(fleet, 1)
        call = asyncio.create_task(fleet.client.raw_call("wait", group="slow"))
        await opened(fleet["a"])
        fleet["a"].kill()
        with pytest.raises(Unavailable, match="the call may have run"):
            await within(call)
        with pytest.raises(Unavailable, match="no usable server"):
            await fleet.client.raw_call("add", 1, 2, wait_for_ready=False)


async def test_the_registration_of_a_killed_replica_stays_until_its_lease_expires() -> None:
    clock = FakeClock()
    async with Fleet(server, 2, clock=clock) as fleet:
        watch = fleet.registry.watch(fleet.service)
        assert len(await anext(watch)) == 2
        fleet["a"].kill()
        await clock.advance(9)
        following = asyncio.ensure_future(anext(watch))
        await clock.advance(0)
        assert not following.done()
        await clock.advance(30)
        snapshot = await within(following)
        left = {each.address for each in snapshot.values() if each.state is State.UP}
        assert left == {fleet["b"].address}
        await watch.aclose()


async def test_a_replica_that_is_restarted_serves_again() -> None:
    async with Fleet(server, 2, picker="round_robin") as fleet:
        await ready(fleet, 2)
        fleet["a"].kill()
        await ready(fleet, 1)
        assert (await spread(fleet, 10))["a"] == 0
        await fleet["a"].restart()
        await ready(fleet, 2)
        assert (await spread(fleet))["a"] > 0


async def test_a_replica_that_is_stopped_loses_no_call() -> None:
    async with Fleet(server, 2) as fleet:
        await ready(fleet, 2)
        stopping = asyncio.create_task(fleet["a"].stop())
        await spread(fleet, 30)
        await within(stopping)
        await ready(fleet, 1)
        await fleet["a"].restart()
        await ready(fleet, 2)


async def test_a_frozen_replica_answers_when_it_goes_on() -> None:
    clock = FakeClock()
    async with Fleet(server, 1, clock=clock) as fleet:
        fleet["a"].freeze()
        call = asyncio.create_task(fleet.client.raw_call("add", 1, 2, timeout=3))
        await clock.advance(2)
        assert not call.done()
        fleet["a"].thaw()
        assert await within(call) == 3
        fleet["a"].freeze()
        call = asyncio.create_task(fleet.client.raw_call("add", 1, 2, timeout=3))
        await clock.advance(3.1)
        with pytest.raises(DeadlineExceeded):
            await within(call)


async def test_calls_leave_a_frozen_replica_for_the_others() -> None:
    clock = FakeClock()
    async with Fleet(server, 3, client=client, clock=clock) as fleet:
        await ready(fleet, 3)
        fleet["a"].freeze()
        calls = [asyncio.create_task(remote_add(number, 1)) for number in range(30)]
        await clock.advance(4)
        assert await within(asyncio.gather(*calls)) == [number + 1 for number in range(30)]


async def test_a_delay_is_there_and_back() -> None:
    clock = FakeClock()
    async with Fleet(server, 1, clock=clock) as fleet:
        fleet["a"].delay(0.2)
        call = asyncio.create_task(fleet.client.raw_call("add", 1, 2))
        await clock.advance(0.39)
        assert not call.done()
        await clock.advance(0.02)
        assert await within(call) == 3
        fleet["a"].delay(0)
        assert await within(fleet.client.raw_call("add", 1, 2)) == 3
        with pytest.raises(ValueError, match="at least 0"):
            fleet["a"].delay(-1)


async def test_a_call_right_after_a_delay_is_set_is_delayed_too() -> None:
    clock = FakeClock()
    async with Fleet(server, 1, clock=clock) as fleet:

        async def delayed() -> int:
            fleet["a"].delay(0.2)
            return int(await fleet.client.raw_call("add", 1, 2))

        call = asyncio.create_task(delayed())
        await clock.advance(0.39)
        assert not call.done()
        await clock.advance(0.02)
        assert await within(call) == 3


async def test_a_replica_answers_with_the_errors_that_the_test_chooses() -> None:
    async with Fleet(server, 1) as fleet:
        call = fleet.client.raw_call
        fleet["a"].fail(NotFound("no such hat"), "add", times=2)
        for _ in range(2):
            with pytest.raises(NotFound, match="no such hat"):
                await call("add", 1, 2)
        assert await call("add", 1, 2) == 3
        fleet["a"].fail(CallError("it is on fire"), "slow/wait")
        assert await call("add", 1, 2) == 3
        with pytest.raises(CallError, match="on fire"):
            await call("wait", group="slow")
        fleet["a"].recover()
        fleet["a"].fail(Unavailable("gone"))
        with pytest.raises(Unavailable, match="gone"):
            await call("add", 1, 2)


async def test_an_idempotent_call_is_retried_on_another_replica() -> None:
    async with Fleet(server, 2, client=client) as fleet:
        await ready(fleet, 2)
        fleet["a"].fail(Unavailable("the disk is gone"))
        assert [await remote_add(number, 1) for number in range(20)] == list(range(1, 21))


async def test_a_client_that_blocks_finds_the_fleet_from_a_thread() -> None:
    def call(data: bytes) -> list[int]:
        place: dict[str, Any] = {"service": fleet.service, "registry": fleet.registry}
        with SyncClient(**place) as sync_client:
            assert sync_client.raw_call("size", data) == len(data)
            return [sync_client.raw_call("add", number, 1) for number in range(20)]

    async def size(data: bytes) -> int:
        return len(data)

    shop = Server()
    shop.register(add)
    shop.register(size)
    async with Fleet(shop, 2) as fleet:
        found = await within(asyncio.to_thread(call, bytes(5_000_000)))
        assert found == list(range(1, 21))


async def test_a_function_makes_each_replica_with_middleware_of_its_own() -> None:
    class Names(BaseMsgMiddleware):
        pass

    def make() -> Server:
        made = Server(middleware_list=[Names()])

        @made.register
        async def where() -> str:
            return str(context.call.peer)

        return made

    async with Fleet(make, 2) as fleet:
        assert len({id(replica.server.middlewares[0]) for replica in fleet}) == 2
        assert await fleet.client.raw_call("where") != ""


async def test_replicas_of_a_server_share_its_middleware() -> None:
    seen: list[str] = []

    class Notes(BaseMsgMiddleware):
        def start_event_handle(self) -> None:
            seen.append("start")

        def stop_event_handle(self) -> None:
            seen.append("stop")

    shared = Server(middleware_list=[Notes()])
    shared.register(add)
    async with Fleet(shared, 2) as fleet:
        assert await fleet.client.raw_call("add", 1, 2) == 3
    assert seen == ["start", "start", "stop", "stop"]
    async with Fleet(shared, 1) as fleet:  # again, in a new loop or the same
        assert await fleet.client.raw_call("add", 1, 2) == 3


async def test_errors_and_logs_name_the_replica(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rap")
    clock = FakeClock()
    async with Fleet(server, ["east", "west"], client=client, clock=clock) as fleet:
        await ready(fleet, 2)
        assert str(fleet["east"].address) == "inproc://shop/east"
        await fleet["west"].stop()
        await ready(fleet, 1)
        started = remote_add.start(1, 2)
        assert await started == 3
        assert str(started.peer) == "inproc://shop/east"
        fleet["east"].freeze()
        call = asyncio.create_task(fleet.client.raw_call("add", 1, 2, timeout=1))
        await clock.advance(1.1)
        with pytest.raises(DeadlineExceeded, match="from inproc://shop/east of service 'shop'"):
            await within(call)
        fleet["east"].thaw()
        await ready(fleet, 1)
        call = asyncio.create_task(fleet.client.raw_call("wait", group="slow"))
        await opened(fleet["east"])
        fleet["east"].kill()
        with pytest.raises(Unavailable, match="connection to inproc://shop/east lost"):
            await within(call)
    assert "draining inproc://shop/west: " in caplog.text
    assert "127.0.0.1:0" not in caplog.text


async def test_two_fleets_may_have_replicas_of_one_name() -> None:
    async with Fleet(server, 1) as one, Fleet(server, 1) as other:
        assert str(one["a"].address) == str(other["a"].address)
        other["a"].kill()
        await ready(other, 0)
        assert await one.client.raw_call("add", 1, 2) == 3
        assert one["a"].calls == 1
        assert other["a"].calls == 0


async def test_a_fleet_has_the_service_of_its_server_or_one_that_the_test_chooses() -> None:
    async with Fleet(server, 1) as mine, Fleet(server, 1, service="stock") as named:
        assert mine.service == "shop"
        assert str(named["a"].address) == "inproc://stock/a"
    assert Fleet(Server, 1).service == "fleet"
