"""Discovery by DNS: every address of one name is an instance, as of a Kubernetes headless service.

DNS tells neither weights nor states, and its answers are cached on the way: an instance that
leaves shows itself by its GoAway long before its record is gone.
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

_INTERVAL = 5.0  # seconds between questions; cluster DNS caches for 5 to 30 s anyway
_SPREAD = 0.2  # of the interval, either way
_TIMEOUT = 5.0  # seconds for one answer

# Host name to its IP addresses as text.
Lookup = Callable[[str], Awaitable[Sequence[str]]]


class DnsResolver:
    """Asks for all A and AAAA records of a name, again and again.

    While the name cannot be resolved the last known set stands.

    Args:
        host: The name.
        port: Port of every instance, 1 to 65535.
        interval: Seconds between questions.
        clock: Time source.
        rng: Chance that spreads the questions of many clients.
        lookup: Resolves a name; the system's resolver by default.

    Attributes:
        last_error: Why the name could not be resolved when it was last tried; empty if it could.
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
        """Yield the set of addresses now and after each change; the same for every service."""
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
                    logger.warning("cannot resolve %s, its last set stands: %s", self._host, exc)
                failing = True
                self.last_error = f"cannot resolve {self._host}: {str(exc) or type(exc).__name__}"
            else:
                failing, self.last_error = False, ""
                snapshot = {it.id: it for it in map(self._endpoint, sorted(set(hosts)))}
                if snapshot != last:
                    last = snapshot
                    yield snapshot
            spread = self._rng.uniform(1.0 - _SPREAD, 1.0 + _SPREAD)
            await self._clock.sleep(self._interval * spread)

    def _endpoint(self, host: str) -> Endpoint:
        address = Address("tcp", host, self._port)
        return Endpoint(id=str(address), address=address)


async def _system_lookup(host: str) -> list[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(name[0]) for *_, name in found]
