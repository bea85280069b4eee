"""The calls of the demo: so many in flight all the time, and what came of each."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from rap.balance import PowerOfTwoChoices
from rap.balance.picker import Candidate
from rap.client import Channel, Client
from rap.errors import CallError

__all__ = ["Observed", "Pinned", "Stretch", "Traffic"]

_KEPT = 512  # latencies per replica, for the percentiles
_KEPT_ERRORS = 5
_PINNED_PAUSE = 0.01  # seconds between two calls or messages of the session
C = TypeVar("C", bound=Candidate)


class Observed:
    """The default picker, which also remembers when it first and last chose each node.

    Attributes:
        first: Seconds on the monotonic clock, by address.
        last: The same.
    """

    def __init__(self) -> None:
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self._picker = PowerOfTwoChoices(Random())

    def pick(self, candidates: Sequence[C], affinity: str | None = None) -> C:
        """Return one of `candidates`."""
        chosen = self._picker.pick(candidates, affinity)
        now = time.monotonic()
        self.first.setdefault(chosen.key, now)
        self.last[chosen.key] = now
        return chosen


@dataclass(slots=True)
class Stretch:
    """A time in which nothing was done to the cluster.

    Attributes:
        label: What it comes after.
        seconds: How long it was.
        answered: Calls by the name of the replica that answered.
        expected: Share by weight of each live replica: name to fraction of 1.
    """

    label: str
    expected: dict[str, float]
    answered: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def share(self, name: str) -> float:
        """Return the fraction of the calls that a replica answered."""
        return self.answered[name] / max(1, self.answered.total())

    @property
    def deviation(self) -> float:
        """Percentage points by which the worst share misses the weight."""
        names = {*self.expected, *self.answered}
        return max(100.0 * abs(self.share(n) - self.expected.get(n, 0.0)) for n in names)


@dataclass(slots=True)
class Pinned:
    """What a session and the channel inside it saw: who answered how many.

    Attributes:
        calls: Answers by the name of the replica.
        messages: The same, of the channel.
        error: What ended it early; empty if nothing did.
    """

    calls: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    error: str = ""

    @property
    def replicas(self) -> list[str]:
        """Names of all that answered; one, if pinned."""
        return sorted({*self.calls, *self.messages})


class Traffic:
    """Makes idempotent calls without pause, `concurrency` at a time.

    Args:
        client: Makes them.
        concurrency: Calls in flight.

    Attributes:
        answered: Calls by the name of the replica that answered.
        latencies: Seconds of the latest calls, by the same name.
        failed: Calls that failed.
        errors: The first of their errors.
    """

    def __init__(self, client: Client, concurrency: int) -> None:
        self.answered: Counter[str] = Counter()
        self.latencies: dict[str, deque[float]] = {}
        self.failed = 0
        self.errors: list[str] = []
        self._client = client
        self._concurrency = concurrency
        self._running = False

        @client.register(idempotent=True)
        async def work() -> str:
            """The work of a replica; returns its name."""
            raise NotImplementedError

        self._work = work

    @property
    def total(self) -> int:
        """Calls that have ended."""
        return self.answered.total() + self.failed

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Make calls while the body runs; those in flight at its end are waited for."""
        self._running = True
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._concurrency):
                tasks.create_task(self._call_on())
            try:
                yield
            finally:
                self._running = False

    @asynccontextmanager
    async def stretch(self, label: str, expected: dict[str, float]) -> AsyncIterator[Stretch]:
        """Count the answers while the body runs."""
        found = Stretch(label, expected)
        before, started = Counter(self.answered), time.monotonic()
        yield found
        found.seconds = time.monotonic() - started
        found.answered = self.answered - before

    @asynccontextmanager
    async def pinned(self) -> AsyncIterator[Pinned]:
        """Hold a session with calls and a channel in it open while the body runs."""
        found = Pinned()
        over = asyncio.Event()

        async def calls() -> None:
            while not over.is_set():
                found.calls[await self._work()] += 1
                await asyncio.sleep(_PINNED_PAUSE)

        async def guard(part: Coroutine[Any, Any, None]) -> None:
            try:
                await part
            except CallError as exc:
                found.error = found.error or str(exc)

        @self._client.register("echo")
        async def messages(channel: Channel) -> None:
            while not over.is_set():
                await channel.write(found.messages.total())
                name, _ = await channel.read_body()
                found.messages[name] += 1
                await asyncio.sleep(_PINNED_PAUSE)

        async with self._client.session, asyncio.TaskGroup() as tasks:
            tasks.create_task(guard(calls()))
            tasks.create_task(guard(messages()))  # type: ignore[call-arg]  # the stub makes it
            try:
                yield found
            finally:
                over.set()

    async def _call_on(self) -> None:
        work, answered, latencies = self._work, self.answered, self.latencies
        while self._running:
            started = time.monotonic()
            try:
                name = await work()
            except CallError as exc:
                self.failed += 1
                if len(self.errors) < _KEPT_ERRORS:
                    self.errors.append(f"{type(exc).__name__}: {exc}")
                await asyncio.sleep(0)
            else:
                answered[name] += 1
                if name not in latencies:
                    latencies[name] = deque(maxlen=_KEPT)
                latencies[name].append(time.monotonic() - started)
