"""``rap top``: the instances of a service side by side, again and again."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

import click

from rap.address import Address
from rap.cli.command import Command, Failed, one_line, run
from rap.cli.instances import Instance, look, open_instance
from rap.cli.json_values import to_json
from rap.cli.registry import Directory
from rap.cli.remote import DEFAULT_HOST, Remote, remote_options
from rap.cli.scrape import Counted, Rates, scrape
from rap.cli.table import columns, print_rows, text
from rap.cli.timings import MILLISECONDS
from rap.errors import CallError
from rap.registry import Endpoint, State
from rap.registry.base import LoadReport
from rap.wire.load_report import ServerLoad

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

__all__ = ["Board", "top"]


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


_STYLES = {"up": "green", "draining": "yellow", "suspect": "yellow", "silent": "red"}
_TITLES = {"calls_s": "calls/s", "errors_s": "errors/s"}
_NUMBERS = (
    "weight", "in_flight", "calls/s", "errors/s", "latency_ms", "p50_ms", "p99_ms", "cpu",
    "clients", "ping_ms",
)  # fmt: skip


@click.command(cls=Command)
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(min=0.2),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    help="Port of the page of metrics that each instance has on its host; see rap serve.",
)
@click.option("--once", is_flag=True, help="Look once.")
@click.option("--json", is_flag=True, help="Print a JSON array for each look, on a line.")
@remote_options
def top(remote: Remote, interval: float, metrics_port: int | None, once: bool, json: bool) -> None:
    """Show load and state of each instance of a service, or each --host.

    Until Ctrl-C; a table in place on a terminal, one after another elsewhere. What neither the
    registry nor the instances tell is left out.
    """
    live = sys.stdout.isatty() and not json and not once
    board = Board(remote, metrics_port)
    run(_top(board, interval, once=once, json=json, live=live))


async def _top(board: Board, interval: float, *, once: bool, json: bool, live: bool) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(board)
        screen = stack.enter_context(_screen()) if live else None
        with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C is how one leaves
            if once and board.counts:
                await board.look()  # what is counted is told of the time between two looks
                await asyncio.sleep(interval)
            while True:
                rows = await board.look()
                if json:
                    click.echo(to_json(rows))
                elif not rows:
                    said = await board.none_found()
                    if screen is None:
                        click.echo(said, err=True)
                    else:
                        screen.update(said, refresh=True)
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
    """Return rows as people read them."""
    return [{_TITLES.get(name, name): _cell(name, row[name]) for name in row} for row in rows]


def _cell(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in _TITLES:
        return f"{value:.1f}"
    return f"{value * 100:.0f} %" if name == "cpu" else value


def _screen() -> "Live":
    from rich.live import Live  # for those who look at a terminal

    return Live(auto_refresh=False)


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
        table.add_row(*(Text(text(row[n]), style if n == "state" else "") for n in names))
    return table
