"""The page of metrics and health that `rap serve` shows when it is given a port for it."""

import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from rap.server import Server

if TYPE_CHECKING:
    from rap.observe.workers import Worker

__all__ = [
    "MetricsPort",
    "check_metrics",
    "metrics_page",
    "say_page",
    "worker_page",
    "workers_page",
]


class MetricsPort(NamedTuple):
    """Where the page is.

    Args:
        host: Address to listen on.
        port: 0 is any free one.
    """

    host: str
    port: int


def check_metrics() -> None:
    """Fail now, rather than in a worker.

    Raises:
        ImportError: The extra ``metrics`` is not installed.
    """
    from rap.observe import serve_metrics  # noqa: F401  # it is there


def metrics_page(server: Server, where: MetricsPort | None) -> AbstractAsyncContextManager[Any]:
    """Return what shows the page of a server, or nothing if nobody asks for it.

    Raises:
        ImportError: The extra ``metrics`` is not installed.
    """
    if where is None:
        return nullcontext()
    from rap.observe import serve_metrics

    return serve_metrics(server, host=where.host, port=where.port)


def worker_page(server: Server, descriptor: int | None) -> AbstractAsyncContextManager[Any]:
    """Return what shows the page of a worker on a socket that it was handed, or nothing."""
    if descriptor is None:
        return nullcontext()
    from rap.observe import serve_metrics

    return serve_metrics(server, sock=socket.socket(fileno=descriptor))


def workers_page(
    workers: Sequence["Worker"], willing: Callable[[], bool], where: MetricsPort | None
) -> AbstractAsyncContextManager[Any]:
    """Return what shows one page for all workers, or nothing if nobody asks for it."""
    if where is None:
        return nullcontext()
    from rap.observe.workers import WorkersMetricsServer

    return WorkersMetricsServer(workers, willing, host=where.host, port=where.port)


def say_page(page: Any) -> None:
    """Print where the page is, if there is one."""
    if page is not None:
        click.echo(f"rap: metrics at http://{page.address}/metrics")
