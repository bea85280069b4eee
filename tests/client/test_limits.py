"""Limits of a client: calls in flight, calls that wait, connections to one server."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rap.client import Channel, Client
from rap.client.waiting import PickQueue
from rap.clock import NEVER, SystemClock
from rap.errors import ResourceExhausted, Unavailable
from rap.server import Channel as ServerChannel
from rap.server import Server
from tests.fake_clock import FakeClock
from tests.loopback import calling, eventually, serving, within


class Gate:
    """A handler that holds its callers until the test opens it."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.open = asyncio.Event()

    async def enter(self) -> int:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.open.wait()
        finally:
            self.inside -= 1
        return 1

    async def items(self) -> AsyncIterator[int]:
        yield await self.enter()

    async def talk(self, channel: ServerChannel) -> None:
        await channel.write(await self.enter())


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def server(gate: Gate) -> AsyncIterator[Server]:
    async with serving(gate.enter, gate.items, gate.talk, max_streams=4) as server:
        yield server
        gate.open.set()


def tasks_of(client: Client, count: int, timeout: float | None = None) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(client.raw_call("enter", timeout=timeout)) for _ in range(count)]


def connections(client: Client) -> int:
    return sum(len(node.pool.connections) for node in client.cluster.nodes.values())


async def test_max_in_flight_makes_further_calls_wait(server: Server, gate: Gate) -> None:
    async with calling(server, max_in_flight=3) as client:
        tasks = tasks_of(client, 10)
        await eventually(lambda: gate.inside == 3 and len(client.cluster.waiters) == 7)
        gate.open.set()
        assert await within(asyncio.gather(*tasks)) == [1] * 10
        assert gate.most == 3


async def test_the_call_after_max_waiting_fails_at_once(server: Server, gate: Gate) -> None:
    async with calling(server, max_in_flight=1, max_waiting=2) as client:
        tasks = tasks_of(client, 3)
        await eventually(lambda: len(client.cluster.waiters) == 2)
        with pytest.raises(ResourceExhausted, match="2 calls wait for a server, which is max_wai"):
            await client.raw_call("enter")
        gate.open.set()
        assert await within(asyncio.gather(*tasks)) == [1] * 3
        assert client.cluster.ready[0].breaker.state.value == "closed"


async def test_a_call_that_waits_too_long_says_what_is_full(server: Server, gate: Gate) -> None:
    async with calling(server, max_in_flight=1) as client:
        task = tasks_of(client, 1)[0]
        await eventually(lambda: gate.inside == 1)
        with pytest.raises(Unavailable, match="its max_in_flight is reached"):
            await client.raw_call("enter", timeout=0.02)
        gate.open.set()
        assert await within(task) == 1


async def test_calls_that_wait_for_a_place_are_not_served_in_vain() -> None:
    """Where too many wait, each would get its place just before its deadline."""
    begun = 0

    async def work() -> int:
        nonlocal begun
        begun += 1
        await asyncio.sleep(0.2)
        return 1

    async with serving(work) as server, calling(server, max_in_flight=2) as client:
        stub = client.register(timeout=1.2)(work)
        assert await stub() == 1
        calls = [stub() for _ in range(100)]
        found = await within(asyncio.gather(*calls, return_exceptions=True))
        answered = found.count(1)
        assert begun == 1 + answered
        assert answered >= 4
        failed = next(each for each in found if isinstance(each, Exception))
        assert isinstance(failed, Unavailable)
        assert "its max_in_flight is reached" in str(failed)
        assert not client.cluster.waiters


