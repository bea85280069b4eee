"""Deadlines: whose counts, how they cross servers, and what they end."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rap.client import Channel as ClientChannel
from rap.client import Client
from rap.errors import Code, DeadlineExceeded
from rap.server import Channel, Server, context
from tests.fake_clock import FakeClock
from tests.loopback import calling, eventually, expired, serving, within


class Watch:
    """How a handler ended."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.release = threading.Event()
        self.thread_began = threading.Event()
        self.thread_ended = threading.Event()


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
async def server(watch: Watch) -> AsyncIterator[Server]:
    async def hang() -> None:
        watch.began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            watch.cancelled.set()
            raise

    def block() -> int:
        watch.thread_began.set()
        watch.release.wait(10)
        watch.thread_ended.set()
        return 1

    async def fine() -> int:
        return 1

    async with serving(hang, block, fine) as server:
        server.register(hang, name="short", run_timeout=0.05)
        yield server
        watch.release.set()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with calling(server) as client:
        yield client


def in_flight(client: Client) -> int:
    return sum(node.stats.in_flight for node in client.cluster.nodes.values())


async def test_the_callers_deadline_cancels_the_handler(
    server: Server, watch: Watch, clock: FakeClock
) -> None:
    async with calling(server, clock=clock) as client:
        call = client.raw_call("hang", timeout=5.0)
        error: Exception = await expired(call, clock, 5.0, once=watch.began.is_set)
        assert isinstance(error, TimeoutError)
        await within(watch.cancelled.wait())
        assert in_flight(client) == 0
        assert await client.raw_call("fine") == 1


async def test_run_timeout_cancels_the_handler_and_is_named(client: Client, watch: Watch) -> None:
    with pytest.raises(
        DeadlineExceeded, match=r"/default/short: its run_timeout of 0\.05 s passed"
    ):
        await within(client.raw_call("short"))
    await within(watch.cancelled.wait())


async def test_run_timeout_of_the_server_holds_for_unary_functions() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    async def slow() -> AsyncIterator[int]:
        yield 1
        await gate.wait()
        yield 2

    gate = asyncio.Event()
    async with serving(hang, slow, run_timeout=0.05) as server, calling(server) as client:
        iterator = client.iterator_call("slow")
        assert await anext(iterator) == 1
        with pytest.raises(DeadlineExceeded, match=r"its run_timeout of 0\.05 s passed"):
            await within(client.raw_call("hang"))
        gate.set()
        assert await anext(iterator) == 2
        await iterator.aclose()


async def test_the_default_run_timeout_does_not_cut_a_longer_timeout() -> None:
    async def left() -> float:
        deadline: float = context.request.call.deadline
        return deadline - time.monotonic()

    async def hang() -> None:
        await asyncio.Event().wait()

    async with serving(left, hang) as server, calling(server, timeout=None) as client:
        assert 50 < await client.raw_call("left", timeout=60) <= 60
        assert await client.raw_call("left", timeout=5.0) <= 5.0
        assert 8 < await client.raw_call("left") <= 9
        for handler in server.handlers:
            handler.default_timeout = 0.05
        client.register("hang")(hang_declared)
        text = r"hang: the server's default run_timeout of 0\.05 s passed"
        with pytest.raises(DeadlineExceeded, match=text):
            await within(client.raw_call("hang"))


@pytest.mark.parametrize("of_server", [True, False])
async def test_a_run_timeout_that_is_set_is_a_limit_and_is_named(of_server: bool) -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    options = {"run_timeout": 0.05}
    async with serving(**options if of_server else {}) as server:
        server.register(hang, **{} if of_server else options)  # type: ignore[call-overload]
        async with calling(server) as client:
            with pytest.raises(DeadlineExceeded, match=r"its run_timeout of 0\.05 s passed"):
                await within(client.raw_call("hang", timeout=60))


@pytest.mark.parametrize("timeout", [0, -1, -0.5, float("-inf")])
@pytest.mark.parametrize("connected", [True, False])
async def test_a_call_without_time_fails_at_once(
    server: Server, connected: bool, timeout: float, clock: FakeClock
) -> None:
    async with calling(server, clock=clock) as client:  # its time stands still: none may wait
        stub: Any = client.register("fine")(hang_declared)
        generator: Any = client.register("fine")(items_declared)
        requests: Any = client.register("fine")(requests_declared)
        if not connected:
            client.cluster.ready = ()
        for call in (
            client.raw_call("fine", timeout=timeout),
            client.call(hang_declared, timeout=timeout),
            stub(timeout=timeout),
            stub.start(timeout=timeout),
            anext(generator(timeout=timeout)),
            anext(client.iterator_call("fine", timeout=timeout)),
            requests(iter([1]), timeout=timeout),
            requests.start(iter([1]), timeout=timeout),
        ):
            with pytest.raises(DeadlineExceeded, match="passed before it was sent") as caught:
                await within(call)
            assert caught.value.unserved


async def test_a_channel_without_time_fails_at_once(client: Client) -> None:
    with pytest.raises(DeadlineExceeded, match="before it was sent"):
        async with client.channel("fine", timeout=0):
            raise AssertionError("it has no time")


async def items_declared() -> AsyncIterator[int]:
    yield 0


async def requests_declared(items: AsyncIterator[int]) -> int:
    raise AssertionError("it runs on the server")


async def test_the_clients_timeout_is_the_default(server: Server, watch: Watch) -> None:
    async with calling(server, timeout=0.05) as client:
        with pytest.raises(DeadlineExceeded):
            await within(client.raw_call("hang"))
        stub = client.register("hang")(hang_declared)
        with pytest.raises(DeadlineExceeded):
            await within(stub())
        slower = client.register("fine", timeout=5)(hang_declared)
        await slower()


