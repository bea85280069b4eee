"""``rap top``: the load of the instances of a service side by side, refreshed every second."""

import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

import click

from rap.address import Address
from rap.cli.command import Command, Failed, json_option, run
from rap.cli.instances import Instance, load_of, open_instance
from rap.cli.json_values import to_json
from rap.cli.registry import RegistryReader
from rap.cli.remote import DEFAULT_HOST, Remote, remote_options
from rap.cli.scrape import CallCounters, CallRates, scrape
from rap.cli.table import cell_text, columns, print_rows
from rap.cli.timings import MILLISECONDS
from rap.errors import CallError
from rap.foreign import one_line
from rap.registry import Endpoint, State
from rap.registry.base import LoadReport
from rap.wire.load_report import ServerLoad

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

__all__ = ["InstanceMonitor", "top"]


_PATIENCE = 1.0  # seconds to wait for an answer without --timeout


class InstanceMonitor:
    """Measures instances over a connection to each, for ``async with``.

    Args:
        remote: Names the instances.
        metrics_port: Port of the metrics page of each instance; `None` reads no pages.

    Raises:
        UsageError: `remote` names a registry, but no service.
    """

    def __init__(self, remote: Remote, metrics_port: int | None = None) -> None:
        self._remote = remote.with_service()
        self._patience = remote.timeout or _PATIENCE
        self._registry = None if remote.registry is None else RegistryReader(remote)
        self._watched: dict[str, tuple[Instance, AsyncExitStack]] = {}
        self._listed: dict[str, Endpoint | None] = {}
        self._following: asyncio.Task[None] | None = None
        self._metrics_port = metrics_port
        self._counted: dict[str, tuple[float, CallCounters]] = {}
        self._opened: dict[str, tuple[float, int]] = {}
        self._pings: Counter[str] = Counter()

    async def measure(self) -> list[dict[str, Any]]:
        """Return a row for each instance, sorted by address.

        Rates cover the time since the previous measurement, so the first one has none.
        """
        await self._reconnect()
        loads = await self._loads()
        instances = [instance for instance, _ in self._watched.values()]
        return sorted(
            await asyncio.gather(*(self._row(each, loads) for each in instances)),
            key=lambda row: str(row["address"]),
        )

    async def none_found(self) -> str:
        """Return a message for a service without instances."""
        assert self._registry is not None  # a --host is an instance even if no server answers there
        return await self._registry.none_found()

    async def __aenter__(self) -> Self:
        if self._registry is None:
            self._listed = dict.fromkeys(self._remote.host or (DEFAULT_HOST,))
            return self
        try:
            self._take(await self._registry.instances())
        except BaseException:  # raised again
            await self._registry.__aexit__()
            raise
        self._following = asyncio.create_task(self._follow(self._registry), name="rap top watch")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
        for _, stack in self._watched.values():
            await stack.aclose()
        if self._registry is not None:
            await self._registry.__aexit__()

    async def _follow(self, registry: RegistryReader) -> None:
        async for found in registry.watch():
            self._take(found)

    def _take(self, found: list[Endpoint]) -> None:
        self._listed = {str(each.address): each for each in found}

    async def _reconnect(self) -> None:
        """Connect to new instances, and close the connections to those that are gone."""
        for address in self._watched.keys() - self._listed.keys():
            _, stack = self._watched.pop(address)
            self._counted.pop(address, None)
            self._opened.pop(address, None)
            self._pings.pop(address, None)
            await stack.aclose()
        for address in self._listed.keys() - self._watched.keys():
            stack = AsyncExitStack()
            opened = await open_instance(self._remote, address, self._listed[address], stack)
            self._watched[address] = (opened, stack)

    async def _loads(self) -> Mapping[str, LoadReport]:
        if self._registry is None:
            return {}
        try:
            return await self._registry.loads()
        except Failed:  # the instances can still be asked
            return {}

    async def _row(self, instance: Instance, loads: Mapping[str, LoadReport]) -> dict[str, Any]:
        endpoint = self._listed.get(instance.address)
        reported = loads.get(endpoint.id, {}) if endpoint is not None else {}
        error, seconds, load = None, None, None
        try:
            seconds, load = await load_of(instance, self._patience)
            self._pings[instance.address] += 1
        except CallError as exc:
            error = _silence_of(instance) or one_line(exc)
        calls = self._calls_per_second(instance.address, load)
        state = _state(endpoint, load, error, is_suspect=_silence_of(instance) is not None)
        rates = None
        if self._metrics_port is not None:
            try:
                rates = await self._rates(instance, self._metrics_port)
            except OSError as exc:
                error = error or one_line(f"no metrics on port {self._metrics_port}: {exc}")
            else:  # the page of several workers has the calls of all
                calls = calls if rates is None else rates.calls
        return {
            "address": instance.address,
            "state": state,
            "weight": None if endpoint is None else endpoint.weight,
            "zone": None if endpoint is None else endpoint.zone,
            "in_flight": reported.get("in_flight") if load is None else load.in_flight,
            "calls_s": reported.get("rps") if calls is None else round(calls, 1),
            "errors_s": None if rates is None else round(rates.errors, 1),
            "latency_ms": _milliseconds(None if load is None else load.latency),
            "p50_ms": _milliseconds(None if rates is None else rates.p50),
            "p99_ms": _milliseconds(None if rates is None else rates.p99),
            "cpu": reported.get("util") if load is None else load.util,
            "clients": reported.get("conns") if load is None else max(0, load.clients - 1),
            "ping_ms": _milliseconds(seconds),
            "error": None if state == "draining" else error,
        }

    def _calls_per_second(self, address: str, load: ServerLoad | None) -> float | None:
        """Return the rate of calls that an instance has counted, without those of this monitor."""
        if load is None or load.calls is None:
            return None
        now, calls = time.monotonic(), load.calls - self._pings[address]
        then, before = self._opened.get(address, (now, calls))
        self._opened[address] = now, calls
        if now == then or calls < before:  # another process
            return None
        return (calls - before) / (now - then)

    async def _rates(self, instance: Instance, port: int) -> CallRates | None:
        """Return the rates since the previous measurement; `None` at the first one."""
        host = Address.parse(instance.address).host
        if not host:
            raise OSError("an instance on a unix socket has no host for a metrics page")
        counted = await scrape(host, port, self._patience)
        now = time.monotonic()
        then, before = self._counted.get(instance.address, (now, counted))
        self._counted[instance.address] = (now, counted)
        return counted.since(before, now - then)


