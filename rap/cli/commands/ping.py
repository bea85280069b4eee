"""``rap ping``: whether each instance answers, and how fast."""

import asyncio
import contextlib
from contextlib import AsyncExitStack
from typing import Any

import click

from rap.cli.command import Command, json_option, run
from rap.cli.instances import Instance, open_instances, round_trip
from rap.cli.remote import Remote, remote_options
from rap.cli.table import print_rows
from rap.cli.timings import MILLISECONDS, Durations
from rap.errors import CallError
from rap.foreign import one_line

__all__ = ["ping"]

_PATIENCE = 2.0  # seconds to wait for an answer without --timeout
_NUMBERS = ("sent", "lost", "min_ms", "avg_ms", "p99_ms", "max_ms")


@click.command(cls=Command)
@click.option(
    "-n",
    "--count",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Number of round trips to each instance. 0 means until Ctrl-C.",
)
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(min=0),
    default=0.2,
    show_default=True,
    metavar="SECONDS",
    help="Time from the end of one round to the start of the next.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print only the table at the end.")
@json_option
@remote_options
def ping(remote: Remote, count: int, interval: float, quiet: bool, json: bool) -> None:
    """Measure round trips to each instance of a service, or to each --host.

    A ping takes the path of a call through the server, but runs no function. The exit status is 1
    if an answer did not arrive within --timeout.
    """
    results = run(_ping(remote, count, interval, silent=quiet or json))
    print_rows([each.row() for each in results], json=json, right=_NUMBERS)
    if any(each.lost for each in results):
        raise click.exceptions.Exit(1)


class _Pings:
    """The pings to one instance, and their results."""

    def __init__(self, instance: Instance) -> None:
        self.lost = 0
        self._instance = instance
        self._times = Durations()
        self._error: str | None = None

    async def send(self, patience: float) -> str:
        """Send one ping; return a line about its result."""
        try:
            seconds = await round_trip(self._instance, patience)
        except CallError as error:
            self.lost += 1
            self._error = one_line(error)
            return f"{self._instance.address}: no answer: {self._error}"
        self._times.add(seconds)
        return f"{self._instance.address}: {seconds * MILLISECONDS:.3f} ms"

    def row(self) -> dict[str, Any]:
        """Return the results as one row of a table."""
        figures = self._times.milliseconds(0.99)
        return {
            "address": self._instance.address,
            "sent": len(self._times) + self.lost,
            "lost": self.lost,
            **{name: figures.get(name.removesuffix("_ms")) for name in _NUMBERS[2:]},
            "error": self._error,
        }


async def _ping(remote: Remote, count: int, interval: float, *, silent: bool) -> list[_Pings]:
    patience = remote.timeout or _PATIENCE

    async def ping_once(pings: _Pings) -> None:
        line = await pings.send(patience)
        if not silent:
            click.echo(line)

    async with AsyncExitStack() as stack:
        results = [_Pings(each) for each in await open_instances(remote, stack)]
        with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C: continue with the table
            number = 0
            while True:
                await asyncio.gather(*map(ping_once, results))
                number += 1
                if number == count:
                    break
                await asyncio.sleep(interval)
    return results
