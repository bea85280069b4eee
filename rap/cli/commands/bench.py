"""``rap bench FUNC``: how many calls per second, how long they take, and which server answers.

By default the loop is closed: each of ``-c`` workers makes a call when its previous one has ended.
A server that pauses then gets fewer calls, and the pause counts as few slow calls. With ``--rate``
the loop is open: calls arrive at fixed times, whether or not others were answered, and the duration
of a call begins when it should have been made.
"""

import asyncio
import contextlib
import itertools
import math
import shutil
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from typing import Any, NamedTuple

import click

from rap.call import StreamType
from rap.cli.calls import NamedCall, call_options, refused_type
from rap.cli.command import Command, Failed, declared_option, json_option, run
from rap.cli.json_values import to_json
from rap.cli.remote import Remote
from rap.cli.table import print_rows
from rap.cli.timings import MILLISECONDS, Bucket, Histogram
from rap.client import Client
from rap.client.config import StubOptions
from rap.client.stats import client_status
from rap.client.stub import iterator_call
from rap.errors import CallError, Code

__all__ = ["bench"]

_SECONDS = 10.0
_IN_FLIGHT = 50  # calls, without --rate
_MAX_IN_FLIGHT = 10_000  # calls, with --rate: what is not answered is kept in memory
_PATIENCE = 10.0  # seconds to wait for the last answers with --rate
_GRACE = 0.5  # seconds in addition
_SPIN = 0.002  # seconds before an arrival from which on the loop polls, as timers are late
_BURST = 16  # calls that are made without a pause if the client is late
_KEPT = 0.99  # share of the calls that a client that keeps the rate makes in time
_LATE = 0.01  # seconds
_QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
_LOOK = 0.05  # seconds between two looks at the instances
_REFRESH = 0.2  # seconds between two updates of the progress bar
_REPORT = 10.0  # seconds between two lines of progress without a terminal
_BAR = 40  # columns at most
# If the first call fails with one of these, every call would.
_HOPELESS = (
    Code.NOT_FOUND,
    Code.UNIMPLEMENTED,
    Code.INVALID_ARGUMENT,
    Code.PERMISSION_DENIED,
    Code.UNAUTHENTICATED,
)


class _Plan(NamedTuple):
    """How calls are made.

    Args:
        concurrency: Number of calls in flight; with `rate` the largest number.
        connections: Number of connections to each instance.
        duration: Seconds after which to stop; `None` is after the last call.
        limit: Number of calls to make; `None`: there is no limit.
        rate: Calls per second that arrive whether or not others were answered; `None` makes a call
            when another one has ended.
        idempotent: Whether calls may be made again if their outcome is unknown.
    """

    concurrency: int
    connections: int
    duration: float | None
    limit: int | None
    rate: float | None
    idempotent: bool


@click.command(cls=Command)
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(min=1),
    help=f"Number of calls in flight; with --rate, the most. [default: {_IN_FLIGHT};"
    f" with --rate {_MAX_IN_FLIGHT}]",
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
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Make N calls per second, whether or not others were answered. The duration of a call"
    " begins when it should have been made.",
)
@click.option(
    "--connections",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of connections to each instance.",
)
@declared_option("--idempotent", StubOptions, "idempotent", is_flag=True)
@json_option
@call_options
def bench(
    remote: Remote,
    named: NamedCall,
    concurrency: int | None,
    duration: float | None,
    calls: int | None,
    rate: float | None,
    connections: int,
    idempotent: bool,
    json: bool,
) -> None:
    """Call a function repeatedly and measure the calls.

    Pass arguments as for rap call. Calls are balanced over the instances of a service. The duration
    of a generator call includes all its items. One call is made before the measurement and is not
    counted. The exit status is 1 if a call failed.
    """
    if named.reads_input:
        raise click.UsageError("bench sends no items; leave out '-'")
    for option, value in (("--rate", rate), ("--duration", duration)):
        if value is not None and not math.isfinite(value):
            raise click.UsageError(f"{option} must be a finite number, got {value}")
    if duration is None and calls is None:
        duration = _SECONDS
    concurrency = concurrency or (_IN_FLIGHT if rate is None else _MAX_IN_FLIGHT)
    connections = min(connections, concurrency)
    plan = _Plan(concurrency, connections, duration, calls, rate, idempotent)
    load = _Load(named, plan)
    run(load.run(remote, _progress(json=json)))
    summary = load.summary()
    if json:
        click.echo(to_json(summary))
    else:
        _print(summary, plan, load.latency.buckets())
    if load.failed or load.unanswered or not load.latency.count:
        raise click.exceptions.Exit(1)


