"""Rows 11, 12, 20, 29 and 33: overload, and servers that die, block, and come back."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.overload import Times, measure
from faults.member import Member, Shop, shop
from faults.scenario import Measured, Scale, Scenario
from rap.client import Client
from rap.client.retry import FLOOR
from rap.errors import CallError

__all__ = ["SCENARIOS"]

_SERVERS = 3
_RATE = 300.0  # calls per second
_QUIET = 1.5  # seconds before a fault
_DOWN = 3.0  # seconds
_COUNTED = 10.0  # seconds, as the budget of retries
_MOST_LOAD = 1.2  # times the calls
_TIMEOUT = 2.0  # seconds
_IN_DRAIN = 0.4  # seconds between SIGTERM and SIGKILL
_BACK = 1.0  # seconds from the first server that listens to the first answer
_BLOCK, _ALARM = 1.0, 1.5  # seconds
_LONG_BLOCK = 4.0  # seconds
_OTHERS = 0.1  # seconds that calls of others may take beside functions in threads
_THREADS = 4
_GOODPUT = {"blocking": 0.9, "waiting": 0.9, "threads": 0.9, "chain": 0.8}  # of the capacity
_RECOVERY = 2.0  # seconds
_TIMES = Times(before=1.0, over=4.0, after=4.0)


class _Load:
    """Calls at random times; of six, one is a `put`.

    Attributes:
        calls: Calls that ended.
        failed: Idempotent calls that failed.
        answered: How often each put was answered.
        first_answer: When an idempotent call was first answered since `start`.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.answered: Counter[int] = Counter()
        self._number = 0
        self.start()

        @client.register(idempotent=True, timeout=_TIMEOUT)
        async def work(number: int) -> int: ...  # type: ignore[empty-body]

        self._work = work

    def start(self) -> None:
        """Begin to count."""
        self.calls = self.failed = 0
        self.first_answer: float | None = None
        self._attempts, self._first = self._now(), self._number

    @property
    def begun(self) -> int:
        """Calls that have begun since `start`."""
        return self._number - self._first

    @property
    def attempts(self) -> int:
        """Attempts of calls since `start`."""
        return self._now() - self._attempts

    def _now(self) -> int:
        return sum(count for _, count in self.client.cluster.attempts_by_node())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Call all the time."""
        stopped = False

        async def arrive() -> None:
            async with asyncio.TaskGroup() as group:
                while not stopped:
                    await asyncio.sleep(random.expovariate(_RATE))
                    group.create_task(self._call())

        async with asyncio.TaskGroup() as group:
            group.create_task(arrive())
            await asyncio.sleep(_QUIET)
            self.start()
            yield
            stopped = True

    async def _call(self) -> None:
        self._number = number = self._number + 1
        if number % 6 == 0:
            try:
                await self.client.raw_call("put", number, timeout=_TIMEOUT)
                self.answered[number] += 1
            except CallError:
                pass  # it may not be made again
            return
        try:
            assert await self._work(number) == number
            if self.first_answer is None:
                self.first_answer = time.monotonic()
        except CallError:
            self.failed += 1
        self.calls += 1

    async def first_after(self, then: float) -> float:
        """Return the seconds from a time to the first answer since `start`."""
        async with asyncio.timeout(30):
            while self.first_answer is None:  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.005)
        return self.first_answer - then


@asynccontextmanager
async def _loaded() -> AsyncIterator[tuple[Shop, _Load]]:
    with TemporaryDirectory(prefix="rap-faults-") as directory:
        async with shop(Path(directory), _SERVERS) as servers:
            load = _Load(servers.client)
            async with load.running():
                yield servers, load


async def overload(scale: Scale) -> Measured:
    """A service that is asked for more than it can do."""
    texts, good = [], True
    for kind, least in _GOODPUT.items():
        for clients in scale.overload_clients:
            for load in scale.overload_loads:
                capacity, found = await asyncio.to_thread(measure, kind, load, clients, _TIMES)
                goodput, recovery = found.goodput / capacity, found.recovery
                back = "never" if recovery is None else f"{recovery:.1f} s"
                texts.append(f"{kind} {load:g}C x {clients}: {goodput:.2f} of C, back {back}")
                good &= goodput >= least and recovery is not None and recovery <= _RECOVERY
    return Measured("; ".join(texts), good)


async def retry_storm(scale: Scale) -> Measured:
    """All servers answer that they are down; all are killed, and started again."""
    async with _loaded() as (servers, load):
        for member in servers.members:
            member.send(signal.SIGUSR1)
        await asyncio.sleep(_DOWN)
        load.start()
        await asyncio.sleep(_COUNTED)
        calls, attempts = load.begun, load.attempts
        most = _MOST_LOAD * calls + FLOOR * _COUNTED
        load.start()
        for member in servers.members:
            member.send(signal.SIGUSR1)
        well = await load.first_after(time.monotonic())
        await asyncio.gather(*(member.end() for member in servers.members))
        await asyncio.sleep(_DOWN)
        back = await _restart_all(servers, load)
    text = f"{attempts} attempts of {calls} calls while all say that they are down (at most"
    text += f" {most:.0f}); first success {well * 1000:.0f} ms after they say otherwise,"
    text += f" {back * 1000:.0f} ms after the first of all killed servers listens again"
    return Measured(text, attempts <= most and max(well, back) <= _BACK)


async def _restart_all(servers: Shop, load: _Load) -> float:
    """Start all servers; return the seconds from the first that listens to the first answer."""
    load.start()
    await asyncio.gather(*(member.start() for member in servers.members))
    return await load.first_after(min(member.listened_at for member in servers.members))


async def killed(scale: Scale) -> Measured:
    """One server is killed under load."""
    async with _loaded() as (servers, load):
        member = servers.members[0]
        began = time.monotonic()
        member.send(signal.SIGKILL)
        gone = await _left(servers.client, member, began)
        await asyncio.sleep(_DOWN)
        await member.start()
        await asyncio.sleep(_DOWN)
        calls, failed = load.calls, load.failed
        answered = {*load.answered}
        executed = Counter(number for each in servers.members for number in each.executed())
    twice = sum(count > 1 for count in executed.values())
    lost = len(answered - executed.keys())
    text = f"left after {gone * 1000:.0f} ms; {failed} of {calls} idempotent calls failed; of"
    text += f" {len(executed)} others {twice} ran twice, {lost} were answered and never ran"
    return Measured(text, gone <= 1 and failed == twice == lost == 0)


async def _left(client: Client, member: Member, began: float) -> float:
    """Return the seconds until a client calls a server no more."""
    async with asyncio.timeout(30):
        while any(  # noqa: ASYNC110  # it tells nobody
            node.key == member.address for node in client.cluster.ready
        ):
            await asyncio.sleep(0.005)
    return time.monotonic() - began


async def blocked(scale: Scale) -> Measured:
    """Functions in threads, and functions that hold the event loop."""
    async with _loaded() as (servers, load):
        member = servers.members[0]
        async with Client(member.address) as beside:
            busy = [
                asyncio.create_task(beside.raw_call("compute", _BLOCK)) for _ in range(_THREADS)
            ]
            slowest = 0.0
            while not all(task.done() for task in busy):
                began = time.monotonic()
                await beside.raw_call("work", 1)
                slowest = max(slowest, time.monotonic() - began)
                await asyncio.sleep(0.01)
            began = time.monotonic()
            holding = asyncio.create_task(beside.raw_call("block", _BLOCK, timeout=30))
            async with asyncio.timeout(30):
                while "held the event loop" not in member.logged():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            alarm = time.monotonic() - began
            await holding
            await beside.raw_call("block", _LONG_BLOCK, timeout=30)
        ejections = servers.client.cluster.counters.ejections
        calls, failed = load.calls, load.failed
    text = f"beside {_THREADS} functions in threads others take <= {slowest * 1000:.0f} ms; a block"
    text += f" of {_BLOCK:g} s is told after {alarm:.2f} s; one of {_LONG_BLOCK:g} s:"
    text += f" {ejections} ejections, {failed} of {calls} idempotent calls failed"
    good = slowest <= _OTHERS and alarm <= _ALARM and ejections == failed == 0
    return Measured(text, good)


async def killed_in_drain(scale: Scale) -> Measured:
    """All servers are killed while they drain, and started again at the same addresses."""
    async with _loaded() as (servers, load):
        holding = [
            asyncio.create_task(_hold(member.address, _IN_DRAIN + _QUIET))
            for member in servers.members
        ]
        await asyncio.sleep(0.2)
        for member in servers.members:
            member.send(signal.SIGTERM)
        await asyncio.sleep(_IN_DRAIN)
        await asyncio.gather(*(member.end() for member in servers.members))
        back = await _restart_all(servers, load)
        await asyncio.gather(*holding)
        await asyncio.sleep(_QUIET)
        all_back = len(servers.client.cluster.ready)
    text = f"first answer {back * 1000:.0f} ms after the first server listens;"
    text += f" {all_back} of {_SERVERS} ready {_QUIET:g} s later"
    return Measured(text, back <= _BACK and all_back == _SERVERS)


async def _hold(address: str, seconds: float) -> None:
    """Keep a server from ending its drain."""
    async with Client(address) as client:
        try:
            await client.raw_call("hold", seconds, timeout=seconds + 1)
        except CallError:
            pass  # it was killed


SCENARIOS = (
    Scenario(11, "overload", ">= 0.9 of capacity, back <= 2 s", overload),
    Scenario(12, "retry storm", "<= 1.2x + 10/s, back <= 1 s", retry_storm),
    Scenario(20, "kill -9 of one server", "0 failed, 0 twice, left <= 1 s", killed),
    Scenario(29, "functions that block", "told <= 1.5 s, 0 ejected below 5 s", blocked),
    Scenario(33, "all killed in the drain", "first answer <= 1 s", killed_in_drain),
)