async def test_a_call_that_will_find_no_place_in_time_fails_at_once_and_says_so(
    clock: FakeClock,
) -> None:
    turns = asyncio.Semaphore(0)

    async def enter() -> int:
        await turns.acquire()
        return 1

    async with serving(enter) as server, calling(server, max_in_flight=1, clock=clock) as client:
        tasks = tasks_of(client, 2000, timeout=900.0)
        await eventually(lambda: len(client.cluster.waiters) == 1999)
        turns.release()
        await eventually(lambda: len(client.cluster.waiters) == 1998)
        clock.advance(0.2)
        said = r"waited 0(\.0\d*)? s, and an answer takes longer than the rest of its time"
        with pytest.raises(Unavailable, match=said):
            await within(client.raw_call("enter", timeout=5.0))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_queue_knows_when_the_turn_of_one_more_call_would_come() -> None:
    clock = FakeClock()
    queue = PickQueue(1000, clock)
    assert queue.expected_wait(clock.monotonic()) == 0.0
    tasks = [asyncio.create_task(queue.wait(lambda: NEVER)) for _ in range(100)]
    await eventually(lambda: len(queue.queue) == 100)
    assert queue.expected_wait(clock.monotonic()) == 0.0  # none had its turn yet
    for _ in range(10):
        clock.advance(0.05)
        queue.wake(2)
    assert queue.expected_wait(clock.monotonic()) == pytest.approx(80 / 40)
    clock.advance(10.0)  # the pace before a stall does not count after it
    for _ in range(10):
        clock.advance(0.1)
        queue.wake(1)
        queue.expected_wait(clock.monotonic())
    assert queue.expected_wait(clock.monotonic()) == pytest.approx(70 / 10)
    queue.wake_all()
    await within(asyncio.gather(*tasks))
    assert queue.expected_wait(clock.monotonic()) == 0.0


async def test_the_queue_expects_a_stall_to_last_as_long_again_and_the_pace_to_stay() -> None:
    clock = FakeClock()
    queue = PickQueue(1000, clock)
    tasks = [asyncio.create_task(queue.wait(lambda: NEVER)) for _ in range(800)]
    await eventually(lambda: len(queue.queue) == 800)
    for _ in range(10):
        clock.advance(0.05)
        queue.wake(20)
        queue.expected_wait(clock.monotonic())
    for n in range(300):  # each new call looks
        assert queue.expected_wait(clock.monotonic()) == pytest.approx(600 / 400 + n / 100)
        clock.advance(0.01)
    queue.wake(20)
    for n in range(20):
        found = queue.expected_wait(clock.monotonic())
        assert found == 0.0 or found == pytest.approx(len(queue.queue) / 400)
        assert found or n < 3
        clock.advance(0.05)
        queue.wake(20)
    queue.wake_all()
    await within(asyncio.gather(*tasks))


async def test_the_queue_knows_the_pace_of_a_server_with_long_pauses_between_turns() -> None:
    clock = FakeClock()
    queue = PickQueue(1000, clock)
    tasks = [asyncio.create_task(queue.wait(lambda: NEVER)) for _ in range(20)]
    await eventually(lambda: len(queue.queue) == 20)
    for _ in range(10):
        clock.advance(3.0)
        queue.wake(1)
        assert queue.expected_wait(clock.monotonic()) == pytest.approx(len(queue.queue) * 3.0)
    queue.wake_all()
    await within(asyncio.gather(*tasks))


async def test_new_calls_wait_while_a_full_server_stalls_for_less_than_their_time() -> None:
    turns, clock = asyncio.Semaphore(0), FakeClock()

    async def enter() -> int:
        await turns.acquire()
        return 1

    async with serving(enter) as server:
        async with calling(server, clock=clock, max_in_flight=1) as client:
            waiters, tasks = client.cluster.waiters, tasks_of(client, 80, timeout=900.0)
            await eventually(lambda: len(waiters) == 79)
            for left in range(78, 58, -1):
                clock.advance(0.05)
                turns.release()
                await eventually(lambda left=left: len(waiters) == left)  # type: ignore[misc]
            for _ in range(10):
                first = next(iter(waiters))
                clock.advance(0.3)
                await eventually(lambda first=first: first not in waiters)  # type: ignore[misc]
                waiting = len(waiters)
                call = tasks_of(client, 1, timeout=9.0)[0]
                await eventually(
                    lambda call=call, waiting=waiting: call.done() or len(waiters) > waiting  # type: ignore[misc]
                )
                assert not call.done()
                tasks.append(call)
            for _ in tasks:
                turns.release()
            assert await within(asyncio.gather(*tasks)) == [1] * 90


