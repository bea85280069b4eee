"""Measure hedged requests and the retry budget: ``python -m bench.hedging``.

Ten replicas answer after some milliseconds. From time to time, one of them stops answering for a
while. The balancer stops using it at once, but the calls that it has already received wait. They
are the tail of the latencies, and `hedge` shortens it (the figure of "The Tail at Scale": the
99.9th percentile from 1,800 to 74 ms for 2 % more load). Then all replicas fail, and attempts are
counted with and without a budget.

All parts run in one process, because waits are compared and not processor time.
"""

import argparse
import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from math import inf
from time import monotonic
from typing import NamedTuple

import uvloop

from rap.address import Address
from rap.client import Client
from rap.errors import Unavailable
from rap.server import Server

__all__ = ["Measured", "Replicas", "measure", "storm"]

_LOOPS = 20
_THINK = 0.010  # seconds on average between an answer and the next call
_WORK = 0.002  # seconds on average
_STALL = 0.3  # seconds
_BETWEEN = 0.2  # seconds on average from the end of a stall to the next


class Replicas:
    """The servers of one process. From time to time, one of them stalls.

    Args:
        seed: Seed of the random stalls.

    Attributes:
        served: Number of requests that arrived, hedged requests included.
        failing: Every call fails.
    """

    def __init__(self, seed: int) -> None:
        self.served = 0
        self.failing = False
        self._rng = random.Random(seed)
        self._awake_at: list[float] = []

    @asynccontextmanager
    async def running(self, number: int) -> AsyncIterator[list[Address]]:
        """Run so many; yield their addresses."""
        async with AsyncExitStack() as stack:
            servers = [await stack.enter_async_context(self._server()) for _ in range(number)]
            stalling = asyncio.create_task(self._stall())
            try:
                yield [address for server in servers for address in server.addresses]
            finally:
                stalling.cancel()
                await asyncio.wait([stalling])

    def _server(self) -> Server:
        place = len(self._awake_at)
        self._awake_at.append(0.0)
        server = Server("127.0.0.1:0", close_timeout=0.5)

        @server.register
        async def work() -> None:
            self.served += 1
            if self.failing:
                raise Unavailable("out of order")
            await asyncio.sleep(self._rng.expovariate(1 / _WORK))
            await asyncio.sleep(self._awake_at[place] - monotonic())

        return server

    async def _stall(self) -> None:
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / _BETWEEN))
            place = self._rng.randrange(len(self._awake_at))
            self._awake_at[place] = monotonic() + _STALL
            await asyncio.sleep(_STALL)


class Measured(NamedTuple):
    """Measurements of calls.

    Args:
        times: Duration of each call in seconds, sorted.
        extra: Hedged requests, as a share of the calls.
    """

    times: list[float]
    extra: float

    def at(self, share: float) -> float:
        """Return the milliseconds below which a share of the calls took."""
        return self.times[min(len(self.times) - 1, int(share * len(self.times)))] * 1e3


async def measure(hedge: bool | float | None, seconds: float, seed: int, number: int) -> Measured:
    """Make calls for a while."""
    replicas, rng = Replicas(seed), random.Random(seed)
    times: list[float] = []
    async with replicas.running(number) as addresses, Client(addresses) as client:

        @client.register(idempotent=True, hedge=hedge)
        async def work() -> None: ...

        async def keep_calling(end: float) -> None:
            while monotonic() < end:
                await asyncio.sleep(rng.expovariate(1 / _THINK))
                began = monotonic()
                await work()
                times.append(monotonic() - began)

        async def load(seconds: float) -> None:
            end = monotonic() + seconds
            await asyncio.gather(*(keep_calling(end) for _ in range(_LOOPS)))

        await load(2.0)  # so that all are connected, and usual times known
        times.clear()
        replicas.served = 0
        await load(seconds)
    return Measured(sorted(times), replicas.served / len(times) - 1)


async def storm(retry_budget: float, calls: int, number: int) -> float:
    """Return the number of attempts per call while all servers fail."""
    replicas = Replicas(1)
    replicas.failing = True
    failed = 0
    async with (
        replicas.running(number) as addresses,
        Client(addresses, retry_budget=retry_budget, timeout=60) as client,
    ):

        @client.register(idempotent=True)
        async def work() -> None: ...

        async def keep_calling(count: int) -> None:
            nonlocal failed
            for _ in range(count):
                try:
                    await work()
                except Unavailable:
                    failed += 1

        loops = 1000
        await asyncio.gather(*(keep_calling(calls // loops) for _ in range(loops)))
    return replicas.served / failed


async def _report(seconds: float, seed: int, number: int, calls: int) -> None:
    print(f"{number} replicas, {_WORK * 1e3:g} ms each, one at a time stalls for {_STALL:g} s")
    print(f"{'':14}{'calls':>8}{'p50':>9}{'p99':>9}{'p99.9':>9} ms{'more load':>11}")
    for hedge in (None, True, 0.01):
        found = await measure(hedge, seconds, seed, number)
        row = "".join(f"{found.at(share):9.1f}" for share in (0.5, 0.99, 0.999))
        print(f"{f'hedge={hedge}':14}{len(found.times):8,}{row}   {found.extra:10.1%}")
    print(f"\nall replicas fail: attempts for each of {calls:,} calls")
    for budget in (inf, 0.2):
        print(f"retry_budget={budget:<8g}{await storm(budget, calls, number):.2f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replicas", type=int, default=10)
    parser.add_argument("--calls", type=int, default=20_000, help="while all replicas fail")
    given = parser.parse_args()
    uvloop.run(_report(given.seconds, given.seed, given.replicas, given.calls))


if __name__ == "__main__":
    main()
