"""A client that picks by what servers say of their load."""

import asyncio
import random
from collections import Counter

import pytest

from rap.client import Client
from rap.errors import CallError, Code
from rap.server import Server
from tests.client.test_cluster import node
from tests.fake_clock import FakeClock
from tests.loopback import calling, eventually, serving, within


async def work() -> str:
    return "done"


async def test_a_server_that_is_full_of_calls_of_other_clients_is_left_alone() -> None:
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    def named(name: str, server: Server) -> None:
        async def who() -> str:
            return name

        server.register(who)

    async with serving(wait) as one, serving(wait) as two, serving(wait) as three:
        for name, server in (("one", one), ("two", two), ("three", three)):
            named(name, server)
        async with calling(one) as busy, calling(two) as other:
            waiting = asyncio.gather(
                *(busy.raw_call("wait") for _ in range(40)),
                *(other.raw_call("wait") for _ in range(30)),
            )
            await eventually(lambda: two.connection_manager.open_calls == 30)
            async with calling(
                one, two, three, picker="prequal", rng=random.Random(1), timeout=5
            ) as client:
                await eventually(lambda: len(client.cluster.ready) == 3)
                for each in client.cluster.ready:
                    each.request_load_report()
                await eventually(lambda: all(it.report for it in client.cluster.ready))
                seen = Counter([await client.raw_call("who") for _ in range(40)])
                assert seen["one"] == 0
                assert seen.total() == 40
            gate.set()
            await waiting


async def test_reports_come_with_answers_and_are_asked_for_when_calls_are_few() -> None:
    clock = FakeClock()
    async with serving(work) as one, serving(work) as two:
        async with calling(one, two, picker="prequal", clock=clock) as client:
            await eventually(lambda: len(client.cluster.ready) == 2)
            ready = client.cluster.ready
            for each in ready:
                assert each.conn is not None
                assert each.conn.options.hello["load"] is True
            async with asyncio.timeout(10):
                while any(each.report is None for each in ready):
                    clock.advance(0.3)
                    await client.raw_call("work", timeout=1e6)
            assert {each.report.clients for each in ready if each.report is not None} == {1}


async def test_a_client_with_another_picker_does_not_ask() -> None:
    async with serving(work) as server, calling(server) as client:
        await client.raw_call("work")
        (each,) = client.cluster.ready
        assert each.conn is not None
        assert "load" not in each.conn.options.hello
        assert each.report is None


async def test_a_node_is_not_asked_more_often_than_the_server_takes_pings() -> None:
    clock = FakeClock()

    async def asked(server: Server, pause: float) -> int:
        """Return how many requests leave in ten seconds."""
        async with calling(server, picker="prequal", clock=clock) as client:
            (each,) = client.cluster.ready
            conn, count = each.conn, 0
            assert conn is not None
            send = conn.protocol.send_load

            def counting(frame: bytes) -> None:
                nonlocal count
                count += 1
                send(frame)

            object.__setattr__(each, "_asked_at", clock.monotonic() - 100.0)
            conn.protocol = _With(conn.protocol, counting)  # type: ignore[assignment]
            for _ in range(round(10.0 / pause)):
                clock.advance(pause)
                each.request_load_report()
            return count

    async with serving(work) as quick, serving(work, max_pings=1) as slow:
        assert await asked(quick, 0.05) <= 51
        assert 30 < await asked(quick, 0.05)
        assert await asked(slow, 0.05) <= 5


class _With:
    """A protocol of which one method is another."""

    def __init__(self, protocol: object, send_load: object) -> None:
        self._protocol = protocol
        self.send_load = send_load

    def __getattr__(self, name: str) -> object:
        return getattr(self._protocol, name)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (CallError("x", code=Code.UNAVAILABLE), 5.0),
        (CallError("x", code=Code.UNAVAILABLE, remote=True, details={"retry_after": 60}), 60.0),
        (CallError("x", code=Code.UNAVAILABLE, remote=True, details={"retry_after": 1e9}), 300.0),
        (CallError("x", code=Code.NOT_FOUND), 0.0),
    ],
)
def test_a_node_that_failed_a_call_is_left_alone_as_long_as_it_asks_for(
    error: CallError, seconds: float
) -> None:
    each = node()
    each.stats.started(1000.0)
    each.record_result(1000.0, error)
    assert max(each.avoid_until - 1000.0, 0.0) == seconds
    each.stats.started(1000.0)
    each.record_result(
        1000.0, CallError("x", code=Code.UNAVAILABLE, remote=True, details={"retry_after": 1})
    )
    assert each.avoid_until - 1000.0 == max(seconds, 1.0)
    each.reset("next")
    assert each.avoid_until == 0.0


async def test_a_server_that_hangs_gets_no_calls_once_its_reports_are_old() -> None:
    hangs = asyncio.Event()

    async def hang() -> None:
        await hangs.wait()

    clock = FakeClock()
    async with serving(work) as one, serving(work) as two, serving(work) as three:
        async with calling(one, two, three, picker="prequal", clock=clock) as client:
            await eventually(lambda: len(client.cluster.ready) == 3)
            frozen, *others = client.cluster.ready
            for each in client.cluster.ready:
                each.request_load_report()
            await eventually(lambda: all(it.report for it in client.cluster.ready))
            frozen.request_load_report = lambda: None  # type: ignore[method-assign]  # it would not answer
            for _ in range(12):
                clock.advance(0.25)
                for each in others:
                    before = each.reported_at
                    each.request_load_report()
                    await eventually(lambda: each.reported_at > before)  # noqa: B023  # awaited here
            picked = {client.cluster.pick() for _ in range(50)}
            assert frozen not in picked
            assert picked <= set(others)


async def test_calls_of_many_shapes_and_failures_keep_the_count_of_own_calls() -> None:
    async def fails() -> None:
        raise CallError("no", code=Code.UNAVAILABLE)

    async with serving(work, fails) as one, serving(work, fails) as two:
        async with calling(one, two, picker="prequal") as client:
            await within(_mixture(client))
            assert {each.own_calls for each in client.cluster.nodes.values()} == {0}


async def _mixture(client: Client) -> None:
    for _ in range(10):
        assert await client.raw_call("work") == "done"
        with pytest.raises(CallError):
            await client.raw_call("fails")
