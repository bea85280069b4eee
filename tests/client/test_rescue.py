"""Calls that wait in vain are made once more elsewhere, while their first attempt stays open."""

import asyncio
import contextvars
import gc
import logging
import random
import re
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rap.balance import BreakerState
from rap.balance.p2c import PowerOfTwoChoices
from rap.client import Client
from rap.client.node import Node
from rap.client.processor import CryptoProcessor as ClientCrypto
from rap.client.sync import SyncClient
from rap.errors import ConnectionClosed, DeadlineExceeded
from rap.server import Channel
from rap.server.processor import CryptoProcessor as ServerCrypto
from tests.fake_clock import FakeClock
from tests.fault_proxy import Fate, FaultProxy
from tests.loopback import eventually, serving, within
from tests.transport.certificates import Certificates

ON_BOTH_LOOPS = True
KEY = "a key of 16 byte"


class Desk:
    """What the handlers of some servers have done and are to do."""

    def __init__(self) -> None:
        self.begun: list[int] = []  # numbers of servers
        self.cancelled: list[int] = []
        self.hang = -1  # the server whose handlers hang
        self.hang_early = -1  # the server whose generator hangs before its first item

    def handlers(self, number: int) -> list[Any]:
        async def work() -> int:
            self.begun.append(number)
            try:
                if self.hang == number:
                    await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.append(number)
                raise
            return number

        async def items() -> AsyncIterator[int]:
            self.begun.append(number)
            if self.hang_early == number:
                await asyncio.Event().wait()
            yield number
            if self.hang == number:
                await asyncio.Event().wait()
            yield number

        async def talk(channel: Channel) -> None:
            self.begun.append(number)
            async for message in channel:
                await channel.write(message)

        return [work, items, talk]


class First:
    """A picker that prefers the first server, so that a test knows where calls go."""

    def pick(self, candidates: Sequence[Any], affinity: str | None = None) -> Any:
        return candidates[0]


class FirstAtFirst(First):
    """The same until `freely`; from then on two choices, as by default."""

    def __init__(self) -> None:
        self.freely = False
        self._two = PowerOfTwoChoices(random.Random(1))

    def pick(self, candidates: Sequence[Any], affinity: str | None = None) -> Any:
        return self._two.pick(candidates) if self.freely else candidates[0]


class Scene:
    """Some servers behind proxies, and a client of them whose calls go to the first server."""

    def __init__(self, desk: Desk, proxies: list[FaultProxy], client: Client) -> None:
        self.desk = desk
        self.proxies = proxies
        self.client = client

    def node(self, number: int = 0) -> Node:
        return self.client.cluster.nodes[f"127.0.0.1:{self.proxies[number].port}"]

    def stub(self, **options: Any) -> Any:
        async def work() -> int:
            raise AssertionError("it runs on the server")

        return self.client.register(**{"idempotent": True, **options})(work)

    def generator(self) -> Any:
        async def items() -> AsyncIterator[int]:
            raise AssertionError("it runs on the server")
            yield

        return self.client.register(idempotent=True, timeout=5)(items)

    @property
    def copies(self) -> int:
        return self.client.invoker.budget.rescues

    @property
    def suspicions(self) -> int:
        return self.client.cluster.counters.suspicions

    async def suspected(self, number: int = 0) -> None:
        """Return when a server is suspect; a call must wait there."""
        await eventually(lambda: self.node(number).state == "suspect")


@asynccontextmanager
async def scene(
    servers: int = 2,
    *,
    crypto: bool = False,
    max_streams: int = 16384,
    tls: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Scene]:
    desk, proxies = Desk(), []
    async with AsyncExitStack() as stack:
        for number in range(servers):
            processors = [ServerCrypto({"id": KEY})] if crypto else []
            server = await stack.enter_async_context(
                serving(
                    *desk.handlers(number),
                    processor_list=processors,
                    max_streams=max_streams,
                    **(tls or {}),
                )
            )
            proxy = FaultProxy(server.addresses[0].port)
            proxies.append(await stack.enter_async_context(proxy))
        hosts = [f"127.0.0.1:{proxy.port}" for proxy in proxies]
        options = {"picker": First(), "connect_timeout": 3, **options}
        if crypto:
            options["processor_list"] = [ClientCrypto("id", KEY)]
        async with Client(hosts, **options) as client:
            await eventually(lambda: len(client.cluster.ready) == servers)
            made = Scene(desk, proxies, client)
            yield made
            for proxy in proxies:
                proxy.release()
            await eventually(lambda: all(n.stats.in_flight == 0 for n in client.cluster.ready))


