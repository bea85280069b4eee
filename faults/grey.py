"""Rows 21 and 25: servers and networks that do not answer, and do not say so."""

import asyncio
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from faults.replica import Replica, replicas
from faults.scenario import Measured, Scale, Scenario
from rap.client import Client
from rap.errors import CallError
from tests.fault_proxy import Fate, FaultProxy

__all__ = ["SCENARIOS"]

_WORKERS = 64
_SERVERS = 3
_QUIET = 1.5  # seconds before a fault
_FAULT = 4.0  # seconds; shorter than a client takes to cut a connection
_LATE = 0.05  # seconds after its deadline at which a call has to end
_MOST_COPIES = 2 * _WORKERS  # what was in flight, and what was made before a server was suspect
_FLAP = 10.0  # seconds in which a server may change its state once
_HALF_LOAD = 200.0  # calls per second


class Figures(NamedTuple):
    """What calls and the client have gone through during a fault.

    Args:
        calls: Calls that ended.
        failed: Those of them that failed.
        late: Seconds by which a call exceeded its deadline at most.
        suspicions: Connections that were suspect.
        copies: Second attempts.
    """

    calls: int
    failed: int
    late: float
    suspicions: int
    copies: int


class Scene:
    """Three servers behind proxies, and a client of them that calls all the time.

    Args:
        servers: The servers.
        proxies: One before each.
        client: The client.
        deadline: Seconds of each call.
    """

    def __init__(
        self, servers: list[Replica], proxies: list[FaultProxy], client: Client, deadline: float
    ) -> None:
        self.servers = servers
        self.proxies = proxies
        self.client = client
        self._deadline = deadline
        self._calls = self._failed = 0
        self._longest = 0.0
        self._before = (0, 0)

        @client.register(idempotent=True, timeout=deadline)
        async def work(number: int) -> int: ...  # type: ignore[empty-body]

        @client.register(idempotent=True, timeout=deadline)
        async def items(number: int) -> AsyncIterator[int]:
            raise NotImplementedError
            yield

        self._work = work
        self._items = items

    async def call(self) -> None:
        """Make one call: of ten, one is a generator."""
        began, number = time.monotonic(), self._calls
        try:
            if number % 10:
                assert await self._work(number) == number
            else:
                assert [each async for each in self._items(number)] == [number]
        except CallError:
            self._failed += 1
        self._calls += 1
        self._longest = max(self._longest, time.monotonic() - began)

    @asynccontextmanager
    async def load(self, rate: float | None = None) -> AsyncIterator[None]:
        """Call as often as 64 workers can, or at random times so often in a second."""
        stopped = False

        async def keep_calling() -> None:
            while not stopped:
                await self.call()

        async def arrive() -> None:
            async with asyncio.TaskGroup() as group:
                while not stopped:
                    await asyncio.sleep(random.expovariate(rate or 1.0))
                    group.create_task(self.call())

        makers = [keep_calling] * _WORKERS if rate is None else [arrive]
        async with asyncio.TaskGroup() as group:
            for make in makers:
                group.create_task(make())
            await asyncio.sleep(_QUIET)
            self.start()
            yield
            stopped = True

    def start(self) -> None:
        """Begin to count."""
        self._calls = self._failed = 0
        self._longest = 0.0
        self._before = self._now()

    def figures(self) -> Figures:
        """Return what was counted."""
        suspicions, copies = self._now()
        return Figures(
            self._calls,
            self._failed,
            max(0.0, self._longest - self._deadline),
            suspicions - self._before[0],
            copies - self._before[1],
        )

    def _now(self) -> tuple[int, int]:
        return self.client.cluster.counters.suspicions, self.client.invoker.budget.rescues


@asynccontextmanager
async def scene(
    deadline: float = 1.0, *, block: float = 0.0, direct: bool = False
) -> AsyncIterator[Scene]:
    """Start servers, proxies and a client; `direct`: no call goes through a proxy."""
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(replicas(_SERVERS, block))
        proxies = [await stack.enter_async_context(FaultProxy(server.port)) for server in servers]
        ports = [each.port for each in (servers if direct else proxies)]
        client = Client([f"127.0.0.1:{port}" for port in ports], connect_timeout=3)
        await stack.enter_async_context(client)
        yield Scene(servers, proxies, client, deadline)


Provoke = Callable[[Scene], Awaitable[None]]


async def _measure(
    provoke: Provoke,
    deadline: float = 1.0,
    *,
    rate: float | None = None,
    block: float = 0.0,
    direct: bool = False,
) -> Figures:
    """Return the figures of a fault; it is over when `provoke` returns."""
    async with scene(deadline, block=block, direct=direct) as at, at.load(rate):
        await provoke(at)
        return at.figures()


def _frozen(count: int) -> Provoke:
    async def provoke(at: Scene) -> None:
        for server in at.servers[:count]:
            server.freeze()
        await asyncio.sleep(_FAULT)
        for server in at.servers[:count]:
            server.thaw()

    return provoke


