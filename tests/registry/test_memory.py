import asyncio
import gc
import threading
from typing import Any

import pytest

from rap.registry import MemoryRegistry, State
from rap.registry.self_preservation import DEAD_AFTER
from tests.registry.fake_clock import FakeClock
from tests.registry.sample import make_endpoint, ports, until, watching


async def test_a_watch_sees_a_lease_run_out(clock: FakeClock) -> None:
    registry = MemoryRegistry(clock=clock)
    await registry.register("calc", make_endpoint(), ttl=10)
    async with watching(registry) as snapshots:
        assert [it.state for it in (await anext(snapshots)).values()] == [State.UP]
        later = asyncio.ensure_future(anext(snapshots))
        await clock.run(9.9)
        assert not later.done()
        await clock.run(0.1)
        assert [it.state for it in (await later).values()] == [State.SUSPECT]


async def test_a_watch_sees_no_instance_that_is_dead_while_others_live(clock: FakeClock) -> None:
    registry = MemoryRegistry(clock=clock)
    await registry.register("calc", make_endpoint(), ttl=10)
    await registry.register("calc", make_endpoint(9001), ttl=10 * DEAD_AFTER)
    async with watching(registry) as snapshots:
        assert ports(await anext(snapshots)) == {9000, 9001}
        await clock.run(10.0)
        assert ports(await anext(snapshots)) == {9000, 9001}
        later = asyncio.ensure_future(anext(snapshots))
        await clock.run(DEAD_AFTER - 0.1)
        assert not later.done()
        await clock.run(0.2)
        assert ports(later.result()) == {9001}
    async with watching(registry) as snapshots:
        assert ports(await anext(snapshots)) == {9001}


async def test_instances_stay_however_long_the_registry_takes_no_writes(clock: FakeClock) -> None:
    registry = MemoryRegistry(clock=clock)
    for port in (9000, 9001):
        await registry.register("calc", make_endpoint(port), ttl=10)
    await clock.run(10 * DEAD_AFTER)
    async with watching(registry) as snapshots:
        found = (await anext(snapshots)).values()
        assert [it.state for it in found] == [State.SUSPECT, State.SUSPECT]


async def test_loops_in_other_threads_see_the_changes() -> None:
    seen, watching_now = [], threading.Event()

    async def client() -> None:
        async with watching(MemoryRegistry("threads")) as snapshots:
            await anext(snapshots)
            watching_now.set()
            seen.append(ports(await until(snapshots, bool)))

    registry = MemoryRegistry("threads")
    thread = threading.Thread(target=asyncio.run, args=(client(),))
    thread.start()
    await asyncio.to_thread(watching_now.wait, 10)
    await registry.register("calc", make_endpoint(), ttl=10)
    await asyncio.to_thread(thread.join, 10)
    assert seen == [{9000}]


async def test_a_loop_that_ended_without_closing_its_watch_harms_nobody() -> None:
    registry = MemoryRegistry("ended")

    def client() -> None:
        loop = asyncio.new_event_loop()
        snapshots = MemoryRegistry("ended").watch("calc")
        loop.run_until_complete(anext(snapshots))
        kept.append(snapshots)
        loop.close()

    kept: list[object] = []
    await asyncio.to_thread(client)
    await registry.register("calc", make_endpoint(), ttl=10)
    assert await registry.services() == ["calc"]


async def test_what_nobody_holds_any_more_is_forgotten() -> None:
    registry = MemoryRegistry("forgotten")
    await registry.register("calc", make_endpoint(), ttl=10)
    del registry
    gc.collect()
    assert await MemoryRegistry("forgotten").services() == []


@pytest.mark.parametrize("load", [None, [1], {1: 2.0}, {"x": "y"}, {"x": True}])
async def test_a_load_report_that_is_none_is_refused(load: Any) -> None:
    with pytest.raises(ValueError, match=r"load .*must"):
        MemoryRegistry().report_load("calc", "x", load)


async def test_registries_without_a_name_share_nothing() -> None:
    await MemoryRegistry().register("calc", make_endpoint(), ttl=10)
    assert await MemoryRegistry().services() == []
