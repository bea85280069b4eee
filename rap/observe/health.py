"""Whether a process should get work: what ``/readyz`` answers."""

from collections.abc import Sequence
from typing import NamedTuple

from rap.client import Client
from rap.client.status import ClientStatus, client_status
from rap.server import Server
from rap.server.status import ServerStatus, server_status

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
    on it, and none of them could say so. A registry that does not answer makes it degraded, not
    less ready: known servers stand, and connections are the truth.
    """
    if servers:
        told = [server_status(server) for server in servers]
        return Readiness(all(each.serving for each in told), tuple(map(_of_server, told)))
    asked = [client_status(client) for client in clients]
    return Readiness(all(each.ready for each in asked), tuple(map(_of_client, asked)))


def _of_server(status: ServerStatus) -> str:
    if not status.serving:
        return f"{status.address}: draining"
    degraded = ", degraded: not registered" if status.registered is False else ""
    return f"{status.address}: serving{degraded}"


def _of_client(status: ClientStatus) -> str:
    degraded = ", degraded: the registry does not answer" if status.degraded else ""
    return f"{status.service or 'servers'}: {status.ready} ready{degraded}"
