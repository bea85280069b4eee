"""What a client makes of servers that refuse calls because they are overloaded."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest

from rap.balance import BreakerState
from rap.call import Request
from rap.channel import Channel
from rap.client import Client
from rap.client.sync import SyncClient
from rap.errors import CallError, Code, ConnectionClosed, DeadlineExceeded, ResourceExhausted
from rap.processor.base import BaseProcessor
from rap.server import Server
from tests.client.test_cluster import node
from tests.client.test_retry_policy import budget_of, policy, taken
from tests.fake_clock import FakeClock
from tests.loopback import calling, eventually, serving, swallowing, within

ON_BOTH_LOOPS = True


def refused(seconds: float = 2.0, *, unserved: bool = True) -> ResourceExhausted:
    details = {"retry_after": seconds}
    return ResourceExhausted("overloaded", details=details, remote=True, unserved=unserved)


def test_a_node_that_refuses_calls_is_not_ejected() -> None:
    each = node()
    for _ in range(100):
        each.stats.started(1000.0)
        each.record_result(1000.0, refused())
    assert each.breaker.state is BreakerState.CLOSED
    assert each.stats.in_flight == 0


def test_a_refusal_answers_the_probe_of_an_ejected_node() -> None:
    each = node()
    for _ in range(5):
        each.stats.started(1000.0)
        each.record_result(1000.0, CallError("x", code=Code.UNAVAILABLE))
    assert not each.breaker.available(1000.0)
    assert each.breaker.allow(1010.0)
    each.stats.started(1010.0)
    each.record_result(1010.0, refused())
    assert each.breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize(("seconds", "cost"), [(2.0, 2.0), (0.0, 0.0), (1e9, 300.0)])
def test_a_refusal_costs_the_seconds_that_the_server_names(seconds: float, cost: float) -> None:
    each = node()
    each.stats.started(1000.0)
    each.record_result(1000.0, refused(seconds))
    assert each.stats.ewma == cost
    assert each.refused_until == 1000.0 + cost
    assert each.avoid_until == each.refused_until
    each.reset("next")
    assert each.refused_until == 0.0


def test_a_limit_for_a_single_caller_costs_its_node_nothing() -> None:
    """`LimitProcessor` lets no more calls of one caller through, and others still."""
    each = node()
    for _ in range(100):
        each.stats.started(1000.0)
        each.record_result(1000.0, refused(3600.0, unserved=False))
    assert not each.stats.measured
    assert each.breaker.state is BreakerState.CLOSED
    assert each.refused_until == 0.0


def late(*, remote: bool) -> DeadlineExceeded:
    return DeadlineExceeded("late", remote=remote)


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("answer", [None, CallError("no", code=Code.NOT_FOUND), refused(0.1)])
def test_a_deadline_is_no_failure_of_a_node_that_answers_other_calls(
    remote: bool, answer: CallError | None
) -> None:
    each = node()
    each.stats.started(1000.0)
    for _ in range(20):
        each.stats.started(999.0)
        each.record_result(999.0, answer)
        each.stats.started(999.5)
        each.record_result(999.5, late(remote=remote))
    assert each.breaker.state is BreakerState.CLOSED
    assert each.stats.ewma == pytest.approx(1.0, abs=0.01)  # as long as the answers took
    assert each.avoid_until == (1000.1 if answer and answer.unserved else 0.0)


@pytest.mark.parametrize("remote", [False, True])
def test_a_node_that_answers_nothing_before_deadlines_is_ejected(remote: bool) -> None:
    each = node()
    each.stats.started(999.0)
    each.record_result(999.0, None)
    for _ in range(6):
        each.stats.started(1000.0)
    for _ in range(5):
        each.record_result(1000.0, late(remote=remote))
    assert each.breaker.state is BreakerState.OPEN
    assert each.stats.ewma == 5.0


def test_retries_of_refused_calls_use_half_of_the_budget(clock: FakeClock) -> None:
    budget, _ = budget_of(clock)
    retries = policy(budget=budget)
    for _ in range(50):
        assert retries.admits(refused(), 1, parted=False, in_retry=False)
    error = refused()
    assert not retries.admits(error, 1, parted=False, in_retry=False)
    assert "the retry budget" in error.details["not_retried"]
    assert taken(budget) == 50


class Overloaded(BaseProcessor):
    """Refuses the calls of one server, and counts all that come."""

    def __init__(self, seconds: float | None = 60.0) -> None:
        self.seconds = seconds
        self.seen = 0

    async def process_request(self, request: Request) -> Request:
        self.seen += 1
        if self.seconds is not None:
            raise ResourceExhausted(
                "overloaded", details={"retry_after": self.seconds}, unserved=True
            )
        return request


async def work() -> int:
    return 1


async def items() -> AsyncIterator[int]:
    yield 1


async def talk(channel: Channel) -> int:
    return 1


@asynccontextmanager
async def servers(*gates: Overloaded) -> AsyncIterator[list[Server]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(serving(work, items, talk, processor_list=[gate]))
            for gate in gates
        ]


async def _items(client: Client) -> int:
    return sum([item async for item in client.iterator_call(items)])


PICKERS = ["p2c", "smooth_weighted", "weighted_random", "round_robin", "rendezvous", "prequal"]
SHAPES = pytest.mark.parametrize(
    "call", [lambda client: client.raw_call("work"), _items], ids=["unary", "items"]
)


@SHAPES
@pytest.mark.parametrize(
    "picker", ["p2c", "smooth_weighted", "weighted_random", "round_robin", "rendezvous", "prequal"]
)
async def test_a_refused_call_is_served_by_a_server_that_takes_calls(
    call: Any, picker: str
) -> None:
    gates = [Overloaded(), Overloaded(None)]
    async with servers(*gates) as both, calling(*both, picker=picker) as client:
        await eventually(lambda: len(client.cluster.ready) == 2)
        for _ in range(20):
            assert await call(client) == 1


@SHAPES
async def test_a_call_is_not_retried_where_all_servers_refuse(call: Any) -> None:
    gates = [Overloaded(), Overloaded(), Overloaded()]
    async with servers(*gates) as all_, calling(*all_) as client:
        await eventually(lambda: len(client.cluster.ready) == 3)
        for _ in range(20):
            with pytest.raises(ResourceExhausted) as caught:
                await call(client)
            assert caught.value.details["retry_after"] == 60.0
            if caught.value.remote:
                assert "no other server" in caught.value.details["not_retried"]
            else:
                assert "not sent" in str(caught.value)
        assert sum(gate.seen for gate in gates) <= 20 + 2 * 3
        assert all(each.breaker.state is BreakerState.CLOSED for each in client.cluster.ready)


async def _stub(client: Client) -> int:
    return await client.register(idempotent=True)(work)()


GATHERING = pytest.mark.parametrize(
    "call", [lambda client: client.raw_call("work"), _items, _stub], ids=["unary", "items", "stub"]
)


@asynccontextmanager
async def one_of_two(gate: Overloaded, clock: FakeClock) -> AsyncIterator[Client]:
    """Connect a client to the first of two servers; the second one does not answer yet."""
    with swallowing("127.0.0.1") as port:
        async with servers(gate) as (first,):
            hosts = [str(first.addresses[0]), f"127.0.0.1:{port}"]
            async with Client(hosts, clock=clock) as client:
                yield client


@GATHERING
async def test_a_refused_call_comes_again_while_other_servers_are_still_connected_to(
    call: Any,
) -> None:
    """Where a whole service is started again, the first server gets the calls of all."""
    gate, clock = Overloaded(0.5), FakeClock()
    async with one_of_two(gate, clock) as client:
        running = asyncio.ensure_future(call(client))
        await eventually(lambda: running.done() or client.cluster.all_refuse())
        assert not running.done()
        gate.seconds = None
        clock.advance(0.49)
        assert gate.seen == 1
        clock.advance(0.02)
        assert await within(running) == 1
        assert gate.seen == 2


@GATHERING
async def test_a_refused_call_does_not_wait_for_servers_that_have_not_come_for_long(
    call: Any,
) -> None:
    gate, clock = Overloaded(0.5), FakeClock()
    async with one_of_two(gate, clock) as client:
        clock.advance(5.0)
        with pytest.raises(ResourceExhausted) as caught:
            await within(call(client))
        assert "no other server" in caught.value.details["not_retried"]
        assert gate.seen == 1


@asynccontextmanager
async def back_but_one(gate: Overloaded, clock: FakeClock, away: int = 2) -> AsyncIterator[Client]:
    """Connect a client to all but one of the servers that were away; only they are listed."""
    async with servers(*[gate] * away) as all_of_them, calling(*all_of_them, clock=clock) as client:
        cluster = client.cluster
        await eventually(lambda: len(cluster.ready) == away)
        listed = {each.key: each.endpoint for each in cluster.ready}
        connections = [each.conn for each in cluster.ready]
        clock.advance(100.0)
        cluster._apply({})
        for conn in connections:
            assert conn is not None
            conn.abort(ConnectionClosed("it is told to end"))
        await eventually(lambda: not cluster.nodes)
        clock.advance(100.0)
        listed.popitem()
        cluster._apply(listed)
        await eventually(lambda: len(cluster.ready) == away - 1)
        yield client


@GATHERING
async def test_a_refused_call_comes_again_while_servers_that_were_away_are_not_listed_yet(
    call: Any,
) -> None:
    gate, clock = Overloaded(0.5), FakeClock()
    async with back_but_one(gate, clock) as client:
        others = clock.sleeping
        running = asyncio.ensure_future(call(client))
        await eventually(lambda: running.done() or clock.sleeping > others)
        assert not running.done()
        gate.seconds = None
        clock.advance(0.51)
        assert await within(running) == 1
        assert gate.seen == 2


@GATHERING
async def test_a_call_that_waits_for_servers_to_come_back_may_be_refused_more_than_four_times(
    call: Any,
) -> None:
    gate, clock = Overloaded(0.2), FakeClock()
    async with back_but_one(gate, clock) as client:
        others = clock.sleeping
        running = asyncio.ensure_future(call(client))

        def refused_again(times: int) -> bool:
            return bool(running.done()) or (gate.seen == times and clock.sleeping > others)

        for times in range(1, 7):
            await eventually(partial(refused_again, times))
            assert not running.done()
            if times == 6:
                gate.seconds = None
            clock.advance(0.61)  # and the jitter
        assert await within(running) == 1
        assert gate.seen == 7


@pytest.mark.parametrize("is_alone", [True, False])
async def test_all_calls_of_an_outage_may_wait_for_servers_to_come_back(is_alone: bool) -> None:
    gate, clock = Overloaded(0.5), FakeClock()
    async with back_but_one(gate, clock, away=2 if is_alone else 3) as client:
        calls = [asyncio.ensure_future(client.raw_call("work")) for _ in range(300)]
        await eventually(lambda: clock.sleeping >= 300)
        assert not any(call.done() for call in calls)
        gate.seconds = None
        clock.advance(1.0)
        assert await within(asyncio.gather(*calls)) == [1] * 300


async def test_a_refused_call_whose_time_is_too_short_to_come_again_says_so_at_once() -> None:
    gate, clock = Overloaded(0.5), FakeClock()
    async with one_of_two(gate, clock) as client:
        with pytest.raises(ResourceExhausted) as caught:
            await within(client.raw_call("work", timeout=0.4))
        assert "no other server" in caught.value.details["not_retried"]
        assert gate.seen == 1


async def test_a_refused_channel_says_that_its_server_refuses() -> None:
    """Its messages may be on their way, so that it is not opened again elsewhere."""
    gate = Overloaded()
    async with servers(gate) as one, calling(*one) as client:
        with pytest.raises(ResourceExhausted):
            async with client.channel("talk") as channel:
                await channel.result()
        assert client.cluster.refusing() == {str(one[0].addresses[0])}


async def test_a_server_is_tried_again_when_its_time_is_over() -> None:
    gates = [Overloaded(), Overloaded()]
    clock = FakeClock()
    async with servers(*gates) as both, calling(*both, clock=clock) as client:
        await eventually(lambda: len(client.cluster.ready) == 2)
        for _ in range(2):
            with pytest.raises(ResourceExhausted):
                await client.raw_call("work")
        gates[0].seconds = gates[1].seconds = 0.5
        clock.advance(61.0)
        before = sum(gate.seen for gate in gates)
        with pytest.raises(ResourceExhausted):
            await client.raw_call("work")
        assert sum(gate.seen for gate in gates) == before + 2


async def test_a_refused_call_of_a_session_stays_where_it_is() -> None:
    gates = [Overloaded(), Overloaded()]
    async with servers(*gates) as both, calling(*both) as client:
        await eventually(lambda: len(client.cluster.ready) == 2)
        async with client.session:
            with pytest.raises(ResourceExhausted):
                await client.raw_call("work")
        assert sum(gate.seen for gate in gates) == 1


async def test_a_late_call_is_not_sent_to_a_server_that_refuses() -> None:
    gates = [Overloaded(None), Overloaded(60.0)]
    both: list[Server] = []

    async def slow() -> int:
        await asyncio.sleep(0.05)
        return 1

    class Chosen:
        """Picks the server that refuses, unless that is left out."""

        def pick(self, candidates: Sequence[Any], affinity: str | None = None) -> Any:
            return next((it for it in candidates if it.key == chosen), candidates[0])

    async with AsyncExitStack() as stack:
        for gate in gates:
            server = serving(slow, processor_list=[gate])
            both.append(await stack.enter_async_context(server))
        chosen = str(both[1].addresses[0])
        client = await stack.enter_async_context(calling(*both, picker=Chosen()))
        await eventually(lambda: len(client.cluster.ready) == 2)
        stub = client.register(idempotent=True, hedge=0.001)(slow)
        for _ in range(20):  # each is refused by one server and served by the other
            assert await stub() == 1
        chosen = str(both[0].addresses[0])
        before = gates[1].seen, client.invoker.budget.hedges
        assert await stub() == 1
        assert (gates[1].seen, client.invoker.budget.hedges) == before


@pytest.mark.parametrize("overload", [refused(0.1), refused(0.1, unserved=False)])
def test_no_answer_for_long_ejects_no_node_while_the_service_is_overloaded(
    overload: ResourceExhausted,
) -> None:
    """A server that waits for an overloaded one behind it may answer nothing for a while."""
    each, other = node("a"), node("b")
    other.pool.counters = each.pool.counters
    other.stats.started(1000.0)
    other.record_result(1000.0, overload)
    for _ in range(20):
        each.stats.started(1000.5)
        each.record_result(1000.5, late(remote=False))
    assert each.breaker.state is BreakerState.CLOSED


async def test_no_answer_for_long_ejects_a_node_again_when_the_overload_is_over() -> None:
    clock = FakeClock()
    async with serving(work) as server, calling(server, clock=clock) as client:
        await eventually(lambda: len(client.cluster.ready) == 1)
        (each,) = client.cluster.ready
        each.stats.started(clock.monotonic())
        each.record_result(clock.monotonic(), refused(0.1, unserved=False))
        for overloaded in (True, False):
            for _ in range(5):
                then = clock.monotonic()
                each.stats.started(then)
                clock.advance(0.1)
                each.record_result(then, late(remote=False))
            assert (each.breaker.state is BreakerState.CLOSED) == overloaded
            clock.advance(6.0)


@pytest.mark.parametrize("overload", [None, refused(0.1), refused(0.1, unserved=False)])
async def test_late_calls_make_no_outlier_of_a_server_while_another_one_refuses(
    overload: ResourceExhausted | None,
) -> None:
    """In an overload one server, or a service behind it, begins to refuse before another does."""
    async with serving(work) as first, serving(work) as second:
        clock = FakeClock()
        async with calling(first, second, clock=clock) as client:
            await eventually(lambda: len(client.cluster.ready) == 2)
            one, other = client.cluster.ready
            stub: Any = client.register(work)
            method = stub.__rap_method__
            if overload:
                other.stats.started(client.monotonic())
                other.record_result(client.monotonic(), overload)
            for _ in range(200):
                then = clock.monotonic()
                clock.advance(0.01)
                for each in (one, one, other):
                    each.stats.started(then)
                one.record_result(then, None)  # of another function
                one.record_result(then, late(remote=False), method)
                other.record_result(then, None, method)
            assert one.state == ("up" if overload else "ejected")
            assert other.state == "up"


@pytest.mark.parametrize("answers", [False, True])
async def test_a_server_that_refuses_calls_is_an_outlier_only_if_it_answers_none(
    answers: bool,
) -> None:
    """Where a function hangs, the server refuses the calls that would have to wait for it."""
    async with serving(work) as first, serving(work) as second:
        clock = FakeClock()
        async with calling(first, second, clock=clock) as client:
            await eventually(lambda: len(client.cluster.ready) == 2)
            one, other = client.cluster.ready
            stub: Any = client.register(work)
            method = stub.__rap_method__
            for _ in range(200):
                then = clock.monotonic()
                clock.advance(0.01)
                for each in (one, one, one, one, other):
                    each.stats.started(then)
                one.record_result(then, None)  # of another function
                one.record_result(then, refused(0.1), method)
                one.record_result(then, late(remote=False), method)
                one.record_result(then, None if answers else refused(0.1), method)
                other.record_result(then, None, method)
            assert one.state == ("up" if answers else "ejected")
            assert other.state == "up"


async def test_a_sync_client_says_why_a_refused_call_was_not_retried() -> None:
    gates = [Overloaded(), Overloaded()]
    async with servers(*gates) as both:
        hosts = [str(server.addresses[0]) for server in both]

        def call() -> list[str]:
            with SyncClient(hosts) as client:
                found = []
                for _ in range(3):
                    with pytest.raises(ResourceExhausted) as caught:
                        client.raw_call("work")
                    found.append(caught.value.details["not_retried"])
            return found

        found = await asyncio.to_thread(call)
        assert found[-1] == "no other server takes calls now"