async def hang_declared() -> Any:
    raise AssertionError("it runs on the server")


async def test_a_client_without_timeout_sets_no_deadline(server: Server) -> None:
    seen: list[float] = []

    async def deadline() -> float:
        left = context.request.call.deadline - asyncio.get_running_loop().time()
        seen.append(left)
        return left

    server.register(deadline, run_timeout=100)
    async with calling(server, timeout=None) as client:
        assert await client.raw_call("deadline") > 90
        assert await client.raw_call("deadline", timeout=20) < 20


async def test_the_answer_of_a_function_in_a_thread_is_dropped(
    server: Server, watch: Watch, clock: FakeClock
) -> None:
    async with calling(server, clock=clock) as client:
        call = client.raw_call("block", timeout=5.0)
        await expired(call, clock, 5.0, once=watch.thread_began.is_set)
        watch.release.set()
        await eventually(watch.thread_ended.is_set)
        assert await client.raw_call("fine") == 1


async def test_a_call_whose_deadline_passes_while_it_waits_for_a_thread_never_runs() -> None:
    release, began = threading.Event(), list[int]()

    def block(number: int) -> int:
        began.append(number)
        release.wait(10)
        return number

    async with serving(block, threads=1) as server, calling(server) as client:
        first = asyncio.create_task(client.raw_call("block", 1))
        await eventually(lambda: began == [1])
        with pytest.raises(DeadlineExceeded):
            await client.raw_call("block", 2, timeout=0.02)
        release.set()
        assert await within(first) == 1
        assert await client.raw_call("block", 3) == 3
        assert began == [1, 3]


async def test_unary_calls_have_nine_seconds_and_streams_and_channels_no_limit() -> None:
    async def left() -> float:
        deadline: float = context.request.call.deadline
        return deadline - time.monotonic()

    async def lefts() -> AsyncIterator[float]:
        yield await left()

    async def ask(channel: Channel) -> None:
        await channel.write(str(await left()))

    async with serving(left, lefts, ask, run_timeout=100) as server, calling(server) as client:

        @client.register(name="ask")
        async def asking(channel: ClientChannel) -> Any:
            return await channel.read_body()

        assert 8 < await client.raw_call("left") <= 9
        assert [item async for item in client.iterator_call("lefts")] == [float("inf")]
        assert await asking() == "inf"


async def test_a_function_in_a_thread_does_not_keep_others_waiting(
    client: Client, watch: Watch
) -> None:
    blocked = asyncio.create_task(client.raw_call("block"))
    assert await within(client.raw_call("fine")) == 1
    watch.release.set()
    assert await within(blocked) == 1


@pytest.mark.parametrize("how", ["async", "thread"])
async def test_a_deadline_crosses_three_servers(how: str) -> None:
    """Each hop sees less time than the one before; at the end none runs on."""
    left: list[float] = []
    ended: list[int] = []
    loop = asyncio.get_running_loop()

    async def last() -> None:
        left.append(context.request.call.deadline - loop.time())
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(3)

    async with serving(last) as third, calling(third, timeout=60) as to_third:

        async def middle() -> None:
            left.append(context.request.call.deadline - loop.time())
            try:
                await to_third.raw_call("last")
            finally:
                ended.append(2)

        async with serving(middle) as second, calling(second, timeout=60) as to_second:

            def threaded() -> None:
                left.append(context.request.call.deadline - loop.time())
                asyncio.run_coroutine_threadsafe(in_context(), loop).result()

            async def in_context() -> None:
                await to_second.raw_call("middle", timeout=1.0)

            async def direct() -> None:
                left.append(context.request.call.deadline - loop.time())
                await to_second.raw_call("middle")

            first_function = direct if how == "async" else threaded
            async with serving() as first, calling(first) as client:
                first.register(first_function, name="first")
                with pytest.raises(DeadlineExceeded):
                    await within(client.raw_call("first", timeout=1.0))
                await eventually(lambda: sorted(ended) == [2, 3])
    assert len(left) == 3
    assert all(0 < seconds <= 1.01 for seconds in left)
    if how == "async":
        assert left == sorted(left, reverse=True)


async def test_a_deadline_that_has_passed_sends_nothing(client: Client) -> None:
    stub = client.register("fine")(hang_declared)
    told: list[str] = []

    async def outer() -> None:
        # No timer of the loop is served before the handler has made its calls.
        time.sleep(context.request.call.deadline - time.monotonic() + 0.001)  # noqa: ASYNC251
        for call in (stub(), client.raw_call("fine")):
            try:
                await call
            except DeadlineExceeded as exc:
                told.append(exc.message)

    async with serving(outer) as server, calling(server) as other:
        with contextlib.suppress(DeadlineExceeded):
            await other.raw_call("outer", timeout=0.2)
    assert told == ["/default/fine: the deadline passed before it was sent"] * 2


@pytest.mark.parametrize("timeout", ["1", True, float("nan")])
async def test_a_bad_timeout_is_refused(client: Client, timeout: Any) -> None:
    stub: Any = client.register("fine")(hang_declared)
    for call in (
        lambda: client.raw_call("fine", timeout=timeout),
        lambda: client.call(hang_declared, timeout=timeout),
        lambda: stub(timeout=timeout),
    ):
        with pytest.raises(ValueError, match="timeout must be"):
            await call()
    for use in (
        lambda: client.iterator_call("fine", timeout=timeout),
        lambda: client.register(timeout=timeout),
        lambda: client.bind(Watch, timeout=timeout),
    ):
        with pytest.raises(ValueError, match="timeout must be"):
            use()


async def test_a_deadline_is_one_kind_of_failure(client: Client) -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        await client.raw_call("hang", timeout=0.02)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
