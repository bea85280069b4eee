"""How a service in Redis is followed: what is asked when, against a scripted link."""

import asyncio
import inspect
import random
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import pytest

from rap.errors import RegistryError
from rap.redis.client import RedisClient, Script
from rap.registry import Snapshot, State
from rap.registry.records import to_record
from rap.registry.redis import RedisRegistry
from rap.registry.redis_watch import Keys, follow
from rap.registry.self_preservation import DEAD_AFTER
from rap.registry.watch_cache import next_hash
from rap.wire.codec import pack
from tests.registry.fake_clock import FakeClock, settle
from tests.registry.sample import make_endpoint, ports

KEYS = Keys.of("default", "calc")
POLL = 2.0  # seconds


class ScriptedRedis:
    """One service, and every question that was asked about it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.epoch, self.number, self.hash = 7, 0, ""
        self.records: dict[str, bytes] = {}
        self.log: list[tuple[bytes, dict[bytes, bytes]]] = []
        self.messages: asyncio.Queue[bytes | RegistryError] = asyncio.Queue()
        self.down = False
        self.now, self.lease = 1000, 2000  # ms
        self.renewed = 1  # ms that each look finds the lease to last longer

    def put(self, port: int) -> None:
        """Change one record, as the scripts do."""
        endpoint = make_endpoint(port)
        record = pack(to_record(endpoint))
        self.records[endpoint.id] = record
        self.number += 1
        self.hash = next_hash(self.hash, "put", endpoint.id, record)
        fields = {b"o": b"put", b"i": endpoint.id.encode(), b"r": record, b"h": self.hash.encode()}
        self.log.append((f"{self.epoch}-{self.number}".encode(), fields))

    @property
    def version(self) -> list[bytes]:
        return [str(self.epoch).encode(), str(self.number).encode(), self.hash.encode()]

    # The link.

    async def call(self, *command: str) -> Any:
        self._ask(command[0])
        if command[0] == "HMGET":
            return self.version
        if command[0] == "ZRANGE":
            self.lease += self.renewed
            return [b"10.0.0.1:1", str(self.lease).encode()]
        first = int(command[2].partition("-")[2])
        return [entry for entry in self.log if int(entry[0].partition(b"-")[2]) >= first]

    async def run(self, script: Script, keys: list[str], args: list[str]) -> Any:
        self._ask("SNAPSHOT")
        records = [part for key, it in self.records.items() for part in (key.encode(), it)]
        leases = [part for key in self.records for part in (key.encode(), str(self.lease).encode())]
        return [*self.version, str(self.now).encode(), records, leases]

    async def subscribe(self, channel: str) -> "ScriptedRedis":
        self._ask(f"SUBSCRIBE {channel}")
        return self

    async def primary_moved(self, messages: object) -> bool:
        return False

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.down:
            raise RegistryError("down")

    # The subscription.

    async def next(self, seconds: float) -> bytes:
        message = await self.messages.get()
        if isinstance(message, RegistryError):
            raise message
        return message

    async def ping(self) -> None:
        raise AssertionError("there is no silence here")

    async def aclose(self) -> None:
        """Nothing to close."""


@asynccontextmanager
async def followed(redis: ScriptedRedis, clock: FakeClock) -> AsyncIterator[list[Snapshot]]:
    seen: list[Snapshot] = []

    async def keep() -> None:
        snapshots = follow(
            cast(RedisClient, redis),
            KEYS,
            Script(""),
            poll_interval=POLL,
            clock=clock,
            rng=random.Random(1),
            on_read=lambda error: None,
        )
        async with aclosing(snapshots):
            async for snapshot in snapshots:
                seen.append(snapshot)  # noqa: PERF401  # the test looks meanwhile

    task = asyncio.create_task(keep())
    await clock.run(0.1)
    redis.asked, first = [], redis.asked
    assert first == [f"SUBSCRIBE {KEYS.channel}", "SNAPSHOT"]
    yield seen
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def redis() -> ScriptedRedis:
    made = ScriptedRedis()
    made.put(1)
    return made


async def test_it_subscribes_and_then_reads_and_polls_the_version(
    redis: ScriptedRedis, clock: FakeClock
) -> None:
    async with followed(redis, clock) as seen:  # which checks the order of the first two
        assert [ports(it) for it in seen] == [{1}]
        await clock.run(100 * POLL)
        assert set(redis.asked) == {"HMGET", "ZRANGE"}
        assert 85 <= redis.asked.count("HMGET") <= 125
        assert redis.asked.count("ZRANGE") <= 6  # in 200 s
        assert len(seen) == 1


async def test_a_watch_sees_that_the_last_server_has_died_though_nobody_logs_it(
    redis: ScriptedRedis, clock: FakeClock
) -> None:
    async with followed(redis, clock) as seen:
        await clock.run(100 * POLL)
        assert [it["10.0.0.1:1"].state for it in seen] == [State.UP]
        redis.renewed, redis.now = 0, redis.lease + 8  # its lease is over
        await clock.run(70.0)
        assert [it["10.0.0.1:1"].state for it in seen] == [State.UP, State.SUSPECT]
        redis.now += round(1000 * DEAD_AFTER)
        await clock.run(70.0)
        assert len(seen) == 2  # it may be Redis that takes no writes
    redis.asked = []
    async with followed(redis, clock) as seen:
        assert [it["10.0.0.1:1"].state for it in seen] == [State.SUSPECT]


async def test_polls_are_spread_by_a_fifth_either_way(
    redis: ScriptedRedis, clock: FakeClock
) -> None:
    async with followed(redis, clock):
        clock.slept.clear()
        await clock.run(200 * POLL)
        pauses = [it for it in clock.slept if it > 1.0]
        assert min(pauses) == pytest.approx(0.8 * POLL, rel=0.02)
        assert max(pauses) == pytest.approx(1.2 * POLL, rel=0.02)


async def test_a_lost_message_is_found_by_the_poll_within_three_seconds(
    redis: ScriptedRedis, clock: FakeClock
) -> None:
    async with followed(redis, clock) as seen:
        redis.put(2)
        await clock.run(1.2 * POLL + 0.1)
        assert redis.asked == ["HMGET", "XRANGE"]
        assert ports(seen[-1]) == {1, 2}


async def test_a_message_shortens_the_wait(redis: ScriptedRedis, clock: FakeClock) -> None:
    async with followed(redis, clock) as seen:
        redis.put(2)
        redis.messages.put_nowait(b"7 2 x")
        await clock.run(0.1)
        assert redis.asked == ["HMGET", "XRANGE"]
        assert ports(seen[-1]) == {1, 2}


@pytest.mark.parametrize("how", ["gap", "epoch", "hash", "reconnect", "behind"])
async def test_what_the_log_cannot_tell_is_read_in_full(
    redis: ScriptedRedis, clock: FakeClock, how: str
) -> None:
    async with followed(redis, clock) as seen:
        redis.put(2)
        if how == "gap":
            del redis.log[-1]
            redis.put(3)
        elif how == "epoch":
            redis.epoch += 1
        elif how == "hash":
            redis.hash = "000000000000"
        elif how == "behind":
            redis.number += 10_000
        else:
            redis.messages.put_nowait(RegistryError("lost"))
        redis.messages.put_nowait(b"hint")
        await clock.run(0.6)  # a new subscription has its own pause
        assert "SNAPSHOT" in redis.asked
        assert (how == "reconnect") == (f"SUBSCRIBE {KEYS.channel}" in redis.asked)
        assert ports(seen[-1]) >= {1, 2}


async def test_after_an_error_everything_is_read(redis: ScriptedRedis, clock: FakeClock) -> None:
    async with followed(redis, clock) as seen:
        redis.down = True
        await clock.run(10 * POLL)
        assert len(seen) == 1
        redis.down, redis.asked = False, []
        await clock.run(POLL)
        assert redis.asked[0] == "SNAPSHOT"
        assert len(seen) == 1  # the same as before


async def test_hints_without_end_do_not_make_it_read_without_end(
    redis: ScriptedRedis, clock: FakeClock
) -> None:
    async with followed(redis, clock):
        for _ in range(1000):
            redis.messages.put_nowait(b"hint")
            await settle()
        assert len(redis.asked) <= 2


def test_a_poll_is_made_every_two_seconds_and_has_one_to_answer() -> None:
    defaults = inspect.signature(RedisRegistry).parameters
    assert defaults["poll_interval"].default == POLL
    assert defaults["timeout"].default == 1.0
