"""Calls that are sent to a second server when the first is late."""

import asyncio
import gc
import random
import weakref
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rap.balance import BreakerState
from rap.call import Call, Request, Response
from rap.client import Client
from rap.client.hedging import HedgedCall
from rap.client.processor import CryptoProcessor as ClientCrypto
from rap.client.sync import SyncClient
from rap.errors import DeadlineExceeded, InvalidArgument, NotFound, Unavailable, Verdict
from rap.processor.base import BaseProcessor
from rap.server import context
from rap.server.processor import CryptoProcessor as ServerCrypto
from tests.fake_clock import FakeClock
from tests.loopback import calling, eventually, serving, within

ON_BOTH_LOOPS = True
FREE = 19  # calls that a function has had when the next one may be sent twice
KEY = "a key of 16 byte"


class Entered:
    """A call that a handler serves; it is answered by the test."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        header = context.request.header
        self.attempt = header.get(":attempt", 1)
        self.header = header
        self.cancelled = False


class Desk:
    """Where the handlers of all servers come by."""

    def __init__(self) -> None:
        self.busy = False
        self.entered: list[Entered] = []

    async def serve(self) -> Any:
        if not self.busy:
            return 0
        entered = Entered()
        self.entered.append(entered)
        try:
            return await entered.answer
        except asyncio.CancelledError:
            entered.cancelled = True
            raise

    async def both(self) -> tuple[Entered, Entered]:
        """Return the two attempts of a call when they are there."""
        await eventually(lambda: len(self.entered) == 2)
        first, second = self.entered
        return first, second


async def work() -> Any:
    raise AssertionError("it runs on the server")


@asynccontextmanager
async def at_work(
    hedge: bool | float = 0.001,
    *,
    servers: int = 2,
    crypto: bool = False,
    free: int = FREE,
    **options: Any,
) -> AsyncIterator[tuple[Desk, Client, Any]]:
    """Servers of one desk, a client, and a stub whose next call is sent twice if it is late."""
    desk = Desk()

    async def work() -> Any:
        return await desk.serve()

    async def call_through(kind: str) -> Any:
        return await (stub() if kind == "hedged" else client.raw_call("work"))

    def secret() -> dict[str, Any]:
        return {"processor_list": [ServerCrypto({"id": KEY})] if crypto else []}

    if crypto:
        options["processor_list"] = [ClientCrypto("id", KEY)]
    both = (work, call_through)
    async with serving(*both, **secret()) as one, serving(*both, **secret()) as two:
        homes = [one, two][:servers]
        async with calling(*homes, rng=random.Random(1), **options) as client:
            await eventually(lambda: len(client.cluster.ready) == servers)
            stub = client.register(idempotent=True, hedge=hedge)(work)
            for _ in range(free):
                assert await stub() == 0
            desk.busy = True
            yield desk, client, stub
            await eventually(lambda: load_of(client) == [0] * servers)


def load_of(client: Client) -> list[int]:
    return [node.stats.in_flight for node in client.cluster.nodes.values()]


async def test_a_late_call_is_answered_by_another_server_and_cancelled_at_the_first() -> None:
    async with at_work() as (desk, client, stub):
        call = asyncio.create_task(stub())
        first, second = await desk.both()
        assert load_of(client) == [1, 1]
        assert (first.attempt, second.attempt) == (1, 2)
        second.answer.set_result("fast")
        assert await within(call) == "fast"
        await eventually(lambda: first.cancelled)
        assert not second.cancelled
        assert client.invoker.budget.retries == 1


async def test_the_first_attempt_may_still_win() -> None:
    async with at_work() as (desk, _, stub):
        call = asyncio.create_task(stub())
        first, second = await desk.both()
        first.answer.set_result("after all")
        assert await within(call) == "after all"
        await eventually(lambda: second.cancelled)


async def test_the_loser_is_no_failure_of_its_server() -> None:
    async with at_work() as (desk, client, stub):
        for _ in range(4):
            desk.busy = True
            call = asyncio.create_task(stub())
            first, second = await desk.both()
            second.answer.set_result(1)
            await within(call)
            await eventually(lambda first=first: first.cancelled)  # type: ignore[misc]
            desk.busy, desk.entered = False, []
            for _ in range(FREE):
                await stub()
        for node in client.cluster.nodes.values():
            assert node.breaker.state is BreakerState.CLOSED
            assert node.stats.ewma < 1.0  # a failure costs 5 s


async def test_a_server_that_was_beaten_was_as_slow_as_it_was_waited_for() -> None:
    async with at_work() as (desk, client, stub):
        call = asyncio.create_task(stub())
        _, second = await desk.both()
        began = client.monotonic()
        await eventually(lambda: client.monotonic() - began > 0.05)
        second.answer.set_result(1)
        await within(call)
        assert all(0.05 < node.stats.ewma < 1.0 for node in client.cluster.nodes.values())


@pytest.mark.parametrize("which", [0, 1])
async def test_no_attempt_waits_for_the_garbage_collector(which: int) -> None:
    """Neither the one that won nor the one that is never answered."""
    async with at_work() as (desk, client, stub):
        call = asyncio.create_task(stub())
        attempts = await desk.both()
        nodes = client.cluster.nodes.values()
        streams = [
            weakref.ref(stream.future)
            for node in nodes
            for conn in node.pool.connections
            for stream in conn.streams.values()
        ]
        gc.disable()
        try:
            attempts[which].answer.set_result(1)
            assert await within(call) == 1
            await eventually(lambda: [each() for each in streams] == [None, None])
        finally:
            gc.enable()


async def test_a_caller_that_gives_up_cancels_both_attempts() -> None:
    async with at_work() as (desk, _, stub):
        call = asyncio.create_task(stub())
        attempts = await desk.both()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await within(call)
        await eventually(lambda: all(attempt.cancelled for attempt in attempts))


async def test_both_attempts_have_the_deadline_of_the_call(clock: FakeClock) -> None:
    async with at_work(clock=clock) as (desk, _, stub):
        call = asyncio.create_task(stub(timeout=9.0))
        attempts = await desk.both()
        clock.advance(8.9)
        assert not any(attempt.cancelled for attempt in attempts)
        clock.advance(0.2)
        with pytest.raises(DeadlineExceeded):
            await within(call)
        await eventually(lambda: all(attempt.cancelled for attempt in attempts))


@pytest.mark.parametrize("which", [0, 1])
async def test_an_error_of_a_handler_is_an_answer(which: int) -> None:
    async with at_work() as (desk, _, stub):
        call = asyncio.create_task(stub())
        attempts = await desk.both()
        attempts[which].answer.set_exception(KeyError("no such thing"))
        with pytest.raises(KeyError):
            await within(call)
        await eventually(lambda: attempts[1 - which].cancelled)


@pytest.mark.parametrize("which", [0, 1])
async def test_an_attempt_that_failed_leaves_the_call_to_the_other(which: int) -> None:
    async with at_work() as (desk, client, stub):
        call = asyncio.create_task(stub())
        attempts = await desk.both()
        attempts[which].answer.set_exception(Unavailable("not here"))
        await eventually(lambda: sorted(load_of(client)) == [0, 1])
        assert not call.done()
        attempts[1 - which].answer.set_result("here")
        assert await within(call) == "here"


async def test_where_both_attempts_failed_the_call_is_retried_like_any_other() -> None:
    async with at_work() as (desk, client, stub):
        call = asyncio.create_task(stub())
        for attempt in await desk.both():
            attempt.answer.set_exception(Unavailable("not here"))
        await eventually(lambda: len(desk.entered) == 3)
        assert desk.entered[2].attempt == 3
        desk.entered[2].answer.set_result("at last")
        assert await within(call) == "at last"
        assert client.invoker.budget.retries == 2


async def test_a_first_attempt_that_fails_in_time_is_retried_like_any_other() -> None:
    async with at_work(60.0) as (desk, _, stub):
        call = asyncio.create_task(stub())
        await eventually(lambda: len(desk.entered) == 1)
        desk.entered[0].answer.set_exception(Unavailable("not here"))
        await eventually(lambda: len(desk.entered) == 2)
        assert desk.entered[1].attempt == 2
        desk.entered[1].answer.set_result(1)
        assert await within(call) == 1


async def test_a_call_whose_server_was_lost_is_retried_like_any_other() -> None:
    async with at_work(60.0) as (desk, client, stub):
        call = asyncio.create_task(stub())
        await eventually(lambda: len(desk.entered) == 1)
        for node in client.cluster.nodes.values():
            if node.stats.in_flight:
                node.pool.abort()
        await eventually(lambda: len(desk.entered) == 2)
        desk.entered[1].answer.set_result(1)
        assert await within(call) == 1


async def test_a_header_that_cannot_be_sent_fails_the_call() -> None:
    async with at_work() as (desk, client, stub):
        with pytest.raises(InvalidArgument, match="header"):
            await within(stub(header={"key": object()}))
        assert not desk.entered
        assert load_of(client) == [0, 0]


async def test_no_call_waits_for_a_server_that_stalls() -> None:
    """And that is at most one call in twenty more."""
    served = [0, 0, 0]
    stalled: set[int] = set()

    def at(place: int) -> Any:
        async def work() -> int:
            served[place] += 1
            if place in stalled:
                await asyncio.Event().wait()
            return place

        return work

    async with serving(at(0)) as one, serving(at(1)) as two, serving(at(2)) as three:
        async with calling(one, two, three, rng=random.Random(1)) as client:
            await eventually(lambda: len(client.cluster.ready) == 3)
            # Later than any call that is served, also on a busy machine.
            stub = client.register(idempotent=True, hedge=0.05)(work)

            async def keep_calling(count: int) -> None:
                for _ in range(count):
                    await stub()

            await keep_calling(400)
            before = sum(served)
            assert before <= 400 * 1.05
            stalled.add(2)
            await within(asyncio.gather(*(keep_calling(50) for _ in range(4))))
            assert served[0] + served[1] >= 200
            assert sum(served) <= 600 * 1.05


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Hedged calls of which every attempt was sent that ever will be, also if that is one."""
    calls: list[object] = []
    start = HedgedCall.start

    async def noted(call: HedgedCall) -> None:
        await start(call)
        calls.append(call)

    monkeypatch.setattr(HedgedCall, "start", noted)
    return calls


