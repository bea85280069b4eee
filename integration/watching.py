"""What tests of the example do with its clients."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from integration.stage import PATIENCE
from rap.client import Client
from rap.errors import CallError

__all__ = ["Traffic", "calling", "eventually", "seen"]


class Traffic:
    """Calls that tasks make one after the other, and what became of them."""

    def __init__(self) -> None:
        self.by_name: Counter[str] = Counter()
        self.failures: list[str] = []

    async def go_on(self, calls: int) -> None:
        """Return when so many more calls have been answered."""
        goal = self.by_name.total() + calls
        await eventually(lambda: self.by_name.total() >= goal)

    async def answered_by(self, name: str) -> None:
        """Return when this instance has answered a call."""
        await eventually(lambda: self.by_name[name] > 0)


@asynccontextmanager
async def calling(client: Client, *, workers: int = 8, nap: float = 0.01) -> AsyncIterator[Traffic]:
    """Keep idempotent calls of ``calc`` in flight around the body."""
    traffic = Traffic()

    async def work() -> None:
        while True:
            try:
                traffic.by_name[await asleep(nap)] += 1
            except CallError as error:
                traffic.failures.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.01)

    @client.register("nap", idempotent=True)
    async def asleep(seconds: float) -> str:
        return ""  # never run here: calls go to `calc`

    tasks = [asyncio.create_task(work()) for _ in range(workers)]
    try:
        yield traffic
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def seen(client: Client, names: set[str], calls: int = 30) -> None:
    """Return when exactly these instances answer so many calls, all of them at least one."""
    async with asyncio.timeout(PATIENCE):
        while {await client.raw_call("who") for _ in range(calls)} != names:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def eventually(holds: Callable[[], object]) -> None:
    """Return as soon as a condition holds; fail when it does not in time."""
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110  # of anything, not only of what sets events
            await asyncio.sleep(0.01)
