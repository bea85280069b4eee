"""Which calls are made again elsewhere, and which never are."""

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from rap.call import Request
from rap.channel import Channel
from rap.client import Client
from rap.errors import CallError, Code, ResourceExhausted, Unavailable, Unimplemented
from rap.processor.base import BaseProcessor
from rap.processor.limit import LimitProcessor, Rule
from rap.server import context
from tests.loopback import PATIENCE, calling, eventually, serving, within

ROOT = Path(__file__).parents[2]

SERVER = """
import asyncio, os, sys
from rap.server import Server

async def hang(path: str) -> int:
    with open(path, "a") as log:
        log.write("x")
    await asyncio.Event().wait()
    return 0

async def main() -> None:
    server = Server("127.0.0.1:0", shed=False)
    server.register(hang)
    await server.create_server()
    print(server.addresses[0], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class Refusing(BaseProcessor):
    """Refuses requests, as one that sheds load does."""

    def __init__(self, *, unserved: bool, error: type[CallError] = ResourceExhausted) -> None:
        self.refused = 0
        self.refuses = True
        self._unserved = unserved
        self._error = error

    async def process_request(self, request: Request) -> Request:
        if not self.refuses:
            return request
        self.refused += 1
        raise self._error("overload", unserved=self._unserved)


class AtOnce(random.Random):
    """Makes pauses as short as they can be."""

    def uniform(self, a: float, b: float) -> float:
        return a


async def declared(path: str) -> int:
    raise AssertionError("it runs on the server")


async def attempt() -> int:
    return int(context.request.header.get(":attempt", 1))


async def attempts() -> AsyncIterator[int]:
    yield int(context.request.header.get(":attempt", 1))


@pytest.fixture
def killable() -> Any:
    """A server in its own process, and its address."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


async def call_and_kill(
    killable: Any, log: Path, *, idempotent: bool, times: int = 1
) -> tuple[list[Any], int]:
    """Kill the server with -9 during calls while another one stands by."""
    process, address = killable

    def hang(path: str) -> int:
        with Path(path).open("a") as log:
            log.write("y")
        return 2

    # Without `shed`: on a busy machine a server would refuse some, as if it were overloaded.
    async with (
        serving(hang, shed=False) as other,
        Client([address, *other.addresses]) as client,
    ):
        await eventually(lambda: len(client.cluster.ready) == 2)
        client.cluster.ready = (client.cluster.nodes[address],)  # the call goes there
        stub = client.register("hang", idempotent=idempotent)(declared)
        calls = [asyncio.ensure_future(stub(str(log))) for _ in range(times)]
        await eventually(lambda: log.exists() and log.read_text() == "x" * times)
        client.cluster.ready = tuple(client.cluster.nodes.values())
        process.send_signal(signal.SIGKILL)
        await asyncio.wait(calls, timeout=PATIENCE)
        return calls, sum(node.stats.in_flight for node in client.cluster.nodes.values())


