"""What tests of the example do with its clients."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from integration.stage import PATIENCE
from rap.client import Client
from rap.errors import CallError
from tests.loopback import eventually, until

__all__ = ["Traffic", "answered", "calling", "seen"]


class Traffic:
    """Calls that tasks make one after the other, and what became of them."""

    def __init__(self) -> None:
        self.by_name: Counter[str] = Counter()
        self.failures: list[str] = []

    async def go_on(self, calls: int) -> None:
        """Return when so many more calls have been answered."""
        goal = self.by_name.total() + calls
        await eventually(lambda: self.by_name.total() >= goal, PATIENCE)

    async def answered_by(self, name: str) -> None:
        """Return when this instance has answered a call."""
        await eventually(lambda: self.by_name[name] > 0, PATIENCE)


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
                await asyncio.sleep(0.01)  # or a server that refuses would be asked without pause

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

    async def ask() -> bool:
        return {await client.raw_call("who") for _ in range(calls)} == names

    await until(ask, PATIENCE)


async def answered(
    client: Client, timeout: float = 9.0, meanwhile: type[CallError] = CallError
) -> None:
    """Return when a call was answered; before that, it may fail with one kind of error."""

    async def ask() -> bool:
        with suppress(meanwhile):
            assert await client.raw_call("add", 1, 2, timeout=timeout) == 3
            return True
        return False

    await until(ask, PATIENCE)
