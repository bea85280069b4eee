"""``rap bench FUNC``: how many calls a second, how long they take, and who answers them."""

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

import click

from rap.cli.command import Command, Failed, run
from rap.cli.commands.call import is_channel, open_call
from rap.cli.json_values import parse_arguments, to_json
from rap.cli.remote import Remote, remote_options
from rap.cli.table import print_rows
from rap.cli.timings import Histogram
from rap.client import Client
from rap.client.stats import client_status
from rap.errors import CallError, Code

__all__ = ["bench"]

_SECONDS = 10.0
_QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
# A call that fails so at first would fail so each time.
_HOPELESS = (Code.NOT_FOUND, Code.INVALID_ARGUMENT, Code.PERMISSION_DENIED, Code.UNAUTHENTICATED)
Arguments = tuple[list[Any], dict[str, Any]]


@click.command(cls=Command)
@click.argument("func", metavar="FUNC")
@click.argument("arguments", nargs=-1, metavar="[JSON|NAME=JSON]...")
@click.option("--group", metavar="NAME", help="Group of the function; default unless given.")
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Calls in flight.",
)
@click.option(
    "-d",
    "--duration",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long to call; 10 unless -n is given.",
)
@click.option("-n", "--calls", type=click.IntRange(min=1), help="How many calls to make.")
@click.option(
    "--connections",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Connections to each instance.",
)
@click.option("--json", is_flag=True, help="Print a JSON object.")
@remote_options
def bench(
    remote: Remote,
    func: str,
    arguments: tuple[str, ...],
    group: str | None,
    concurrency: int,
    duration: float | None,
    calls: int | None,
    connections: int,
    json: bool,
) -> None:
    """Call a function again and again, and measure.

    Arguments are those of rap call. Calls are balanced over the instances of a service; a
    generator's call is over with its last item. The function is called once before, which does not
    count. The exit status is 1 if a call failed.
    """
    if duration is None and calls is None:
        duration = _SECONDS
    load = _Load(func, group, parse_arguments(arguments), remote.timeout, calls)
    run(_bench(remote, load, concurrency, min(connections, concurrency), duration))
    summary = load.summary()
    if json:
        click.echo(to_json(summary))
    else:
        _print(summary, concurrency, min(connections, concurrency))
    if load.failed or not load.latency.count:
        raise click.exceptions.Exit(1)


class _Load:
    """The calls, and what came of them.

    Args:
        func: Name of the function.
        group: Its group.
        arguments: Of each call.
        timeout: Seconds a call may take; `None`: what the server allows.
        limit: How many calls to make; `None`: any number.
    """

    def __init__(
        self,
        func: str,
        group: str | None,
        arguments: Arguments,
        timeout: float | None,
        limit: int | None,
    ) -> None:
        self.latency = Histogram()
        self.errors: Counter[str] = Counter()
        self.seconds = 0.0
        self.instances: Counter[str] = Counter()
        self._func = func
        self._group = group
        self._arguments = arguments
        self._timeout = timeout
        self._turns = itertools.count() if limit is None else iter(range(limit))

    @property
    def failed(self) -> int:
        """How many calls failed."""
        return self.errors.total()

    async def caller(
        self, client: Client, patience: float | None
    ) -> Callable[[Client], Awaitable[object]]:
        """Return what makes one call, by what the function turns out to be.

        Args:
            client: Makes a first call.
            patience: Seconds for its answer; what takes longer is taken for a unary function.

        Raises:
            CallError: No call of it can succeed.
            Failed: It is a channel.
        """
        opened = open_call(client, self._func, self._group, self._arguments, self._timeout)
        try:
            async with aclosing(opened) as answers, asyncio.timeout(patience) as limit:
                async for is_item, _ in answers:
                    if is_item:
                        return self._iterate
            return self._unary
        except CallError as error:
            if is_channel(error):
                text = f"{self._func} is a channel; bench calls functions and generators"
                raise Failed(text) from error
            if error.code in _HOPELESS:
                raise
            return self._unary
        except TimeoutError:
            if not limit.expired():
                raise
            return self._unary

    async def work(self, client: Client, once: Callable[[Client], Awaitable[object]]) -> None:
        """Call, one call after another, until there is none left."""
        clock = time.perf_counter  # the time of uvloop is that of its last turn
        for _ in self._turns:
            began = clock()
            try:
                await once(client)
            except CallError as error:
                self.errors[error.code.name] += 1
            else:
                self.latency.add(clock() - began)

    def summary(self) -> dict[str, Any]:
        """Return what was measured."""
        answered = sum(self.instances.values())
        return {
            "calls": self.latency.count + self.failed,
            "failed": self.failed,
            "seconds": round(self.seconds, 3),
            "calls_per_second": round(self.latency.count / self.seconds, 1) if self.seconds else 0,
            "latency_ms": self.latency.milliseconds(*_QUANTILES),
            "errors": dict(self.errors.most_common()),
            "instances": [
                {"address": each, "calls": count, "share": round(count / max(1, answered), 4)}
                for each, count in sorted(self.instances.items())
            ],
        }

    async def _unary(self, client: Client) -> None:
        args, kwargs = self._arguments
        await client.raw_call(
            self._func, group=self._group, arg_param=args, kwarg_param=kwargs, timeout=self._timeout
        )

    async def _iterate(self, client: Client) -> None:
        args, kwargs = self._arguments
        async for _ in client.iterator_call(
            self._func, group=self._group, arg_param=args, kwarg_param=kwargs, timeout=self._timeout
        ):
            pass


async def _bench(
    remote: Remote, load: _Load, concurrency: int, connections: int, duration: float | None
) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(remote.connected()) for _ in range(connections)]
        once = await load.caller(clients[0], duration)
        before = _calls(clients)
        began = time.perf_counter()
        workers = [
            asyncio.create_task(load.work(clients[i % connections], once), name=f"rap bench {i}")
            for i in range(concurrency)
        ]
        with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C: tell what was measured so far
            await asyncio.wait(workers, timeout=duration)
        load.seconds = time.perf_counter() - began
        for each in workers:
            each.cancel()
        ended, _ = await asyncio.wait(workers)
        load.instances = _calls(clients) - before
        for each in ended:
            if not each.cancelled():
                each.result()


def _calls(clients: list[Client]) -> Counter[str]:
    """Return how many calls were given to each instance so far."""
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