async def once(desk: Desk, call: Awaitable[Any], settled: list[object], calls: int = 1) -> None:
    """Check that a call is late, but was sent once."""
    settled.clear()
    pending = asyncio.ensure_future(call)
    await eventually(lambda: len(desk.entered) == 1 and len(settled) == calls)
    desk.entered[0].answer.set_result(1)
    assert await within(pending) == 1
    assert len(desk.entered) == 1
    assert len(settled) == calls


@pytest.mark.parametrize(
    "options",
    [
        {"servers": 1},
        {"free": FREE - 1},  # it would be more than one in twenty
        {"retry_budget": 0},
        {"max_attempts": 1},
    ],
    ids=lambda options: next(iter(options)),
)
async def test_a_call_is_sent_once_where_it_may_not_be_sent_twice(
    options: dict[str, Any], settled: list[object]
) -> None:
    async with at_work(**options) as (desk, _, stub):
        await once(desk, stub(), settled)


async def test_a_call_in_a_session_is_sent_once(settled: list[object]) -> None:
    async with at_work() as (desk, client, stub), client.session:
        await once(desk, stub(), settled, calls=0)


async def test_a_session_executes_a_call_that_would_be_hedged(settled: list[object]) -> None:
    async with at_work() as (desk, client, stub), client.session as session:
        await once(desk, session.execute(stub()), settled, calls=0)


