"""Calls that a client does not send, because servers have refused most of the ones before."""

import asyncio
import contextlib
import gc
import random
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rap.call import Call, Side, StreamType
from rap.client import Client
from rap.client.throttle import FACTOR, Throttle, Throttles
from rap.errors import DeadlineExceeded, ResourceExhausted
from rap.server import Server
from tests.client.test_priorities import SHAPES
from tests.client.test_refusals import Overloaded, refused
from tests.fake_clock import FakeClock
from tests.loopback import calling, serving

ON_BOTH_LOOPS = True


class Flow:
    """Calls at a steady rate to a server that takes some of them."""

    def __init__(self, throttle: Throttle, seed: int = 1) -> None:
        self.throttle = throttle
        self.now = 0.0
        self._rng = random.Random(seed)

    def run(self, seconds: float, rate: float, taken: float) -> tuple[float, float]:
        """Return the calls per second that were sent, and those that were not.

        Args:
            seconds: How long.
            rate: Calls per second.
            taken: Calls per second that the server takes.
        """
        sent = rejected = 0
        credit = 0.0
        for _ in range(round(seconds * rate)):
            self.now += 1 / rate
            credit = min(credit + taken / rate, taken / 10 + 1)  # a server has a queue
            if not self.throttle.allows(self.now, self._rng.random()):
                rejected += 1
                continue
            sent += 1
            if credit >= 1.0:
                credit -= 1.0
            else:
                self.throttle.count_refusal(self.now)
        return sent / seconds, rejected / seconds


def test_a_client_sends_so_many_calls_for_each_one_that_is_taken() -> None:
    flow = Flow(Throttle(0.0))
    flow.run(2.0, rate=4000, taken=1000)
    sent, _ = flow.run(5.0, rate=4000, taken=1000)
    assert sent == pytest.approx(FACTOR * 1000 + 200, rel=0.1)  # 200 refusals are free


def test_few_refusals_have_no_effect() -> None:
    flow = Flow(Throttle(0.0))
    sent, rejected = flow.run(10.0, rate=190, taken=0)
    assert (sent, rejected) == (190, 0)


def test_names_that_others_choose_leave_a_limited_number_of_throttles() -> None:
    throttles = Throttles(FakeClock().monotonic, random.Random(1), lambda active: None)
    for number in range(10_000):
        throttles.count_refusal(f"/default/name{number}", None, ResourceExhausted("full"))
    kept = [each for it in vars(throttles).values() if isinstance(it, dict) for each in it.values()]
    assert 0 < sum(isinstance(each, Throttle) for each in kept) <= 4096


def test_some_calls_are_sent_to_servers_that_take_none() -> None:
    flow = Flow(Throttle(0.0))
    flow.run(2.0, rate=10_000, taken=0)
    sent, rejected = flow.run(10.0, rate=10_000, taken=0)
    assert 100 < sent < 300
    assert rejected > 9_000


def test_a_throttle_is_over_when_servers_take_all_calls_for_a_quarter_of_a_second() -> None:
    flow = Flow(Throttle(0.0))
    flow.run(2.0, rate=1000, taken=200)
    assert not flow.throttle.is_over(flow.now)
    flow.run(0.3, rate=1000, taken=1000)
    assert flow.throttle.is_over(flow.now)


def test_a_throttle_without_calls_is_over_after_a_while() -> None:
    throttle = Throttle(0.0)
    throttle.count_refusal(0.0)
    assert not throttle.is_over(9.0)
    assert throttle.is_over(11.0)


def test_calls_are_forgotten_within_seconds() -> None:
    throttle = Throttle(0.0)
    for _ in range(1000):
        throttle.allows(0.0, 1.0)
        throttle.count_refusal(0.0)
    assert not throttle.allows(0.0, 0.8)
    assert throttle.allows(3.0, 0.0)


class Switched:
    """Notes what throttles say of themselves."""

    def __init__(self, clock: FakeClock) -> None:
        self.heard: list[bool] = []
        self.throttles = Throttles(clock.monotonic, random.Random(1), self.heard.append)

    def call(self, method: str = "/default/f", priority: str | None = None) -> Call:
        header = {} if priority is None else {":priority": priority}
        return Call(method, StreamType.UNARY, Side.CLIENT, header)

    def refuse(self, priority: str | None = None, seconds: float = 1.5) -> None:
        """Let servers refuse many calls."""
        for _ in range(300):
            with contextlib.suppress(ResourceExhausted):
                self.throttles.check(self.call("/default/f", priority))
                self.throttles.count_refusal("/default/f", priority, refused(seconds))

    def rejects(self, method: str = "/default/f", priority: str | None = None) -> int:
        """Return how many of a hundred calls are not sent."""
        count = 0
        for _ in range(100):
            try:
                self.throttles.check(self.call(method, priority))
            except ResourceExhausted:
                count += 1
        return count


def test_functions_and_priorities_count_apart(clock: FakeClock) -> None:
    switched = Switched(clock)
    switched.refuse("sheddable")
    before = switched.throttles.rejected
    rejected = switched.rejects("/default/f", "sheddable")
    assert rejected > 40
    assert switched.rejects("/default/f", "critical") == 0
    assert switched.rejects("/default/f") == 0
    assert switched.rejects("/default/g", "sheddable") == 0
    assert switched.throttles.rejected == before + rejected


