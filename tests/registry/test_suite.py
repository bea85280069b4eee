"""What every registry does, whatever keeps it."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from rap.registry import AddressTaken, Reports, State
from tests.registry.conftest import Connect
from tests.registry.sample import make_endpoint, ports, until, until_true, watching

pytestmark = pytest.mark.parametrize(
    "url", ["memory", "file", "single", "deployed", "old", "sentinel", "cluster"], indirect=True
)

LONG, SHORT = 30.0, 0.3  # seconds to live


async def test_a_watch_of_an_unknown_service_begins_with_the_empty_set(connect: Connect) -> None:
    async with watching(connect()) as snapshots:
        assert await anext(snapshots) == {}


async def test_a_watch_begins_with_who_is_there(connect: Connect) -> None:
    endpoint = make_endpoint(weight=7, zone="a", metadata={"version": "1.2", "team": "x"})
    await connect().register("calc", endpoint, ttl=LONG)
    async with watching(connect()) as snapshots:
        assert await anext(snapshots) == {endpoint.id: endpoint}


async def test_a_watch_tells_who_comes_changes_and_goes(connect: Connect) -> None:
    server, first, second = connect(), make_endpoint(1), make_endpoint(2)
    async with watching(connect()) as snapshots:
        await server.register("calc", first, ttl=LONG)
        await until(snapshots, lambda it: it == {first.id: first})
        await server.register("calc", second, ttl=LONG)
        await until(snapshots, lambda it: ports(it) == {1, 2})
        leaving = make_endpoint(1, state=State.DRAINING)
        await server.register("calc", leaving, ttl=LONG)
        await until(snapshots, lambda it: it[first.id].state is State.DRAINING)
        await server.deregister("calc", leaving)
        await until(snapshots, lambda it: ports(it) == {2})
        await server.deregister("calc", second)
        await until(snapshots, lambda it: not it)


async def test_renewing_changes_nothing_for_watchers(connect: Connect) -> None:
    server, endpoint = connect(), make_endpoint()
    async with watching(connect()) as snapshots:
        await server.register("calc", endpoint, ttl=LONG)
        await until(snapshots, lambda it: bool(it))
        for _ in range(3):
            await server.register("calc", endpoint, ttl=LONG)
        marker = make_endpoint(2)
        await server.register("calc", marker, ttl=LONG)
        assert ports(await anext(snapshots)) == {9000, 2}


async def test_services_and_watches_do_not_mix(connect: Connect) -> None:
    server = connect()
    await server.register("calc", make_endpoint(1), ttl=LONG)
    await server.register("mail", make_endpoint(2), ttl=LONG)
    client = connect()
    async with watching(client) as calc, watching(client, "mail") as mail:
        assert ports(await anext(calc)) == {1}
        assert ports(await anext(mail)) == {2}


async def test_a_second_process_with_the_same_address_is_refused_by_name(connect: Connect) -> None:
    await connect().register("calc", make_endpoint(), ttl=LONG)
    with pytest.raises(AddressTaken, match=r"10\.0\.0\.1:9000") as caught:
        await connect().register("calc", make_endpoint(incarnation="second"), ttl=LONG)
    assert LONG / 2 < caught.value.retry_after <= LONG


async def test_an_address_is_free_once_the_lease_of_the_other_ran_out(connect: Connect) -> None:
    first, second = connect(), connect()
    await first.register("calc", make_endpoint(), ttl=SHORT)

    async def taken_over() -> bool:
        try:
            await second.register("calc", make_endpoint(incarnation="second"), ttl=LONG)
        except AddressTaken:
            return False
        return True

    await until_true(taken_over)
    with pytest.raises(AddressTaken):
        await first.register("calc", make_endpoint(), ttl=LONG)


async def test_one_that_is_up_replaces_another_process_that_drains_at_once(
    connect: Connect,
) -> None:
    old, new = connect(), connect()
    first, second = make_endpoint(), make_endpoint(incarnation="second")
    draining = make_endpoint(state=State.DRAINING)
    await old.register("calc", first, ttl=LONG)
    async with watching(connect()) as snapshots:
        await old.register("calc", draining, ttl=LONG)
        await until(snapshots, lambda it: bool(it) and it[first.id].state is State.DRAINING)
        await new.register("calc", second, ttl=LONG)
        await until(snapshots, lambda it: it == {second.id: second})
        for state in (State.DRAINING, State.UP):  # nor may it come back
            with pytest.raises(AddressTaken):
                await old.register("calc", make_endpoint(state=state), ttl=LONG)
        await old.deregister("calc", draining)
        await new.register("calc", second, ttl=LONG)
    async with watching(connect()) as snapshots:
        assert await anext(snapshots) == {second.id: second}


async def test_one_that_drains_replaces_no_other_process(connect: Connect) -> None:
    await connect().register("calc", make_endpoint(state=State.DRAINING), ttl=LONG)
    second = make_endpoint(incarnation="second", state=State.DRAINING)
    with pytest.raises(AddressTaken):
        await connect().register("calc", second, ttl=LONG)


async def test_deregistering_leaves_another_incarnation_alone(connect: Connect) -> None:
    server = connect()
    await server.register("calc", make_endpoint(), ttl=LONG)
    await server.deregister("calc", make_endpoint(incarnation="second"))
    await server.deregister("calc", make_endpoint(4711))
    await server.deregister("none", make_endpoint())
    async with watching(connect()) as snapshots:
        assert ports(await anext(snapshots)) == {9000}


async def test_a_lease_that_ran_out_makes_an_instance_suspect(connect: Connect) -> None:
    server = connect()
    await server.register("calc", make_endpoint(1), ttl=SHORT)

    async def suspected() -> bool:
        async with watching(connect()) as snapshots:
            return (await anext(snapshots))["10.0.0.1:1"].state is State.SUSPECT

    await until_true(suspected)


async def test_a_suspect_that_renews_is_up_again_for_watchers(connect: Connect) -> None:
    server, endpoint = connect(), make_endpoint()
    await server.register("calc", endpoint, ttl=SHORT)
    client = connect()
    while True:
        async with watching(client) as snapshots:
            if (await anext(snapshots))[endpoint.id].state is State.SUSPECT:
                await server.register("calc", endpoint, ttl=LONG)
                await until(snapshots, lambda it: it[endpoint.id].state is State.UP)
                return
        await asyncio.sleep(0.01)


async def test_the_renewals_of_others_remove_who_is_silent(connect: Connect) -> None:
    server, other = connect(), connect()
    await server.register("calc", make_endpoint(1), ttl=SHORT)
    async with watching(connect()) as snapshots:
        await until(snapshots, lambda it: ports(it) == {1})

        async def removed() -> bool:
            await other.register("calc", make_endpoint(2), ttl=LONG)
            async with watching(connect()) as fresh:
                return ports(await anext(fresh)) == {2}

        await until_true(removed)
        await until(snapshots, lambda it: ports(it) == {2})


async def test_many_that_fall_silent_at_once_are_kept(connect: Connect) -> None:
    server = connect()
    for port in range(1, 6):
        await server.register("calc", make_endpoint(port), ttl=SHORT)

    async def all_suspected() -> bool:
        async with watching(connect()) as fresh:
            return all(it.state is State.SUSPECT for it in (await anext(fresh)).values())

    await until_true(all_suspected)
    for _ in range(2):
        await server.register("calc", make_endpoint(5), ttl=LONG)
    async with watching(connect()) as fresh:
        snapshot = await anext(fresh)
    up = {port for port in ports(snapshot) if snapshot[f"10.0.0.1:{port}"].state is State.UP}
    assert (up, ports(snapshot)) == ({5}, {1, 2, 3, 4, 5})


async def test_a_draining_instance_whose_lease_ran_out_stays_draining(connect: Connect) -> None:
    server = connect()
    await server.register("calc", make_endpoint(1), ttl=SHORT)
    await server.register("calc", make_endpoint(1, state=State.DRAINING), ttl=SHORT)
    await server.register("calc", make_endpoint(2), ttl=SHORT)

    async def other_suspected() -> bool:
        async with watching(connect()) as fresh:
            snapshot = await anext(fresh)
        assert snapshot["10.0.0.1:1"].state is State.DRAINING
        return snapshot["10.0.0.1:2"].state is State.SUSPECT

    await until_true(other_suspected)


async def test_many_watches_see_the_same(connect: Connect) -> None:
    client = connect()
    async with AsyncExitStack() as stack:
        watches = [await stack.enter_async_context(watching(client)) for _ in range(5)]
        for watch in watches:
            assert await anext(watch) == {}
        await connect().register("calc", make_endpoint(), ttl=LONG)
        for watch in watches:
            assert ports(await until(watch, bool)) == {9000}


async def test_a_bad_service_name_is_refused_at_once(connect: Connect) -> None:
    registry = connect()
    with pytest.raises(ValueError, match="service must match"):
        registry.watch("no/slash")
    with pytest.raises(ValueError, match="service must match"):
        await registry.register("", make_endpoint(), ttl=LONG)


async def test_services_are_listed(connect: Connect) -> None:
    registry = connect()
    await registry.register("mail", make_endpoint(), ttl=LONG)
    await registry.register("calc", make_endpoint(), ttl=LONG)
    assert await connect().services() == ["calc", "mail"]


async def test_a_reported_load_travels_with_the_renewal(connect: Connect) -> None:
    server, endpoint = connect(), make_endpoint()
    if not isinstance(server, Reports):
        return
    await server.register("calc", endpoint, ttl=LONG)
    server.report_load("calc", endpoint.id, {"in_flight": 3, "util": 0.5})
    await server.register("calc", endpoint, ttl=LONG)
    assert await server.loads("calc") == {endpoint.id: {"in_flight": 3, "util": 0.5}}
