"""A server reports its load to its registry, and to the clients that ask for it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from rap.client import Client
from rap.client.node import Node
from rap.errors import CallError
from rap.registry.base import LoadReport
from rap.registry.memory import MemoryRegistry
from rap.server import Channel, Server
from rap.server.load_report import LoadMeter, LoadReporter
from rap.wire.load_report import ASK_FOR_LOAD, ServerLoad
from tests.fake_clock import FakeClock
from tests.loopback import calling, eventually, passing, serving, within


class ReportPicker:
    """A picker that uses the reports of servers."""

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


async def test_a_report_has_calls_cpu_use_and_clients() -> None:
    gate, clock = asyncio.Event(), FakeClock()

    async def wait() -> None:
        await gate.wait()

    async with serving(quick, wait, clock=clock) as server, calling(server) as other:
        async with calling(server, picker=ReportPicker()) as client:
            waiting = asyncio.gather(*(other.raw_call("wait") for _ in range(3)))
            await eventually(lambda: server.connection_manager.open_calls == 3)
            clock.advance(1.0)
            report = await report_of(client)
            assert report._replace(util=0.0) == ServerLoad(3, None, 0.0, False, 2, 3)
            gate.set()
            await waiting


async def test_cpu_use_is_averaged_over_half_a_second() -> None:
    async with serving() as server:
        clock, used = FakeClock(), iter([1.0, 1.2, 1.9])
        reporter = LoadReporter(server.connection_manager, clock, cpu=lambda: next(used))
        seen = []
        for pause in (0.1, 0.4, 0.2, 0.3):
            clock.advance(pause)
            seen.append(reporter.util(clock.monotonic()))
        assert seen == [0.0, pytest.approx(0.4), pytest.approx(0.4), pytest.approx(1.4)]


async def test_reports_come_with_responses_at_most_every_100_ms() -> None:
    clock = FakeClock()
    async with serving(quick, clock=clock) as server:
        async with calling(server, picker=ReportPicker()) as client:
            node = only_node(client)
            reports = []
            for pause in (0.0, 0.05, 0.04, 0.02, 0.05):
                clock.advance(pause)
                node.report = None
                await client.raw_call("quick")
                conn = node.conn
                assert conn is not None
                conn.ping()  # a report that follows the response arrives before the pong
                answered = conn.watchdog.keepalive
                answered.pinged_at = conn.clock.monotonic()
                await eventually(lambda: answered.pinged_at is None)  # noqa: B023  # it is awaited here
                reports.append(node.report is not None)
            assert reports == [True, False, False, True, False]


async def test_a_client_that_does_not_ask_gets_no_report_and_its_calls_are_not_observed() -> None:
    async with serving(quick) as server, calling(server) as client:
        node = only_node(client)
        for _ in range(3):
            await client.raw_call("quick")
        (conn,) = server.connection_manager.connections
        assert server.connection_manager._load_reporter is None
        assert conn.on_open == server.connection_manager._on_open
        assert node.report is None


async def test_a_client_that_requests_one_report_gets_one() -> None:
    async with serving(quick) as server, calling(server) as client:
        node = only_node(client)
        assert node.conn is not None
        node.conn.set_load_handler(node.take_report)
        await client.raw_call("quick")
        assert node.report is None
        assert (await report_of(client)).clients == 1
        (conn,) = server.connection_manager.connections
        assert conn.on_open == server.connection_manager._on_open


async def latency_of(server: Server, clock: FakeClock, *calls: str) -> float | None:
    """Return the reported latency after some calls, made one after the other."""
    async with calling(server, picker=ReportPicker()) as client:
        for name in calls:
            clock.advance(0.01)
            try:
                await within(client.raw_call(name))
            except CallError:
                pass
        clock.advance(0.01)
        return (await report_of(client)).latency


async def test_the_latency_of_answered_calls_is_reported() -> None:
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


async def test_quick_errors_and_refusals_do_not_make_a_server_look_fast() -> None:
    clock = FakeClock()

    async def fails() -> None:
        raise ValueError("no")

    async with serving(fails, clock=clock) as server:
        assert await latency_of(server, clock, "fails", "missing") is None


async def test_a_call_past_its_deadline_counts_as_slow() -> None:
    clock = FakeClock()

    async def hangs() -> None:
        await asyncio.Event().wait()

    async with serving(hangs, run_timeout=5, clock=clock) as server:
        async with calling(server, picker=ReportPicker()) as client:
            call = asyncio.create_task(client.raw_call("hangs"))
            await eventually(lambda: server.connection_manager.open_calls)
            clock.advance(6.0)
            (conn,) = server.connection_manager.connections
            conn.watchdog.tick()
            with pytest.raises(CallError):
                await within(call)
            clock.advance(0.1)
            assert (await report_of(client)).latency == pytest.approx(6.0)


async def test_generators_and_channels_bring_reports_but_have_no_latency() -> None:
    clock = FakeClock()

    async def numbers() -> AsyncIterator[int]:
        yield 1

    async def talk(channel: Channel) -> None:
        await channel.write("hello")

    async with serving(numbers, talk, clock=clock) as server:
        async with calling(server, picker=ReportPicker()) as client:
            node = only_node(client)
            assert [item async for item in client.iterator_call("numbers")] == [1]
            await eventually(lambda: node.report is not None)
            assert node.report is not None
            assert node.report.latency is None


async def test_a_report_says_that_the_server_is_draining() -> None:
    clock = FakeClock()
    async with (
        serving(quick, clock=clock) as server,
        calling(server, picker=ReportPicker()) as client,
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


async def test_a_report_is_reused_longer_when_there_are_more_connections() -> None:
    clock = FakeClock()
    async with serving(quick, clock=clock) as server:
        reporter = LoadReporter(server.connection_manager, clock)
        assert reporter.frame(clock.monotonic()) != b""
        async with calling(server), calling(server), calling(server):
            await eventually(lambda: len(server.connection_manager.connections) == 3)
            first = reporter.frame(clock.monotonic())
            async with calling(server):
                await eventually(lambda: len(server.connection_manager.connections) == 4)
                clock.advance(2.9e-5)
                assert reporter.frame(clock.monotonic()) is first
                clock.advance(0.2e-5)
                assert reporter.frame(clock.monotonic()) != first


async def test_a_sample_counts_the_calls_open_on_other_connections() -> None:
    clock, samples = FakeClock(), []
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    async with serving(quick, wait, clock=clock) as server:
        async with calling(server, picker=ReportPicker()) as client, calling(server) as other:
            waiting = asyncio.gather(*(other.raw_call("wait") for _ in range(4)))
            await eventually(lambda: server.connection_manager.open_calls == 4)
            reporter = server.connection_manager._load_reporter
            assert reporter is not None
            reporter.sample = lambda began, others: samples.append(others)  # type: ignore[method-assign]
            clock.advance(1.0)
            await client.raw_call("quick")
            gate.set()
            await waiting
    assert samples == [4]


async def test_a_malformed_report_changes_nothing() -> None:
    async with serving(quick) as server, calling(server, picker=ReportPicker()) as client:
        node = only_node(client)
        report = await report_of(client)
        assert node.conn is not None
        node.take_report(node.conn, b"\xc1")
        assert node.report is report


# The registry.


async def test_the_meter_reads_open_calls_call_rate_cpu_use_and_connections() -> None:
    gate, clock, used = asyncio.Event(), FakeClock(), iter([1.0, 3.0, 3.5])

    async def wait() -> None:
        await gate.wait()

    async def work() -> None:
        return None

    async with serving(wait, work) as server:
        meter = LoadMeter(server.connection_manager, clock, cpu=lambda: next(used))
        async with calling(server) as one, calling(server) as two:
            waiting = [asyncio.create_task(it.raw_call("wait")) for it in (one, two)]
            await asyncio.gather(*(one.raw_call("work") for _ in range(18)))
            await eventually(lambda: server.connection_manager.calls_opened == 20)
            clock.advance(4.0)
            assert meter() == {"in_flight": 2, "rps": 5.0, "util": 0.5, "conns": 2}
            gate.set()
            await asyncio.gather(*waiting)
        await eventually(lambda: not server.connection_manager.connections)
        clock.advance(1.0)  # calls on closed connections are not counted again
        assert meter() == {"in_flight": 0, "rps": 0.0, "util": 0.5, "conns": 0}


class RecordingRegistry(MemoryRegistry):
    """A registry that keeps every load report."""

    def __init__(self) -> None:
        super().__init__()
        self.reports: list[LoadReport] = []

    def report_load(self, service: str, endpoint_id: str, load: LoadReport) -> None:
        self.reports.append(load)


async def test_a_server_reports_its_load_with_each_renewal_of_its_lease() -> None:
    registry, clock = RecordingRegistry(), FakeClock()
    options = {"service": "calc", "registry": registry, "clock": clock, "drain_delay": 0}
    async with serving(**options) as server, calling(server):
        await eventually(lambda: server.connection_manager.connections)
        assert registry.reports[0]["conns"] == 0
        await passing(clock, 1.0, lambda: registry.reports[-1]["conns"] == 1)
    assert registry.reports[-1].keys() == {"in_flight", "rps", "util", "conns", "lag"}
