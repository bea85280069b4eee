"""A server and a client on loopback, for tests of the whole path."""

import asyncio
import gc
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any, TypeVar

from rap.client import Client
from rap.errors import DeadlineExceeded
from rap.server import Server
from rap.testing import TestClient
from tests.fake_clock import FakeClock

__all__ = [
    "LOOPBACK",
    "PATIENCE",
    "Unnoticed",
    "calling",
    "eventually",
    "expired",
    "inside",
    "passing",
    "serving",
    "swallowing",
    "until",
    "within",
]

T = TypeVar("T")

LOOPBACK = "127.0.0.1:0"
PATIENCE = 30.0  # seconds after which what a test waits for is not coming, on a busy machine too


@asynccontextmanager
async def serving(*functions: Callable[..., Any], **options: Any) -> AsyncIterator[Server]:
    """Run a server on a free port; by default it does not wait long for clients at its end."""
    options = {"host": LOOPBACK, "close_timeout": 0.2, **options}
    server = Server(options.pop("host"), **options)
    for function in functions:
        server.register(function)
    async with server:
        yield server


def inside(*functions: Callable[..., Any], **options: Any) -> TestClient:
    """Return what runs a server inside the process and gives a client of it."""
    server = Server(**options)
    for function in functions:
        server.register(function)
    return TestClient(server)


@asynccontextmanager
async def calling(*servers: Server, **options: Any) -> AsyncIterator[Client]:
    """Connect a client to servers."""
    hosts = [address for server in servers for address in server.addresses]
    async with Client(hosts, **options) as client:
        yield client


def _pauses() -> Iterator[float]:
    """Yield the seconds between two looks: what a few turns of the loop bring is not waited for."""
    return itertools.chain(itertools.repeat(0.0, 20), itertools.repeat(0.002))


async def eventually(holds: Callable[[], object], patience: float = PATIENCE) -> None:
    """Return as soon as a condition holds; fail when it does not within `patience` seconds."""
    async with asyncio.timeout(patience):
        for pause in _pauses():
            if holds():
                return
            await asyncio.sleep(pause)


async def until(ask: Callable[[], Awaitable[T]], patience: float = PATIENCE) -> T:
    """Ask again and again; return the first answer that is true, or fail like `eventually`."""
    async with asyncio.timeout(patience):
        for pause in _pauses():
            if answer := await ask():
                break
            await asyncio.sleep(pause)
    return answer


async def passing(clock: FakeClock, seconds: float, holds: Callable[[], object]) -> None:
    """Let time pass, so many seconds at a time, until a condition holds.

    What each step begins has a moment to take effect: else a peer would seem not to answer.
    """
    async with asyncio.timeout(PATIENCE):
        while not holds():
            clock.advance(seconds)
            for pause in (*[0.0] * 20, 0.002):
                await asyncio.sleep(pause)


async def within(awaitable: Awaitable[T]) -> T:
    """Return what an awaitable gives; fail when that takes too long."""
    async with asyncio.timeout(PATIENCE):
        return await awaitable


async def expired(
    call: Awaitable[Any], clock: FakeClock, seconds: float, *, once: Callable[[], object]
) -> DeadlineExceeded:
    """Let so many seconds pass for a call once a condition holds; return the error of the call.

    A real deadline may pass before a busy machine has begun the call.
    """
    running = asyncio.ensure_future(call)
    await eventually(lambda: running.done() or once())
    clock.advance(seconds)
    try:
        await within(running)
    except DeadlineExceeded as exc:
        return exc
    raise AssertionError("the call was answered although its deadline had passed")


@contextmanager
def swallowing(host: str, port: int = 0) -> Iterator[int]:
    """Listen with a full backlog, so that further connections get no answer; yield the port."""
    with socket.socket() as full, ExitStack() as waiting:
        full.bind((host, port))
        full.listen(0)
        port = full.getsockname()[1]
        for _ in range(4):
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex((host, port))
        yield port


class Unnoticed:
    """Collects what a loop is told of exceptions that nobody looked at, and of lost tasks."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._found: list[str] = []
        self._before = asyncio.all_tasks(loop)
        loop.set_exception_handler(lambda _, context: self._found.append(repr(context)))

    async def check(self) -> None:
        """Fail if there is anything."""
        gc.collect(1)
        await asyncio.sleep(0)
        for _ in range(100):  # tasks that are just ending
            left = asyncio.all_tasks(self._loop) - self._before - {asyncio.current_task()}
            if not left:
                break
            await asyncio.sleep(0.001)
        assert not left, [repr(task) for task in left]
        assert not self._found, self._found
