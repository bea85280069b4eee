"""``rap serve module:server``: run a server until SIGTERM or Ctrl-C, then drain."""

import asyncio
import contextlib
import logging
import signal
import threading

import click

from rap.cli.metrics_page import MetricsPort, check_metrics, metrics_page, say_page
from rap.cli.runtime import LOOPS, keep_freed_memory, loop_factory
from rap.cli.target import load_server
from rap.cli.workers import Workers, WorkersError
from rap.errors import RapError
from rap.server import Server

__all__ = ["configure_logging", "serve"]

_LEVELS = ("debug", "info", "warning", "error")


@click.command()
@click.argument("target", metavar="MODULE:SERVER")
@click.option(
    "--loop",
    type=click.Choice(LOOPS),
    default="auto",
    show_default=True,
    help="Event loop; auto is uvloop where it is installed.",
)
@click.option(
    "--log-level",
    type=click.Choice(_LEVELS),
    default="info",
    show_default=True,
    help="Least level of what is logged to standard error.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that serve, each on a core of its own.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    help="Show /metrics, /healthz and /readyz on this port; 0 is any free one.",
)
@click.option(
    "--metrics-host",
    default="127.0.0.1",
    show_default=True,
    help="Address of that page; 0.0.0.0 for scrapers on other machines.",
)
def serve(
    target: str,
    loop: str,
    log_level: str,
    workers: int,
    metrics_port: int | None,
    metrics_host: str,
) -> None:
    """Serve MODULE:SERVER, a Server or a function that makes one.

    SIGTERM and Ctrl-C drain it: open calls finish, then it stops; a second one ends it at once.
    SIGHUP reads its certificates again.

    Several workers share the ports. With a registry each is an instance of its own on a port of
    its own, the next higher ones; port 0 stays any free port. One page shows the metrics of all.
    One that ends is started again; SIGTERM drains them in turn.
    """
    try:
        factory = loop_factory(loop)
    except ImportError as exc:
        raise click.BadParameter(str(exc), param_hint="'--loop'") from exc
    metrics = None if metrics_port is None else MetricsPort(metrics_host, metrics_port)
    if metrics is not None:
        try:
            check_metrics()
        except ImportError as exc:
            raise click.BadParameter(str(exc), param_hint="'--metrics-port'") from exc
    if workers > 1:
        _serve_many(Workers(target, workers, loop=loop, log_level=log_level, metrics=metrics))
        return
    keep_freed_memory()
    try:
        server = load_server(target)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="'MODULE:SERVER'") from exc
    configure_logging(log_level)
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(_serve(server, metrics))
    except (OSError, RapError) as exc:
        raise click.ClickException(f"{target} cannot be served: {exc}") from exc


def configure_logging(level: str) -> None:
    """Log to standard error; after the import of a program, for one that sets it up is left alone.

    Where a server listens is not logged there: the command prints it.

    Args:
        level: Least level of what is logged.
    """
    handler = logging.StreamHandler()
    handler.addFilter(lambda record: not str(record.msg).startswith("listening on"))
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=level.upper(), format=form, handlers=[handler])


def _serve_many(workers: Workers) -> None:
    try:
        asyncio.run(workers.run())
    except WorkersError as exc:
        raise click.ClickException(str(exc)) from exc
    except OSError as exc:
        raise click.ClickException(f"the workers cannot be kept: {exc}") from exc
    _forgive_signal()
    _say_stopped()


async def _serve(server: Server, metrics: MetricsPort | None) -> None:
    async with metrics_page(server, metrics) as page:
        await server.create_server()
        serving = asyncio.create_task(server.serve_forever(), name="rap serve")
        await asyncio.sleep(0)  # from here on signals drain: who reads the next line may send one
        say_page(page)
        click.echo(f"rap: listening on {', '.join(map(str, server.addresses))}")
        await serving
    _forgive_signal()
    _say_stopped()


def _say_stopped() -> None:
    with contextlib.suppress(OSError):  # the terminal was closed
        click.echo("rap: stopped")


def _forgive_signal() -> None:
    """Let the process end in peace: one that has drained is not told to stop once more.

    If it does not end, as a thread of the program goes on, the next signal kills it.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda it, _: signal.signal(it, signal.SIG_DFL))
