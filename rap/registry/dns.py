"""A resolver for DNS: each address of a name is an instance, as in a Kubernetes headless service.

DNS has no weights and no states, and its answers are cached on the way. An instance that stops
announces it with a GoAway long before its record disappears.
"""

import asyncio
import logging
import random
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from rap.address import Address
from rap.clock import Clock, SystemClock
from rap.registry.base import Endpoint, Snapshot, check_name

__all__ = ["DnsResolver"]

logger = logging.getLogger("rap.registry")

_INTERVAL = 5.0  # seconds between queries; the DNS of a cluster caches for 5 to 30 s anyway
_JITTER = 0.2  # share of the interval, either way
_TIMEOUT = 5.0  # seconds for one query

# Host name to its IP addresses as text.
Lookup = Callable[[str], Awaitable[Sequence[str]]]


class DnsResolver:
    """A resolver that queries all A and AAAA records of a name periodically.

    While the name cannot be resolved, the last snapshot remains valid.

    Args:
        host: The name.
        port: The port of every instance, 1 to 65535.
        interval: Seconds between queries.
        clock: Time source.
        rng: Random numbers for the jitter of the queries.
        lookup: Resolves a name; by default the resolver of the operating system.

    Attributes:
        last_error: The reason why the last query failed; empty if it succeeded.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        interval: float = _INTERVAL,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        lookup: Lookup | None = None,
    ) -> None:
        if not 1 <= port <= 65535:
            raise ValueError(f"port must be 1 to 65535, got {port!r}")
        if not interval > 0:
            raise ValueError(f"interval must be more than 0 seconds, got {interval!r}")
        self._host = host
        self._port = port
        self._interval = interval
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._lookup = lookup or _system_lookup
        self.last_error = f"{host} has not been resolved yet"

    def watch(self, service: str) -> AsyncGenerator[Snapshot, None]:
        """Yield a snapshot now and after each change; it is the same for every service."""
        check_name("service", service)
        return self._watch()

    async def aclose(self) -> None:
        """Do nothing: there is nothing to release."""

    async def _watch(self) -> AsyncGenerator[Snapshot, None]:
        last: Snapshot | None = None
        failing = False
        while True:
            try:
                async with asyncio.timeout(_TIMEOUT):
                    hosts = await self._lookup(self._host)
            except (OSError, UnicodeError) as exc:
                if not failing:
                    logger.warning(
                        "cannot resolve %s, keeping the last known set: %s", self._host, exc
                    )
                failing = True
                self.last_error = f"cannot resolve {self._host}: {str(exc) or type(exc).__name__}"
            else:
                failing, self.last_error = False, ""
                snapshot = {it.id: it for it in map(self._endpoint, sorted(set(hosts)))}
                if snapshot != last:
                    last = snapshot
                    yield snapshot
            jitter = self._rng.uniform(1.0 - _JITTER, 1.0 + _JITTER)
            await self._clock.sleep(self._interval * jitter)

    def _endpoint(self, host: str) -> Endpoint:
        address = Address("tcp", host, self._port)
        return Endpoint(id=str(address), address=address)


async def _system_lookup(host: str) -> list[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(name[0]) for *_, name in found]
