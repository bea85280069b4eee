"""Metrics and health of a process on a separate HTTP port; needs the extra ``metrics``."""

from typing import TYPE_CHECKING

from rap._lazy import Lazy, loader

if TYPE_CHECKING:
    from rap.observe.metrics import StatusCollector
    from rap.observe.metrics_server import MetricsServer, serve_metrics

__all__ = ["MetricsServer", "StatusCollector", "serve_metrics"]

__getattr__ = loader(
    __name__,
    {
        "MetricsServer": Lazy("rap.observe.metrics_server", "MetricsServer", "metrics"),
        "StatusCollector": Lazy("rap.observe.metrics", "StatusCollector", "metrics"),
        "serve_metrics": Lazy("rap.observe.metrics_server", "serve_metrics", "metrics"),
    },
)