def _silent(*, answers: bool, requests: bool, count: int = 1) -> Provoke:
    async def provoke(at: Scene) -> None:
        for proxy in at.proxies[:count]:
            if answers:
                proxy.judge = lambda _: Fate.SWALLOW
            if requests:
                proxy.judge_sent = lambda _: Fate.SWALLOW
        await asyncio.sleep(_FAULT)
        for proxy in at.proxies[:count]:
            proxy.release()

    return provoke


async def _hanging(at: Scene) -> None:
    at.servers[0].toggle_hanging()
    await asyncio.sleep(_FAULT)
    at.servers[0].toggle_hanging()


async def _self_stopped(at: Scene) -> None:
    code = "import os, signal, sys, time; pid = int(sys.argv[1]); os.kill(pid, signal.SIGSTOP)"
    code += "; time.sleep(4); os.kill(pid, signal.SIGCONT)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(os.getpid()))
    await process.wait()
    await asyncio.sleep(1.0)


def _nothing(seconds: float) -> Provoke:
    async def provoke(at: Scene) -> None:
        await asyncio.sleep(seconds)

    return provoke


def _flapping(seconds: float, times: int) -> Provoke:
    async def provoke(at: Scene) -> None:
        for _ in range(times):
            at.proxies[0].freeze()
            await asyncio.sleep(seconds)
            at.proxies[0].release()
            await asyncio.sleep(seconds)

    return provoke


async def unanswered(scale: Scale) -> Measured:
    """Servers that are frozen or hang, black holes, a client that is stopped, quiet minutes."""
    both = {"answers": True, "requests": True}
    faults = {
        "frozen, 1 s": await _measure(_frozen(1), 1.0),
        "2 s": await _measure(_frozen(1), 2.0),
        "3 s": await _measure(_frozen(1), 3.0),
        "two frozen": await _measure(_frozen(2)),
        "black hole": await _measure(_silent(**both)),
        "hung": await _measure(_hanging),
        "frozen at 20/s": await _measure(_frozen(1), rate=20.0),
        "60/s": await _measure(_frozen(1), rate=60.0),
    }
    stopped = await _measure(_self_stopped, direct=True)  # a proxy would be stopped, too
    holes = await _measure(_silent(**both, count=_SERVERS))
    blocked = {
        milliseconds: await _measure(_nothing(6.0), 2.0, block=milliseconds / 1000)
        for milliseconds in (50, 150, 300, 500)
    }
    quiet = await _measure(_nothing(scale.quiet_seconds), 2.0, rate=_HALF_LOAD)
    texts = [f"{name} {each.failed} ({each.copies} copies)" for name, each in faults.items()]
    late = max(each.late for each in faults.values())
    suspected = ", ".join(f"{ms} ms {each.suspicions}" for ms, each in blocked.items())
    text = (
        f"failed: {', '.join(texts)}; past the deadline <= {late * 1000:.0f} ms; client stopped "
        f"{stopped.failed}; all black-holed {holes.copies} copies; suspicions with loops blocked: "
        f"{suspected}; {quiet.suspicions} in {scale.quiet_seconds / 60:.2g} min at half load, "
        f"{quiet.calls} calls"
    )
    good = (
        all(each.failed == 0 and each.copies <= _MOST_COPIES for each in faults.values())
        and late <= _LATE
        and stopped.failed == holes.copies == quiet.suspicions == 0
        and all(each.failed == 0 for each in blocked.values())
        and all(blocked[ms].suspicions == 0 for ms in (50, 150, 300))
        and blocked[500].suspicions <= _SERVERS
    )
    return Measured(text, good)


async def one_way(scale: Scale) -> Measured:
    """Networks that lose one direction, and one that comes and goes."""
    ways = {
        "answers lost": await _measure(_silent(answers=True, requests=False)),
        "requests lost": await _measure(_silent(answers=False, requests=True)),
    }
    flaps = {
        seconds: await _measure(_flapping(seconds, round(2 * _FLAP / (2 * seconds))))
        for seconds in (1.0, 2.5)
    }
    texts = [f"{name} {each.failed} ({each.copies} copies)" for name, each in ways.items()]
    comes = [
        f"every {2 * seconds:g} s {each.failed} ({each.copies} copies, {each.suspicions} suspected)"
        for seconds, each in flaps.items()
    ]
    text = f"failed: {', '.join(texts)}; flapping for {2 * _FLAP:g} s: {', '.join(comes)}"
    good = all(each.failed == 0 for each in (*ways.values(), *flaps.values()))
    most = 1 + 2  # the first, and one in ten seconds
    return Measured(text, good and all(each.suspicions <= most for each in flaps.values()))


SCENARIOS = (
    Scenario(21, "servers that do not answer", "0 failed, <= 50 ms late, 0 false", unanswered),
    Scenario(25, "one-way and flapping networks", "0 failed, <= 1 flap in 10 s", one_way),
)
