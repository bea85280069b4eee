"""Measure how soon a client notices changes of servers: ``python -m bench.discovery``.

It uses real processes, a temporary redis-server, 64 calls in flight, and default options. In each
round, one replica joins and then leaves, by SIGKILL and SIGTERM in turn. At the end, a running
replica loses its registration. First its lease and record are deleted in Redis, and no client is
notified. Then another process deregisters it, and all clients are notified.
"""

import argparse
import asyncio
import logging
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from rich.console import Console
from rich.table import Table

from rap.cli.demo.fleet import Fleet, Replica
from rap.cli.demo.traffic import C, RecordingPicker
from rap.cli.redis_server import RedisServer
from rap.cli.runtime import loop_factory
from rap.client import Client
from rap.errors import CallError
from rap.redis.client import RedisClient
from rap.registry.redis import RedisRegistry

SERVICE = "bench"
CONCURRENCY = 64
AFTER = 1.0  # seconds after SIGKILL from which on no call may be given
WATCHED = 5.0  # seconds before and after the deletion of the lease
LOOK = 0.001
PATIENCE = 15.0


class Logged(RecordingPicker):
    """The default picker, which logs the times of its choices by address."""

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[str, list[float]] = {}

    def pick(self, candidates: Sequence[C], affinity: str | None = None) -> C:
        chosen = super().pick(candidates, affinity)
        self.given.setdefault(chosen.key, []).append(time.monotonic())
        return chosen


@dataclass
class Calls:
    """The results of all calls: when each was made, by the name of the server that answered."""

    made: dict[str, list[float]] = field(default_factory=dict)
    answered: dict[str, list[float]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    running: bool = True

    async def flow(self, client: Client) -> None:
        """Make calls, one after the other."""

        @client.register(idempotent=True)
        async def work() -> str:
            raise NotImplementedError

        while self.running:
            started = time.monotonic()
            try:
                name = await work()
            except CallError as exc:
                self.errors.append(str(exc))
            else:
                self.made.setdefault(name, []).append(started)
                self.answered.setdefault(name, []).append(time.monotonic())


@dataclass
class Figures:
    """The measurements, in seconds and calls."""

    joined: list[float] = field(default_factory=list)
    left_after_kill: list[float] = field(default_factory=list)
    given_after_kill: int = 0
    left_after_term: list[float] = field(default_factory=list)
    away_after_term: list[float] = field(default_factory=list)
    given_after_away: int = 0
    made_after_away: int = 0


async def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"waited {PATIENCE:g} s for {what}")
        await asyncio.sleep(LOOK)


def later_than(times: list[float], moment: float) -> int:
    return len(times) - bisect_left(times, moment)


def draining(client: Client, replica: Replica) -> bool:
    node = client.cluster.nodes.get(replica.address)
    return node is None or any(conn.draining for conn in node.pool.connections)


async def one_round(
    turn: int, fleet: Fleet, client: Client, log: Logged, calls: Calls, found: Figures
) -> None:
    replica = await fleet.start(f"n{turn}", 1)
    await until(lambda: replica.address in log.first, "the first call")
    found.joined.append(log.first[replica.address] - replica.registered)
    await asyncio.sleep(1.0)
    given = log.given[replica.address]
    if turn % 2:
        at = replica.kill()
        await asyncio.sleep(AFTER + 1.0)
        found.left_after_kill.append(max(0.0, given[-1] - at))
        found.given_after_kill += later_than(given, at + AFTER)
    else:
        at = replica.drain()
        await until(lambda: draining(client, replica), "GoAway")
        away = time.monotonic()
        await replica.ended()
        found.left_after_term.append(max(0.0, given[-1] - at))
        found.away_after_term.append(away - at)
        found.given_after_away += later_than(given, away)
        found.made_after_away += later_than(calls.made[replica.name], away)


async def delete_keys(url: str, replica: Replica) -> None:
    link = RedisClient(url)
    for command, name in (("ZREM", "lease"), ("HDEL", "inst")):
        key = f"rap:{{default/{SERVICE}}}:{name}"
        assert await link.call(command, key, replica.address) == 1, f"nothing of it in {key}"
    await link.aclose()


async def deregister(url: str, replica: Replica) -> None:
    registry = RedisRegistry(url)
    async with aclosing(registry.watch(SERVICE)) as snapshots:
        snapshot = await anext(snapshots)
    await registry.deregister(SERVICE, snapshot[replica.address])
    await registry.aclose()


async def lose_lease(
    lose: Callable[[str, Replica], Awaitable[None]], url: str, replica: Replica, calls: Calls
) -> tuple[float, float, float]:
    """Return the calls a second that a replica answered before and after, and its longest gap."""
    await asyncio.sleep(WATCHED)
    at = time.monotonic()
    await lose(url, replica)
    await asyncio.sleep(WATCHED)
    answered = calls.answered[replica.name]
    middle, first = bisect_left(answered, at), bisect_left(answered, at - WATCHED)
    after = answered[middle:]
    gap = max(b - a for a, b in pairwise(after))
    return (middle - first) / WATCHED, len(after) / WATCHED, gap


LOSSES = {"lease deleted in Redis": delete_keys, "deregistered by another": deregister}


def row(table: Table, what: str, seconds: list[float]) -> None:
    worst = max(seconds) * 1000
    table.add_row(what, f"{median(seconds) * 1000:.1f}", f"{worst:.1f}", str(len(seconds)))


def show(found: Figures, losses: dict[str, tuple[float, float, float]], calls: Calls) -> None:
    console = Console()
    table = Table("ms", "median", "worst", "n", title="64 calls in flight, Redis")
    row(table, "registered to first call", found.joined)
    row(table, "SIGKILL to last call given", found.left_after_kill)
    row(table, "SIGTERM to last call given", found.left_after_term)
    row(table, "SIGTERM to GoAway", found.away_after_term)
    console.print(table)
    total = sum(map(len, calls.made.values())) + len(calls.errors)
    console.print(f"calls given 1 s or more after SIGKILL: {found.given_after_kill}")
    console.print(
        f"calls given after GoAway of a drained replica: {found.given_after_away}, "
        f"of those made after it: {found.made_after_away}"
    )
    for event, (before, after, gap) in losses.items():
        console.print(
            f"{event} while it runs: {before:.0f} calls/s before, {after:.0f} after, "
            f"longest gap {gap * 1000:.0f} ms"
        )
    console.print(f"idempotent calls: {total:,}, failed: {len(calls.errors)}")
    for error in calls.errors[:5]:
        console.print(f"  {error}", markup=False)


async def main(rounds: int) -> None:
    async with RedisServer() as redis, Fleet(SERVICE, redis.url, 10.0, "auto") as fleet:
        await asyncio.gather(*(fleet.start(name, 1 + (name == "c")) for name in "abc"))
        log, calls, found = Logged(), Calls(), Figures()
        async with Client(service=SERVICE, registry=redis.url, picker=log) as client:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(CONCURRENCY):
                    tasks.create_task(calls.flow(client))
                try:
                    await asyncio.sleep(1.0)
                    for turn in range(rounds):
                        await one_round(turn, fleet, client, log, calls, found)
                    losses = {
                        event: await lose_lease(lose, redis.url, fleet.replicas["b"], calls)
                        for event, lose in LOSSES.items()
                    }
                finally:
                    calls.running = False
        show(found, losses, calls)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12, help="replicas that join and leave")
    options = parser.parse_args()
    logging.getLogger("rap").addHandler(logging.NullHandler())  # killing servers is the point
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main(options.rounds))
