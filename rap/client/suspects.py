"""Suspect servers: a client rescues the calls that wait there.

It looks again every 0.1 s while a server is suspect, for another server may come to be known as
alive only later: those that were not heard lately are asked by a ping. A unary call decides for
itself whether a copy is made (`rap.client.race`). A generator without an item is given up and
retried. Everything else stays where it is.
"""

import logging
from typing import NamedTuple

from rap.client.attempt import StreamAttempt, UnaryAttempt
from rap.client.cluster import Cluster
from rap.client.node import Node
from rap.client.rescue import FREE_AGAIN
from rap.client.retry import RetryBudget
from rap.clock import Clock
from rap.transport import Connection

__all__ = ["Suspects"]

_log = logging.getLogger("rap.client")

_LOOK = 0.1  # seconds


class _Case(NamedTuple):
    """A suspect connection.

    Args:
        node: Its server.
        free: Whether copies of the calls that the suspicion has found are free.
        last_id: Of these calls.
    """

    node: Node
    free: bool
    last_id: int


class Suspects:
    """The suspect connections of a client.

    Args:
        cluster: Its servers.
        budget: Its retry budget.
        clock: Source of time.
    """

    def __init__(self, cluster: Cluster, budget: RetryBudget, clock: Clock) -> None:
        self._cluster = cluster
        self._budget = budget
        self._now = clock.monotonic
        self._cases: dict[Connection, _Case] = {}
        self._free_at: dict[str, float] = {}  # when copies are free again, by the id of a node
        self._is_looking = False

    def on_change(self, node: Node, conn: Connection) -> None:
        """Take note that a connection has become suspect, was heard again or has ended."""
        if conn.closed or not conn.suspect:
            self._cases.pop(conn, None)
            return
        if conn in self._cases:
            return
        now = self._now()
        self._free_at = {key: at for key, at in self._free_at.items() if at > now}
        free = node.key not in self._free_at
        if free:
            self._free_at[node.key] = now + FREE_AGAIN
        self._cases[conn] = _Case(node, free, max(conn.streams, default=0))
        if not self._is_looking:
            self._look()

    def _look(self) -> None:
        """Rescue the calls on suspect connections, if there is a server for them."""
        cases = self._cases = {conn: case for conn, case in self._cases.items() if not conn.closed}
        self._is_looking = bool(cases)
        if not cases:
            return
        self._cluster.call_later(_LOOK, self._look)
        now = self._now()
        if not any(node.is_alive(now) for node in self._cluster.ready):
            for node in self._cluster.ready:
                node.probe()
            return
        for conn, case in list(cases.items()):
            for stream in list(conn.streams.values()):
                if stream.late_at is not None:
                    self._rescue(stream, case, now)

    def _rescue(self, stream: object, case: _Case, now: float) -> None:
        if isinstance(stream, UnaryAttempt):
            if not stream.doubted:
                stream.suspect(free=case.free and stream.id <= case.last_id)
        elif isinstance(stream, StreamAttempt) and stream.first_meta is None:
            free = case.free and stream.id <= case.last_id
            others = [node for node in self._cluster.ready if node is not case.node]
            if any(node.is_alive(now) for node in others) and self._budget.take_copy(free=free):
                stream.give_up("the server is suspected to be gone")
