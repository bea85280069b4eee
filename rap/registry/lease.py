"""The lease of one server: its registration, renewed until it is closed.

One task renews the lease every third of its time to live, so two renewals may fail before watchers
see it expire. A jitter of 10 % keeps instances that started together from renewing together.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import aclosing, suppress
from math import inf
from typing import Any, Self, cast

from rap.clock import Clock, SystemClock
from rap.errors import RegistryError
from rap.foreign import one_line
from rap.notify import Notify
from rap.registry.base import (
    AddressTaken,
    Endpoint,
    LeaseLost,
    LoadReport,
    Registry,
    Reports,
    Snapshot,
    State,
    check_name,
    check_ttl,
)
from rap.registry.process import MARK, has_ended
from rap.tasks import start_task

__all__ = ["Lease"]

logger = logging.getLogger("rap.registry")

_RENEWALS_PER_TTL = 3
_JITTER = 0.1  # share of the interval, either way
_FIRST_BACKOFF = 0.25  # seconds; doubled per failure, up to `_MAX_BACKOFF`
_MAX_BACKOFF = 0.5  # share of the interval: a registry that returns empty is full again within 5 s
_MAX_DOUBLINGS = 8
_LOOK_TIMEOUT = 1.0  # seconds to read who holds the address
_REMIND = 30.0  # seconds between two warnings that the server has never been registered


class Lease:
    """The registration of one endpoint of a service.

    A failing registry never stops a server. The failure is logged once per outage, or every 30 s
    as long as the server has never been registered, and the lease keeps trying. If the registry was
    emptied, all instances lose their leases at the same moment, so each registers again at a random
    point within one interval.

    Args:
        registry: The registry.
        service: The name of the service.
        endpoint: The endpoint to register, with the incarnation of this process.
        ttl: Seconds that a registration is valid without renewal, 0.1 to 86,400.
        clock: Time source of the renewals.
        rng: Random numbers for the jitter.
        load: Returns the load to report with each renewal, if the registry takes reports. The lag
            is added to it, which tells a blocked event loop from a dead server.
        sign: Returns the endpoint as it is to be registered; called for each renewal.
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
        sign: Callable[[Endpoint], Endpoint] | None = None,
    ) -> None:
        self._registry = registry
        self._service = check_name("service", service)
        self._endpoint = endpoint
        self._ttl = check_ttl(ttl)
        self._interval = self._ttl / _RENEWALS_PER_TTL
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._load = load
        self._sign = sign
        self._failures = 0  # in a row
        self._total_failures = 0
        self._renewed = -inf
        self._error: RegistryError | None = None
        self._pause = 0.0
        self._lag = 0.0
        self._registered = False
        self._started = self._told = -inf  # when it was started, and when it last logged a failure
        self._free_at: float | None = None  # end of the lease of another process, as first told
        self._taken_logged = False
        self._turn = asyncio.Lock()
        self._notify: Notify | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint that is registered, or will be."""
        return self._endpoint

    @property
    def healthy(self) -> bool:
        """Whether the last attempt to register or renew succeeded."""
        return self._registered and self._error is None

    @property
    def has_registered(self) -> bool:
        """Whether an attempt has succeeded since the start; a later failure does not change it."""
        return self._registered

    @property
    def error(self) -> RegistryError | None:
        """The error of the last attempt; `None` if it succeeded."""
        return self._error

    @property
    def lag(self) -> float:
        """Seconds by which the last renewal was late because the event loop was blocked."""
        return self._lag

    @property
    def failures(self) -> int:
        """Number of failed attempts to register or renew since the start."""
        return self._total_failures

    @property
    def left(self) -> float:
        """Seconds until the lease expires unless it is renewed; 0 without a valid lease."""
        return max(0.0, self._renewed + self._ttl - self._clock.monotonic())

    async def start(self) -> None:
        """Register, and renew from now on. Returns after the first attempt, even if it failed."""
        if self._task is not None:
            raise RuntimeError(f"the lease of {self._endpoint.id} was already started")
        self._notify = Notify(self._clock)
        self._started = self._clock.monotonic()
        name = f"rap lease {self._service} {self._endpoint.id}"
        async with self._turn:
            self._task = start_task(self._renew(self._notify), name=name)
            self._pause = await self._attempt()

    async def update(self, endpoint: Endpoint) -> None:
        """Publish a new state or weight. Returns after the first attempt, even if it failed.

        Raises:
            ValueError: `endpoint` has another id or incarnation, which needs a separate lease.
        """
        for field in ("id", "incarnation"):
            old, new = getattr(self._endpoint, field), getattr(endpoint, field)
            if old != new:
                raise ValueError(f"{field} of a leased endpoint cannot change: {old!r} to {new!r}")
        self._endpoint = endpoint
        async with self._turn:
            notify = self._notify
            if notify is None:
                return  # not started, or closed since
            self._pause = await self._attempt_again()
            notify.notify()

    async def close(self) -> None:
        """Stop renewing and deregister. It may be called twice, and before `start`."""
        task, self._task, self._notify = self._task, None, None
        if task is None:
            return
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        was_registered = self._registered
        try:
            async with self._turn:
                self._registered = False
                await self._registry.deregister(self._service, self._endpoint)
        except RegistryError as exc:
            if was_registered:
                text = "%s could not be deregistered; it remains until its lease expires: %s"
                logger.warning(text, self._endpoint.id, exc)
        except Exception:  # of a registry of the user; the server must be able to stop
            text = "%s could not be deregistered; it remains until its lease expires"
            logger.exception(text, self._endpoint.id)
        else:
            logger.info("%s: lease of %s ended", self._service, self._endpoint.id)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _renew(self, notify: Notify) -> None:
        async with self._turn:
            pass  # `start` makes the first attempt
        while True:
            due = self._clock.monotonic() + self._pause
            if await notify.wait(self._pause):
                continue  # `update` made an attempt and set the pause
            self._lag = max(0.0, self._clock.monotonic() - due)
            async with self._turn:
                self._pause = await self._attempt_again()

    async def _attempt_again(self) -> float:
        """Do the same as `_attempt`, which raises nothing any more after the start."""
        try:
            return await self._attempt()
        except Exception as exc:  # of a registry of the user
            return self._back_off(RegistryError(f"{type(exc).__name__}: {one_line(exc)}"), exc)

    async def _attempt(self) -> float:
        """Register or renew once; return the seconds until the next attempt."""
        endpoint = self._endpoint if self._sign is None else self._sign(self._endpoint)
        if self._load is not None and isinstance(self._registry, Reports):
            report = {**self._load(), "lag": round(self._lag, 3)}
            self._registry.report_load(self._service, endpoint.id, report)
        asked = self._clock.monotonic()
        try:
            try:
                await self._registry.register(self._service, endpoint, ttl=self._ttl)
            except AddressTaken:
                if not await self._remove_ended():
                    raise
                await self._registry.register(self._service, endpoint, ttl=self._ttl)
        except LeaseLost as exc:
            self._failed(exc, logging.WARNING)
            return self._rng.uniform(0.0, self._interval)
        except AddressTaken as exc:
            self._log_taken(exc)
            self._failed(exc, None)
            return exc.retry_after + self._rng.uniform(0.0, _JITTER) * self._interval
        except RegistryError as exc:
            return self._back_off(exc)
        self._succeeded(asked)
        return self._interval * self._rng.uniform(1.0 - _JITTER, 1.0 + _JITTER)

    def _back_off(self, error: RegistryError, cause: Exception | None = None) -> float:
        """Note that an attempt failed; return the seconds until the next one.

        Args:
            error: Why.
            cause: What the registry raised instead of a `RegistryError`, which is a mistake in it.
        """
        self._failed(error, logging.WARNING if cause is None else logging.ERROR, cause)
        doublings = min(self._failures - 1, _MAX_DOUBLINGS)
        most = min(_MAX_BACKOFF * self._interval, _FIRST_BACKOFF * 2.0**doublings)
        return most * self._rng.uniform(0.5, 1.0)

    async def _remove_ended(self) -> bool:
        """Remove the registration of a former process at the address, if it has surely ended.

        Raises:
            RegistryError: The registry is unreachable.
        """
        try:
            async with (
                asyncio.timeout(_LOOK_TIMEOUT),
                aclosing(cast(Any, self._registry.watch(self._service))) as snapshots,
            ):
                snapshot: Snapshot = await anext(snapshots)
        except TimeoutError:
            return False
        except Exception:  # a registry of the user
            logger.exception("%s could not be read", self._service)
            return False
        held = snapshot.get(self._endpoint.id)
        if held is None or not has_ended(held.metadata.get(MARK, "")):
            return False
        await self._registry.deregister(self._service, held)
        text = "%s: %s is free: the process that was registered there has ended"
        logger.info(text, self._service, held.id)
        return True

    def _log_taken(self, error: AddressTaken) -> None:
        """Log that another process holds the address.

        After a crash, the lease of the former process is valid until it expires. Only if it was
        renewed meanwhile are there two processes.
        """
        now, endpoint_id = self._clock.monotonic(), self._endpoint.id
        if self._free_at is None:
            self._free_at = now + error.retry_after
            if self._registered and self._endpoint.state is State.DRAINING:
                text = "%s: a new process has replaced %s, which drains"
                logger.info(text, self._service, endpoint_id)
            else:
                text = "%s: %s is not registered yet: the lease of a former process ends in %.1f s"
                logger.info(text, self._service, endpoint_id, error.retry_after)
            self._told = now
        elif now >= self._free_at and not self._taken_logged:
            self._taken_logged = True
            if self._endpoint.state is not State.DRAINING:
                logger.error("%s: %s is not registered: %s", self._service, endpoint_id, error)

    def _failed(
        self, error: RegistryError, level: int | None, cause: Exception | None = None
    ) -> None:
        """Note an error; log it with a level if it is another one than before.

        No client knows a server that has never been registered: that is logged again and again.
        """
        now = self._clock.monotonic()
        is_new = level is not None and type(self._error) is not type(error)
        if is_new or (not self._registered and now - self._told >= _REMIND):
            text = "%s: %s is not registered%s: %s"
            since = "" if self._registered else self._unregistered_since(now)
            level = logging.WARNING if level is None else level
            about = (self._service, self._endpoint.id, since, error)
            logger.log(level, text, *about, exc_info=cause if is_new else None)
            self._told = now
        self._error = error
        self._failures += 1
        self._total_failures += 1
        if isinstance(error, LeaseLost | AddressTaken):
            self._renewed = -inf  # the registry has no lease for this server

    def _unregistered_since(self, now: float) -> str:
        after = now - self._started
        return " yet, and so not ready" + (f", after {after:.0f} s" if after >= 1.0 else "")

    def _succeeded(self, asked: float) -> None:
        if self._error is not None or not self._registered:
            logger.info("%s: %s is registered", self._service, self._endpoint.id)
        self._error = self._free_at = None
        self._taken_logged = False
        self._registered = True
        self._renewed = asked
        self._failures = 0
