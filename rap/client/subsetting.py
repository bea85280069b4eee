"""Which of the listed servers a client is to know: all, or of very many a part."""

import asyncio
import logging
from collections.abc import Callable, Container, Mapping
from math import inf

from rap.balance import Subset
from rap.client.node import Node
from rap.clock import Clock
from rap.registry import Snapshot, State
from rap.transport import Connection

__all__ = ["Subsetting"]

_log = logging.getLogger("rap.client")

_SETTLED = 1.0  # seconds after which others that start with this client are connected too
_TOLD = 1.0  # seconds in which servers tell how many clients they have
_FAILED = 2  # dials in a row after which a server is lost
_FIRST_PAUSE, _MAX_PAUSE = 1.0, 60.0  # seconds between two replacements; doubled each time
_RECENT = 2.0  # seconds for which what was told before still holds: not all may be asked so soon


class Subsetting:
    """The servers that one client connects to.

    Args:
        subset: Chooses them; `None`: all.
        nodes: Those that the client has.
        clock: Source of time.
        on_change: Called when others are to be chosen: a snapshot has to be looked at again.
    """

    def __init__(
        self,
        subset: Subset | None,
        nodes: Mapping[str, Node],
        clock: Clock,
        on_change: Callable[[Snapshot], object],
    ) -> None:
        self._task: asyncio.Task[None] | None = None  # asks about new connections
        self._subset = subset
        self._nodes = nodes
        self._clock = clock
        self._on_change = on_change
        self._listed: Snapshot = {}
        self._is_subsetting = False
        self._new = False  # there is a connection that was not looked at
        self._replace_at = -inf
        self._pause = _FIRST_PAUSE

    def of(self, listed: Snapshot) -> Snapshot:
        """Return what the client connects to of what is listed.

        A server that drains counts no more, but stays until it is gone if the client has it.
        """
        self._listed, self._is_subsetting = listed, False
        if self._subset is None:
            return listed
        staying = [key for key, it in listed.items() if it.state is not State.DRAINING]
        chosen = self._subset.choose(staying)
        if len(chosen) == len(staying):
            return listed
        self._is_subsetting = True
        return _kept(listed, chosen, self._nodes)

    def replace_lost(self, ready: int) -> None:
        """Where more than half are lost, take others for those that cannot be reached, or drain.

        Who lists servers need not know which ones this client can reach.

        Args:
            ready: How many take calls.
        """
        now = self._clock.monotonic()
        if not self._is_subsetting or 2 * ready >= len(self._nodes) or now < self._replace_at:
            return
        lost = [key for key, node in self._nodes.items() if _is_lost(node)]
        if lost and self._subset is not None:
            self._replace_at = now + self._pause
            self._pause = min(2 * self._pause, _MAX_PAUSE)
            self._subset.pass_over(lost)
            self._on_change(self._listed)

    def connected(self, node: Node, conn: Connection) -> None:
        """Take a new connection: its server may have too many already."""
        self._pause = _FIRST_PAUSE
        if "load" in conn.options.hello:
            conn.set_load_handler(node.take_report)
        if self._is_subsetting:
            self._new = True
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._look(), name="rap subset")

    def stop(self) -> asyncio.Task[None] | None:
        """Look at no connection any more; return a task that is to be cancelled."""
        self._subset, self._is_subsetting = None, False
        return self._task

    async def _look(self) -> None:
        while self._new:
            await self._clock.sleep(_SETTLED)
            self._new = False
            since = self._clock.monotonic() - _RECENT
            for node in self._nodes.values():
                for conn in node.pool.connections:  # some are from before it was a part
                    conn.set_load_handler(node.take_report)
                node.request_load_report()
            await self._clock.sleep(_TOLD)
            try:
                self._judge(since)
            except Exception:
                _log.exception("a subset of servers could not be chosen")

    def _judge(self, since: float) -> None:
        clients = {
            key: node.report.clients
            for key, node in self._nodes.items()
            if node.report is not None and node.reported_at >= since and not node.leaving
        }
        if self._is_subsetting and self._subset is not None and self._subset.judge(clients):
            self._on_change(self._listed)


def _is_lost(node: Node) -> bool:
    """Whether a node cannot be reached, or drains; not one that turns this client away."""
    pool = node.pool
    if node.alive or pool.denial is not None:
        return False
    return pool.draining or pool.failures >= _FAILED


def _kept(listed: Snapshot, chosen: Container[str], known: Container[str]) -> Snapshot:
    return {
        key: endpoint
        for key, endpoint in listed.items()
        if key in chosen or (endpoint.state is State.DRAINING and key in known)
    }
