"""The page of metrics and health that `rap serve` shows when it is given a port for it."""

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, NamedTuple

import click

from rap.server import Server

__all__ = ["MetricsPort", "check_metrics", "metrics_page", "say_page"]


class MetricsPort(NamedTuple):
    """Where the page is; with several workers each has one, on the next higher port.

    Args:
        host: Address to listen on.
        port: 0 is any free one.
    """

    host: str
    port: int

    def of_worker(self, number: int) -> "MetricsPort":
        """Return where the page of a worker is."""
        return self._replace(port=self.port + number) if self.port else self


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


def say_page(page: Any) -> None:
    """Print where the page is, if there is one."""
    if page is not None:
        click.echo(f"rap: metrics at http://{page.address}/metrics")