@pytest.mark.parametrize("how", ["cancel", "fail", "answer"])
async def test_whatever_way_a_call_ends_the_next_one_goes_on(
    server: Server, gate: Gate, how: str
) -> None:
    clock = FakeClock()
    async with calling(server, max_in_flight=1, clock=clock) as client:
        stub = client.register("enter", timeout=9.0 if how == "fail" else None)(declared)
        first = asyncio.ensure_future(stub())
        await eventually(lambda: gate.inside == 1)
        waiting = client.register("enter", timeout=90.0)(declared)
        second = asyncio.ensure_future(waiting())
        await eventually(lambda: client.cluster.waiters)
        if how == "cancel":
            first.cancel()
        elif how == "fail":
            clock.advance(9.1)
        elif how == "answer":
            gate.open.set()
        await asyncio.wait([first])
        gate.open.set()
        assert await within(second) == 1
        assert first.cancelled() or first.exception() is None or how == "fail"


async def declared() -> int:
    raise AssertionError("it runs on the server")


async def test_the_turn_of_a_cancelled_waiter_goes_to_the_next(server: Server, gate: Gate) -> None:
    async with calling(server, max_in_flight=1) as client:
        first, second, third = tasks_of(client, 3)
        await eventually(lambda: len(client.cluster.waiters) == 2)
        first.cancel()
        await asyncio.wait([first])
        second.cancel()  # it is its turn, but it has not run yet
        gate.open.set()
        assert await within(third) == 1
        await asyncio.wait([second])


async def test_a_second_connection_is_opened_when_the_first_is_full(
    server: Server, gate: Gate
) -> None:
    async with calling(server) as client:
        tasks = tasks_of(client, 10)
        await eventually(lambda: gate.inside == 10)
        assert connections(client) == 3
        gate.open.set()
        assert await within(asyncio.gather(*tasks)) == [1] * 10


async def test_streams_and_channels_count_too(server: Server, gate: Gate) -> None:
    async with calling(server, max_connections=8) as client:

        @client.register()
        async def talk(channel: Channel) -> int:
            return int(await channel.read_body())

        channel: Any = talk
        tasks = [
            *(asyncio.ensure_future(anext(client.iterator_call("items"))) for _ in range(5)),
            *(asyncio.ensure_future(channel()) for _ in range(5)),
            *tasks_of(client, 5),
        ]
        await eventually(lambda: gate.inside == 15)
        assert connections(client) == 4
        gate.open.set()
        assert await within(asyncio.gather(*tasks)) == [1] * 15
        (node,) = client.cluster.nodes.values()
        assert (node.stats.in_flight, node.stats.open_streams) == (0, 0)


async def test_beyond_max_connections_calls_wait_for_a_place(server: Server, gate: Gate) -> None:
    async with calling(server, max_connections=2) as client:
        tasks = tasks_of(client, 200)
        items = [asyncio.ensure_future(anext(client.iterator_call("items"))) for _ in range(9)]
        await eventually(lambda: gate.inside == 8 and len(client.cluster.waiters) == 201)
        with pytest.raises(Unavailable, match="its 2 connections have 8 calls open"):
            await within(client.raw_call("enter", timeout=0.05))
        with pytest.raises(Unavailable, match="its 2 connections have 8 calls open"):
            await within(anext(client.iterator_call("items", timeout=0.05)))
        gate.open.set()
        assert await within(asyncio.gather(*tasks, *items)) == [1] * 209
        (node,) = client.cluster.nodes.values()
        assert node.stats.in_flight == 0
        assert node.breaker.state.value == "closed"
        assert connections(client) == 2


async def test_calls_beyond_the_limits_of_a_server_all_get_their_turn() -> None:
    async def square(n: int) -> int:
        await asyncio.sleep(0)
        return n * n

    # Without `shed`: on a busy machine the server would refuse some, as if it were overloaded.
    async with serving(square, shed=False) as server, calling(server) as client:
        calls = [client.raw_call("square", n, timeout=60) for n in range(5000)]
        assert await asyncio.gather(*calls) == [n * n for n in range(5000)]


