"""Which servers get calls: health, newcomers, weights; and what the client says of them."""

import asyncio
import random
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rap.address import Address
from rap.balance import BreakerState
from rap.client import Client
from rap.client.cluster import ready_nodes
from rap.client.node import Node
from rap.client.pool import Counters
from rap.errors import (
    CallError,
    Code,
    ConnectionClosed,
    DeadlineExceeded,
    ResourceExhausted,
    Unavailable,
    Verdict,
)
from rap.registry.base import Endpoint, State
from rap.server import Server
from tests.fake_clock import FakeClock
from tests.loopback import PATIENCE, calling, eventually, serving


def node(
    name: str = "a",
    *,
    connected: bool = True,
    wanted: bool = True,
    held: bool = False,
    incompatible: bool = False,
    clock: FakeClock | None = None,
    **changes: Any,
) -> Node:
    """Return a node that is connected, or seems so."""
    conn = SimpleNamespace(usable=True, draining=False, closed=False)
    pool: Any = SimpleNamespace(
        conn=conn if connected else None,
        connections={1: conn}.values() if connected else [],
        wanted=wanted,
        incompatible=incompatible,
        counters=Counters(),
        suspect=False,
        was_silent=False,
        is_held=lambda now: held,
        redialled=False,
    )
    return Node(
        Endpoint(name, Address.parse("192.0.2.1:1"), **changes),
        pool,
        clock=clock or FakeClock(),
        rng=random.Random(1),
        may_eject=lambda: True,
        on_change=lambda: None,
    )


def eject(each: Node, now: float = 1000.0) -> None:
    for _ in range(5):
        each.breaker.record(Verdict.FAILURE, now)


def test_nodes_without_connection_and_draining_ones_get_no_calls() -> None:
    up = node("up")
    others = [node("off", connected=False), node("leaving", state=State.DRAINING)]
    assert ready_nodes([up, *others], 1000.0, 0.0) == ((up,), False, False)
    assert ready_nodes(others, 1000.0, 0.0) == ((), False, False)


def test_an_ejected_node_gets_no_calls_until_its_pause_is_over() -> None:
    nodes = [node(name) for name in "abc"]
    eject(nodes[0])
    assert ready_nodes(nodes, 1000.0, 0.0) == ((nodes[1], nodes[2]), True, False)
    assert ready_nodes(nodes, 1010.0, 0.0) == (tuple(nodes), False, False)


def test_when_more_than_half_are_ejected_health_is_ignored() -> None:
    nodes = [node(name) for name in "abc"]
    eject(nodes[0])
    eject(nodes[1])
    assert ready_nodes(nodes, 1000.0, 0.0) == (tuple(nodes), True, True)


def test_servers_that_were_silent_twice_get_no_calls_unless_more_than_half_were() -> None:
    up, other = node("up"), node("other")
    held = [node("one", held=True), node("two", held=True)]
    assert ready_nodes([up, *held[:1]], 1000.0, 0.0) == ((up,), True, False)
    assert ready_nodes([up, other, *held], 1000.0, 0.0) == ((up, other), True, False)
    assert ready_nodes([up, *held], 1000.0, 0.0) == ((up, *held), True, False)
    assert held[0].state == "suspect"


def test_a_newcomer_starts_with_the_latency_of_the_others_and_little_weight() -> None:
    known = [node(name) for name in "abc"]
    ready_nodes(known, 1000.0, 30.0)
    for each, latency in zip(known, (0.1, 0.2, 0.9), strict=True):
        each.stats.started(1000.0)
        each.stats.finished(1000.0 + latency, latency, True)
    new = node("new", weight=10)
    ready, changing, _ = ready_nodes([*known, new], 1100.0, 30.0)
    assert ready == (*known, new)
    assert changing
    assert new.stats.prior == 0.2
    assert new.weight == pytest.approx(1.0)
    ready_nodes([*known, new], 1115.0, 30.0)
    assert new.weight == pytest.approx(5.0)
    assert ready_nodes([*known, new], 1130.0, 30.0) == (ready, False, False)
    assert new.weight == 10.0