async def test_a_call_on_a_frozen_server_is_answered_by_another_within_its_second() -> None:
    async with scene() as at:
        work = at.stub(timeout=1)
        assert await work() == 0
        at.proxies[0].freeze()
        assert await within(work()) == 1
        assert at.copies == 1


@pytest.mark.parametrize("how", ["unary", "options", "started", "crypto"])
async def test_every_way_to_make_a_call_is_rescued(how: str) -> None:
    async with scene(crypto=how == "crypto") as at:
        work = at.stub(timeout=5)
        assert await work() == 0
        at.proxies[0].freeze()
        calls = {
            "unary": work,
            "options": lambda: work(header={"x": 1}),
            "started": work.start,
            "crypto": work,
        }
        assert await within(calls[how]()) == 1
        assert (at.suspicions, at.copies) == (1, 1)


async def test_a_suspect_server_gets_no_calls_until_it_is_heard_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with scene() as at:
        work = at.stub(timeout=5)
        at.proxies[0].freeze()
        with caplog.at_level(logging.INFO, "rap.client"):
            assert await within(work()) == 1
            node = at.node()
            assert node.state == "suspect"
            assert repr(node) == f"Node({node.key!r}, suspect)"
            assert at.client.cluster.ready == (at.node(1),)
            assert [await work() for _ in range(3)] == [1, 1, 1]
            assert at.copies == 1
            at.proxies[0].release()
            await eventually(lambda: node.state == "up")
            assert await work() == 0
        assert f"{node.key} is suspect: it has sent nothing for 0." in caplog.text
        assert re.search(f"{node.key} (was heard again|answers on a new connection)", caplog.text)
        await eventually(lambda: len(node.pool.connections) == 1)
        assert not node.pool.dialling


async def test_the_first_attempt_may_still_answer() -> None:
    async with scene() as at:
        work = at.stub(timeout=5)
        at.desk.hang = 1
        at.proxies[0].freeze()
        call = asyncio.create_task(work())
        await eventually(lambda: at.copies)
        at.proxies[0].release()
        assert await within(call) == 0
        await eventually(lambda: at.desk.cancelled == [1])


async def test_the_loser_is_cancelled_and_says_nothing_of_the_health_of_its_server() -> None:
    async with scene() as at:
        work = at.stub(timeout=5)
        at.proxies[0].freeze()
        assert await within(asyncio.gather(*(work() for _ in range(20)))) == [1] * 20
        assert at.node().breaker.state is BreakerState.CLOSED
        at.desk.hang = 0  # what begins there does not end before its Reset is read
        at.proxies[0].release()
        await eventually(lambda: at.node().state == "up")
        await eventually(lambda: at.desk.begun.count(0) == len(at.desk.cancelled))


async def test_other_calls_stay_where_they_are() -> None:
    async with scene() as at:
        work, outside = at.stub(idempotent=False, timeout=9), contextvars.copy_context()
        async with at.client.session as session, at.client.channel("talk") as channel:
            await channel.write(1)
            assert await channel.read_body() == 1
            at.desk.begun.clear()
            at.proxies[0].freeze()
            calls = [
                asyncio.create_task(work()),
                asyncio.create_task(at.stub()(session=session)),
                asyncio.create_task(channel.read_body()),
            ]
            await channel.write(2)
            await at.suspected()
            assert await asyncio.create_task(at.stub()(), context=outside) == 1
            at.proxies[0].release()
            assert await within(asyncio.gather(*calls)) == [0, 0, 2]
            assert sorted(at.desk.begun) == [0, 0, 1]
            assert at.copies == 0


async def test_a_generator_is_made_again_before_its_first_item_and_not_after_it() -> None:
    async with scene() as at:
        items = at.generator()
        begun = items()
        at.desk.hang = 0
        assert await anext(begun) == 0
        at.proxies[0].freeze()
        late = asyncio.create_task(anext(begun))
        assert [each async for each in items()] == [1, 1]
        assert not late.done()
        begun.cancel()
        with pytest.raises(StopAsyncIteration):
            await within(late)
        assert at.copies == 1


async def test_where_no_server_is_known_to_be_alive_nothing_is_copied() -> None:
    async with scene(picker="round_robin") as at:
        work = at.stub(timeout=1)
        for proxy in at.proxies:
            proxy.freeze()
        calls = [asyncio.create_task(work()) for _ in range(10)]
        calls += [asyncio.create_task(at.client.raw_call("work", timeout=1))]
        await at.suspected(0)
        await at.suspected(1)
        assert len(at.client.cluster.ready) == 2
        for call in calls:
            with pytest.raises(DeadlineExceeded):
                await within(call)
        assert at.copies == 0


