"""``rap demo``: run a small cluster in your terminal."""

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import click
from rich.console import Console

from rap.cli.command import INTERRUPTED, Command, loop_option
from rap.cli.demo.backend import Backend, choose_backend
from rap.cli.demo.display import Display, make_display, print_summary
from rap.cli.demo.fleet import Fleet
from rap.cli.demo.monitor import ClusterMonitor
from rap.cli.demo.replica import SLOTS, WORK
from rap.cli.demo.scenario import SERVICE, Scenario
from rap.cli.demo.traffic import RecordingPicker, Traffic
from rap.cli.runtime import loop_factory
from rap.client import Client
from rap.errors import RapError

__all__ = ["demo"]

_CONCURRENCY = 64
_WEIGHTS = {"a": 1, "b": 1, "c": 2}
_LEASE_TTL = 3.0  # seconds; the default of 10 is too slow for a demo
_REFRESH = 0.25  # seconds between two updates of the display


@click.command(cls=Command)
@click.option(
    "--seconds",
    type=click.FloatRange(4, 3600),
    default=20.0,
    show_default=True,
    metavar="SECONDS",
    help="Approximate duration of the demo.",
)
@click.option(
    "--redis",
    default="auto",
    show_default=True,
    metavar="auto|no|URL",
    help="Registry: a temporary redis-server if one is found (`auto`), files (`no`), or the Redis"
    " at a URL.",
)
@loop_option
def demo(seconds: float, redis: str, loop: str) -> None:
    """Run a small cluster with failures, and count the failed calls.

    A client keeps 64 calls in flight to three replicas with weights 1, 1 and 2. One replica is
    killed, one is started, one is drained, and the registry is restarted. The exit status is 1 if a
    call failed.
    """
    try:
        backend = choose_backend(redis)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="'--redis'") from exc
    console = Console()
    try:
        with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
            failed = runner.run(_main(console, backend, seconds, loop))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(INTERRUPTED)
    except (OSError, RapError, RuntimeError) as exc:
        raise click.ClickException(str(exc)) from exc
    sys.exit(1 if failed else 0)


async def _main(console: Console, backend: Backend, seconds: float, loop: str) -> int:
    """Run the demo; return how many calls failed."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    started = time.monotonic()
    slow_start = min(1.0, seconds / 20)
    console.print(
        f"registry: {backend.title}; lease {_LEASE_TTL:g} s instead of 10, slow start "
        f"{slow_start:g} s instead of 30, to be quick",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"each replica works on {SLOTS} calls per unit of weight at a time, {WORK[0] * 1000:g} to "
        f"{WORK[1] * 1000:g} ms each; with {_CONCURRENCY} calls in flight the others wait",
        highlight=False,
        soft_wrap=True,
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(backend.close)
        await backend.start()
        fleet = await stack.enter_async_context(Fleet(SERVICE, backend.url, _LEASE_TTL, loop))
        await asyncio.gather(*(fleet.start(name, weight) for name, weight in _WEIGHTS.items()))
        picker = RecordingPicker()
        client = Client(service=SERVICE, registry=backend.url, picker=picker, slow_start=slow_start)
        await stack.enter_async_context(client)
        traffic = Traffic(client, _CONCURRENCY)
        monitor = ClusterMonitor(client, fleet, traffic, started)
        display = stack.enter_context(make_display(console))
        scenario = Scenario(
            fleet,
            backend,
            client,
            traffic,
            picker,
            say=lambda text: display.event(time.monotonic() - started, text),
            seconds=seconds,
            started=started,
        )
        log = _ToDisplay(scenario.say)
        logging.getLogger("rap").addHandler(log)
        stack.callback(logging.getLogger("rap").removeHandler, log)
        async with traffic.flowing():
            showing = asyncio.create_task(_show(monitor, display), name="rap demo display")
            try:
                await scenario.run()
            finally:
                showing.cancel()
                await asyncio.wait([showing])
    print_summary(console, scenario.report, traffic, time.monotonic() - started)
    return traffic.failed


class _ToDisplay(logging.Handler):
    """Shows warnings as events, because lines on standard error would break the table."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(f"{record.levelname.lower()}: {record.getMessage()}")


async def _show(monitor: ClusterMonitor, display: Display) -> None:
    while True:
        display.show(monitor.measure())
        await asyncio.sleep(_REFRESH)
