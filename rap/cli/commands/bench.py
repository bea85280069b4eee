"""``rap bench FUNC``: how many calls per second, how long they take, and which server answers."""

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

import click

from rap.call import StreamType
from rap.cli.calls import NamedCall, call_options, refused_type
from rap.cli.command import Command, Failed, json_option, run
from rap.cli.json_values import to_json
from rap.cli.remote import Remote
from rap.cli.table import print_rows
from rap.cli.timings import Histogram
from rap.client import Client
from rap.client.stats import client_status
from rap.errors import CallError, Code

__all__ = ["bench"]

_SECONDS = 10.0
_QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
# If the first call fails with one of these, every call would.
_HOPELESS = (
    Code.NOT_FOUND,
    Code.UNIMPLEMENTED,
    Code.INVALID_ARGUMENT,
    Code.PERMISSION_DENIED,
    Code.UNAUTHENTICATED,
)


@click.command(cls=Command)
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Number of calls in flight.",
)
@click.option(
    "-d",
    "--duration",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long to make calls. [default: 10, without -n]",
)
@click.option("-n", "--calls", type=click.IntRange(min=1), help="Number of calls to make.")
@click.option(
    "--connections",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of connections to each instance.",
)
@json_option
@call_options
def bench(
    remote: Remote,
    named: NamedCall,
    concurrency: int,
    duration: float | None,
    calls: int | None,
    connections: int,
    json: bool,
) -> None:
    """Call a function repeatedly and measure the calls.

    Pass arguments as for rap call. Calls are balanced over the instances of a service. The duration
    of a generator call includes all its items. One call is made before the measurement and is not
    counted. The exit status is 1 if a call failed.
    """
    if named.reads_input:
        raise click.UsageError("bench sends no items; leave out '-'")
    if duration is None and calls is None:
        duration = _SECONDS
    connections = min(connections, concurrency)
    load = _Load(named, calls)
    run(load.run(remote, concurrency, connections, duration))
    summary = load.summary()
    if json:
        click.echo(to_json(summary))
    else:
        _print(summary, concurrency, connections)
    if load.failed or not load.latency.count:
        raise click.exceptions.Exit(1)


class _Load:
    """The calls, and the measurements of them.

    Args:
        named: The call that is made repeatedly.
        limit: Number of calls to make; `None` is no limit.
    """

    def __init__(self, named: NamedCall, limit: int | None) -> None:
        self.latency = Histogram()
        self._named = named
        self._turns = itertools.count() if limit is None else iter(range(limit))
        self._errors: Counter[str] = Counter()
        self._instances: Counter[str] = Counter()
        self._seconds = 0.0

    @property
    def failed(self) -> int:
        """How many calls failed."""
        return self._errors.total()

    async def run(
        self, remote: Remote, concurrency: int, connections: int, duration: float | None
    ) -> None:
        """Make the calls.

        Args:
            remote: The servers.
            concurrency: Number of calls in flight.
            connections: Number of connections to each instance.
            duration: Seconds after which to stop; `None` is after the last call.

        Raises:
            CallError: No call of the function can succeed.
            Failed: The function is a channel.
        """
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(remote.connected()) for _ in range(connections)
            ]
            once = await self._caller(clients[0], duration)
            before = _calls(clients)
            began = time.perf_counter()
            workers = [
                asyncio.create_task(
                    self._work(clients[i % connections], once), name=f"rap bench {i}"
                )
                for i in range(concurrency)
            ]
            with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C ends the measurement
                await asyncio.wait(workers, timeout=duration)
            self._seconds = time.perf_counter() - began
            for each in workers:
                each.cancel()
            ended, _ = await asyncio.wait(workers)
            self._instances = _calls(clients) - before
            for each in ended:
                if not each.cancelled():
                    each.result()

    def summary(self) -> dict[str, Any]:
        """Return the measurements."""
        answered = self._instances.total()
        rate = self.latency.count / self._seconds if self._seconds else 0
        return {
            "calls": self.latency.count + self.failed,
            "failed": self.failed,
            "seconds": round(self._seconds, 3),
            "calls_per_second": round(rate, 1),
            "latency_ms": self.latency.milliseconds(*_QUANTILES),
            "errors": dict(self._errors.most_common()),
            "instances": [
                {"address": each, "calls": count, "share": round(count / max(1, answered), 4)}
                for each, count in sorted(self._instances.items())
            ],
        }

    async def _caller(
        self, client: Client, patience: float | None
    ) -> Callable[[Client], Awaitable[object]]:
        """Make the first call; return a function that makes one call of this kind.

        Args:
            client: Makes the call.
            patience: Seconds to wait for the answer; after that, the function counts as unary.
        """
        opened = self._named.open(client)
        try:
            async with aclosing(opened) as answers, asyncio.timeout(patience) as limit:
                async for is_item, _ in answers:
                    if is_item:
                        return self._iterate
            return self._call
        except CallError as error:
            kind = refused_type(error)
            if kind is not None:
                what = "is a channel" if kind is StreamType.CHANNEL else "takes a stream of items"
                text = f"{self._named.func} {what}; bench calls functions and generators"
                raise Failed(text) from error
            if error.code in _HOPELESS:
                raise
            return self._call
        except TimeoutError:
            if not limit.expired():
                raise
            return self._call

    async def _work(self, client: Client, once: Callable[[Client], Awaitable[object]]) -> None:
        """Make one call after another until none is left."""
        clock = time.perf_counter  # uvloop's time is that of its last iteration
        for _ in self._turns:
            began = clock()
            try:
                await once(client)
            except CallError as error:
                self._errors[error.code.name] += 1
            else:
                self.latency.add(clock() - began)

    async def _call(self, client: Client) -> None:
        await client.raw_call(self._named.func, **self._named.options)

    async def _iterate(self, client: Client) -> None:
        async for _ in client.iterator_call(self._named.func, **self._named.options):
            pass


def _calls(clients: list[Client]) -> Counter[str]:
    """Return how many calls each instance has been given so far."""
    found: Counter[str] = Counter()
    for client in clients:
        for address, server in client_status(client).servers.items():
            found[address] += server.calls
    return found


def _print(summary: dict[str, Any], concurrency: int, connections: int) -> None:
    ways = "connection" if connections == 1 else "connections"
    rows = {
        "calls": f"{summary['calls']} in {summary['seconds']:.2f} s, {concurrency} in flight,"
        f" {connections} {ways} to each instance",
        "calls/s": f"{summary['calls_per_second']:.1f}",
        "latency ms": "  ".join(f"{name} {ms:.3f}" for name, ms in summary["latency_ms"].items()),
        "failed": f"{summary['failed']}  "
        + "  ".join(f"{code} {count}" for code, count in summary["errors"].items()),
    }
    for name, text in rows.items():
        click.echo(f"{name:<11}{text}".rstrip())
    click.echo()
    shares = [{**each, "share": f"{each['share'] * 100:.1f} %"} for each in summary["instances"]]
    print_rows(shares, json=False, right=("calls", "share"))
