"""``rap serve MODULE:SERVER``: run a server until SIGTERM or Ctrl-C, then drain it."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable

import click

from rap.cli.command import Command, loop_option
from rap.cli.logs import (
    configure_access_log,
    configure_logging,
    handlers_of_rap,
    load_log_config,
)
from rap.cli.metrics_page import MetricsPort, check_metrics, metrics_page, print_page
from rap.cli.runtime import keep_freed_memory, loop_factory
from rap.cli.systemd import notify_ready
from rap.cli.target import load_server, search_here
from rap.cli.workers import Workers, WorkersError
from rap.errors import RapError
from rap.server import Server

__all__ = ["serve"]

_LEVELS = ("debug", "info", "warning", "error")


@click.command(cls=Command)
@click.argument("target", metavar="MODULE:SERVER")
@loop_option
@click.option(
    "--log-level",
    type=click.Choice(_LEVELS, case_sensitive=False),
    default="info",
    show_default=True,
    help="Lowest level that is logged to standard error, unless the program sets up logging.",
)
@click.option(
    "--log-config",
    type=click.Path(exists=True, dir_okay=False),
    help="File that sets up logging: .json for logging.config.dictConfig, else for fileConfig.",
)
@click.option(
    "--access-log/--no-access-log",
    default=None,
    help="Log each call when it has ended.  [default: as the server's option access_log says, which"
    " is on under this command]",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of server processes.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    help="Port for /metrics, /healthz and /readyz; by default not served. 0 means any free port.",
)
@click.option(
    "--metrics-host",
    default="127.0.0.1",
    show_default=True,
    help="Address of --metrics-port. 0.0.0.0 lets other machines read it.",
)
def serve(
    target: str,
    loop: str,
    log_level: str,
    log_config: str | None,
    access_log: bool | None,
    workers: int,
    metrics_port: int | None,
    metrics_host: str,
) -> None:
    """Serve MODULE:SERVER, a Server or a function that returns one.

    SIGTERM and Ctrl-C drain the server: open calls finish, then it stops. A second signal stops it
    at once. SIGHUP reloads its certificates.

    Without a registry, all workers share the ports. With a registry, each worker is a separate
    instance with the next higher port, or with any free port if the port is 0. One page shows the
    metrics of all workers. A worker that exits is restarted. SIGTERM drains the workers one after
    another.
    """
    metrics = None if metrics_port is None else MetricsPort(metrics_host, metrics_port)
    if metrics is not None:
        try:
            check_metrics()
        except ImportError as exc:
            raise click.BadParameter(str(exc), param_hint="'--metrics-port'") from exc
    before = handlers_of_rap()
    if log_config is not None:
        search_here()
        try:
            load_log_config(log_config)
        except ValueError as exc:
            raise click.BadParameter(str(exc), param_hint="'--log-config'") from exc
    if workers > 1:
        _serve_many(
            Workers(
                target,
                workers,
                loop=loop,
                log_level=log_level,
                access_log=access_log,
                log_config=log_config,
                metrics=metrics,
            )
        )
        return
    keep_freed_memory()
    try:
        server = load_server(target)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="'MODULE:SERVER'") from exc
    say = _say_nothing if configure_logging(log_level, before) else _say
    configure_access_log(server, access_log)
    try:
        with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
            runner.run(_serve(server, metrics, say))
    except (OSError, RapError) as exc:
        raise click.ClickException(f"{target} cannot be served: {exc}") from exc


def _serve_many(workers: Workers) -> None:
    try:
        asyncio.run(workers.run())
    except WorkersError as exc:
        raise click.ClickException(str(exc)) from exc
    except OSError as exc:
        raise click.ClickException(f"the workers cannot be kept running: {exc}") from exc
    _ignore_next_signal()
    _end(workers.say)


async def _serve(server: Server, metrics: MetricsPort | None, say: Callable[[str], object]) -> None:
    async with metrics_page(server, metrics) as page:

        def on_start() -> None:
            print_page(page, say)
            say(f"listening on {', '.join(map(str, server.addresses))}")
            notify_ready()

        await server.serve_forever(on_start)
    _ignore_next_signal()
    _end(say)


def _say(text: str) -> None:
    click.echo(f"rap: {text}")


def _say_nothing(_: str) -> None:
    """Leave it to the logging that the program has set up: the server logs the same."""


def _end(say: Callable[[str], object]) -> None:
    _flush_log()  # it comes before
    with contextlib.suppress(OSError):
        say("stopped")
    _flush_log()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # the terminal was closed
            # From Python 3.14 on, the text stays in the buffer: the exit would try again and fail.
            with open(os.devnull, "wb") as null:
                os.dup2(null.fileno(), stream.fileno())


def _flush_log() -> None:
    for handler in logging.root.handlers:
        with contextlib.suppress(OSError):
            handler.flush()


def _ignore_next_signal() -> None:
    """Ignore one more signal while the process exits, because the server has drained already.

    The signal after that kills a process that does not exit, for example because a thread goes on.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda it, _: signal.signal(it, signal.SIG_DFL))