def test_the_error_says_that_the_call_was_not_sent_and_when_to_come_again(
    clock: FakeClock,
) -> None:
    switched = Switched(clock)
    switched.refuse()
    caught = None
    while caught is None:
        try:
            switched.throttles.check(switched.call())
        except ResourceExhausted as error:
            caught = error
    assert "not sent, because its servers are overloaded" in str(caught)
    assert caught.details == {"limit": "throttle", "retry_after": 1.5}
    assert caught.unserved
    assert not caught.remote


def test_throttles_end_with_the_next_call_of_any_function(clock: FakeClock) -> None:
    switched = Switched(clock)
    switched.throttles.count_refusal("/default/f", None, refused())
    assert switched.heard == [True]
    switched.throttles.check(switched.call("/default/g"))
    assert switched.throttles.active
    clock.advance(11.0)
    switched.throttles.check(switched.call("/default/g"))
    assert not switched.throttles.active
    assert switched.heard == [True, False]


async def work() -> int:
    return 1


async def other() -> int:
    return 2


@asynccontextmanager
async def overloaded(clock: FakeClock) -> AsyncIterator[tuple[Overloaded, Server, Client]]:
    gate = Overloaded(0.5)
    async with serving(work, other, processor_list=[gate]) as server:
        async with calling(server, clock=clock, rng=random.Random(1)) as client:
            yield gate, server, client


async def tried(call: Any, times: int) -> int:
    """Return how many of some calls were answered."""
    answered = 0
    for _ in range(times):
        try:
            answered += await call() > 0
        except ResourceExhausted:
            pass
    return answered


@pytest.mark.parametrize("how", ["stub", "name", "hedged", "timeout"])
async def test_a_client_whose_calls_are_all_refused_sends_few(clock: FakeClock, how: str) -> None:
    async with overloaded(clock) as (gate, _, client):
        stub: Any = client.register(work)
        call: Any = {
            "stub": stub,
            "name": lambda: client.raw_call("work"),
            "hedged": client.register(idempotent=True, hedge=5.0)(work),
            "timeout": lambda: stub(timeout=5.0),
        }[how]
        assert await tried(call, 600) == 0
        assert gate.seen < 400
        assert client.invoker.throttles is not None
        assert client.invoker.throttles.rejected == 600 - gate.seen


async def test_a_client_without_throttling_sends_every_call(clock: FakeClock) -> None:
    gate = Overloaded(0.5)
    async with serving(work, processor_list=[gate]) as server:
        async with calling(server, clock=clock, throttle=False) as client:
            for call in (client.register(work), lambda: client.raw_call("work")):
                before = gate.seen
                assert await tried(call, 300) == 0
                assert gate.seen == before + 300
            assert client.invoker.throttles is None


async def test_calls_go_the_short_way_again_when_servers_take_them(clock: FakeClock) -> None:
    async with overloaded(clock) as (gate, _, client):
        stub, innocent = client.register(work), client.register(other)
        await tried(stub, 600)
        assert client.invoker.pick() is None
        gate.seconds = None
        clock.advance(1.0)
        while client.invoker.throttles is not None and client.invoker.throttles.active:
            await tried(stub, 1)
            clock.advance(0.01)
        assert await tried(stub, 10) == 10
        assert await tried(innocent, 1) == 1
        assert client.invoker.pick() is not None
        assert client.invoker.throttles is not None
        assert not client.invoker.throttles.active


async def test_another_function_of_an_overloaded_server_is_called(clock: FakeClock) -> None:
    async with overloaded(clock) as (gate, _, client):
        await tried(client.register(work), 600)
        gate.seconds = None
        assert await tried(client.register(other), 50) == 50


async def test_a_call_without_refusals_makes_no_throttle() -> None:
    async with serving(work) as server, calling(server) as client:
        assert await client.register(work)() == 1
        assert client.invoker.throttles is None


@SHAPES
async def test_calls_of_every_shape_are_throttled(call: Any, clock: FakeClock) -> None:
    from tests.client.test_priorities import FUNCTIONS

    gate = Overloaded(0.5)
    async with serving(*FUNCTIONS, processor_list=[gate]) as server:
        async with calling(server, clock=clock, rng=random.Random(1)) as client:
            for _ in range(300):
                with pytest.raises(ResourceExhausted):
                    await call(client)
            assert client.invoker.throttles is not None
            assert client.invoker.throttles.rejected > 50


async def test_a_refused_call_leaves_no_cycle_to_the_garbage_collector() -> None:
    async with serving(work, processor_list=[Overloaded(5.0)]) as server:
        async with calling(server) as client:
            stub = client.register(work)

            async def failed(call: Any) -> "weakref.ref[BaseException]":
                try:
                    await call()
                except ResourceExhausted as error:
                    return weakref.ref(error)
                raise AssertionError

            for call in (stub, lambda: client.raw_call("work")):
                await failed(call)
                gc.collect()
                gc.disable()
                try:
                    found = await failed(call)
                    await asyncio.sleep(0)  # the loop has it in its present callback
                    assert found() is None
                finally:
                    gc.enable()


async def test_the_error_names_the_server_that_refused(clock: FakeClock) -> None:
    async with overloaded(clock) as (_, server, client):
        for call in (client.register(work), lambda: client.raw_call("work")):
            with pytest.raises(ResourceExhausted) as caught:
                await call()
            address = server.addresses[0]
            assert str(caught.value) == f"/default/work on {address}: overloaded"


async def test_a_deadline_without_a_refusal_makes_no_throttle() -> None:
    async def hang() -> int:
        await asyncio.Event().wait()
        return 1

    async with serving(hang) as server, calling(server) as client:
        with pytest.raises(DeadlineExceeded):
            await client.raw_call("hang", timeout=0.01)
        assert client.invoker.throttles is None