def _silence_of(instance: Instance) -> str | None:
    """Return for how long a suspect instance has been silent; `None` if it is not suspect."""
    pools = (node.pool for node in instance.client.cluster.nodes.values())
    return next((pool.describe() for pool in pools if pool.suspect), None)


def _state(
    endpoint: Endpoint | None, load: ServerLoad | None, error: str | None, *, is_suspect: bool
) -> str:
    """Return the state in one word; what the instance reports takes precedence."""
    listed = "up" if endpoint is None else endpoint.state.value
    if load is not None:
        return "draining" if load.draining else listed
    if error is None:
        return listed
    if listed == State.DRAINING or error.endswith("is draining"):  # it accepts no connection
        return State.DRAINING.value
    return State.SUSPECT.value if is_suspect else "silent"


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * MILLISECONDS, 3)


_STYLES = {"up": "green", "draining": "yellow", "suspect": "yellow", "silent": "red"}
_TITLES = {"calls_s": "calls/s", "errors_s": "errors/s"}
_NUMBERS = (
    *("weight", "in_flight", "calls/s", "errors/s", "latency_ms", "p50_ms", "p99_ms"),
    *("cpu", "clients", "ping_ms"),
)


@click.command(cls=Command)
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(min=0.2),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two refreshes; with --once, the time over which it measures.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    help="Port of the metrics page on the host of each instance (see rap serve).",
)
@click.option("--once", is_flag=True, help="Print one table after --interval, and exit.")
@json_option
@remote_options
def top(remote: Remote, interval: float, metrics_port: int | None, once: bool, json: bool) -> None:
    """Show the load and state of each instance of a service, or of each --host.

    The command runs until Ctrl-C. On a terminal it updates the table in place. Otherwise it prints
    one table after another, or with --json one array per line. Empty columns are omitted.
    """
    live = sys.stdout.isatty() and not json and not once
    monitor = InstanceMonitor(remote, metrics_port)
    run(_top(monitor, interval, once=once, json=json, live=live))


async def _top(
    monitor: InstanceMonitor, interval: float, *, once: bool, json: bool, live: bool
) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(monitor)
        screen = stack.enter_context(_screen()) if live else None
        with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C ends the command
            if once:
                await monitor.measure()  # rates need two measurements
                await asyncio.sleep(interval)
            while True:
                rows = await monitor.measure()
                if json:
                    click.echo(to_json(rows))
                elif not rows:
                    message = await monitor.none_found()
                    if screen is None:
                        click.echo(message, err=True)
                    else:
                        screen.update(_plain(message), refresh=True)
                elif screen is None:
                    print_rows(_shown(rows), json=False, right=_NUMBERS)
                else:
                    screen.update(_table(_shown(rows)), refresh=True)
                if once:
                    return
                await asyncio.sleep(interval)
                if not live and not json:
                    click.echo()


def _shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with the titles and units of the printed table."""
    return [{_TITLES.get(name, name): _cell(name, row[name]) for name in row} for row in rows]


def _cell(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in _TITLES:
        return f"{value:.1f}"
    return f"{value * 100:.0f} %" if name == "cpu" else value


def _screen() -> "Live":
    from rich.live import Live  # slow to import, and only needed on a terminal

    return Live(auto_refresh=False)


def _plain(message: str) -> "Text":
    from rich.text import Text

    return Text(message)  # as a string, it would be read as markup


def _table(rows: list[dict[str, Any]]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=0)
    names = columns(rows)
    for name in names:
        right = name in _NUMBERS
        table.add_column(name.replace("_", " "), justify="right" if right else "left")
    for row in rows:
        style = _STYLES.get(row["state"], "")
        table.add_row(*(Text(cell_text(row[n]), style if n == "state" else "") for n in names))
    return table