async def test_calls_are_rescued_as_soon_as_another_server_is_known_to_be_alive() -> None:
    async with scene() as at:
        work = at.stub(timeout=9)
        for proxy in at.proxies:
            proxy.freeze()
        call = asyncio.create_task(work())
        await at.suspected()
        other = asyncio.create_task(at.client.raw_call("work"))  # all are suspect
        at.proxies[1].release()
        assert await within(call) == 1
        at.proxies[0].release()
        await other


async def test_calls_that_fail_on_a_silent_server_do_not_eject_it() -> None:
    async with scene() as at:
        work = at.stub(timeout=2, idempotent=False)
        at.proxies[0].freeze()
        late = [asyncio.create_task(work()) for _ in range(10)]
        failed = await within(asyncio.gather(*late, return_exceptions=True))
        assert {type(each) for each in failed} == {DeadlineExceeded}
        assert at.node().breaker.state is BreakerState.CLOSED
        at.proxies[0].release()
        await eventually(lambda: at.node().state == "up")
        assert await work() == 0


async def test_a_broken_connection_to_a_healthy_server_is_replaced() -> None:
    async with scene(1) as at:
        work = at.stub(timeout=5)
        assert await work() == 0
        at.proxies[0].break_open()
        assert await within(work()) == 0
        assert at.suspicions == 1
        assert at.node().state == "up"
        await eventually(lambda: len(at.node().pool.connections) == 1)
        assert at.client.cluster.counters.opened == 2


async def test_a_handler_that_hangs_on_one_server_gets_a_late_copy() -> None:
    async with scene() as at:
        work = at.stub(timeout=1)
        at.desk.hang = 0
        began = at.client.monotonic()
        assert await within(work()) == 1
        assert 0.4 <= at.client.monotonic() - began < 0.9
        assert (at.suspicions, at.copies) == (0, 1)
        await eventually(lambda: at.desk.cancelled == [0])


async def test_a_generator_that_hangs_before_its_first_item_is_made_again_elsewhere() -> None:
    async with scene() as at:
        items = at.generator()
        at.desk.hang_early = 0
        assert [each async for each in items(timeout=1)] == [1, 1]
        assert (at.suspicions, at.copies) == (0, 1)
        at.desk.hang_early = -1
        assert [each async for each in items(timeout=1)] == [0, 0]


async def test_a_generator_that_usually_takes_long_is_not_made_again() -> None:
    async with scene() as at:
        items = at.generator()
        rescue = items.__rap_method__.rescue
        for number in range(10):
            rescue.add(4.0, at.client.monotonic() + number)
        at.desk.hang_early = 0
        with pytest.raises(DeadlineExceeded):
            assert [each async for each in items(timeout=0.5)]
        assert at.copies == 0


async def test_a_server_whose_handlers_hang_is_ejected_although_no_call_fails() -> None:
    async with scene(3, picker="round_robin") as at:
        work = at.stub(timeout=0.5)
        at.desk.hang = 0
        for _ in range(5):
            assert set(await within(asyncio.gather(*(work() for _ in range(3))))) == {1, 2}
        assert at.node().state == "ejected"


async def test_late_copies_are_taken_from_the_budget_and_come_once() -> None:
    async with scene() as at:
        work = at.stub(timeout=0.5)
        at.desk.hang = 0
        while at.client.invoker.budget.take():
            pass
        with pytest.raises(DeadlineExceeded):
            await within(work())
        assert at.copies == 0


async def test_with_one_attempt_no_call_is_copied() -> None:
    async with scene(max_attempts=1) as at:
        work = at.stub(timeout=1)
        at.proxies[0].freeze()
        with pytest.raises(DeadlineExceeded):
            await within(work())
        assert (at.suspicions, at.copies) == (1, 0)


async def test_a_function_that_usually_takes_long_gets_no_copy_that_would_be_too_late() -> None:
    async with scene() as at:
        work = at.stub(timeout=1)
        rescue = work.__rap_method__.rescue
        for number in range(10):
            rescue.add(0.4, at.client.monotonic() + number)
        at.proxies[0].freeze()
        with pytest.raises(DeadlineExceeded):
            await within(work())
        assert (at.suspicions, at.copies) == (1, 0)


async def test_a_caller_that_gives_up_cancels_all_attempts() -> None:
    async with scene(3) as at:
        work = at.stub(timeout=9)
        at.desk.hang = 1
        at.proxies[0].freeze()
        call = asyncio.create_task(work())
        await eventually(lambda: at.desk.begun == [1])
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await within(call)
        await eventually(lambda: at.desk.cancelled == [1])


