"""How loaded a server is, in the few numbers that it reports to its registry with each renewal."""

import time
from collections.abc import Callable

from rap.clock import Clock
from rap.registry.reports import LoadReport
from rap.server.ports import Ports

__all__ = ["Figures"]


class Figures:
    """Tells the load of one server; each time of the stretch since it was asked last.

    Args:
        ports: Where its connections and calls are.
        clock: Source of time.
        cpu: Seconds of processor that this process has used.
    """

    def __init__(
        self, ports: Ports, clock: Clock, *, cpu: Callable[[], float] = time.process_time
    ) -> None:
        self._ports = ports
        self._clock = clock
        self._cpu = cpu
        self._before = (clock.monotonic(), ports.calls, cpu())

    def __call__(self) -> LoadReport:
        """Return open calls, calls a second, share of one processor, and open connections."""
        then, calls_then, cpu_then = self._before
        now, calls, cpu = self._before = (self._clock.monotonic(), self._ports.calls, self._cpu())
        seconds = max(now - then, 1e-3)
        connections = self._ports.connections
        return {
            "in_flight": sum(len(conn.streams) for conn in connections),
            "rps": round((calls - calls_then) / seconds, 1),
            "util": round((cpu - cpu_then) / seconds, 3),
            "conns": len(connections),
        }
