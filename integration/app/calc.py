"""The service ``calc``: ``rap serve integration.app.calc:make``."""

import asyncio
from collections.abc import AsyncIterator

from integration.app.settings import KEY_ID, Settings, settings
from integration.app.tracing import Tracing
from rap.call import Request
from rap.client.processor import BaseProcessor
from rap.server import Channel, Server
from rap.server.processor import (
    CryptoProcessor,
    LimitProcessor,
    PrometheusMessageProcessor,
    PrometheusProcessor,
    Rule,
)

__all__ = ["SCARCE", "make"]

SCARCE = 5  # calls of `scarce` that all instances together let through in an hour


def make() -> Server:
    """Return a server that is set up by the environment."""
    chosen = settings()
    tracing = Tracing("calc", chosen)
    server = Server(
        chosen.listen,
        processor_list=[*tracing.processors(), *_processors(chosen)],
        stop_event_list=[tracing.close],
        **chosen.server_options("calc"),
    )

    @server.register(idempotent=True)
    async def add(a: int, b: int) -> int:
        return a + b

    @server.register(idempotent=True)
    async def who() -> str:
        return chosen.name

    @server.register(idempotent=True)
    async def nap(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return chosen.name

    @server.register
    async def scarce() -> str:
        return chosen.name

    @server.register
    async def count(n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    @server.register
    async def shout(channel: Channel) -> None:
        async for text in channel:
            await channel.write(text.upper())

    return server


def _processors(chosen: Settings) -> list[BaseProcessor]:
    found: list[BaseProcessor] = [PrometheusProcessor(), PrometheusMessageProcessor()]
    if chosen.secret:
        crypto = CryptoProcessor({KEY_ID: chosen.secret}, nonce_store=chosen.state or None)
        found.append(crypto)
    rule = Rule(hour=1, gen_token=SCARCE, max_token=SCARCE)
    found.append(LimitProcessor(chosen.state or "memory://", [(_scarce, rule)]))
    return found


def _scarce(request: Request) -> str | None:
    return "all" if request.func_name == "scarce" else None
