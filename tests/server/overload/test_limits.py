"""Limits on the calls of a function that run at a time, fixed and found."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rap.call import PRIORITIES
from rap.client import Client
from rap.errors import CallError, DeadlineExceeded, ResourceExhausted, Unavailable
from rap.registry import MemoryRegistry
from rap.server import Server
from rap.server.overload.limits import AdaptiveLimit, FixedLimit, Shares
from rap.server.overload.lookout import Lookout
from tests.fake_clock import FakeClock
from tests.loopback import calling, eventually, serving, within

CRITICAL, DEFAULT, SHEDDABLE = range(len(PRIORITIES))


class Conn:
    """A connection."""


class Running:
    """A call of a function under a limit; it is its own task."""

    method = "/default/f"

    def __init__(self, deadline: float, conn: Conn | None = None) -> None:
        self.conn = conn or Conn()
        self.deadline = deadline
        self.error: CallError | None = None
        self.is_excused = False
        self.has_ended = False
        self.ended: list[Any] = []

    @property
    def task(self) -> Any:
        return self

    def done(self) -> bool:
        return self.has_ended

    def add_done_callback(self, callback: Any) -> None:
        self.ended.append(callback)

    def end(self, error: CallError | None = None) -> None:
        self.error = error
        self.has_ended = True
        for callback in self.ended:
            callback(self)


class Backend:
    """A function that serves some calls at a time, in order; the others of its calls wait.

    Args:
        places: Calls that it serves at a time.
        seconds: Seconds that each takes.
        timeout: Deadline of its calls.
        hanging: Every so many calls one hangs; 0: none.
    """

    def __init__(
        self, places: int, seconds: float, timeout: float, *, limited: bool = True, hanging: int = 0
    ) -> None:
        self.clock = FakeClock()
        self.conn = Conn()
        self.capacity = places / seconds
        self.is_watched = False
        self._limited = limited
        self._lookout: Lookout[Running] = Lookout(
            self.clock.monotonic, self._call_soon, self._watch
        )
        self.limit = self._new_limit()
        self._sampled_at = 0.0
        self._running: dict[Running, float] = {}  # when they began
        self.good = self.expired = self.refused = 0
        self._places = places
        self._seconds = seconds
        self._timeout = timeout
        self._hanging = hanging
        self._count = 0
        self._waiting: list[Running] = []
        self._serving: list[tuple[float, Running]] = []
        self._hung: list[Running] = []

    def offer(self, rate: float, duration: float) -> float:
        """Let calls arrive for some time; return how many were answered in time, per second."""
        step = 0.001
        good, owed = self.good, 0.0
        for _ in range(round(duration / step)):
            owed += rate * step
            while owed >= 1:
                owed -= 1
                self._arrive()
            self.clock.advance(step)
            self._work()
        return (self.good - good) / duration

    def slow_down(self, factor: float) -> None:
        """Let each call take so many times as long."""
        self._seconds *= factor

    def burst(self, calls: int) -> None:
        """Let calls arrive at once."""
        for _ in range(calls):
            self._arrive()

    def _arrive(self) -> None:
        now = self.clock.monotonic()
        call = Running(now + self._timeout, self.conn)
        if self.is_watched and self.limit.refuses(call, DEFAULT, now):
            self.refused += 1
            return
        if now >= self._sampled_at + 0.01:
            self._sampled_at = now
            self._lookout.add(call, now)
        self._running[call] = now
        call.add_done_callback(self._running.pop)
        if self.is_watched:
            self.limit.enter(call, call.task, now)
        self._count += 1
        if self._hanging and self._count % self._hanging == 0:
            self._hung.append(call)
        else:
            self._waiting.append(call)

    def _work(self) -> None:
        now = self.clock.monotonic()
        for calls in (self._waiting, self._hung):
            while calls and calls[0].deadline <= now:
                self._expire(calls.pop(0))
        for at, call in [*self._serving]:
            if call.deadline <= now:
                self._serving.remove((at, call))
                self._expire(call)
            elif at <= now:
                self._serving.remove((at, call))
                self.good += 1
                call.end()
        while self._waiting and len(self._serving) < self._places:
            self._serving.append((now + self._seconds, self._waiting.pop(0)))

    def _expire(self, call: Running) -> None:
        self.expired += 1
        call.end(DeadlineExceeded("late"))
        self._watch(call)

    def _watch(self, call: Running) -> None:
        if self._limited and not self.is_watched:
            self.is_watched = True
            self.limit = self._new_limit()
            self.limit.watch(call)

    def _new_limit(self) -> AdaptiveLimit:
        usual = self._lookout.usual(Running.method)
        return AdaptiveLimit(self.clock.monotonic, self._of_conn, usual)

    def _of_conn(self, call: Running) -> Iterable[tuple[Running, Any, float]]:
        return [(each, each, began) for each, began in self._running.items()]

    def _call_soon(self, callback: Any, *args: Any) -> None:
        callback(*args)


@pytest.mark.parametrize("load", [1.2, 2, 4, 10])
@pytest.mark.parametrize(("places", "seconds"), [(20, 0.05), (100, 0.2), (20, 0.01)])
def test_a_function_that_waits_goes_on_answering_what_it_can(
    load: float, places: int, seconds: float
) -> None:
    backend = Backend(places, seconds, timeout=0.5)
    backend.offer(load * backend.capacity, 4)
    assert backend.offer(load * backend.capacity, 4) >= 0.9 * backend.capacity


@pytest.mark.parametrize("load", [1.2, 2, 4, 10])
@pytest.mark.parametrize(("places", "seconds"), [(20, 0.05), (5, 0.05), (200, 0.05), (2, 0.02)])
def test_hardly_any_call_is_lost_before_there_is_a_limit(
    load: float, places: int, seconds: float
) -> None:
    backend = Backend(places, seconds, timeout=0.5)
    backend.offer(0.5 * backend.capacity, 1)
    assert backend.offer(load * backend.capacity, 1) >= (0.9, 0.75)[load > 2] * backend.capacity
    assert backend.offer(load * backend.capacity, 1) >= 0.9 * backend.capacity
    if load <= 2:
        assert backend.expired == 0


@pytest.mark.parametrize("load", [1.2, 2, 4])
def test_a_server_that_starts_under_overload_answers_what_it_can_within_a_second(
    load: float,
) -> None:
    backend = Backend(20, 0.05, timeout=0.5)
    backend.offer(load * backend.capacity, 1)
    assert backend.offer(load * backend.capacity, 1) >= 0.9 * backend.capacity


@pytest.mark.parametrize(("places", "seconds"), [(100, 0.1), (100, 0.2), (50, 0.3), (50, 0.4)])
def test_calls_that_take_long_without_waiting_are_not_refused(places: int, seconds: float) -> None:
    backend = Backend(places, seconds, timeout=0.5)
    for load in (0.1, 0.9, 0.3, 0.9):
        backend.offer(load * backend.capacity, 2)
    assert backend.refused == backend.expired == 0


@pytest.mark.parametrize("places", [20, 10_000])
def test_a_burst_of_calls_with_much_time_is_not_refused(places: int) -> None:
    backend = Backend(places, 0.05, timeout=9)
    backend.offer(20, 2)
    backend.offer(100_000, 0.01)
    backend.offer(0, 9)
    assert backend.refused == backend.expired == 0


def test_a_burst_of_calls_that_do_not_wait_for_each_other_is_not_refused() -> None:
    backend = Backend(10_000, 0.05, timeout=0.5)
    for _ in range(10):
        backend.offer(20, 1)
        backend.offer(100_000, 0.01)
    assert backend.refused == backend.expired == 0


@pytest.mark.parametrize("seconds", [0.02, 0.2, 0.25, 0.3, 0.4])
def test_calls_that_something_else_makes_slow_lose_the_limit_that_a_pause_has_brought(
    seconds: float,
) -> None:
    backend = Backend(1000, 0.02, timeout=0.5)
    backend.offer(400, 2)
    backend.slow_down(1e6)
    backend.offer(400, 0.8)
    backend.slow_down(1e-6 * seconds / 0.02)
    backend.offer(400, 10)
    assert backend.offer(400, 4) >= 0.95 * 400


@pytest.mark.parametrize("places", [5, 20])
def test_a_long_overload_costs_hardly_anything_at_any_time(places: int) -> None:
    backend = Backend(places, 0.05, timeout=0.5)
    backend.offer(0.5 * backend.capacity, 1)
    assert all(backend.offer(2 * backend.capacity, 1) >= 0.9 * backend.capacity for _ in range(40))
    assert backend.expired == 0


def test_without_a_limit_it_answers_hardly_any_in_time() -> None:
    backend = Backend(20, 0.05, timeout=0.5, limited=False)
    backend.offer(2 * backend.capacity, 4)
    assert backend.offer(2 * backend.capacity, 4) < 0.5 * backend.capacity


def test_the_first_limit_comes_within_a_second() -> None:
    backend = Backend(20, 0.05, timeout=0.5)
    backend.offer(2 * backend.capacity, 1.2)
    assert backend.limit.most < inf


def test_it_is_at_its_full_rate_as_soon_as_the_load_has_fallen() -> None:
    backend = Backend(20, 0.05, timeout=0.5)
    backend.offer(4 * backend.capacity, 6)
    backend.offer(0.5 * backend.capacity, 1)
    lost = backend.refused + backend.expired
    backend.offer(0.5 * backend.capacity, 4)
    assert backend.refused + backend.expired == lost


def test_a_limit_ends_when_it_has_refused_nothing_for_a_minute() -> None:
    backend = Backend(20, 0.05, timeout=0.5)
    backend.offer(2 * backend.capacity, 4)
    assert backend.limit.is_needed
    backend.offer(0.5 * backend.capacity, 1)
    backend.clock.advance(61)
    assert not backend.limit.is_needed


@pytest.mark.parametrize("hanging", [5, 3])
def test_calls_that_hang_beside_quick_ones_bring_no_limit(hanging: int) -> None:
    backend = Backend(1000, 0.01, timeout=0.5, hanging=hanging)
    backend.offer(200, 10)
    assert backend.limit.most == inf
    assert backend.refused == 0


def test_a_backend_that_gets_slower_is_followed_and_so_is_one_that_recovers() -> None:
    backend = Backend(20, 0.02, timeout=0.5)
    backend.offer(1200, 4)
    backend.slow_down(5)
    backend.offer(1200, 6)
    assert backend.offer(1200, 4) >= 0.85 * 200
    backend.slow_down(1 / 5)
    backend.offer(1200, 8)
    assert backend.offer(1200, 4) >= 0.85 * 1000


def test_a_limit_that_an_outage_has_brought_rises_at_once_when_it_is_over() -> None:
    backend = Backend(1000, 0.005, timeout=1)
    backend.slow_down(1e6)
    backend.offer(500, 4)
    assert backend.limit.most <= 20
    backend.slow_down(1e-6)
    backend.offer(0, 1)
    for _ in range(3):
        backend.burst(100)
        backend.offer(100, 0.25)
    refused = backend.refused
    backend.burst(100)
    assert backend.refused == refused


def test_a_limit_ends_when_calls_are_quick_and_none_is_refused() -> None:
    backend = Backend(20, 0.01, timeout=0.5)
    backend.offer(2 * backend.capacity, 4)
    assert backend.limit.most < inf
    backend.offer(0.5 * backend.capacity, 2)
    assert backend.limit.most == inf


def test_calls_that_wait_for_each_other_keep_their_limit_though_they_are_quick() -> None:
    backend = Backend(1, 0.002, timeout=0.5)
    backend.offer(2 * backend.capacity, 4)
    offered = 2 * backend.capacity
    assert backend.offer(offered, 4) >= 0.9 * backend.capacity
    assert backend.limit.most < inf


def test_critical_calls_pass_a_limit_and_sheddable_ones_leave_room() -> None:
    limit = FixedLimit(10, spares_critical=True)
    calls = []
    for count in range(12):
        calls.append(Running(1))
        assert limit.refuses(calls[-1], SHEDDABLE, 0) == (count >= 8)
        assert limit.refuses(calls[-1], DEFAULT, 0) == (count >= 10)
        assert not limit.refuses(calls[-1], CRITICAL, 0)
        limit.enter(calls[-1], calls[-1].task, 0)
    for call in calls:
        call.end()
    assert limit.running == 0


def test_a_client_with_few_calls_does_not_lose_them_to_one_with_many() -> None:
    backend = Backend(20, 0.05, timeout=0.5)
    backend.offer(4 * backend.capacity, 4)
    now = backend.clock.monotonic()
    while not backend.limit.refuses(call := Running(now + 0.5, backend.conn), DEFAULT, now):
        backend.limit.enter(call, call.task, now)
    assert not backend.limit.refuses(Running(now + 0.5, Conn()), DEFAULT, now)


@given(
    most=st.integers(1, 100),
    moves=st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=400),
)
def test_equal_shares_exceed_the_limit_by_less_than_one_call_of_each(
    most: int, moves: list[tuple[int, bool]]
) -> None:
    shares, counts = Shares(), [0] * 6
    for conn, comes in moves:
        if not comes and counts[conn]:
            shares.remove(conn)
            counts[conn] -= 1
        elif comes and shares.has_room(conn, most):
            connections = sum(map(bool, counts)) + (not counts[conn])
            assert counts[conn] * connections < most
            shares.add(conn)
            counts[conn] += 1
        elif comes and sum(counts) < most:
            shares.add(conn)
            counts[conn] += 1


@given(most=st.integers(1, 1000))
def test_a_limit_leaves_at_least_one_place_to_each_priority(most: int) -> None:
    limit = FixedLimit(most)
    for priority in (CRITICAL, DEFAULT, SHEDDABLE):
        assert not limit.refuses(Running(1), priority, 0)


@given(
    load=st.floats(0.1, 6),
    places=st.integers(1, 60),
    seconds=st.floats(0.002, 0.3),
    hanging=st.sampled_from([0, 0, 2, 7]),
)
@settings(max_examples=15, deadline=None)
def test_every_call_that_enters_leaves(
    load: float, places: int, seconds: float, hanging: int
) -> None:
    backend = Backend(places, seconds, timeout=0.5, hanging=hanging)
    backend.offer(min(load * backend.capacity, 2000), 2)
    backend.offer(0, 1)
    assert backend.limit.running == 0


# With a server.


class Door:
    """Handlers that wait until the test opens it."""

    def __init__(self) -> None:
        self.inside = 0
        self.open = asyncio.Event()
        self.opened = threading.Event()

    async def wait(self) -> int:
        self.inside += 1
        try:
            await self.open.wait()
        finally:
            self.inside -= 1
        return 1

    async def items(self) -> AsyncIterator[int]:
        yield await self.wait()

    def block(self) -> int:
        self.inside += 1
        assert self.opened.wait(10)
        return 1

    def numbers(self) -> Iterator[int]:
        yield self.block()

    def release(self) -> None:
        self.open.set()
        self.opened.set()


@pytest.fixture
def door() -> Iterator[Door]:
    found = Door()
    yield found
    found.opened.set()


async def take(client: Client, name: str) -> Any:
    if name in ("items", "numbers"):
        return [item async for item in client.iterator_call(name)]
    return await client.raw_call(name)


@pytest.mark.parametrize("name", ["wait", "items", "block", "numbers"])
async def test_no_more_calls_of_a_function_run_than_it_allows(door: Door, name: str) -> None:
    async with serving(close_timeout=5) as server, calling(server, max_attempts=1) as client:
        server.register(getattr(door, name), max_concurrency=3)
        calls = [asyncio.create_task(take(client, name)) for _ in range(3)]
        await eventually(lambda: door.inside == 3)
        with pytest.raises(ResourceExhausted, match="max_concurrency") as caught:
            await within(take(client, name))
        assert caught.value.unserved
        assert caught.value.details["limit"] == "max_concurrency"
        door.release()
        await within(asyncio.gather(*calls))
        await within(take(client, name))


async def test_no_more_calls_run_than_the_server_allows_except_critical_ones(door: Door) -> None:
    async with (
        serving(max_concurrency=2, close_timeout=5) as server,
        calling(server, max_attempts=1) as client,
    ):
        server.register(door.wait)
        server.register(door.items)
        server.register(door.wait, "urgent", priority="critical")
        calls = [asyncio.create_task(take(client, name)) for name in ("wait", "items")]
        await eventually(lambda: door.inside == 2)
        with pytest.raises(ResourceExhausted):
            await within(take(client, "wait"))
        calls.append(asyncio.create_task(take(client, "urgent")))
        await eventually(lambda: door.inside == 3)
        assert await client.raw_call("list", group="registry")
        door.release()
        await within(asyncio.gather(*calls))


async def test_a_cancelled_call_gives_its_place_back_though_it_never_ran(door: Door) -> None:
    async with serving(close_timeout=5) as server, calling(server, max_attempts=1) as client:
        server.register(door.wait, max_concurrency=3)
        for _ in range(10):
            calls = [asyncio.create_task(take(client, "wait")) for _ in range(3)]
            await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        await eventually(lambda: not server.connection_manager.open_calls)
        door.release()
        assert await within(asyncio.gather(*[take(client, "wait") for _ in range(3)])) == [1] * 3


async def test_a_function_whose_calls_wait_gets_a_limit_that_the_state_shows() -> None:
    turns = asyncio.Semaphore(2)

    async def slow() -> None:
        async with turns:
            await asyncio.sleep(0.02)

    async with serving(slow) as server, calling(server, max_attempts=1) as client:

        async def call() -> None:
            await client.raw_call("slow", timeout=0.2)

        async def until_limited() -> None:
            calls: set[asyncio.Task[None]] = set()
            while not server.overload_state.limits:
                calls |= {asyncio.create_task(call()) for _ in range(5)}
                await asyncio.sleep(0.01)
            await asyncio.gather(*calls, return_exceptions=True)

        await within(until_limited())
        assert 4 <= server.overload_state.limits["/default/slow"] <= 40


async def test_calls_that_wait_for_a_service_that_is_away_bring_no_limit() -> None:
    stock = Client(service="stock", registry=MemoryRegistry(), wait_for_ready=True)

    async def order() -> None:
        with suppress(Unavailable):
            await stock.raw_call("get")
        await asyncio.Event().wait()

    async with serving(order) as server, calling(server, max_attempts=1) as client:
        for _ in range(8):
            calls = [client.raw_call("order", timeout=0.1) for _ in range(10)]
            found = await within(asyncio.gather(*calls, return_exceptions=True))
            assert all(isinstance(each, DeadlineExceeded) for each in found), found
        assert not server.overload_state.limits
    await stock.close()


async def test_calls_that_would_wait_too_long_for_a_thread_are_refused(door: Door) -> None:
    def work() -> int:
        assert not door.opened.wait(0.02)
        return 1

    async with serving(threads=1) as server, calling(server, max_attempts=1) as client:
        server.register(work)
        assert await client.raw_call("work") == 1  # about 20 ms
        calls = [client.raw_call("work", timeout=0.5) for _ in range(100)]
        found = await within(asyncio.gather(*calls, return_exceptions=True))
        assert found.count(1) >= 5
        refused = [each for each in found if isinstance(each, ResourceExhausted)]
        assert len(refused) >= 70
        assert {each.details["limit"] for each in refused} == {"threads"}


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "many"])
def test_a_bad_limit_is_an_error(value: Any) -> None:
    with pytest.raises(ValueError, match="max_concurrency must be an integer"):
        Server(max_concurrency=value)
    with pytest.raises(ValueError, match="max_concurrency must be an integer"):
        Server().register(Door().wait, max_concurrency=value)
