"""Endpoints and waiting, as the tests of discovery need them."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import cast

from rap.address import Address
from rap.registry import Endpoint, Resolver, Snapshot, State
from tests import loopback

PATIENCE = 30.0  # seconds; only a failing test waits so long


def make_endpoint(
    port: int = 9000,
    *,
    weight: int = 1,
    state: State = State.UP,
    incarnation: str = "first",
    zone: str = "",
    metadata: Mapping[str, str] | None = None,
) -> Endpoint:
    address = Address("tcp", "10.0.0.1", port)
    return Endpoint(str(address), address, weight, state, incarnation, zone, dict(metadata or {}))


def watching(resolver: Resolver, service: str = "calc") -> aclosing[AsyncGenerator[Snapshot, None]]:
    """Watch a service and close the watch at the end of a `with` block."""
    return aclosing(cast("AsyncGenerator[Snapshot, None]", resolver.watch(service)))


async def until(snapshots: AsyncIterator[Snapshot], wanted: Callable[[Snapshot], bool]) -> Snapshot:
    """Read on until a snapshot is as wanted, and return it."""
    last: Snapshot | None = None
    try:
        async with asyncio.timeout(PATIENCE):
            async for last in snapshots:
                if wanted(last):
                    return last
    except TimeoutError:
        raise AssertionError(f"the wanted snapshot never came; the last was {last}") from None
    raise AssertionError("the watch ended")


async def until_true(claim: Callable[[], bool | Awaitable[bool]]) -> None:
    """Return once `claim` holds; looks again and again."""

    async def ask() -> bool:
        held = claim()
        return held if isinstance(held, bool) else await held

    await loopback.until(ask, PATIENCE)


def ports(snapshot: Snapshot) -> set[int]:
    return {endpoint.address.port for endpoint in snapshot.values()}