async def test_a_call_that_serves_a_retry_is_sent_once(settled: list[object]) -> None:
    """The handler of a hedge asks for no second attempts."""
    async with at_work(free=2 * FREE + 2) as (desk, client, _):
        through = client.register("call_through", idempotent=True, hedge=0.001)(outer)
        desk.busy = False
        for _ in range(FREE):
            await through("hedged")
        desk.busy = True
        settled.clear()
        call = asyncio.create_task(through("hedged"))
        await eventually(lambda: len(settled) == 3)  # the call, and what each of its attempts makes
        await eventually(lambda: len(desk.entered) >= 3)
        assert len(desk.entered) == 3  # of the first attempt both, of the other one
        desk.entered[0].answer.set_result("done")
        assert await within(call) == "done"


async def outer(kind: str) -> Any:
    raise AssertionError("it runs on the server")


async def test_a_connection_has_no_more_calls_cancelled_than_its_server_allows(
    settled: list[object],
) -> None:
    async with at_work(servers=2) as (desk, client, stub):
        for node in client.cluster.nodes.values():
            assert node.conn is not None
            node.conn.state["hedges"] = Never()
            break
        await once(desk, stub(), settled)


class Never:
    """A token bucket that is empty."""

    def allow(self, now: float) -> bool:
        return False


async def test_the_time_that_most_calls_take_is_found_out() -> None:
    async with at_work(True) as (desk, client, stub):
        desk.busy = False
        assert await stub() == 0
        hedge = stub.__rap_method__.hedge
        await eventually(lambda: hedge.delay(client.monotonic()) is not None)
        desk.busy = True
        call = asyncio.create_task(stub())
        _, second = await desk.both()
        second.answer.set_result(1)
        assert await within(call) == 1


@pytest.mark.parametrize("which", [0, 1])
async def test_each_attempt_is_encrypted_separately(which: int) -> None:
    async with at_work(crypto=True) as (desk, _, stub):
        call = asyncio.create_task(stub())
        attempts = await desk.both()
        attempts[which].answer.set_result(["secret", which])
        assert await within(call) == ["secret", which]