async def test_calls_that_wait_come_before_those_that_are_made_later(
    server: Server, gate: Gate
) -> None:
    """Callers that call again and again would otherwise take every place that becomes free."""
    order: list[int] = []

    async def call_twice(client: Client, n: int) -> None:
        for _ in range(2):
            await client.raw_call("enter")
            order.append(n)

    async with calling(server, max_in_flight=2) as client:
        gate.open.set()
        await within(asyncio.gather(*(call_twice(client, n) for n in range(8))))
    assert sorted(order[:8]) == [*range(8)]


async def test_calls_of_a_session_wait_for_a_place_on_its_connection(
    server: Server, gate: Gate
) -> None:
    async with calling(server, max_waiting=9) as client, client.session as session:
        tasks = tasks_of(client, 10)
        await eventually(lambda: gate.inside == 4)
        with pytest.raises(ResourceExhausted, match="4 calls open"):
            await within(client.raw_call("enter", timeout=0.01))
        gate.open.set()
        assert await within(asyncio.gather(*tasks)) == [1] * 10
        assert session.in_session


async def test_a_full_server_is_left_for_one_with_room(server: Server, gate: Gate) -> None:
    async with serving(gate.enter) as roomy, calling(server, roomy, max_connections=1) as client:
        await eventually(lambda: len(client.cluster.ready) == 2)
        tasks = tasks_of(client, 100)
        await eventually(lambda: gate.inside == 100)
        gate.open.set()
        assert await within(asyncio.gather(*tasks)) == [1] * 100


async def test_calls_wait_for_the_connection_that_is_being_opened(
    server: Server, gate: Gate
) -> None:
    async with calling(server) as client:
        for count in (4, 8, 12, 16):
            tasks = tasks_of(client, count)
            await eventually(lambda count=count: gate.inside == count)  # type: ignore[misc]
            gate.open.set()
            await within(asyncio.gather(*tasks))
            gate.open.clear()


async def test_room_that_a_channel_leaves_is_found(server: Server, gate: Gate) -> None:
    """No message tells the client when the server's half of a channel has ended."""
    async with calling(server, max_connections=1) as client:
        iterators = [client.iterator_call("items") for _ in range(4)]
        gate.open.set()
        for iterator in iterators:
            await anext(iterator)
        await asyncio.gather(*(iterator.aclose() for iterator in iterators))
        assert await within(client.raw_call("enter")) == 1


# The queue itself.


async def test_waiting_is_in_order() -> None:
    waiting = PickQueue(10, SystemClock())
    order: list[int] = []

    async def wait(n: int) -> None:
        await waiting.wait(lambda: NEVER)
        order.append(n)

    tasks = [asyncio.create_task(wait(n)) for n in range(5)]
    await asyncio.sleep(0)
    for n in range(5):
        waiting.wake()
        await eventually(lambda n=n: len(order) == n + 1)  # type: ignore[misc]
    assert order == [*range(5)]
    await asyncio.gather(*tasks)
    waiting.wake()  # nobody is there


async def test_all_waiting_may_fail_or_go_on_together() -> None:
    waiting = PickQueue(10, SystemClock())
    tasks = [asyncio.create_task(waiting.wait(lambda: NEVER)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting.fail(Unavailable("closed"))
    for task in tasks:
        with pytest.raises(Unavailable, match="closed"):
            await task
    tasks = [asyncio.create_task(waiting.wait(lambda: NEVER)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting.wake_all()
    await within(asyncio.gather(*tasks))
    assert not waiting.queue


async def test_a_call_that_waits_too_long_leaves_the_queue() -> None:
    clock = SystemClock()
    waiting = PickQueue(10, clock)
    with pytest.raises(TimeoutError):
        await waiting.wait(lambda: clock.monotonic() - 1.0)
    assert not waiting.queue
