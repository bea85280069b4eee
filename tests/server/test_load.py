"""What a server tells of its load: to clients that ask, and only then."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from rap.client import Client
from rap.client.node import Node
from rap.errors import CallError
from rap.server import Channel, Server
from rap.server.load_report import LoadTeller
from rap.wire.load_report import ASK_FOR_LOAD, ServerLoad
from tests.fake_clock import FakeClock
from tests.loopback import calling, eventually, serving, within


class Curious:
    """A picker that wants to know what servers report."""

    wants_reports = True

    def pick(self, candidates: Sequence[Any], affinity: str | None = None) -> Any:
        return candidates[0]


async def quick() -> str:
    return "done"


def only_node(client: Client) -> Node:
    (node,) = client.cluster.nodes.values()
    return node


async def report_of(client: Client) -> ServerLoad:
    """Return the next report."""
    node = only_node(client)
    node.report = None
    node.request_load_report()
    await eventually(lambda: node.report is not None)
    report = node.report
    assert report is not None
    return report


async def test_a_report_tells_of_calls_processor_and_clients() -> None:
    gate, clock = asyncio.Event(), FakeClock()

    async def wait() -> None:
        await gate.wait()

    async with serving(quick, wait, clock=clock) as server, calling(server) as other:
        async with calling(server, picker=Curious()) as client:
            waiting = asyncio.gather(*(other.raw_call("wait") for _ in range(3)))
            await eventually(lambda: sum(len(c.streams) for c in server._ports.connections) == 3)
            clock.advance(1.0)
            report = await report_of(client)
            assert report._replace(util=0.0) == ServerLoad(3, None, 0.0, False, 2)
            gate.set()
            await waiting


async def test_the_use_of_the_processor_is_taken_over_half_a_second() -> None:
    async with serving() as server:
        clock, used = FakeClock(), iter([1.0, 1.2, 1.9])
        teller = LoadTeller(server._ports, clock, cpu=lambda: next(used))
        told = []
        for pause in (0.1, 0.4, 0.2, 0.3):
            clock.advance(pause)
            told.append(teller._use_of_processor(clock.monotonic()))
        assert told == [0.0, pytest.approx(0.4), pytest.approx(0.4), pytest.approx(1.4)]


async def test_reports_come_beside_answers_at_most_every_100_ms() -> None:
    clock = FakeClock()
    async with serving(quick, clock=clock) as server:
        async with calling(server, picker=Curious()) as client:
            node = only_node(client)
            reports = []
            for pause in (0.0, 0.05, 0.04, 0.02, 0.05):
                clock.advance(pause)
                node.report = None
                await client.raw_call("quick")
                conn = node.conn
                assert conn is not None
                conn.ping()  # what comes after the answer comes before the answer to this
                answered = conn.watchdog.keepalive
                answered.pinged_at = conn.clock.monotonic()
                await eventually(lambda: answered.pinged_at is None)  # noqa: B023  # it is awaited here
                reports.append(node.report is not None)
            assert reports == [True, False, False, True, False]


async def test_a_client_that_does_not_ask_is_told_nothing_and_its_calls_not_looked_at() -> None:
    async with serving(quick) as server, calling(server) as client:
        node = only_node(client)
        for _ in range(3):
            await client.raw_call("quick")
        (conn,) = server._ports.connections
        assert server._ports._teller is None
        assert conn.on_open == server._ports._on_open
        assert node.report is None


async def test_a_client_that_only_asks_now_and_then_is_told_then() -> None:
    async with serving(quick) as server, calling(server) as client:
        node = only_node(client)
        assert node.conn is not None
        node.conn.on_load = node.take_report
        await client.raw_call("quick")
        assert node.report is None
        assert (await report_of(client)).clients == 1
        (conn,) = server._ports.connections
        assert conn.on_open == server._ports._on_open


async def latency_of(server: Server, clock: FakeClock, *calls: str) -> float | None:
    """Return the latency that is told after some calls, one after the other."""
    async with calling(server, picker=Curious()) as client:
        for name in calls:
            clock.advance(0.01)
            try:
                await within(client.raw_call(name))
            except CallError:
                pass
        clock.advance(0.01)
        return (await report_of(client)).latency


async def test_the_latency_of_answered_calls_is_told() -> None:
    clock = FakeClock()

    async def slow() -> None:
        clock.advance(0.3)

    def inline() -> None:
        clock.advance(0.7)

    async with serving(slow, clock=clock) as server:
        server.register(inline, inline=True)
        assert await latency_of(server, clock, "slow") == pytest.approx(0.3)
    async with serving(clock=clock) as server:
        server.register(inline, inline=True)
        assert await latency_of(server, clock, "inline") == pytest.approx(0.7)


async def test_a_quick_error_does_not_make_a_server_look_fast_nor_does_a_refusal() -> None:
    clock = FakeClock()

    async def fails() -> None:
        raise ValueError("no")

    async with serving(fails, clock=clock) as server:
        assert await latency_of(server, clock, "fails", "missing") is None


async def test_a_call_that_was_too_late_was_slow() -> None:
    clock = FakeClock()

    async def hangs() -> None:
        await asyncio.Event().wait()

    async with serving(hangs, run_timeout=5, clock=clock) as server:
        async with calling(server, picker=Curious()) as client:
            call = asyncio.create_task(client.raw_call("hangs"))
            await eventually(lambda: any(conn.streams for conn in server._ports.connections))
            clock.advance(6.0)
            (conn,) = server._ports.connections
            conn.watchdog.tick()
            with pytest.raises(CallError):
                await within(call)
            clock.advance(0.1)
            assert (await report_of(client)).latency == pytest.approx(6.0)


async def test_generators_and_channels_have_no_latency_but_reports_come_with_them() -> None:
    clock = FakeClock()

    async def numbers() -> AsyncIterator[int]:
        yield 1

    async def talk(channel: Channel) -> None:
        await channel.write("hello")

    async with serving(numbers, talk, clock=clock) as server:
        async with calling(server, picker=Curious()) as client:
            node = only_node(client)
            assert [item async for item in client.iterator_call("numbers")] == [1]
            await eventually(lambda: node.report is not None)
            assert node.report is not None
            assert node.report.latency is None


async def test_a_server_that_drains_says_so() -> None:
    clock = FakeClock()
    async with (
        serving(quick, clock=clock) as server,
        calling(server, picker=Curious()) as client,
    ):
        node = only_node(client)
        conn = node.conn
        assert conn is not None
        conn.pin()  # a session keeps the connection through the drain
        assert not (await report_of(client)).draining
        await server.set_serving(False)
        await eventually(lambda: conn.draining)
        clock.advance(1.0)
        conn.protocol.send_load(ASK_FOR_LOAD)
        await eventually(lambda: node.report is not None and node.report.draining)
        conn.unpin()


async def test_figures_stand_for_a_moment_the_longer_the_more_connections_there_are() -> None:
    clock = FakeClock()
    async with serving(quick, clock=clock) as server:
        teller = LoadTeller(server._ports, clock)
        assert teller._frame_of(clock.monotonic()) != b""
        async with calling(server), calling(server), calling(server):
            await eventually(lambda: len(server._ports.connections) == 3)
            first = teller._frame_of(clock.monotonic())
            async with calling(server):
                await eventually(lambda: len(server._ports.connections) == 4)
                clock.advance(2.9e-5)
                assert teller._frame_of(clock.monotonic()) is first
                clock.advance(0.2e-5)
                assert teller._frame_of(clock.monotonic()) != first


async def test_a_handler_that_is_open_elsewhere_counts_as_in_flight_in_a_sample() -> None:
    clock, told = FakeClock(), []
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    async with serving(quick, wait, clock=clock) as server:
        async with calling(server, picker=Curious()) as client, calling(server) as other:
            waiting = asyncio.gather(*(other.raw_call("wait") for _ in range(4)))
            await eventually(lambda: sum(len(c.streams) for c in server._ports.connections) == 4)
            teller = server._ports._teller
            assert teller is not None
            teller.sample = lambda began, others: told.append(others)  # type: ignore[method-assign]
            clock.advance(1.0)
            await client.raw_call("quick")
            gate.set()
            await waiting
    assert told == [4]


async def test_a_report_that_cannot_be_read_changes_nothing() -> None:
    async with serving(quick) as server, calling(server, picker=Curious()) as client:
        node = only_node(client)
        report = await report_of(client)
        assert node.conn is not None
        node.take_report(node.conn, b"\xc1")
        assert node.report is report
