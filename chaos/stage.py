"""Everything that runs: replicas of two services, a Redis with Sentinel, and drivers."""

import asyncio
import json
import signal
import sys
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from chaos.driver import Plan as DriverPlan
from chaos.network import Namespaces, Network, Place, Proxies, namespaces_work
from chaos.replica import Plan as ReplicaPlan
from tests.ports import free_port
from tests.redis_server import RedisSentinel

__all__ = ["Replica", "Size", "Stage"]

_ROOT = Path(__file__).parents[1]
_START = 30.0  # seconds for a process to say that it is ready
_END = 20.0  # seconds for a process to end
_FRONTS = 2
_REMOTE = 4  # replicas that can be cut off, or a third of all


class Size(NamedTuple):
    """How much there is.

    Args:
        replicas: Replicas of ``stock``.
        drivers: Processes that call.
        rate: Calls per second of all drivers.
    """

    replicas: int = 10
    drivers: int = 2
    rate: float = 1_400.0


class _Process:
    """A Python process that prints a word when it is ready."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._command = command
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, and return when it is ready."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=_ROOT,
            )
        async with asyncio.timeout(_START):
            await self.said("ready")

    async def said(self, word: str) -> None:
        """Return when it has printed a word."""
        assert self._process is not None
        assert self._process.stdout is not None
        if (await self._process.stdout.readline()).decode().strip() != word:
            raise RuntimeError(f"{self._command[-2]} did not say {word!r}: see {self._log}")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def ended(self) -> None:
        """Return when it has ended; after a while, end it."""
        if self._process is None:
            return
        try:
            async with asyncio.timeout(_END):
                await self._process.wait()
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self._process.wait()

    def close_input(self) -> None:
        """Close its standard input."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()


@dataclass
class Replica:
    """One server, and how it is.

    Attributes:
        name: Service and number.
        place: Where it runs.
        remote: Its number in the network, if it can be cut off.
        process: Its process.
    """

    name: str
    place: Place
    remote: int | None
    process: _Process

    @property
    def service(self) -> str:
        """Name of its service."""
        return self.name.partition("-")[0]


@dataclass
class Stage:
    """All processes, while it is entered.

    Args:
        directory: For logs, ledgers and results.
        size: How much there is.
        seed: For the drivers.
        isolated: Whether to use network namespaces; `None`: if that works.

    Attributes:
        start: When second 0 is, on the monotonic clock.
        health: When which replica became healthy or not, in seconds.
    """

    directory: Path
    size: Size
    seed: int
    isolated: bool | None = None
    start: float = 0.0
    replicas: list[Replica] = field(default_factory=list)
    health: list[tuple[float, str, bool]] = field(default_factory=list)
    network: Network = field(init=False)
    redis: RedisSentinel = field(init=False)
    _drivers: list[_Process] = field(default_factory=list)

    def now(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.start

    def of(self, service: str) -> list[Replica]:
        """Return the replicas of a service."""
        return [replica for replica in self.replicas if replica.service == service]

    @property
    def remote(self) -> list[Replica]:
        """The replicas that can be cut off."""
        return [replica for replica in self.replicas if replica.remote is not None]

    def mark(self, replica: Replica, healthy: bool) -> None:
        """Note that a replica is healthy from now on, or is not."""
        self.health.append((self.now(), replica.name, healthy))

    async def launch(self, replica: Replica) -> None:
        """Start a replica; return when clients can call it."""
        await replica.process.start()
        self.mark(replica, True)

    async def drive(self, plan: dict[str, Any]) -> _Process:
        """Start a driver with some fields of its plan; return when it is connected."""
        number = len(self._drivers)
        whole = DriverPlan(
            number=number,
            registry=self.redis.url,
            seed=self.seed * 1000 + number * 2,
            start=self.start,
            directory=str(self.directory),
            **plan,
        )
        process = self._python("chaos.driver", list(whole), f"driver-{number}")
        self._drivers.append(process)
        await process.start()
        return process

    async def stop_driving(self) -> None:
        """End all drivers, and return when they have written their results."""
        for driver in self._drivers:
            driver.close_input()
        for driver in self._drivers:
            await driver.said("done")
            await driver.ended()

    async def __aenter__(self) -> Self:
        self._stack = AsyncExitStack()
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _open(self) -> None:
        isolated = await namespaces_work() if self.isolated is None else self.isolated
        remote = min(_REMOTE, max(1, self.size.replicas // 3))
        network = Namespaces(remote) if isolated else Proxies(remote)
        self.network = await self._stack.enter_async_context(network)
        self.redis = RedisSentinel(self.directory / "redis", self.network.host)
        self._stack.callback(self.redis.stop)
        await asyncio.to_thread(self.redis.start)
        for number in range(self.size.replicas):
            place = self.network.place(number) if number < remote else self._local()
            self._add("stock", number, place, number if number < remote else None)
        for number in range(_FRONTS):
            self._add("front", number, self._local(), None)
        self._stack.push_async_callback(self._end)
        await asyncio.gather(*(replica.process.start() for replica in self.replicas))
        self.start = time.monotonic()
        for replica in self.replicas:
            self.mark(replica, True)

    def _local(self) -> Place:
        return Place(f"{self.network.host}:{free_port()}")

    def _add(self, service: str, number: int, place: Place, remote: int | None) -> None:
        name = f"{service}-{number}"
        plan = ReplicaPlan(
            service=service,
            listen=place.listen,
            advertise=place.advertise,
            registry=self.redis.url,
            ledger=str(self.directory / f"{name}.ledger"),
            is_fast=number % 2 == 0,
        )
        process = self._python("chaos.replica", list(plan), name, place.prefix)
        self.replicas.append(Replica(name, place, remote, process))

    def _python(
        self, module: str, plan: list[Any], name: str, prefix: tuple[str, ...] = ()
    ) -> _Process:
        command = [*prefix, sys.executable, "-m", module, json.dumps(plan)]
        return _Process(command, self.directory / f"{name}.log")

    async def _end(self) -> None:
        processes = [*self._drivers, *(replica.process for replica in self.replicas)]
        for process in processes:
            process.send(signal.SIGKILL)
        for process in processes:
            await process.ended()

    async def __aexit__(self, *_: object) -> None:
        with suppress(asyncio.CancelledError):
            await self._stack.aclose()
