"""A subscription that notices when it has gone deaf.

redis-py resubscribes after a lost connection but says nothing of what it missed, and never
notices a server that is frozen, or in a Cluster dead. So silence is met with a ping, a ping
without an answer with a new connection, and each new connection is told to the listener, who then
reads everything: messages are no more than hints.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, Self

from rap.clock import Clock
from rap.errors import RegistryError

__all__ = ["PubSubClient", "PubSubConnection", "Subscription"]

logger = logging.getLogger("rap.registry")

_SILENCE = 1.0  # seconds without a message until the server is asked, and until it must answer
_PAUSE = 0.3  # seconds before the next connection, +-50 %


class PubSubConnection(Protocol):
    """One subscribed connection, as `rap.redis.client.PubSub` is."""

    async def next(self, seconds: float) -> bytes | None:
        """Return the next message, empty for an answer to `ping`; `None` after `seconds`."""
        ...

    async def ping(self) -> None:
        """Ask for a sign of life."""
        ...

    async def aclose(self) -> None:
        """Close the connection."""
        ...


class PubSubClient(Protocol):
    """What makes them, as `rap.redis.client.RedisClient` does."""

    async def subscribe(self, channel: str) -> PubSubConnection:
        """Return a new connection, already subscribed."""
        ...

    async def primary_moved(self, messages: Any, /) -> bool:
        """Return whether a connection leads to a server that is no longer the primary."""
        ...


class Subscription:
    """Listens to one channel from `async with` to its end.

    Args:
        link: Where to listen.
        channel: What to listen to.
        on_hint: Called with each message, and with `None` whenever messages may be missed: when
            the subscription begins, breaks, and has begun again. Must not block.
        clock: Time source of the pauses between connections.
        rng: Chance that spreads them.
    """

    def __init__(
        self,
        redis: PubSubClient,
        channel: str,
        on_hint: Callable[[bytes | None], None],
        *,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._redis = redis
        self._channel = channel
        self._on_hint = on_hint
        self._clock = clock
        self._rng = rng
        self._broken = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._supervise(), name=f"rap listen {self._channel}")
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
                    self._on_hint(None)
            await self._clock.sleep(_PAUSE * self._rng.uniform(0.5, 1.5))

    async def _listen(self) -> None:
        """Pass messages on until the connection is of no use any more."""
        messages = await self._redis.subscribe(self._channel)
        try:
            self._broken = False
            self._on_hint(None)
            asked = False
            while not await self._redis.primary_moved(messages):
                message = await messages.next(_SILENCE)
                if message:
                    self._on_hint(message)
                elif message is None:
                    if asked:
                        raise RegistryError("no answer to a ping")
                    await messages.ping()
                asked = message is None
        finally:
            await messages.aclose()