@pytest.mark.parametrize("which", [0, 1])
async def test_an_error_of_each_attempt_is_decrypted_separately(which: int) -> None:
    async with at_work(crypto=True) as (desk, _, stub):
        call = asyncio.create_task(stub())
        attempts = await desk.both()
        attempts[which].answer.set_exception(NotFound("no such thing"))
        with pytest.raises(NotFound, match="no such thing"):
            await within(call)


class Watching(BaseProcessor):
    """Notes what it sees of calls."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.calls: list[Call] = []

    def scope(self, call: Call) -> Any:
        self.calls.append(call)
        call.on_attempt = (lambda each: self.seen.append(("attempt", each.attempt, each.peer)),)
        return super().scope(call)

    async def process_request(self, request: Request) -> Request:
        self.seen.append(("request", request.call.attempt, request.call.peer))
        return request

    async def process_response(self, response: Response) -> Response:
        self.seen.append(("response", response.call.attempt, response.call.peer))
        return response


@pytest.mark.parametrize("which", [0, 1])
async def test_processors_see_one_call_and_each_attempt(which: int) -> None:
    watching = Watching()
    async with at_work(processor_list=[watching]) as (desk, _, stub):
        watching.seen.clear()
        watching.calls.clear()
        call = asyncio.create_task(stub())
        (await desk.both())[which].answer.set_result(1)
        assert await within(call) == 1
        peers = [peer for kind, _, peer in watching.seen if kind == "attempt"]
        assert len(set(map(str, peers))) == 2
        assert [entry[:2] for entry in watching.seen] == [
            ("attempt", 1),
            ("request", 1),
            ("attempt", 2),
            ("request", 2),
            ("response", 1 + which),
        ]
        assert watching.seen[-1][2] is peers[which]
        (seen,) = watching.calls
        assert (seen.attempt, seen.peer) == (2, peers[which])


async def test_a_processor_that_refuses_the_hedge_ends_the_call() -> None:
    class Refusing(BaseProcessor):
        async def process_request(self, request: Request) -> Request:
            if request.call.attempt > 1:
                raise RuntimeError("no more of it")
            return request

    async with at_work(processor_list=[Refusing()]) as (desk, _, stub):
        with pytest.raises(RuntimeError, match="no more of it"):
            await within(stub())
        await eventually(lambda: desk.entered[0].cancelled)


async def test_a_declared_function_is_called_by_its_stub_twice_too() -> None:
    async with at_work() as (desk, client, stub):
        call = asyncio.create_task(client.call(stub))
        _, second = await desk.both()
        second.answer.set_result(1)
        assert await within(call) == 1


async def test_a_call_waits_for_a_server_like_any_other() -> None:
    async with serving() as server, calling(server, max_in_flight=1) as client:
        gate: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        @server.register
        async def work() -> int:
            return await gate

        stub = client.register("work", idempotent=True, hedge=60.0)(number)
        calls = [asyncio.create_task(stub()) for _ in range(3)]
        await eventually(lambda: len(client.cluster.waiters) == 2)
        gate.set_result(3)
        assert await within(asyncio.gather(*calls)) == [3, 3, 3]


async def number() -> int:
    raise AssertionError("it runs on the server")


async def test_a_client_without_an_event_loop_hedges_too() -> None:
    desk = Desk()

    async def work() -> Any:
        return await desk.serve()

    async with serving(work) as one, serving(work) as two:
        hosts = [*one.addresses, *two.addresses]

        def program() -> Any:
            with SyncClient(hosts) as client:
                declare: Any = client.register("work", idempotent=True, hedge=0.001)
                stub = declare(plain)
                while len(client.live[0].cluster.ready) < 2:
                    client.raw_call("work")
                for _ in range(FREE):
                    stub()
                desk.busy = True
                return stub()

        result = asyncio.ensure_future(asyncio.to_thread(program))
        _, second = await desk.both()
        second.answer.set_result("fast")
        assert await within(result) == "fast"


def plain() -> Any:
    raise AssertionError("it runs on the server")


async def test_a_hedge_that_may_not_be_sent_leaves_the_probe_to_another_call() -> None:
    async with at_work(retry_budget=0) as (desk, client, stub):
        call = asyncio.create_task(stub())
        await asyncio.sleep(0)  # it is sent
        other = next(it for it in client.cluster.nodes.values() if not it.stats.in_flight)
        for _ in range(5):  # so that its pause is over
            other.breaker.record(Verdict.FAILURE, client.monotonic() - 100.0)
        await eventually(lambda: client.invoker.budget.refused)
        assert other.breaker.state is BreakerState.HALF_OPEN
        assert other.breaker.available(client.monotonic())
        await eventually(lambda: desk.entered)
        desk.entered[0].answer.set_result(1)
        assert await within(call) == 1