def test_all_new_nodes_have_their_weight_at_once() -> None:
    nodes = [node("a", weight=3), node("b", weight=1)]
    ready_nodes(nodes, 1000.0, 30.0)
    assert [each.weight for each in nodes] == [3.0, 1.0]


def test_a_restart_forgets_measurements_but_not_calls_in_flight() -> None:
    each = node()
    each.stats.started(1000.0)
    each.stats.started(1000.0)
    each.stats.open_streams = 2
    each.record_result(1000.0, None)
    eject(each)
    each.reset("next")
    assert each.incarnation == "next"
    assert not each.stats.measured
    assert (each.stats.in_flight, each.stats.open_streams) == (1, 2)
    assert each.breaker.available(1000.0)
    each.record_result(1000.0, None)
    assert each.stats.in_flight == 0


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (CallError("x", code=Code.UNAVAILABLE), 5.0),
        (CallError("x", code=Code.UNAVAILABLE, remote=True, details={"retry_after": 60}), 60.0),
        (CallError("x", code=Code.UNAVAILABLE, remote=True, details={"retry_after": 1e9}), 300.0),
        *(
            (CallError("x", code=Code.UNAVAILABLE, remote=True, details={"retry_after": no}), 5.0)
            for no in ("soon", True, -1, float("nan"))
        ),
        (CallError("x", code=Code.UNAVAILABLE, details={"retry_after": 60}), 5.0),
        (ResourceExhausted("full", remote=True, unserved=True), 5.0),
        (ResourceExhausted("full", unserved=True), 0.0),  # a limit of this side
        (CallError("x", code=Code.NOT_FOUND), 0.0),
        (asyncio.CancelledError(), 0.0),
    ],
)
def test_a_failure_costs_what_the_server_asks_for(error: BaseException, seconds: float) -> None:
    each = node()
    each.stats.started(1000.0)
    each.record_result(1000.0, error)
    assert each.stats.ewma == seconds
    assert each.stats.in_flight == 0


def answered(each: Node, clock: FakeClock, seconds: float) -> None:
    now = clock.monotonic()
    each.stats.started(now)
    clock.advance(seconds)
    each.record_result(now, None)


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize(
    ("latency", "timeout", "is_failure"),
    [
        (None, 0.0005, False),
        (None, 0.009, False),
        (None, 0.011, True),
        (0.001, 0.0005, False),
        (0.001, 0.02, True),
        (0.001, 5.0, True),
        (1.0, 0.02, False),
        (1.0, 0.4, False),
        (1.0, 0.6, True),
        (1.0, inf, True),
    ],
)
def test_a_deadline_that_a_healthy_server_misses_is_no_failure(
    latency: float | None, timeout: float, is_failure: bool, remote: bool
) -> None:
    clock = FakeClock()
    each = node(clock=clock)
    if latency is not None:
        answered(each, clock, latency)
    for _ in range(20):
        started = clock.monotonic()
        each.stats.started(started)
        clock.advance(0.001)
        error = DeadlineExceeded("late", remote=remote)
        each.record_result(started, error, None, started + timeout)
        clock.advance(0.001)
    assert (each.breaker.state is BreakerState.OPEN) is is_failure
    assert each.stats.in_flight == 0
    if not is_failure and latency is not None:
        assert each.stats.ewma == pytest.approx(latency)  # it looks as fast as it was


def test_a_server_that_hangs_is_ejected_by_deadlines_like_those_that_passed_before() -> None:
    clock = FakeClock()
    each = node(clock=clock)
    answered(each, clock, 0.001)
    for _ in range(5):  # the first one raises what the server is taken to need
        started = clock.monotonic()
        each.stats.started(started)
        clock.advance(1.0)
        each.record_result(started, DeadlineExceeded("late"), None, started + 0.999)
    assert each.breaker.state is BreakerState.OPEN


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({}, "up"),
        ({"state": State.DRAINING}, "draining"),
        ({"state": State.SUSPECT}, "suspect"),
        ({"connected": False}, "connecting"),
        ({"connected": False, "incompatible": True}, "incompatible"),
        ({"connected": False, "state": State.SUSPECT}, "connecting"),  # as few others are up
        ({"connected": False, "state": State.SUSPECT, "wanted": False}, "suspect"),
    ],
)
def test_a_node_says_in_a_word_how_it_is(change: dict[str, Any], word: str) -> None:
    each = node("a", **change)
    assert each.state == word
    assert repr(each) == f"Node('a', {word})"


