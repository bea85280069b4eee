"""What on a server turns away connections and calls, and how often it did."""

from collections.abc import Iterator
from typing import NamedTuple

from rap.processor.limit import LimitProcessor
from rap.processor.replay import ReplayGuard
from rap.server.core import Server
from rap.server.middleware.base import BaseConnMiddleware

__all__ = ["Limit", "limits_of", "replay_guards_of"]


class Limit(NamedTuple):
    """Middleware or a processor that limits something.

    Args:
        name: Of its class, or of an option of the server.
        refused: How often it has refused.
        alone: It cannot reach the store that it shares with other instances; `None`: it has none.
    """

    name: str
    refused: int
    alone: bool | None = None


def limits_of(server: Server) -> Iterator[Limit]:
    """Yield what limits the connections and the calls of a server."""
    for name, refused in server._ports.arrivals.refused.items():
        yield Limit(name, refused)
    for each in (*server._middlewares, *server._processors):
        if isinstance(each, BaseConnMiddleware | LimitProcessor):
            yield Limit(type(each).__name__, each.refused, getattr(each, "alone", None))


def replay_guards_of(server: Server) -> Iterator[ReplayGuard]:
    """Yield what lets each encrypted call of a server in once."""
    for each in server._processors:
        guard = getattr(each, "guard", None)
        if isinstance(guard, ReplayGuard):
            yield guard
