"""The fixed program whose instructions are counted: ``python -m bench.guard_program MODE CALLS``.

Server and client share one process and one loop, so that one count has both and nothing waits on
another process. Garbage collection is off, because the moment at which it runs depends on all
earlier allocations.
"""

import asyncio
import gc
import itertools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractContextManager, AsyncExitStack
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, TypeVarTuple

import uvloop

from rap.call import Call, Request, Response
from rap.client import Channel, Client
from rap.clock import SystemClock
from rap.processor import BaseProcessor
from rap.processor.metrics.prometheus import PrometheusProcessor
from rap.server import Channel as ServerChannel
from rap.server import Server
from rap.server.middleware import BaseConnMiddleware, BaseMsgMiddleware

__all__ = ["MODES"]

_IN_FLIGHT = 64
_CHANNELS = 20
_SLOWDOWN = 50.0

Ts = TypeVarTuple("Ts")


class _Frozen(SystemClock):
    """Time stands still: under callgrind it would run fifty times as fast as on the machine.

    The server would find itself overloaded, and look at its turns far more often than it does.
    """

    monotonic = itertools.repeat(SystemClock.monotonic()).__next__


class _SlowLoop(uvloop.Loop):
    """A loop whose timers fire as rarely among the calls as they do without callgrind."""

    def time(self) -> float:
        now: float = super().time()
        return now / _SLOWDOWN

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle: asyncio.TimerHandle = super().call_later(
            delay * _SLOWDOWN, callback, *args, context=context
        )
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_later(when - self.time(), callback, *args, context=context)


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


class _Admit(BaseConnMiddleware):
    async def dispatch(self, conn: Any) -> None:
        await self.call_next(conn)


class _Pass(BaseMsgMiddleware):
    async def dispatch(
        self, request: Request, call_id: int, func: Any, param: Any
    ) -> tuple[int, Any]:
        return await self.call_next(request, call_id, func, param)


def _opentelemetry(sampled: bool) -> Callable[[], BaseProcessor]:
    """Return a function that creates a processor; its spans are not exported. `False`: no spans."""

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


async def _client_stream(client: Client, calls: int) -> None:
    @client.register()
    async def total(numbers: Iterable[int] | AsyncIterator[int]) -> int: ...  # type: ignore[empty-body]

    await total(iter(range(calls)))


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


@dataclass(frozen=True)
class Mode:
    """A kind of call to measure.

    Args:
        run: Function that makes the calls.
        processor: Function that creates the processor of each side.
        middleware: Middleware of the server.
        options: Options of the client.
        servers: Number of servers.
    """

    run: Run = _together
    processor: Callable[[], BaseProcessor] | None = None
    middleware: type[BaseMsgMiddleware | BaseConnMiddleware] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    servers: int = 1


MODES = {
    "unary": Mode(),
    "unary, one at a time": Mode(_one_by_one),
    "unary, in a session": Mode(_in_session),
    "unary, no deadline": Mode(options={"timeout": None}),
    "unary, processor without hooks": Mode(processor=_NoHook),
    "unary, processor with scope": Mode(processor=_Scope),
    "unary, processor with both hooks": Mode(processor=_Hooks),
    "unary, metrics": Mode(processor=PrometheusProcessor),
    "unary, OpenTelemetry, not sampled": Mode(processor=_opentelemetry(False)),
    "unary, OpenTelemetry, sampled": Mode(processor=_opentelemetry(True)),
    "unary, OpenTracing, not sampled": Mode(processor=_opentracing(False)),
    "unary, OpenTracing, sampled": Mode(processor=_opentracing(True)),
    "unary, connection middleware": Mode(middleware=_Admit),
    "unary, message middleware": Mode(middleware=_Pass),
    "unary, three servers": Mode(servers=3),
    "stream": Mode(_stream),
    "client stream": Mode(_client_stream),
    "channel": Mode(_channel),
}


def _server(mode: Mode) -> Server:
    server = Server(
        "127.0.0.1:0",
        processor_list=[mode.processor()] if mode.processor else [],
        middleware_list=[mode.middleware()] if mode.middleware else [],
        clock=_Frozen(),
    )

    @server.register
    async def add(a: int, b: int) -> int:
        return a + b

    @server.register
    async def numbers(count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    @server.register
    async def total(numbers: AsyncIterator[int]) -> int:
        found = 0
        async for number in numbers:
            found += number
        return found

    @server.register
    async def pings(channel: ServerChannel) -> None:
        async for body in channel:
            await channel.write(body)

    return server


async def main(name: str, calls: int) -> None:
    """Make so many calls, items or round trips."""
    mode = MODES[name]
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(_server(mode)) for _ in range(mode.servers)]
        processors = [mode.processor()] if mode.processor else []
        addresses = [str(server.addresses[0]) for server in servers]
        client = Client(addresses, processor_list=processors, clock=_Frozen(), **mode.options)
        await stack.enter_async_context(client)
        await mode.run(client, calls)


if __name__ == "__main__":
    gc.disable()
    with asyncio.Runner(loop_factory=_SlowLoop) as runner:
        runner.run(main(sys.argv[1], int(sys.argv[2])))
