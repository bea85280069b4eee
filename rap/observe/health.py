"""Whether a process should get work: what ``/readyz`` answers."""

from collections.abc import Sequence
from typing import NamedTuple

from rap.client import Client
from rap.client.status import client_status
from rap.server import Server
from rap.server.status import server_status

__all__ = ["Readiness", "readiness"]


class Readiness(NamedTuple):
    """An answer and its reasons.

    Args:
        ready: Send work here.
        reasons: One line for each server or client that was asked.
    """

    ready: bool
    reasons: tuple[str, ...]


def readiness(servers: Sequence[Server], clients: Sequence[Client]) -> Readiness:
    """Return whether every server serves; without servers, whether every client has one to call.

    A server is ready although what it calls is not: else one failure takes down all that depend
    on it, and none of them could say so.
    """
    if servers:
        told = [server_status(server) for server in servers]
        reasons = [f"{each.address}: {'serving' if each.serving else 'draining'}" for each in told]
        return Readiness(all(each.serving for each in told), tuple(reasons))
    asked = [client_status(client) for client in clients]
    lines = [f"{each.service or 'servers'}: {each.ready} ready" for each in asked]
    return Readiness(all(each.ready for each in asked), tuple(lines))
