"""What is known of each instance of a service at one moment, from whoever tells."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, Self

from rap.address import Address
from rap.cli.command import Failed, one_line
from rap.cli.instances import Instance, look, open_instance
from rap.cli.registry import Directory
from rap.cli.remote import DEFAULT_HOST, Remote
from rap.cli.scrape import Counted, Rates, scrape
from rap.cli.times import MILLISECONDS
from rap.errors import CallError
from rap.registry import Endpoint, State
from rap.registry.reports import LoadReport
from rap.wire.load import ServerLoad

__all__ = ["Board"]

_PATIENCE = 1.0  # seconds for an answer, unless --timeout says otherwise


class Board:
    """Looks at instances, and keeps a connection to each; for ``async with``.

    Args:
        remote: Names them.
        metrics_port: Where each has its page of metrics, on its own host; `None`: nowhere.

    Raises:
        UsageError: It names a registry, but no service.
    """

    def __init__(self, remote: Remote, metrics_port: int | None = None) -> None:
        self._remote = remote.with_service()
        self._patience = remote.timeout or _PATIENCE
        self._directory = None if remote.registry is None else Directory(remote)
        self._watched: dict[str, tuple[Instance, AsyncExitStack]] = {}
        self._listed: dict[str, Endpoint | None] = {}
        self._following: asyncio.Task[None] | None = None
        self._metrics_port = metrics_port
        self._counted: dict[str, tuple[float, Counted]] = {}

    @property
    def counts(self) -> bool:
        """Whether it tells of the time since the look before."""
        return self._metrics_port is not None

    async def look(self) -> list[dict[str, Any]]:
        """Return a row for each instance, sorted by address."""
        await self._follow_up()
        loads = await self._loads()
        instances = [instance for instance, _ in self._watched.values()]
        return sorted(
            await asyncio.gather(*(self._row(each, loads) for each in instances)),
            key=lambda row: str(row["address"]),
        )

    async def none_found(self) -> str:
        """Return what to say when there is no instance."""
        assert self._directory is not None  # a --host is an instance even where nobody answers
        return await self._directory.none_found()

    async def __aenter__(self) -> Self:
        if self._directory is None:
            self._listed = dict.fromkeys(self._remote.host or (DEFAULT_HOST,))
            return self
        try:
            self._take(await self._directory.instances())
        except BaseException:
            await self._directory.__aexit__()
            raise
        self._following = asyncio.create_task(self._follow(self._directory), name="rap top watch")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
        for _, stack in self._watched.values():
            await stack.aclose()
        if self._directory is not None:
            await self._directory.__aexit__()

    async def _follow(self, directory: Directory) -> None:
        async for found in directory.watch():
            self._take(found)

    def _take(self, found: list[Endpoint]) -> None:
        self._listed = {str(each.address): each for each in found}

    async def _follow_up(self) -> None:
        """Connect to instances that are new, and leave those that are gone."""
        for address in self._watched.keys() - self._listed.keys():
            _, stack = self._watched.pop(address)
            self._counted.pop(address, None)
            await stack.aclose()
        for address in self._listed.keys() - self._watched.keys():
            stack = AsyncExitStack()
            opened = await open_instance(self._remote, address, self._listed[address], stack)
            self._watched[address] = (opened, stack)

    async def _loads(self) -> Mapping[str, LoadReport]:
        if self._directory is None:
            return {}
        try:
            return await self._directory.loads()
        except Failed:  # the instances are still there to be asked
            return {}

    async def _row(self, instance: Instance, loads: Mapping[str, LoadReport]) -> dict[str, Any]:
        endpoint = self._listed.get(instance.address)
        told = loads.get(endpoint.id, {}) if endpoint is not None else {}
        error, seconds, load = None, None, None
        try:
            seconds, load = await look(instance, self._patience)
        except CallError as exc:
            error = one_line(str(exc))
        state = _state(endpoint, load, error)
        rates = None
        if self._metrics_port is not None:
            try:
                rates = await self._rates(instance, self._metrics_port)
            except OSError as exc:
                error = error or one_line(f"no metrics on port {self._metrics_port}: {exc}")
        return {
            "address": instance.address,
            "state": state,
            "weight": None if endpoint is None else endpoint.weight,
            "zone": None if endpoint is None else endpoint.zone,
            "in_flight": told.get("in_flight") if load is None else load.in_flight,
            "calls_s": told.get("rps") if rates is None else round(rates.calls, 1),
            "errors_s": None if rates is None else round(rates.errors, 1),
            "latency_ms": _milliseconds(None if load is None else load.latency),
            "p50_ms": _milliseconds(None if rates is None else rates.p50),
            "p99_ms": _milliseconds(None if rates is None else rates.p99),
            "cpu": told.get("util") if load is None else load.util,
            "clients": told.get("conns") if load is None else max(0, load.clients - 1),
            "ping_ms": _milliseconds(seconds),
            "error": None if state == "draining" else error,
        }

    async def _rates(self, instance: Instance, port: int) -> Rates | None:
        """Return what happened since the last look; `None` at the first."""
        host = Address.parse(instance.address).host
        if not host:
            raise OSError("on a unix socket there is no host for a page of metrics")
        counted = await scrape(host, port, self._patience)
        now = time.monotonic()
        then, before = self._counted.get(instance.address, (now, counted))
        self._counted[instance.address] = (now, counted)
        return counted.since(before, now - then)


def _state(endpoint: Endpoint | None, load: ServerLoad | None, error: str | None) -> str:
    """Return one word: what an instance says of itself counts more than what is said of it."""
    listed = "up" if endpoint is None else endpoint.state.value
    if load is not None:
        return "draining" if load.draining else listed
    if error is None:
        return listed
    if listed == State.DRAINING or error.endswith("is draining"):  # it takes no connection
        return State.DRAINING.value
    return "silent"


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * MILLISECONDS, 3)
