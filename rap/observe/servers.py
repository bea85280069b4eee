"""What is told of the servers of a process."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from rap.observe.family import Family, Row, families
from rap.processor.replay import ReplayGuard
from rap.server import Server
from rap.server.guards import Limit, limits_of, replay_guards_of
from rap.server.status import ServerStatus, server_status

__all__ = ["SERVER_ROWS", "server_families"]


class _Server(NamedTuple):
    """All there is to tell of one server."""

    status: ServerStatus
    limits: tuple[Limit, ...]
    guards: tuple[ReplayGuard, ...]


def _of_lease(value: float, each: _Server) -> float | None:
    return None if each.status.registered is None else value


def _refused(each: _Server) -> Mapping[str, float]:
    found: Counter[str] = Counter()
    for limit in each.limits:
        found[limit.name] += limit.refused
    return found


def _alone(each: _Server) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for limit in each.limits:
        if limit.alone is not None:
            found[limit.name] = max(found.get(limit.name, 0), limit.alone)
    return found


def _checked(each: _Server) -> Mapping[str, float]:
    found: Counter[str] = Counter()
    for guard in each.guards:
        found.update(guard.results)
    return found


SERVER_ROWS: Sequence[Row[_Server]] = (
    Row("rap_server_serving", "1 while new calls are welcome.", lambda it: it.status.serving),
    Row("rap_server_connections", "Open connections.", lambda it: it.status.connections),
    Row(
        "rap_server_paused_connections",
        "Open connections whose peer takes nothing now of what is sent.",
        lambda it: it.status.paused,
    ),
    Row(
        "rap_server_connections_opened_total",
        "Connections there have been.",
        lambda it: it.status.opened,
    ),
    Row(
        "rap_server_tokens_refused_total",
        "Connections of clients without a token that is good.",
        lambda it: it.status.tokens_refused,
    ),
    Row("rap_server_calls", "Open calls of every shape.", lambda it: it.status.calls),
    Row(
        "rap_server_received_bytes_total",
        "Bytes from clients, inside of TLS.",
        lambda it: it.status.received,
    ),
    Row(
        "rap_server_sent_bytes_total", "Bytes to clients, inside of TLS.", lambda it: it.status.sent
    ),
    Row(
        "rap_server_registered",
        "1 if the last renewal of the lease succeeded.",
        lambda it: it.status.registered,
    ),
    Row(
        "rap_server_lease_lag_seconds",
        "How late the last renewal came.",
        lambda it: _of_lease(it.status.lease_lag, it),
    ),
    Row(
        "rap_server_lease_left_seconds",
        "Seconds until the lease runs out, unless it is renewed.",
        lambda it: _of_lease(it.status.lease_left, it),
    ),
    Row(
        "rap_server_lease_failures_total",
        "Renewals of the lease that have failed.",
        lambda it: _of_lease(it.status.lease_failures, it),
    ),
    Row(
        "rap_server_limit_refused_total",
        "Connections or requests that a limit has refused.",
        _refused,
        "limit",
    ),
    Row(
        "rap_server_limit_alone",
        "1 while a limit cannot reach the store that it shares with other instances.",
        _alone,
        "limit",
    ),
    Row(
        "rap_server_nonces_checked_total",
        "Encrypted calls by what was found of their nonce and time.",
        _checked,
        "result",
    ),
    Row(
        "rap_server_nonces_remembered",
        "Nonces that this process remembers.",
        lambda it: sum(map(len, it.guards)) if it.guards else None,
    ),
)


def server_families(servers: Sequence[Server]) -> Iterator[Family]:
    """Yield the metrics of servers; the label is their address, and nothing that a peer chose."""
    asked = [
        _Server(server_status(each), tuple(limits_of(each)), tuple(replay_guards_of(each)))
        for each in servers
    ]
    return families(SERVER_ROWS, "address", [(each.status.address, each) for each in asked])
