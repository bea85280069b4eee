"""How long the event loop keeps what is due waiting: the first thing that a blocking handler hurts.

A timer asks four times a second; what it comes too late is the lag. A histogram keeps it, so that
no scrape takes the worst value away from another.
"""

import asyncio

from prometheus_client import CollectorRegistry, Histogram

__all__ = ["LoopLag"]

_INTERVAL = 0.25  # seconds
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class LoopLag:
    """Measures the running loop, as ``rap_loop_lag_seconds``, until it is closed.

    Args:
        registry: Where the histogram is.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._loop = asyncio.get_running_loop()
        self._lag = Histogram(
            "rap_loop_lag_seconds",
            "Seconds by which the event loop was late.",
            registry=registry,
            buckets=_SECONDS,
        )
        self._timer = self._loop.call_later(_INTERVAL, self._look)

    def close(self) -> None:
        """Stop measuring, and forget."""
        self._timer.cancel()
        self._registry.unregister(self._lag)

    def _look(self) -> None:
        self._lag.observe(max(0.0, self._loop.time() - self._timer.when()))
        self._timer = self._loop.call_later(_INTERVAL, self._look)