async def test_a_copy_on_a_server_that_freezes_too_is_followed_by_another() -> None:
    async with scene(3) as at:
        work = at.stub(timeout=9)
        at.desk.hang = 1
        at.proxies[0].freeze()
        call = asyncio.create_task(work())
        await eventually(lambda: at.desk.begun == [1])
        at.proxies[1].freeze()
        assert await within(call) == 2
        assert at.copies == 2


async def test_a_copy_that_fails_is_followed_by_another() -> None:
    async with scene(3) as at:
        work = at.stub(timeout=9)
        at.desk.hang = 1
        at.proxies[0].freeze()
        call = asyncio.create_task(work())
        await eventually(lambda: at.desk.begun == [1])
        at.proxies[1].judge = lambda _: Fate.CUT
        at.desk.hang = -1
        for conn in at.node(1).pool.connections:
            conn.abort(ConnectionClosed("cut"))
        assert await within(call) == 2


async def test_a_failure_does_not_show_the_doubt_before_it() -> None:
    async with scene(1) as at:
        work = at.stub(timeout=1)
        at.proxies[0].freeze()
        with pytest.raises(DeadlineExceeded) as caught:
            await within(work())
        assert caught.value.__context__ is None
        assert f"/default/work: no answer from 127.0.0.1:{at.proxies[0].port}" in str(caught.value)


async def test_no_rescued_call_waits_for_the_garbage_collector() -> None:
    async with scene() as at:
        work = at.stub(timeout=5)
        at.proxies[0].freeze()
        gc.collect()
        gc.disable()
        try:
            calls = [asyncio.create_task(work()) for _ in range(5)]
            await eventually(lambda: at.node().stats.in_flight == 5)
            streams = [
                weakref.ref(stream)
                for conn in at.node().pool.connections
                for stream in conn.streams.values()
            ]
            assert await within(asyncio.gather(*calls)) == [1] * 5
            calls.clear()
            await eventually(lambda: [each() for each in streams] == [None] * 5)
        finally:
            gc.enable()


async def test_an_attempt_may_be_late_and_on_a_suspect_server_at_once() -> None:
    """The caller is interrupted once, however many reasons there are."""
    async with scene() as at:
        work = at.stub(timeout=5)
        at.desk.hang = 0
        call = asyncio.create_task(work())
        await eventually(lambda: at.desk.begun == [0])
        (stream,) = (
            stream for conn in at.node().pool.connections for stream in conn.streams.values()
        )
        stream.on_late()
        stream.suspect(free=True)
        assert await within(call) == 1
        assert at.copies == 1


async def test_a_hedged_call_is_rescued_too() -> None:
    async with scene() as at:
        work = at.stub(timeout=5, hedge=4.0)
        assert await work() == 0
        at.proxies[0].freeze()
        assert await within(work()) == 1
        assert (at.copies, at.client.invoker.budget.hedges) == (1, 0)


@pytest.mark.parametrize(
    "picker", ["p2c", "round_robin", "rendezvous", "prequal", "smooth_weighted"]
)
async def test_calls_are_rescued_with_every_picker(picker: str) -> None:
    async with scene(3, picker=picker) as at:
        work = at.stub(timeout=3)
        at.proxies[0].freeze()
        calls = [work(affinity=str(number)) for number in range(30)]
        assert set(await within(asyncio.gather(*calls))) == {1, 2}
        assert at.suspicions == 1
        assert 1 <= at.copies <= 30


async def test_a_broken_one_of_two_connections_is_no_reason_to_leave_the_server() -> None:
    async with scene(max_streams=1) as at:
        at.desk.hang = 0
        calls = [asyncio.create_task(at.client.raw_call("work", timeout=9)) for _ in range(2)]
        await eventually(lambda: len(at.node().pool.connections) == 2)
        at.desk.hang = -1
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        conn = at.node().conn
        assert conn is not None
        at.proxies[0].break_connection(conn.transport.get_extra_info("sockname"))
        work = at.stub(timeout=5)
        assert await within(work()) in (0, 1)
        assert at.suspicions == 1
        assert at.node().state == "up"
        assert await within(work()) == 0


async def test_a_frozen_server_is_not_taken_for_alive_for_an_idle_connection_to_it() -> None:
    async with scene(max_streams=1) as at:
        at.desk.hang = 0
        calls = [asyncio.create_task(at.client.raw_call("work", timeout=9)) for _ in range(2)]
        await eventually(lambda: len(at.node().pool.connections) == 2)
        at.desk.hang = -1
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        at.proxies[0].freeze()
        work = at.stub(timeout=5)
        assert await within(work()) == 1
        assert at.copies == 1
        await eventually(lambda: at.suspicions == 2)
        assert at.node().state == "suspect"


