"""The process of one replica of the demo: the hidden command ``rap demo-replica``.

Its capacity follows its weight: it works on four calls per unit of weight at a time, 2 to 4 ms on
each, and the other calls wait. It writes one line of JSON to standard output when it is registered,
drains on SIGTERM, and exits when its standard input ends, because then its parent has died.
"""

import asyncio
import json
import logging
import os
import random
import threading
import time
from collections.abc import AsyncIterator
from typing import cast

import click

from rap.cli.command import declared_option, loop_option
from rap.cli.runtime import loop_factory
from rap.registry import Endpoint, Registry, Snapshot, registry_from_url
from rap.server import Channel, Server
from rap.server.config import ServerConfig

__all__ = ["SLOTS", "WORK", "demo_replica"]

SLOTS = 4
"""Number of calls per unit of weight that a replica works on at a time."""
WORK = (0.002, 0.004)
"""Minimum and maximum seconds that a replica works on a call."""


class TimestampedRegistry:
    """A registry that records when it acknowledged the first registration.

    Args:
        inner: The registry that does the work.

    Attributes:
        registered: When it did, in seconds on the monotonic clock, which all processes of a
            machine share; 0 before.
    """

    def __init__(self, inner: Registry) -> None:
        self.registered = 0.0
        self._inner = inner

    async def register(self, service: str, endpoint: Endpoint, *, ttl: float) -> None:
        """Write or renew a registration."""
        await self._inner.register(service, endpoint, ttl=ttl)
        self.registered = self.registered or time.monotonic()

    async def deregister(self, service: str, endpoint: Endpoint) -> None:
        """Remove a registration."""
        await self._inner.deregister(service, endpoint)

    def watch(self, service: str) -> AsyncIterator[Snapshot]:
        """Yield snapshots of the service."""
        return self._inner.watch(service)

    async def aclose(self) -> None:
        """Close the registry."""
        await self._inner.aclose()


async def serve(name: str, service: str, registry: str, weight: int, lease_ttl: float) -> None:
    """Serve until SIGTERM."""
    slots = asyncio.Semaphore(SLOTS * weight)
    chance = random.Random()

    async def work() -> str:
        async with slots:
            await asyncio.sleep(chance.uniform(*WORK))
        return name

    async def echo(channel: Channel) -> None:
        async for body in channel:
            await channel.write([name, body])

    found = registry_from_url(registry)
    stamped = TimestampedRegistry(cast(Registry, found))
    server = Server(
        "127.0.0.1:0", service=service, registry=stamped, weight=weight, lease_ttl=lease_ttl
    )
    server.register(work, idempotent=True)
    server.register(echo)
    await server.create_server()
    ready = {"address": str(server.addresses[0]), "registered": stamped.registered}
    print(json.dumps(ready), flush=True)
    await server.serve_forever()
    await stamped.aclose()


def die_with_parent() -> None:
    """Exit when standard input ends."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os._exit(1)

    threading.Thread(target=watch, name="rap parent", daemon=True).start()


@click.command(hidden=True)
@click.option("--name", required=True)
@click.option("--service", required=True)
@click.option("--registry", required=True)
@declared_option("--weight", ServerConfig, "weight")
@declared_option("--lease-ttl", ServerConfig, "lease_ttl")
@loop_option
def demo_replica(
    name: str, service: str, registry: str, weight: int, lease_ttl: float, loop: str
) -> None:
    """Serve one replica of the demo until SIGTERM."""
    die_with_parent()
    logging.basicConfig(level=logging.ERROR)  # the outage of the registry is part of the scenario
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(serve(name, service, registry, weight, lease_ttl))
