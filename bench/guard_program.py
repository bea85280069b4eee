"""The fixed program whose instructions are counted: ``python -m bench.guard_program MODE CALLS``.

Server and client share one process and one loop, so that one count has both and nothing waits on
another process. The collector of garbage is off: when it runs depends on all that was allocated.
"""

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

import uvloop

from rap.client import Channel, Client
from rap.message import Call, Request, Response
from rap.processor import BaseProcessor
from rap.server import Channel as ServerChannel
from rap.server import Server

__all__ = ["MODES"]

_IN_FLIGHT = 64
_CHANNELS = 20


class _NoHook(BaseProcessor):
    """Overrides nothing."""


class _Around:
    """The least a scope costs; a generator under `contextmanager` costs 1 us more."""

    __slots__ = ()

    def __enter__(self) -> None: ...

    def __exit__(self, *exc: object) -> None: ...


class _Scope(BaseProcessor):
    def scope(self, call: Call) -> AbstractContextManager[None]:
        return _Around()


class _Hooks(BaseProcessor):
    async def process_request(self, request: Request) -> Request:
        return request

    async def process_response(self, response: Response) -> Response:
        return response


def _opentelemetry(sampled: bool) -> Callable[[], BaseProcessor]:
    """Return what makes a processor with spans that nobody exports; `False`: without spans."""

    def make() -> BaseProcessor:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import DEFAULT_OFF, DEFAULT_ON

        from rap.client.processor import OpenTelemetryProcessor

        return OpenTelemetryProcessor(TracerProvider(DEFAULT_ON if sampled else DEFAULT_OFF))

    return make


def _opentracing(sampled: bool) -> Callable[[], BaseProcessor]:
    """Return the same with jaeger-client."""

    def make() -> BaseProcessor:
        from jaeger_client.reporter import NullReporter
        from jaeger_client.sampler import ConstSampler
        from jaeger_client.tracer import Tracer
        from opentracing.scope_managers.contextvars import ContextVarsScopeManager

        from rap.client.processor import TracingProcessor

        scopes = ContextVarsScopeManager()
        return TracingProcessor(
            Tracer("bench", NullReporter(), ConstSampler(sampled), scope_manager=scopes)
        )

    return make


async def _together(client: Client, calls: int) -> None:
    add = _add(client)

    async def some() -> None:
        for _ in range(calls // _IN_FLIGHT):
            await add(1, 2)

    await asyncio.gather(*[some() for _ in range(_IN_FLIGHT)])


async def _one_by_one(client: Client, calls: int) -> None:
    add = _add(client)
    for _ in range(calls):
        await add(1, 2)


async def _in_session(client: Client, calls: int) -> None:
    async with client.session:
        await _one_by_one(client, calls)


async def _stream(client: Client, calls: int) -> None:
    @client.register()
    async def numbers(count: int) -> AsyncIterator[int]:
        yield 0

    async for _ in numbers(calls):
        pass


async def _channel(client: Client, calls: int) -> None:
    async def pings(channel: Channel) -> None:
        for _ in range(calls // _CHANNELS):
            await channel.write(1)
            await channel.read_body()

    stub: Any = client.register()(pings)
    await asyncio.gather(*[stub() for _ in range(_CHANNELS)])


def _add(client: Client) -> Callable[[int, int], Awaitable[int]]:
    @client.register()
    async def add(a: int, b: int) -> int: ...  # type: ignore[empty-body]

    return add


Run = Callable[[Client, int], Awaitable[None]]

# What is done, the processor on both sides, and options of the client.
MODES: dict[str, tuple[Run, Callable[[], BaseProcessor] | None, dict[str, Any]]] = {
    "unary": (_together, None, {}),
    "unary, one at a time": (_one_by_one, None, {}),
    "unary, in a session": (_in_session, None, {}),
    "unary, no deadline": (_together, None, {"timeout": None}),
    "unary, processor without hooks": (_together, _NoHook, {}),
    "unary, processor with scope": (_together, _Scope, {}),
    "unary, processor with both hooks": (_together, _Hooks, {}),
    "unary, OpenTelemetry, not sampled": (_together, _opentelemetry(False), {}),
    "unary, OpenTelemetry, sampled": (_together, _opentelemetry(True), {}),
    "unary, OpenTracing, not sampled": (_together, _opentracing(False), {}),
    "unary, OpenTracing, sampled": (_together, _opentracing(True), {}),
    "stream": (_stream, None, {}),
    "channel": (_channel, None, {}),
}


async def main(mode: str, calls: int) -> None:
    """Make so many calls, items or round trips."""
    run, processor, options = MODES[mode]
    server = Server("127.0.0.1:0", processor_list=[processor()] if processor else [])

    @server.register
    async def add(a: int, b: int) -> int:
        return a + b

    @server.register
    async def numbers(count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    @server.register
    async def pings(channel: ServerChannel) -> None:
        async for body in channel:
            await channel.write(body)

    async with server:
        address = str(server.addresses[0])
        processors = [processor()] if processor else []
        async with Client(address, processor_list=processors, **options) as client:
            await run(client, calls)


if __name__ == "__main__":
    gc.disable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], int(sys.argv[2])))