class _Load:
    """The calls, and the measurements of them.

    Args:
        named: The call that is made repeatedly.
        plan: How it is made.

    Attributes:
        latency: Durations of the calls that succeeded.
        unanswered: Calls, made at a rate, that were not answered in time.
    """

    def __init__(self, named: NamedCall, plan: _Plan) -> None:
        self.latency = Histogram()
        self.unanswered = 0
        self._named = named
        self._plan = plan
        self._late = Histogram()  # how much later than intended calls were made
        self._errors: Counter[str] = Counter()
        self._instances: Counter[str] = Counter()
        self._began = 0.0
        self._seconds = 0.0
        self._last = 0.0  # when a call ended
        self._was_full = False  # as many calls were in flight as the plan allows

    @property
    def failed(self) -> int:
        """How many calls failed."""
        return self._errors.total()

    @property
    def done(self) -> float:
        """The share of the plan that is done, 0 to 1."""
        plan = self._plan
        limit = 0.0 if plan.limit is None else (self.latency.count + self.failed) / plan.limit
        passed = time.perf_counter() - self._began
        return min(1.0, max(limit, 0.0 if plan.duration is None else passed / plan.duration))

    def describe(self) -> str:
        """Return in one line how many calls were made so far."""
        passed = max(time.perf_counter() - self._began, 1e-3)
        count = self.latency.count
        return f"{count} calls, {count / passed:.0f} calls/s, {self.failed} failed"

    async def run(self, remote: Remote, showing: "Showing") -> None:
        """Make the calls.

        Args:
            remote: The servers.
            showing: Shows how far the measurement is.

        Raises:
            CallError: No call of the function can succeed.
            Failed: The function is a channel.
        """
        plan = self._plan
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(remote.connected()) for _ in range(plan.connections)
            ]
            once = await self._caller(clients[0], plan.duration)
            given = _Given(clients)
            self._began = time.perf_counter()
            async with showing(self), _meanwhile(given.watch()):
                with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C ends the measurement
                    if plan.rate is None:
                        await self._run_closed(clients, once)
                    else:
                        await self._run_open(clients, once, plan.rate)
            self._instances = given.calls()

    def summary(self) -> dict[str, Any]:
        """Return the measurements."""
        answered = self._instances.total()
        rate = self.latency.count / self._seconds if self._seconds else 0
        return {
            "calls": self.latency.count + self.failed + self.unanswered,
            "failed": self.failed,
            "seconds": round(self._seconds, 3),
            "calls_per_second": round(rate, 1),
            "latency_ms": self.latency.milliseconds(*_QUANTILES),
            "histogram": [
                {
                    "from_ms": round(each.low * MILLISECONDS, 6),
                    "to_ms": round(each.high * MILLISECONDS, 6),
                    "calls": each.number,
                }
                for each in self.latency.buckets()
            ],
            "errors": dict(self._errors.most_common()),
            "rate": self._summary_of_rate(),
            "instances": [
                {"address": each, "calls": count, "share": round(count / max(1, answered), 4)}
                for each, count in sorted(self._instances.items())
            ],
        }

    def _summary_of_rate(self) -> dict[str, Any] | None:
        if self._plan.rate is None:
            return None
        late = self._late.milliseconds(_KEPT)
        return {
            "intended": self._plan.rate,
            "unanswered": self.unanswered,
            "late_ms": late,
            "kept": late.get(f"p{_KEPT * 100:g}", 0.0) <= _LATE * MILLISECONDS,
            "limited_by_concurrency": self._was_full,
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
                        return self._iterating(client)
            return self._calling(client)
        except CallError as error:
            kind = refused_type(error)
            if kind is not None:
                what = "is a channel" if kind is StreamType.CHANNEL else "takes a stream of items"
                text = f"{self._named.func} {what}; bench calls functions and generators"
                raise Failed(text) from error
            if error.code in _HOPELESS:
                raise
            return self._calling(client)
        except TimeoutError:
            if not limit.expired():
                raise
            return self._calling(client)

    def _calling(self, client: Client) -> Callable[[Client], Awaitable[object]]:
        """Return a function that makes a unary call; all clients have the same options."""
        idempotent = self._plan.idempotent
        method = self._named.method(client, StreamType.UNARY, idempotent=idempotent)
        args, kwargs, timeout = self._named.args, self._named.kwargs, method.timeout

        def call(client: Client) -> Awaitable[object]:
            return client.invoker.unary(method, args, kwargs, timeout=timeout)

        return call

    def _iterating(self, client: Client) -> Callable[[Client], Awaitable[object]]:
        """Return a function that calls a generator and takes all its items."""
        idempotent = self._plan.idempotent
        method = self._named.method(client, StreamType.STREAM, idempotent=idempotent)
        args, kwargs, timeout = self._named.args, self._named.kwargs, method.timeout

        async def iterate(client: Client) -> None:
            async for _ in iterator_call(client.invoker, method, args, kwargs, timeout=timeout):
                pass

        return iterate

    async def _run_closed(
        self, clients: list[Client], once: Callable[[Client], Awaitable[object]]
    ) -> None:
        """Let each worker make one call after another."""
        limit = self._plan.limit
        turns = itertools.count() if limit is None else iter(range(limit))
        workers = [
            asyncio.create_task(
                self._work(clients[i % len(clients)], once, turns), name=f"rap bench {i}"
            )
            for i in range(self._plan.concurrency)
        ]
        try:
            await asyncio.wait(workers, timeout=self._plan.duration)
        finally:
            self._seconds = time.perf_counter() - self._began
            await _cancel(workers)

    async def _work(
        self,
        client: Client,
        once: Callable[[Client], Awaitable[object]],
        turns: Iterator[int],
    ) -> None:
        """Make one call after another until none is left."""
        for _ in turns:
            await self._measure(client, once, time.perf_counter())

    async def _run_open(
        self, clients: list[Client], once: Callable[[Client], Awaitable[object]], rate: float
    ) -> None:
        """Make calls at the times at which they should be made, and wait for the answers."""
        plan, clock = self._plan, time.perf_counter  # uvloop's time is that of its last iteration
        limits = (plan.limit, None if plan.duration is None else round(plan.duration * rate))
        count = max(1, min(each for each in limits if each is not None))
        running: set[asyncio.Task[None]] = set()
        ended = asyncio.Event()

        def end(task: asyncio.Task[None]) -> None:
            running.discard(task)
            ended.set()

        self._last = self._began
        try:
            for number in range(count):
                due = self._began + number / rate
                if (left := due - _SPIN - clock()) > 0:
                    await asyncio.sleep(left)
                while clock() < due:  # noqa: ASYNC110  # time passes without an event
                    await asyncio.sleep(0)
                if not number % _BURST:  # if the client is late, it has not paused above
                    await asyncio.sleep(0)
                while len(running) >= plan.concurrency:
                    self._was_full = True
                    ended.clear()
                    await ended.wait()
                client = clients[number % len(clients)]
                task = asyncio.create_task(self._measure(client, once, due), name="rap bench")
                running.add(task)
                task.add_done_callback(end)
            if running:
                # A call with a timeout ends by itself, in an error.
                patience = (self._named.timeout or _PATIENCE) + _GRACE
                _, waiting = await asyncio.wait(running, timeout=patience)
                self.unanswered = len(waiting)
        finally:
            planned = min(clock() - self._began, count / rate)
            self._seconds = max(planned, self._last - self._began)
            await _cancel(list(running))

    async def _measure(
        self, client: Client, once: Callable[[Client], Awaitable[object]], due: float
    ) -> None:
        """Make one call; its duration begins when it is due."""
        clock = time.perf_counter
        if self._plan.rate is not None:
            self._late.add(max(0.0, clock() - due))
        try:
            await once(client)
        except CallError as error:
            self._errors[error.code.name] += 1
            self._last = clock()
        else:
            self._last = clock()
            self.latency.add(self._last - due)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel what still runs, and raise what has failed in another way than by a `CallError`."""
    for each in tasks:
        each.cancel()
    if tasks:
        ended, _ = await asyncio.wait(tasks)
        for each in ended:
            if not each.cancelled():
                each.result()


# Shows how far a measurement is, around it.
Showing = Callable[[_Load], contextlib.AbstractAsyncContextManager[None]]


def _progress(*, json: bool) -> Showing:
    """Return what shows the progress: a bar on a terminal, a line now and then elsewhere."""
    if sys.stderr.isatty():
        return _bar
    return _silence if json else _lines


@contextlib.asynccontextmanager
async def _silence(load: _Load) -> AsyncIterator[None]:
    yield


@contextlib.asynccontextmanager
async def _lines(load: _Load) -> AsyncIterator[None]:
    async def show() -> None:
        for number in itertools.count(1):
            await asyncio.sleep(_REPORT)
            click.echo(f"after {number * _REPORT:.0f} s: {load.describe()}", err=True)

    async with _meanwhile(show()):
        yield


@contextlib.asynccontextmanager
async def _bar(load: _Load) -> AsyncIterator[None]:
    from rich.console import Console  # slow to import, and only needed on a terminal
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.table import Column

    columns = (
        TaskProgressColumn(),
        BarColumn(bar_width=_BAR // 2),
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
    )
    shown = Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
    task = shown.add_task("", total=1.0)

    async def show() -> None:
        while True:
            shown.update(task, completed=load.done, description=load.describe(), refresh=True)
            await asyncio.sleep(_REFRESH)

    with shown:
        async with _meanwhile(show()):
            yield


@contextlib.asynccontextmanager
async def _meanwhile(showing: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(showing, name="rap bench progress")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


class _Given:
    """How many calls each instance is given, those included that leave meanwhile.

    A client forgets an instance that has drained, and counts from 0 if one comes back.

    Args:
        clients: The clients that make the calls; what they have made so far does not count.
    """

    def __init__(self, clients: list[Client]) -> None:
        self._clients = clients
        self._last: dict[tuple[int, str], int] = {}
        self._total: Counter[str] = Counter()
        self._look()
        self._total.clear()

    async def watch(self) -> None:
        """Look for as long as instances may leave. A leaving one is known for longer than that."""
        while True:
            await asyncio.sleep(_LOOK)
            self._look()

    def calls(self) -> Counter[str]:
        """Return the number of calls by address."""
        self._look()
        return self._total

    def _look(self) -> None:
        for number, client in enumerate(self._clients):
            for address, server in client_status(client).servers.items():
                last = self._last.get((number, address), 0)
                more = server.calls - last if server.calls >= last else server.calls
                self._last[number, address] = server.calls
                if more:
                    self._total[address] += more


def _print(summary: dict[str, Any], plan: _Plan, buckets: list[Bucket]) -> None:
    ways = "connection" if plan.connections == 1 else "connections"
    how = f"{plan.concurrency} in flight" if plan.rate is None else f"{plan.rate:g} calls/s asked"
    rows = {
        "calls": f"{summary['calls']} in {summary['seconds']:.2f} s, {how},"
        f" {plan.connections} {ways} to each instance",
        "calls/s": f"{summary['calls_per_second']:.1f}",
        "latency ms": "  ".join(f"{name} {ms:.3f}" for name, ms in summary["latency_ms"].items()),
        "failed": f"{summary['failed']}  "
        + "  ".join(f"{code} {count}" for code, count in summary["errors"].items()),
    }
    if plan.rate is not None:
        rows["unanswered"] = str(summary["rate"]["unanswered"])
    for name, text in rows.items():
        click.echo(f"{name:<11}{text}".rstrip())
    if plan.rate is not None and not summary["rate"]["kept"]:
        click.echo(_lateness(summary["rate"], plan))
    click.echo()
    if buckets:
        _print_histogram(buckets)
        click.echo()
    shares = [{**each, "share": f"{each['share'] * 100:.1f} %"} for each in summary["instances"]]
    print_rows(shares, json=False, right=("calls", "share"))


def _lateness(rate: dict[str, Any], plan: _Plan) -> str:
    """Return what to say if calls were made later than they should have been."""
    late = rate["late_ms"]
    text = f"1 % of the calls were made more than {late[f'p{_KEPT * 100:g}']:.0f} ms late"
    if rate["limited_by_concurrency"]:
        why = f"{plan.concurrency} calls were in flight, see -c"
    else:
        why = "this client is too slow; use a lower --rate, or several clients"
    return f"The rate was not kept: {text}, which the latency includes ({why})."


def _print_histogram(buckets: list[Bucket]) -> None:
    """Print a line for each bucket, no wider than the terminal."""
    most, total = max(each.number for each in buckets), sum(each.number for each in buckets)
    bounds = [(_short(each.low), _short(each.high)) for each in buckets]
    wide = max(len(text) for pair in bounds for text in pair)
    counts = max(len(str(most)), len("calls"))
    head = f"{'ms':>{2 * wide + 3}}  {'calls':>{counts}}  {'%':>5}"
    room = min(_BAR, shutil.get_terminal_size().columns - len(head) - 3)
    click.echo(head)
    for each, (low, high) in zip(buckets, bounds, strict=True):
        bar = "#" * max(math.ceil(each.number / most * room), 0) if room > 0 else ""
        share = f"{each.number / total * 100:5.1f}"
        line = f"{low:>{wide}} - {high:>{wide}}  {each.number:>{counts}}  {share}  {bar}"
        click.echo(line.rstrip())


def _short(seconds: float) -> str:
    """Return milliseconds with as many digits as a bound has."""
    return f"{seconds * MILLISECONDS:.6f}".rstrip("0").rstrip(".")
