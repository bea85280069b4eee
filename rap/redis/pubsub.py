"""A subscription that reconnects, and reports when messages may have been missed.

redis-py resubscribes after a lost connection but does not report it, and it never notices a frozen
server, or a dead node of a Cluster. Therefore the subscription sends a ping after a second of
silence, and reconnects if there is no pong. After each new connection the subscriber must read
everything: a message only says that a read is worthwhile.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, Self

from rap.clock import Clock
from rap.errors import RegistryError
from rap.tasks import start_task

__all__ = ["PubSubClient", "PubSubConnection", "Subscription"]

logger = logging.getLogger("rap.registry")

_SILENCE = 1.0  # seconds without a message until a ping is sent, and until the pong is due
_PAUSE = 0.3  # seconds before the next connection, +-50 %


class PubSubConnection(Protocol):
    """A subscribed connection, such as `rap.redis.client.PubSub`."""

    async def next(self, seconds: float) -> bytes | None:
        """Return the next message, an empty one for a pong, or `None` after `seconds`."""
        ...

    async def ping(self) -> None:
        """Send a ping."""
        ...

    async def aclose(self) -> None:
        """Close the connection."""
        ...


class PubSubClient(Protocol):
    """A client that can subscribe, such as `rap.redis.client.RedisClient`."""

    async def subscribe(self, channel: str) -> PubSubConnection:
        """Return a new connection that is subscribed to a channel."""
        ...

    async def primary_moved(self, messages: Any, /) -> bool:
        """Return whether the server of a connection is no longer the primary."""
        ...


class Subscription:
    """A subscription to one channel, active inside ``async with``.

    Args:
        redis: The client of Redis.
        channel: The channel.
        on_message: Called with each message, and with `None` whenever messages may have been
            missed: when the subscription starts, breaks, and starts again. It must not block.
        clock: Time source of the pauses between connections.
        rng: Random numbers for the jitter of these pauses.
    """

    def __init__(
        self,
        redis: PubSubClient,
        channel: str,
        on_message: Callable[[bytes | None], None],
        *,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._redis = redis
        self._channel = channel
        self._on_message = on_message
        self._clock = clock
        self._rng = rng
        self._broken = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = start_task(self._supervise(), name=f"rap listen {self._channel}")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _supervise(self) -> None:
        while True:
            try:
                await self._listen()
            except RegistryError as exc:
                logger.debug("subscription to %s: %s", self._channel, exc)
                if not self._broken:
                    self._broken = True
                    self._on_message(None)
            await self._clock.sleep(_PAUSE * self._rng.uniform(0.5, 1.5))

    async def _listen(self) -> None:
        """Pass on messages until the connection is no longer usable."""
        messages = await self._redis.subscribe(self._channel)
        try:
            self._broken = False
            self._on_message(None)
            is_pinged = False
            while not await self._redis.primary_moved(messages):
                message = await messages.next(_SILENCE)
                if message:
                    self._on_message(message)
                elif message is None:
                    if is_pinged:
                        raise RegistryError("no answer to a ping")
                    await messages.ping()
                is_pinged = message is None
        finally:
            await messages.aclose()
