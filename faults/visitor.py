"""A client in a process of its own that behaves, and says how long its calls took.

``python -m faults.visitor PORT SECONDS`` prints the 99th percentile of its latencies in seconds.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from statistics import median, quantiles

from rap.client import Client

__all__ = ["beside", "percentile", "print_percentile"]

_ROOT = Path(__file__).parents[1]
_ROUNDS = 3
_SECONDS = 1.5
_PAUSE = 0.002  # seconds between two calls


async def percentile(
    port: int, seconds: float = _SECONDS, program: Sequence[str] = ("faults.visitor",)
) -> float:
    """Return the 99th percentile of calls in these seconds.

    Args:
        port: Where the client connects.
        seconds: How long it calls.
        program: Module of the client, and its arguments before port and seconds; it calls
            `print_percentile`.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *program, str(port), str(seconds)),
        stdout=asyncio.subprocess.PIPE,
        cwd=_ROOT,
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError("a call of the client that behaves has failed")
    return float(output)


async def print_percentile(call: Callable[[], Awaitable[None]], seconds: float) -> None:
    """Call again and again for these seconds, and print the 99th percentile of the latencies."""
    latencies = []
    stop = time.monotonic() + seconds
    while (began := time.monotonic()) < stop:
        await call()
        latencies.append(time.monotonic() - began)
        await asyncio.sleep(_PAUSE)
    print(quantiles(latencies, n=100)[98])


async def beside(port: int, *attacks: Callable[[], Awaitable[None]] | None) -> list[float]:
    """Return the percentile beside each attack, medians of rounds in turn; `None`: of quiet."""
    found: list[list[float]] = [[] for _ in attacks]
    for _ in range(_ROUNDS):
        for attack, times in zip(attacks, found, strict=True):
            async with _going_on(attack) if attack else nullcontext():
                times.append(await percentile(port))
    return [median(times) for times in found]


@asynccontextmanager
async def _going_on(attack: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    async def again() -> None:
        while True:
            await attack()

    task = asyncio.create_task(again())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    if not task.cancelled() and task.exception() is not None:
        raise RuntimeError("the attack broke off") from task.exception()


async def _main(port: str, seconds: str) -> None:
    async with Client(f"127.0.0.1:{port}") as client:

        async def call() -> None:
            assert await client.raw_call("echo", 7) == 7

        await print_percentile(call, float(seconds))


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
