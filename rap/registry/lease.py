"""What keeps the registration of one server alive until it is closed.

The renewals come from one task of their own, at a third of the time to live: two may fail before
watchers see the lease run out. Their spread of 10 % keeps instances that started together apart.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Self

from rap.clock import Clock, SystemClock
from rap.errors import RegistryError
from rap.notify import Notify
from rap.registry.base import (
    AddressTaken,
    Endpoint,
    LeaseLost,
    LoadReport,
    Registry,
    Reports,
    check_name,
    check_ttl,
)

__all__ = ["Lease"]

logger = logging.getLogger("rap.registry")

_RENEWALS_PER_TTL = 3
_SPREAD = 0.1  # of the interval, either way
_FIRST_BACKOFF = 0.25  # seconds; doubled per failure up to a part of the interval
_MOST_BACKOFF = 0.5  # of the interval: a registry that is back, and empty, has all within 5 s
_MAX_DOUBLINGS = 8


class Lease:
    """The registration of one endpoint of a service.

    A registry that fails never stops a server: it is told once per outage, and the lease goes on
    trying. After a loss that every instance sees at the same moment (an emptied registry) it
    registers again at a random point of one interval, so that there is no storm.

    Args:
        registry: Where to register.
        service: Name of the service.
        endpoint: What to register; its incarnation must be this process's own.
        ttl: Seconds that a registration stands without renewal, 0.1 to 86,400.
        clock: Time source of the renewals.
        rng: Chance that spreads them.
        load: Gives the load to report with each renewal, where the registry takes reports; the
            lag is added, so that a blocked loop can be told from a dead server and from a live one.
    """

    def __init__(
        self,
        registry: Registry,
        service: str,
        endpoint: Endpoint,
        ttl: float = 10.0,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        load: Callable[[], LoadReport] | None = None,
    ) -> None:
        self._registry = registry
        self._service = check_name("service", service)
        self._endpoint = endpoint
        self._ttl = check_ttl(ttl)
        self._interval = self._ttl / _RENEWALS_PER_TTL
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._load = load
        self._failures = 0
        self._failed_ever = 0
        self._renewed = -inf
        self._error: RegistryError | None = None
        self._pause = 0.0
        self._lag = 0.0
        self._registered = False
        self._turn = asyncio.Lock()
        self._wakeup: Notify | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def endpoint(self) -> Endpoint:
        """What is, or shall be, registered."""
        return self._endpoint

    @property
    def healthy(self) -> bool:
        """Whether the last attempt to register or renew succeeded."""
        return self._registered and self._error is None

    @property
    def error(self) -> RegistryError | None:
        """Why the last attempt failed; `None` when it succeeded."""
        return self._error

    @property
    def lag(self) -> float:
        """Seconds by which the last renewal came late: how long something blocked the loop."""
        return self._lag

    @property
    def failures(self) -> int:
        """Attempts to register or renew that have failed since the start."""
        return self._failed_ever

    @property
    def left(self) -> float:
        """Seconds until the lease runs out unless it is renewed; 0 if it has, or never began."""
        return max(0.0, self._renewed + self._ttl - self._clock.monotonic())

    async def start(self) -> None:
        """Register, and renew from now on; returns after the first attempt, failed or not."""
        if self._task is not None:
            raise RuntimeError(f"the lease of {self._endpoint.id} was started before")
        self._wakeup = Notify(self._clock)
        name = f"rap lease {self._service} {self._endpoint.id}"
        async with self._turn:
            self._task = asyncio.create_task(self._renew(self._wakeup), name=name)
            self._pause = await self._attempt()

    async def update(self, endpoint: Endpoint) -> None:
        """Publish a new state or weight; returns after the first attempt, failed or not.

        Raises:
            ValueError: `endpoint` has another id or incarnation; that needs a lease of its own.
        """
        for field in ("id", "incarnation"):
            old, new = getattr(self._endpoint, field), getattr(endpoint, field)
            if old != new:
                raise ValueError(f"{field} of a leased endpoint cannot change: {old!r} to {new!r}")
        self._endpoint = endpoint
        async with self._turn:
            wakeup = self._wakeup
            if wakeup is None:
                return  # not started, or closed meanwhile
            self._pause = await self._attempt()
            wakeup.set()

    async def close(self) -> None:
        """Stop renewing and deregister; safe to call twice, and before `start`."""
        task, self._task, self._wakeup = self._task, None, None
        if task is None:
            return
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        try:
            async with self._turn:
                self._registered = False
                await self._registry.deregister(self._service, self._endpoint)
        except RegistryError as exc:
            logger.warning(
                "%s could not be deregistered and goes when its lease runs out: %s",
                self._endpoint.id,
                exc,
            )
        else:
            logger.info("%s: lease of %s ended", self._service, self._endpoint.id)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _renew(self, wakeup: Notify) -> None:
        async with self._turn:
            pass  # the first attempt is made by start
        while True:
            due = self._clock.monotonic() + self._pause
            if await wakeup.wait(self._pause):
                continue  # an update has made the attempt, and its own pause
            self._lag = max(0.0, self._clock.monotonic() - due)
            async with self._turn:
                self._pause = await self._attempt()

    async def _attempt(self) -> float:
        """Register or renew once; return the seconds until the next attempt."""
        endpoint = self._endpoint
        if self._load is not None and isinstance(self._registry, Reports):
            report = {**self._load(), "lag": round(self._lag, 3)}
            self._registry.report_load(self._service, endpoint.id, report)
        asked = self._clock.monotonic()
        try:
            await self._registry.register(self._service, endpoint, ttl=self._ttl)
        except LeaseLost as exc:
            self._failed(exc, logging.WARNING)
            return self._rng.uniform(0.0, self._interval)
        except AddressTaken as exc:
            self._failed(exc, logging.ERROR)
            return exc.retry_after + self._rng.uniform(0.0, _SPREAD) * self._interval
        except RegistryError as exc:
            self._failed(exc, logging.WARNING)
            doublings = min(self._failures - 1, _MAX_DOUBLINGS)
            most = min(_MOST_BACKOFF * self._interval, _FIRST_BACKOFF * 2.0**doublings)
            return most * self._rng.uniform(0.5, 1.0)
        self._succeeded(asked)
        return self._interval * self._rng.uniform(1.0 - _SPREAD, 1.0 + _SPREAD)

    def _failed(self, error: RegistryError, level: int) -> None:
        if self._error is None or type(self._error) is not type(error):
            logger.log(
                level, "%s: %s is not registered: %s", self._service, self.endpoint.id, error
            )
        self._error = error
        self._failures += 1
        self._failed_ever += 1
        if isinstance(error, LeaseLost | AddressTaken):
            self._renewed = -inf  # the registry has no lease of this server

    def _succeeded(self, asked: float) -> None:
        if self._error is not None or not self._registered:
            logger.info("%s: %s is registered", self._service, self._endpoint.id)
        self._error = None
        self._registered = True
        self._renewed = asked
        self._failures = 0