async def test_a_server_that_is_heard_again_gets_its_share_of_the_calls_at_once() -> None:
    picker = FirstAtFirst()
    async with scene(picker=picker) as at:
        work = at.stub(timeout=5)
        for _ in range(20):
            await within(work())
        at.proxies[0].freeze()
        waiting = [asyncio.create_task(at.client.raw_call("work", timeout=9)) for _ in range(60)]
        calls = [asyncio.create_task(work()) for _ in range(20)]
        await within(asyncio.gather(*calls))
        await at.suspected()
        began = at.client.monotonic()
        await eventually(lambda: at.client.monotonic() - began > 0.3)
        at.proxies[0].release()
        assert 0 in await within(asyncio.gather(*waiting))
        await eventually(lambda: at.node().state == "up")
        at.desk.begun.clear()
        picker.freely = True
        for _ in range(10):
            await within(asyncio.gather(*(work() for _ in range(20))))
        assert at.desk.begun.count(0) > 20


async def test_a_server_that_was_silent_twice_in_ten_seconds_gets_no_calls_for_a_while() -> None:
    async with scene(3) as at:
        work = at.stub(timeout=5)
        for state in ("up", "suspect"):
            at.proxies[0].freeze()
            assert await within(work()) == 1
            at.proxies[0].release()
            await eventually(lambda: not at.node().pool.suspect)
            assert at.node().state == state
        assert at.client.cluster.ready == (at.node(1), at.node(2))
        assert "it was silent twice within 10 s" in at.node().pool.describe()


async def test_an_idle_server_is_asked_by_a_ping_before_it_gets_a_call() -> None:
    clock = FakeClock()
    async with scene(picker="p2c", clock=clock) as at:
        at.proxies[0].freeze()
        idle, other = at.node(0), at.node(1)
        for _ in range(2):  # the first call after a start does not count as one after a pause
            for node in (idle, other):
                node.stats.started(clock.monotonic())
                node.record_result(clock.monotonic(), None)
            clock.advance(3.1)
        other.probe()
        await eventually(lambda: other.is_alive(clock.monotonic()))
        calls = [await within(at.client.raw_call("work")) for _ in range(10)]
        assert calls == [1] * 10
        assert idle.load() >= 300.0
        at.proxies[0].release()
        await eventually(lambda: idle.is_alive(clock.monotonic()))
        assert idle.load() < 1.0


async def test_a_client_without_an_event_loop_is_rescued_too() -> None:
    async with scene() as at:
        hosts = [f"127.0.0.1:{proxy.port}" for proxy in at.proxies]
        loop = asyncio.get_running_loop()

        def call() -> list[int]:
            with SyncClient(hosts, picker=First()) as client:

                @client.register(idempotent=True, timeout=3)
                def work() -> int:
                    raise AssertionError("it runs on the server")

                found = [work()]
                loop.call_soon_threadsafe(at.proxies[0].freeze)
                while 0 in found:
                    found = [work()]
                return found

        assert await within(asyncio.to_thread(call)) == [1]


async def test_a_call_of_a_handler_is_rescued_for_the_call_that_it_serves() -> None:
    async with scene() as at:
        work = at.stub(timeout=9)
        at.proxies[0].freeze()

        async def outer() -> int:
            result: int = await work()
            return result

        async with serving(outer) as front, Client(front.addresses) as client:
            assert await within(client.raw_call("outer", timeout=2)) == 1


async def test_calls_over_tls_are_rescued(tmp_path: Path) -> None:
    own = Certificates(tmp_path).self_signed
    tls: Any = {"ssl_crt_path": own.crt_path, "ssl_key_path": own.key_path}
    async with scene(tls=tls, ssl_crt_path=own.crt_path) as at:
        work = at.stub(timeout=3)
        assert await work() == 0
        at.proxies[0].freeze()
        assert await within(work()) == 1


async def test_the_copies_of_a_suspicion_are_free_once_in_ten_seconds() -> None:
    async with scene() as at:
        budget = at.client.invoker.budget
        while budget.take():
            pass
        work = at.stub(timeout=1.5)
        for expected in (1, None):
            at.proxies[0].freeze()
            call = asyncio.create_task(work())
            if expected is None:
                with pytest.raises(DeadlineExceeded):
                    await within(call)
            else:
                assert await within(call) == expected
            at.proxies[0].release()
            await eventually(lambda: not at.node().pool.suspect)
            at.client.cluster.ready = tuple(at.client.cluster.nodes.values())
        assert at.copies == 1