async def test_an_idempotent_call_survives_the_death_of_its_server(
    killable: Any, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    (call,), in_flight = await call_and_kill(killable, log, idempotent=True)
    assert call.result() == 2
    assert log.read_text() == "xy"
    assert in_flight == 0


async def test_however_many_calls_a_dying_server_had_all_of_them_survive(
    killable: Any, tmp_path: Path
) -> None:
    """More than the retry budget has for so few calls."""
    log = tmp_path / "log"
    calls, in_flight = await call_and_kill(killable, log, idempotent=True, times=300)
    assert [call.result() for call in calls] == [2] * 300
    assert log.read_text() == "x" * 300 + "y" * 300
    assert in_flight == 0


async def test_a_call_that_is_not_idempotent_is_never_run_twice(
    killable: Any, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    (call,), in_flight = await call_and_kill(killable, log, idempotent=False)
    with pytest.raises(Unavailable):
        call.result()
    assert log.read_text() == "x"
    assert in_flight == 0


async def test_a_call_that_was_refused_unserved_goes_elsewhere() -> None:
    refusing = Refusing(unserved=True)
    async with (
        serving(attempt, attempts, processor_list=[refusing]) as full,
        serving(attempt, attempts) as roomy,
        calling(full, roomy, rng=random.Random(1)) as client,
    ):
        await eventually(lambda: len(client.cluster.ready) == 2)
        stub = client.register()(attempt)
        counts = []
        for _ in range(10):
            counts += [await stub(), await client.raw_call("attempt")]
            counts += [await anext(client.iterator_call("attempts"))]
        assert refusing.refused > 0
        assert 2 in counts
        assert set(counts) <= {1, 2}
        assert all(node.stats.in_flight == 0 for node in client.cluster.nodes.values())


async def test_a_call_that_was_refused_otherwise_fails() -> None:
    refusing = Refusing(unserved=False)
    async with serving(attempt, processor_list=[refusing]) as server, calling(server) as client:
        with pytest.raises(ResourceExhausted, match="overload"):
            await client.raw_call("attempt")
        assert refusing.refused == 1


async def test_attempts_are_limited() -> None:
    refusing = Refusing(unserved=True)
    async with (
        serving(attempt, processor_list=[refusing]) as server,
        calling(server, max_attempts=3, rng=random.Random(1)) as client,
    ):
        with pytest.raises(ResourceExhausted, match="overload"):
            await client.raw_call("attempt")
        assert refusing.refused == 3


async def test_no_attempt_is_made_past_the_deadline() -> None:
    refusing = Refusing(unserved=True)
    async with (
        serving(attempt, processor_list=[refusing]) as server,
        calling(server, max_attempts=1000, rng=random.Random(1)) as client,
    ):
        with pytest.raises(CallError) as caught:
            await within(client.raw_call("attempt", timeout=0.2))
        assert caught.value.code in (Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED)
        assert 1 < refusing.refused < 50


async def test_a_call_in_a_session_never_goes_elsewhere() -> None:
    refusing = Refusing(unserved=True)
    async with serving(attempt, processor_list=[refusing]) as server, calling(server) as client:
        async with client.session:
            with pytest.raises(ResourceExhausted):
                await client.raw_call("attempt")
        assert refusing.refused == 1


async def test_an_unserved_error_that_a_handler_passes_on_is_not_unserved() -> None:
    """Its own call went unserved, but the handler has run: running it again is not safe."""
    runs = 0

    async def outer() -> int:
        nonlocal runs
        runs += 1
        raise Unavailable("nobody is there", unserved=True)

    def in_thread() -> int:
        nonlocal runs
        runs += 1
        raise Unavailable("nobody is there", unserved=True)

    async def stream() -> AsyncIterator[int]:
        nonlocal runs
        runs += 1
        raise Unavailable("nobody is there", unserved=True)
        yield 1

    functions: list[Any] = [outer, in_thread, stream]
    for options in ({}, {"processor_list": [BaseProcessor()]}, {"processor_list": [Passing()]}):
        async with serving(*functions, **options) as server, calling(server) as client:
            server.register(in_thread, name="inline", inline=True)
            runs = 0
            for call in (
                client.raw_call("outer"),
                client.raw_call("in_thread"),
                client.raw_call("inline"),
                anext(client.iterator_call("stream")),
            ):
                with pytest.raises(Unavailable) as caught:
                    await call
                assert not caught.value.unserved
            assert runs == 4


class Passing(BaseProcessor):
    """Looks at requests."""

    async def process_request(self, request: Request) -> Request:
        return request


@pytest.mark.parametrize("retry_budget", [0.2, 0])
async def test_calls_that_a_stopping_server_did_not_serve_go_elsewhere(
    retry_budget: float,
) -> None:
    """Under load, with one of two servers drained, no call fails; that takes no budget."""
    entered = 0

    async def work() -> int:
        nonlocal entered
        entered += 1
        await asyncio.sleep(0)
        return 1

    async with serving(work, close_timeout=5) as one, serving(work) as two:
        async with calling(one, two, retry_budget=retry_budget) as client:
            await eventually(lambda: len(client.cluster.ready) == 2)
            stub = client.register()(work)
            done = 0

            async def load() -> None:
                nonlocal done
                while client.cluster.nodes and not stopped.done():
                    answer = await stub()
                    done += answer

            stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            workers = [asyncio.create_task(load()) for _ in range(20)]
            await eventually(lambda: done > 200)
            await within(one.await_closed())
            before = done
            await eventually(lambda: done > before + 200)
            stopped.set_result(None)
            await within(asyncio.gather(*workers))
            assert entered == done


@pytest.mark.parametrize("error", [ResourceExhausted, Unavailable])
async def test_where_all_servers_fail_the_load_grows_by_the_budget_and_no_more(
    error: type[CallError],
) -> None:
    """Whether they shed calls or fail them: without a budget there would be 4,000 attempts."""
    failed: list[CallError] = []
    ones, twos = (Refusing(unserved=error is ResourceExhausted, error=error) for _ in range(2))
    async with (
        serving(attempt, processor_list=[ones]) as one,
        serving(attempt, processor_list=[twos]) as two,
        calling(one, two, rng=AtOnce(1)) as client,
    ):
        await eventually(lambda: len(client.cluster.ready) == 2)
        stub = client.register(idempotent=True)(attempt)

        async def keep_calling() -> None:
            for _ in range(50):
                with pytest.raises(CallError) as caught:
                    await stub()
                failed.append(caught.value)

        await within(asyncio.gather(*(keep_calling() for _ in range(20))))
        assert len(failed) == 1000
        attempts = ones.refused + twos.refused
        assert 1000 + 100 <= attempts <= 1000 + 100 + 200
        budget = client.invoker.budget
        assert budget.retries == attempts - 1000
        refused = [error for error in failed if "not_retried" in error.details]
        assert 0 < len(refused) == budget.refused  # the others have used all their attempts
        why = "the retry budget (20 % of calls + 10/s) is used up"
        assert {error.details["not_retried"] for error in refused} == {why}
        assert all(error.__notes__[0] == f"not retried: {why}" for error in refused)
        ones.refuses = twos.refuses = False
        assert await stub() == 1  # the first one that can be served is


async def test_a_client_may_do_without_retries_that_cost_a_server_anything() -> None:
    refusing = Refusing(unserved=True)
    async with (
        serving(attempt, processor_list=[refusing]) as server,
        calling(server, retry_budget=0) as client,
    ):
        with pytest.raises(ResourceExhausted, match="overload") as caught:
            await client.raw_call("attempt")
        assert refusing.refused == 1
        assert "the retry budget (0) is used up" in caught.value.details["not_retried"]


async def test_what_a_handler_calls_for_a_retry_is_not_retried() -> None:
    """Four attempts for each of four would be sixteen."""
    inner, outer = 0, 0

    async def failing() -> int:
        nonlocal inner
        inner += 1
        raise Unavailable("not now")

    async with (
        serving(failing) as lowest,
        calling(lowest, rng=AtOnce(1)) as between,
        serving() as middle,
        calling(middle, rng=AtOnce(1)) as client,
    ):
        lower = between.register("failing", idempotent=True)(attempt)

        async def passing() -> int:
            nonlocal outer
            outer += 1
            return await lower()

        middle.register(passing)
        with pytest.raises(Unavailable, match="not now"):
            await client.register("passing", idempotent=True)(attempt)()
        assert outer == 4
        assert inner == 4 + 1 + 1 + 1


async def test_an_idempotent_call_comes_again_when_a_limit_lets_it() -> None:
    limit = LimitProcessor("memory://", [(lambda _: "all", Rule(second=0.3, max_token=1))])
    async with (
        serving(attempt, processor_list=[limit]) as server,
        calling(server, rng=AtOnce(1)) as client,
    ):
        stub = client.register(idempotent=True)(attempt)
        assert [await stub(), await stub()] == [1, 2]
        assert limit.refused == 1
        with pytest.raises(ResourceExhausted):
            await client.raw_call("attempt")  # may have had an effect, for all that is known


@pytest.mark.parametrize("retry_after", [-1, 3600])
async def test_a_server_can_say_not_to_come_again(retry_after: float) -> None:
    """Or not before the deadline, which is the same."""
    runs = 0

    async def failing() -> int:
        nonlocal runs
        runs += 1
        raise Unavailable("closed", details={"retry_after": retry_after})

    async with serving(failing) as server, calling(server) as client:
        with pytest.raises(Unavailable, match="closed"):
            await client.register("failing", idempotent=True)(attempt)()
    assert runs == 1


async def new_function() -> int:
    return int(context.request.header.get(":attempt", 1))


async def new_items() -> AsyncIterator[int]:
    yield await new_function()


async def test_a_function_that_only_one_server_has_is_found_there() -> None:
    """A rolling update adds a function; clients may call it as soon as one server is new."""
    async with AsyncExitStack() as stack:
        old = [await stack.enter_async_context(serving(attempt)) for _ in range(5)]
        new = await stack.enter_async_context(serving(attempt, new_function, new_items, talk_new))
        client = await stack.enter_async_context(calling(*old, new, retry_budget=0, max_attempts=2))
        await eventually(lambda: len(client.invoker.cluster.ready) == 6)
        stub = client.register(new_function)
        hedged = client.register(idempotent=True, hedge=5.0)(new_function)

        @client.register("talk_new")
        async def talk(channel: Channel) -> Any:
            return await channel.read_body()

        for _ in range(20):
            assert 1 <= await stub() <= 6
            assert 1 <= await hedged() <= 6
            assert 1 <= await client.raw_call("new_function") <= 6
            assert len([item async for item in client.iterator_call("new_items")]) == 1


async def talk_new(channel: Channel) -> None:
    await channel.write(1)


async def test_a_function_that_no_server_has_is_asked_for_once_at_each() -> None:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving(attempt)) for _ in range(5)]
        client = await stack.enter_async_context(calling(*servers))
        await eventually(lambda: len(client.invoker.cluster.ready) == 5)
        with pytest.raises(Unimplemented, match="did you mean 'attempt'"):
            await client.raw_call("attempts")
        assert client.invoker.budget.retries == 4
        assert [node.pool.calls for node in client.invoker.cluster.ready] == [1] * 5


