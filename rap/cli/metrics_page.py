"""The page of metrics and health that `rap serve` serves with ``--metrics-port``."""

import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from rap.server import Server

if TYPE_CHECKING:
    from rap.observe.workers import Worker

__all__ = [
    "MetricsPort",
    "check_metrics",
    "metrics_page",
    "print_page",
    "worker_page",
    "workers_page",
]


class MetricsPort(NamedTuple):
    """Where the page is served.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 is any free port.
    """

    host: str
    port: int


def check_metrics() -> None:
    """Check that the page can be served, before a worker fails to.

    Raises:
        ImportError: The extra ``metrics`` is not installed.
    """
    from rap.observe import serve_metrics  # noqa: F401  # the import is the check


def metrics_page(server: Server, where: MetricsPort | None) -> AbstractAsyncContextManager[Any]:
    """Return a context manager that serves the page of a server, unless `where` is `None`.

    Raises:
        ImportError: The extra ``metrics`` is not installed.
    """
    if where is None:
        return nullcontext()
    from rap.observe import serve_metrics

    return serve_metrics(server, host=where.host, port=where.port)


def worker_page(server: Server, descriptor: int | None) -> AbstractAsyncContextManager[Any]:
    """Return a context manager that serves the page of a worker on an inherited socket."""
    if descriptor is None:
        return nullcontext()
    from rap.observe import serve_metrics

    return serve_metrics(server, sock=socket.socket(fileno=descriptor))


def workers_page(
    workers: Sequence["Worker"], willing: Callable[[], bool], where: MetricsPort | None
) -> AbstractAsyncContextManager[Any]:
    """Return a context manager that serves one page for all workers, unless `where` is `None`."""
    if where is None:
        return nullcontext()
    from rap.observe.workers import WorkersMetricsServer

    return WorkersMetricsServer(workers, willing, host=where.host, port=where.port)


def print_page(page: Any, say: Callable[[str], object]) -> None:
    """Say the address of the page, if there is one."""
    if page is not None:
        say(f"metrics at http://{page.address}/metrics")
