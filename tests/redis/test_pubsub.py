"""The supervisor of a subscription, against scripted connections."""

import asyncio
import random

from rap.errors import RegistryError
from rap.redis.pubsub import Subscription
from tests.registry.fake_clock import FakeClock, settle


class ScriptedMessages:
    """Gives what the test feeds; `None` stands for a second of silence."""

    def __init__(self) -> None:
        self.feed: asyncio.Queue[bytes | RegistryError | None] = asyncio.Queue()
        self.pings = 0
        self.closed = False

    async def next(self, seconds: float) -> bytes | None:
        message = await self.feed.get()
        if isinstance(message, RegistryError):
            raise message
        return message

    async def ping(self) -> None:
        self.pings += 1

    async def aclose(self) -> None:
        self.closed = True


class ScriptedRedis:
    def __init__(self) -> None:
        self.connections: list[ScriptedMessages] = []
        self.refused = 0
        self.moved = False

    async def subscribe(self, channel: str) -> ScriptedMessages:
        assert channel == "ch"
        if self.refused:
            self.refused -= 1
            raise RegistryError("down")
        self.connections.append(ScriptedMessages())
        return self.connections[-1]

    async def primary_moved(self, messages: object) -> bool:
        moved, self.moved = self.moved, False
        return moved


def subscribe(redis: ScriptedRedis, hints: list[bytes | None], clock: FakeClock) -> Subscription:
    return Subscription(redis, "ch", hints.append, clock=clock, rng=random.Random(1))


async def test_messages_are_passed_on(clock: FakeClock) -> None:
    redis, hints = ScriptedRedis(), list[bytes | None]()
    async with subscribe(redis, hints, clock):
        await settle()
        redis.connections[0].feed.put_nowait(b"1 2 x")
        await settle()
    assert hints == [None, b"1 2 x"]
    assert redis.connections[0].closed


async def test_a_lost_connection_is_replaced_and_told(clock: FakeClock) -> None:
    redis, hints = ScriptedRedis(), list[bytes | None]()
    async with subscribe(redis, hints, clock):
        await settle()
        redis.connections[0].feed.put_nowait(RegistryError("reset"))
        redis.refused = 2
        await clock.run(3 * 0.45)
        assert hints == [None] * 3  # begun, broken, begun again
        assert len(redis.connections) == 2
        assert redis.connections[0].closed
    assert all(0.15 <= pause <= 0.45 for pause in clock.slept)


async def test_silence_is_met_with_a_ping_and_a_pong_is_life(clock: FakeClock) -> None:
    redis, hints = ScriptedRedis(), list[bytes | None]()
    async with subscribe(redis, hints, clock):
        await settle()
        connection = redis.connections[0]
        for message in (None, b"", None, b"", None, b"hint", None):
            connection.feed.put_nowait(message)
        await settle()
        assert connection.pings == 4
        assert not connection.closed
    assert hints == [None, b"hint"]


async def test_a_ping_without_an_answer_ends_the_connection(clock: FakeClock) -> None:
    redis, hints = ScriptedRedis(), list[bytes | None]()
    async with subscribe(redis, hints, clock):
        await settle()
        redis.connections[0].feed.put_nowait(None)
        redis.connections[0].feed.put_nowait(None)
        await clock.run(0.45)
        assert redis.connections[0].closed
        assert len(redis.connections) == 2


async def test_a_primary_that_moved_is_followed(clock: FakeClock) -> None:
    redis, hints = ScriptedRedis(), list[bytes | None]()
    async with subscribe(redis, hints, clock):
        await settle()
        redis.moved = True
        redis.connections[0].feed.put_nowait(b"still talking")
        await clock.run(0.45)
        assert redis.connections[0].closed
        assert len(redis.connections) == 2
