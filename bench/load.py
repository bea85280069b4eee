"""Load in closed loops: each caller makes its next call when the last one was answered."""

import asyncio
import resource
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from bench.process import cpu_seconds

__all__ = ["Load", "closed_loops", "percentile"]

Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Load:
    """The measurements of a period of load.

    Args:
        latencies: Duration of every call in nanoseconds, sorted.
        seconds: Duration of the load.
        server_cpu: Seconds of processor time that the servers used.
        client_cpu: Seconds of processor time that this process used.
    """

    latencies: list[int]
    seconds: float
    server_cpu: float
    client_cpu: float

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds

    def summary(self) -> dict[str, float]:
        """Return the figures for the report."""
        return {
            "calls": len(self.latencies),
            "per_second": self.per_second,
            "p50_us": percentile(self.latencies, 0.5),
            "p99_us": percentile(self.latencies, 0.99),
        }


def percentile(ordered: Sequence[int], share: float) -> float:
    """Return the microseconds below which `share` of the ordered nanoseconds lie."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1e3


async def closed_loops(calls: Sequence[Call], seconds: float, servers: Sequence[int]) -> Load:
    """Run one loop for each of `calls` until the time is over.

    Args:
        calls: What each loop awaits again and again.
        seconds: After which no call begins.
        servers: Processes whose time is counted.
    """
    latencies: list[int] = []
    add = latencies.append
    now = time.perf_counter_ns
    pids = list(servers)
    server_before, client_before = cpu_seconds(pids), _own_cpu()
    start = now()
    end = start + int(seconds * 1e9)

    async def loop(call: Call) -> None:
        begun = now()
        while begun < end:
            await call()
            done = now()
            add(done - begun)
            begun = done

    if len(calls) == 1:
        await loop(calls[0])  # without the wake-ups of a task
    else:
        await asyncio.gather(*map(loop, calls))
    took = (now() - start) / 1e9
    server_cpu, client_cpu = cpu_seconds(pids) - server_before, _own_cpu() - client_before
    latencies.sort()
    return Load(latencies, took, server_cpu, client_cpu)


def _own_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
