"""``rap ping``: does each instance answer, and how fast."""

import asyncio
import contextlib
from contextlib import AsyncExitStack
from typing import Any

import click

from rap.cli.command import Command, one_line, run
from rap.cli.instances import Instance, instances_of, round_trip
from rap.cli.remote import Remote, remote_options
from rap.cli.table import print_rows
from rap.cli.timings import MILLISECONDS, Times
from rap.errors import CallError

__all__ = ["ping"]

_PATIENCE = 2.0  # seconds for an answer, unless --timeout says otherwise
_NUMBERS = ("sent", "lost", "min_ms", "avg_ms", "p99_ms", "max_ms")


@click.command(cls=Command)
@click.option(
    "-n",
    "--count",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Round trips to each instance; 0: until Ctrl-C.",
)
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(min=0),
    default=0.2,
    show_default=True,
    metavar="SECONDS",
    help="From the end of a round to the next one.",
)
@click.option("-q", "--quiet", is_flag=True, help="Only the table at the end.")
@click.option("--json", is_flag=True, help="Only a JSON array at the end.")
@remote_options
def ping(remote: Remote, count: int, interval: float, quiet: bool, json: bool) -> None:
    """Measure round trips to each instance of a service, or each --host.

    What is sent reaches the table of functions of the server, and runs none. The exit status is 1
    if an answer did not come in --timeout, 2 seconds by default.
    """
    results = run(_ping(remote, count, interval, silent=quiet or json))
    print_rows([each.row() for each in results], json=json, right=_NUMBERS)
    if any(each.lost for each in results):
        raise click.exceptions.Exit(1)


class _Result:
    """What came of the pings to one instance."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.times = Times()
        self.lost = 0
        self.error: str | None = None

    def row(self) -> dict[str, Any]:
        """Return it for people or programs."""
        figures = self.times.milliseconds(0.99)
        return {
            "address": self.instance.address,
            "sent": len(self.times) + self.lost,
            "lost": self.lost,
            **{name: figures.get(name.removesuffix("_ms")) for name in _NUMBERS[2:]},
            "error": self.error,
        }


async def _ping(remote: Remote, count: int, interval: float, *, silent: bool) -> list[_Result]:
    patience = remote.timeout or _PATIENCE
    async with AsyncExitStack() as stack:
        results = [_Result(each) for each in await instances_of(remote, stack)]
        with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C: on to the table
            number = 0
            while True:
                await asyncio.gather(*(_once(each, patience, silent) for each in results))
                number += 1
                if number == count:
                    break
                await asyncio.sleep(interval)
    return results


async def _once(result: _Result, patience: float, silent: bool) -> None:
    try:
        seconds = await round_trip(result.instance, patience)
    except CallError as error:
        result.lost += 1
        result.error = one_line(str(error))
        said = f"no answer: {result.error}"
    else:
        result.times.add(seconds)
        said = f"{seconds * MILLISECONDS:.3f} ms"
    if not silent:
        click.echo(f"{result.instance.address}: {said}")
