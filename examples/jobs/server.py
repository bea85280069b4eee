"""The server of the jobs: counts primes, and says how far it is."""

import asyncio
import os
from dataclasses import dataclass

from rap import Channel, Server

STEP = 10_000

server = Server("localhost:0", service="jobs", registry=f"file://{os.getcwd()}/registry")


@dataclass
class Progress:
    """How far a job is; another server can go on from here.

    Attributes:
        done: All numbers below have been looked at.
        primes: How many of them are prime.
        server: Process id of the server.
    """

    done: int = 0
    primes: int = 0
    server: int = 0


def count_primes(start: int, end: int) -> int:
    """Return how many primes there are from `start` to before `end`."""
    numbers = range(max(start, 2), end)
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in numbers)


@server.register
async def primes(channel: Channel[None, Progress], limit: int, so_far: Progress) -> Progress:
    """Count the primes below `limit`; write the progress after each step, and return the last one.

    A client that closes its side ends the job.
    """
    progress = so_far
    while progress.done < limit and not channel.is_close:
        end = min(progress.done + STEP, limit)
        found = await asyncio.to_thread(count_primes, progress.done, end)
        progress = Progress(end, progress.primes + found, os.getpid())
        await channel.write(progress)
    return progress
