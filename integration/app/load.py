"""A client that keeps calls of the example in flight: ``python -m integration.app.load``.

It calls ``calc``, with ``--orders`` also ``orders``, only what may be tried again. It prints a line
about every interval, and ends at SIGTERM, SIGINT or after ``--seconds``; its exit status is 1 if a
call has failed.
"""

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from integration.app.settings import settings
from integration.app.tracing import Tracing
from rap.client import Client
from rap.errors import CallError

__all__ = ["main"]


class Load:
    """Workers that make one call after the other, and what became of them."""

    def __init__(self, client: Client) -> None:
        self.by_name: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self._client = client

    @property
    def calls(self) -> int:
        """Calls that have ended, one way or the other."""
        return self.by_name.total() + self.failures.total()

    async def work(self, pause: float) -> None:
        """Call until cancelled, `pause` seconds after each answer."""
        client = self._client

        @client.register(idempotent=True)
        async def nap(seconds: float) -> str:
            return ""  # never run here: calls go to `calc`

        while True:
            try:
                self.by_name[await nap(0.005)] += 1
            except CallError as error:
                self.failures[f"{type(error).__name__}: {error}"] += 1
            await asyncio.sleep(pause)

    async def order(self, pause: float, orders: Client) -> None:
        """Let ``orders`` call until cancelled; its answers count as those of one."""

        @orders.register(idempotent=True)
        async def total(prices: list[int]) -> int:
            return 0  # never run here: calls go to `orders`

        while True:
            try:
                await total([1, 2, 3])
                self.by_name["orders"] += 1
            except CallError as error:
                self.failures[f"{type(error).__name__}: {error}"] += 1
            await asyncio.sleep(pause)

    async def report(self, interval: float) -> None:
        """Print a line every `interval` seconds, until cancelled."""
        before, since = 0, time.monotonic()
        while True:
            await asyncio.sleep(interval)
            rate = (self.calls - before) / (time.monotonic() - since)
            before, since = self.calls, time.monotonic()
            print(self.line(f"{rate:.0f} calls/s"), flush=True)

    def line(self, begin: str) -> str:
        """Return totals as one line."""
        shares = ", ".join(f"{name} {number}" for name, number in sorted(self.by_name.items()))
        return f"{begin}; answered: {shares or 'none'}; failed: {self.failures.total()}"


async def run(wish: argparse.Namespace) -> int:
    """Call until told to stop, and return the exit status."""
    stop = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    chosen = settings()
    tracing = Tracing("load", chosen)
    clients = [
        Client(connect_timeout=60, **chosen.client_options(service, tracing.processors()))
        for service in (["calc", "orders"] if wish.orders else ["calc"])
    ]
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(chosen.metrics_page(*clients))
        for client in clients:
            stack.push_async_callback(client.await_close)
        if not await _connect(clients, stop):
            return 1
        load = Load(clients[0])
        work = [load.work(wish.pause) for _ in range(wish.workers)]
        work += [load.order(wish.pause, orders) for orders in clients[1:]]
        tasks = [asyncio.create_task(each) for each in [*work, load.report(wish.interval)]]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wish.seconds):
                await stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await tracing.close()
    print(load.line(f"{load.calls} calls"), flush=True)
    for failure, number in load.failures.most_common():
        print(f"{number} times {failure}", flush=True)
    return 1 if load.failures or not load.by_name else 0


async def _connect(clients: Sequence[Client], stop: asyncio.Event) -> bool:
    """Connect all clients; return `False` if the program is told to stop meanwhile."""
    stopped = asyncio.create_task(stop.wait())
    connecting = asyncio.gather(*(client.connect() for client in clients))
    either: set[asyncio.Future[Any]] = {stopped, connecting}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            return False
        await connecting
        return True
    finally:
        for each in either:
            each.cancel()
        await asyncio.gather(*either, return_exceptions=True)


def main() -> None:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(description="keep calls of the example in flight")
    parser.add_argument("--workers", type=int, default=16, help="calls in flight")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds after each answer")
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between two lines")
    parser.add_argument("--seconds", type=float, default=None, help="how long; else until a signal")
    parser.add_argument("--orders", action="store_true", help="call `orders`, too")
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