async def test_a_client_that_never_retries_asks_for_an_unknown_function_once() -> None:
    async with serving(attempt) as one, serving(attempt) as two:
        async with calling(one, two, max_attempts=1) as client:
            await eventually(lambda: len(client.invoker.cluster.ready) == 2)
            with pytest.raises(Unimplemented):
                await client.raw_call("nothing")
            assert sum(node.pool.calls for node in client.invoker.cluster.ready) == 1


async def test_what_a_handler_does_not_find_or_does_not_implement_is_not_retried() -> None:
    calls = []

    async def fails(code: int) -> None:
        calls.append(code)
        raise CallError("no", code=Code(code), unserved=True)

    async with serving(fails) as one, serving(fails) as two, calling(one, two) as client:
        await eventually(lambda: len(client.invoker.cluster.ready) == 2)
        for code in (Code.NOT_FOUND, Code.UNIMPLEMENTED):
            with pytest.raises(CallError) as caught:
                await client.raw_call("fails", int(code))
            assert (caught.value.code, caught.value.unserved) == (code, False)
    assert calls == [Code.NOT_FOUND, Code.UNIMPLEMENTED]


async def test_an_unknown_function_in_a_session_is_asked_for_once() -> None:
    async with serving(attempt) as one, serving(attempt, new_function) as two:
        async with calling(one, two) as client:
            await eventually(lambda: len(client.invoker.cluster.ready) == 2)
            for _ in range(10):
                async with client.session:
                    try:
                        await client.raw_call("new_function")
                    except Unimplemented:
                        break
            else:
                pytest.fail("no session was on the server without the function")
