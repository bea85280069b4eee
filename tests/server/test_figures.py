"""The load that a server reports to its registry."""

import asyncio

from rap.registry.base import LoadReport
from rap.registry.memory import MemoryRegistry
from rap.server.load_report import Figures
from tests.fake_clock import FakeClock
from tests.loopback import calling, eventually, serving


async def test_open_calls_and_connections_calls_a_second_and_processor_are_told() -> None:
    gate, clock, used = asyncio.Event(), FakeClock(), iter([1.0, 3.0, 3.5])

    async def wait() -> None:
        await gate.wait()

    async def work() -> None:
        return None

    async with serving(wait, work) as server:
        figures = Figures(server._ports, clock, cpu=lambda: next(used))
        async with calling(server) as one, calling(server) as two:
            waiting = [asyncio.create_task(it.raw_call("wait")) for it in (one, two)]
            await asyncio.gather(*(one.raw_call("work") for _ in range(18)))
            await eventually(lambda: server._ports.calls == 20)
            clock.advance(4.0)
            assert figures() == {"in_flight": 2, "rps": 5.0, "util": 0.5, "conns": 2}
            gate.set()
            await asyncio.gather(*waiting)
        await eventually(lambda: not server._ports.connections)
        clock.advance(1.0)  # calls on connections that have ended are no new ones
        assert figures() == {"in_flight": 0, "rps": 0.0, "util": 0.5, "conns": 0}


class Told(MemoryRegistry):
    """Keeps every report."""

    def __init__(self) -> None:
        super().__init__()
        self.reports: list[LoadReport] = []

    def report_load(self, service: str, endpoint_id: str, load: LoadReport) -> None:
        self.reports.append(load)


async def test_a_server_reports_its_load_with_each_renewal_of_its_lease() -> None:
    registry, clock = Told(), FakeClock()
    options = {"service": "calc", "registry": registry, "clock": clock, "drain_delay": 0}
    async with serving(**options) as server, calling(server):
        await eventually(lambda: server._ports.connections)

        def told() -> bool:
            clock.advance(1.0)
            return registry.reports[-1]["conns"] == 1

        assert registry.reports[0]["conns"] == 0
        await eventually(told)
    assert registry.reports[-1].keys() == {"in_flight", "rps", "util", "conns", "lag"}
