"""What a forked child does with the clients of its parent: it shares no socket with them."""

import os
import weakref
from typing import Protocol

from rap.client.client import Client
from rap.errors import ConnectionClosed

__all__ = ["Forked", "disown", "watch_forks"]


class Forked(Protocol):
    """What wants to know of a fork."""

    def after_fork(self) -> None:
        """Run in the child, where no other thread is left."""


_watching: "weakref.WeakSet[Forked]" = weakref.WeakSet()
_hooked = False


def watch_forks(watcher: Forked) -> None:
    """Call `after_fork` of an object, as long as it lives, in each forked child."""
    global _hooked
    _watching.add(watcher)
    if not _hooked and hasattr(os, "register_at_fork"):
        _hooked = True
        os.register_at_fork(after_in_child=_after_fork)


def disown(client: Client) -> None:
    """Mark every connection of the parent's client as lost: what was bound to one must fail."""
    if client.connected is None:
        return
    error = ConnectionClosed("the connection belongs to the process that this one was forked from")
    for node in client.connected.cluster.nodes.values():
        for conn in node.pool.connections:
            conn.disown(error)


def _after_fork() -> None:
    for watcher in list(_watching):
        watcher.after_fork()