def test_an_ejected_node_says_so() -> None:
    each = node()
    eject(each)
    assert each.state == "ejected"


async def test_pickers_get_a_new_tuple_when_a_weight_has_changed() -> None:
    async with serving() as one, serving() as two, calling(one, two) as client:
        cluster = client.cluster
        await eventually(lambda: len(cluster.ready) == 2)
        before = cluster.ready
        listed = {each.key: each.endpoint for each in before}
        cluster._apply(dict(listed))
        assert cluster.ready is before
        cluster._apply({**listed, before[0].key: before[0].endpoint.replace(weight=7)})
        assert cluster.ready == before
        assert cluster.ready is not before
        assert [each.weight for each in cluster.ready] == [7.0, 1.0]


async def test_a_process_that_left_the_registry_and_is_back_does_not_start_slowly() -> None:
    clock = FakeClock()
    async with serving() as one, serving() as two, calling(one, two, clock=clock) as client:
        cluster = client.cluster
        await eventually(lambda: len(cluster.ready) == 2)
        listed = {each.key: each.endpoint for each in cluster.ready}
        clock.advance(100.0)
        frozen = cluster.ready[0]
        cluster._apply({key: each for key, each in listed.items() if key != frozen.key})
        assert frozen.conn is not None
        frozen.conn.abort(ConnectionClosed("it is silent"))
        await eventually(lambda: frozen.key not in cluster.nodes)
        clock.advance(20.0)
        cluster._apply(listed)
        await eventually(lambda: len(cluster.ready) == 2)
        back = cluster.nodes[frozen.key]
        assert back is not frozen
        assert [each.weight for each in cluster.ready] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("incarnation", "since"), [("same", 900.0), ("next", 1000.0), ("", 1000.0)]
)
def test_only_the_process_that_was_there_does_not_start_slowly(
    incarnation: str, since: float
) -> None:
    each = node(incarnation=incarnation)
    each.remember("same", 900.0)
    each.join(1000.0)
    assert each.since == since


async def test_a_failing_server_is_left_and_later_tried_again() -> None:
    ill = True

    async def work() -> str:
        if ill:
            raise CallError("no disk", code=Code.INTERNAL)
        return "one"

    async def healthy() -> str:
        return "two"

    clock = FakeClock()
    async with serving(work) as one, serving() as two:
        two.register(healthy, name="work")
        async with calling(one, two, clock=clock, rng=random.Random(1)) as client:
            await eventually(lambda: len(client.cluster.ready) == 2)
            sick = client.cluster.nodes[str(one.addresses[0])]

            async def call() -> str:
                try:
                    return str(await client.raw_call("work", timeout=1e6))
                except CallError:
                    return "failed"

            async with asyncio.timeout(PATIENCE):
                while sick in client.cluster.ready:
                    clock.advance(4.0)  # a node that had no call for a while gets one
                    await asyncio.gather(*(call() for _ in range(4)))
            assert {await call() for _ in range(20)} == {"two"}
            ill = False
            clock.advance(10.0)
            await eventually(lambda: sick in client.cluster.ready)
            async with asyncio.timeout(PATIENCE):
                while "one" not in await asyncio.gather(*(call() for _ in range(4))):
                    clock.advance(4.0)
            assert sick.breaker.state.value == "closed"


async def test_a_service_without_servers_is_not_suggested_in_its_own_place(tmp_path: Path) -> None:
    where: dict[str, Any] = {"service": "shop", "registry": f"file://{tmp_path}"}
    async with Server("127.0.0.1:0", **where, drain_delay=0):
        pass
    client = Client(**where, wait_for_ready=False)
    with pytest.raises(Unavailable, match="start a server with service='shop'") as error:
        await client.raw_call("price")
    await client.close()
    assert "did you mean" not in str(error.value)
