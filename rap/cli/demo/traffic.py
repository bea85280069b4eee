"""The calls of the demo: a constant number in flight, and their results."""

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

__all__ = ["PinnedCalls", "QuietPeriod", "RecordingPicker", "Traffic"]

_KEPT = 512  # latencies per replica, for the percentiles
_KEPT_ERRORS = 5
_PINNED_PAUSE = 0.01  # seconds between two calls or messages of the session
C = TypeVar("C", bound=Candidate)


class RecordingPicker:
    """The default picker, which also records when it first and last picked each node.

    Attributes:
        first: Times of the first picks by address, in seconds on the monotonic clock.
        last: Times of the last picks, likewise.
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
class QuietPeriod:
    """An interval in which nothing is done to the cluster.

    Attributes:
        label: The event before it.
        seconds: Its length.
        answered: Number of calls by the name of the replica that answered.
        expected: Mapping of the name of each live replica to its share by weight, from 0 to 1.
    """

    label: str
    expected: dict[str, float]
    answered: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def share(self, name: str) -> float:
        """Return the share of the calls that a replica answered, from 0 to 1."""
        return self.answered[name] / max(1, self.answered.total())

    @property
    def deviation(self) -> float:
        """Largest difference between a share and the share by weight, in percentage points."""
        names = {*self.expected, *self.answered}
        return max(100.0 * abs(self.share(n) - self.expected.get(n, 0.0)) for n in names)


@dataclass(slots=True)
class PinnedCalls:
    """The calls of a session, and the messages of a channel in it.

    Attributes:
        calls: Number of answered calls by the name of the replica.
        messages: Number of messages from the channel, likewise.
        error: The error that ended the session early; empty without an error.
    """

    calls: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    error: str = ""

    @property
    def replicas(self) -> list[str]:
        """Names of the replicas that answered; one name if the session was pinned."""
        return sorted({*self.calls, *self.messages})


class Traffic:
    """Makes idempotent calls without pause, `concurrency` at a time.

    Args:
        client: Makes the calls.
        concurrency: Number of calls in flight.

    Attributes:
        answered: Number of calls by the name of the replica that answered.
        latencies: Durations of the latest calls in seconds, by the name of the replica.
        failed: Number of calls that failed.
        errors: The first errors.
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
        """Make calls while the body runs; wait for the last ones at its end."""
        self._running = True
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._concurrency):
                tasks.create_task(self._call_on())
            try:
                yield
            finally:
                self._running = False

    @asynccontextmanager
    async def quiet_period(
        self, label: str, expected: dict[str, float]
    ) -> AsyncIterator[QuietPeriod]:
        """Count the answers while the body runs."""
        found = QuietPeriod(label, expected)
        before, started = Counter(self.answered), time.monotonic()
        yield found
        found.seconds = time.monotonic() - started
        found.answered = self.answered - before

    @asynccontextmanager
    async def pinned(self) -> AsyncIterator[PinnedCalls]:
        """Hold a session with calls and a channel in it open while the body runs."""
        found = PinnedCalls()
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
            tasks.create_task(guard(messages()))
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
