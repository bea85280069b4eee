"""The client of the jobs: keeps the last progress, and takes it to another server if it must."""

import asyncio
import os
import sys

from rap import Channel, Client, Unavailable

from .server import Progress

client = Client(service="jobs", registry=f"file://{os.getcwd()}/registry")


async def primes(channel: Channel[Progress, None], limit: int, so_far: Progress) -> Progress:
    """Declare the server's function, as the client sees it."""
    raise NotImplementedError


async def run(limit: int) -> Progress:
    """Run the job to its end, on as many servers as it takes.

    If a server is killed, what it did since the last progress is done again elsewhere. A server
    that drains says so before it stops, and the job leaves it after its next step.
    """
    progress = Progress()
    while progress.done < limit:
        try:
            async with client.channel(primes, limit=limit, so_far=progress) as channel:
                async for progress in channel:
                    print(f"{progress.done:,} of {limit:,} on server {progress.server}", flush=True)
                    if channel.draining:
                        break
        except Unavailable as exc:
            print(f"going on elsewhere: {exc}", flush=True)
    return progress


async def main(limit: int) -> None:
    async with client:
        print(f"{(await run(limit)).primes:,} primes below {limit:,}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
