"""What `bench.structure` counts while it runs: walks through the code of rap.

Server and client share one process and the loop of asyncio itself. A step is a call event of
`sys.setprofile` in a function whose code is in ``rap``: a call, or a coroutine or generator that
goes on. The calls of a walk are its steps. Its files are those that the functions are in. Its moves
are the steps in another file than the step before. A walk is done several times, and each figure is
the median.

A context variable tells which side takes a step: it is set before that side is made, and tasks and
callbacks inherit it. In ``both`` a file that both sides enter counts once.

Every walk begins with all that it needs loaded and connected:

a unary call
    From the call of the stub to its answer, over loopback TCP, after calls of the same function.
    Neither side has processors, middleware, a session or a header.

a channel message that has to wait
    The client has written one message that takes nearly all credit of the stream, and the server
    has not read it. The walk begins with the client's next write. When nothing moves any more that
    write must still wait. Then the server reads both messages, one after the other. The walk ends
    when it has the second one and the write has returned.

a server comes
    A client calls a service in ``memory://`` that has one server. The walk begins when a second one
    is started (`Server.create_server`), and is interrupted when nothing moves any more: now the
    client is connected with it. Then the client makes calls. The first one that the second server
    answers is the rest of the walk, those before do not count. So the client's part is everything
    from the registration on, for it knows nothing earlier. The server's part is its start, its
    registration with what the registry does to tell the client, the handshake, and the call.

The concepts of a unary call are the classes whose methods it enters, each where the method is
written, and the functions outside of classes.
"""

import asyncio
import gc
import logging
import platform
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from contextvars import ContextVar, copy_context
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from types import CodeType, FrameType
from typing import Any, NamedTuple, Self

import rap
from rap.client import Channel, Client
from rap.server import Channel as ServerChannel
from rap.server import Server

__all__ = ["Step", "concepts", "figures", "run"]

_ROUNDS = 5
_WARM = 20  # calls
_QUIET = 0.02  # seconds in which nothing moves
_WINDOW = 64 * 1024  # credit of a stream, the least that is allowed
_BODY = bytes(_WINDOW - 512)  # a message that leaves too little credit for the next
_MANY = 10_000  # calls, one of which comes to a new server

_side: ContextVar[str] = ContextVar("_side", default="")


class Step(NamedTuple):
    """A call.

    Args:
        side: Who makes it.
        code: Of the function.
    """

    side: str
    code: CodeType


Walk = list[Step]


class _Recorder:
    """Notes every step while it is entered.

    Args:
        package: Folder of the code whose steps count.
    """

    def __init__(self, package: Path) -> None:
        self.steps: list[Step] = []
        self._folder = f"{package}/"

    def __enter__(self) -> Self:
        sys.setprofile(self._on_event)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.setprofile(None)

    async def quiet(self) -> None:
        """Return when nothing moves any more."""
        seen = -1
        while seen != len(self.steps):
            seen = len(self.steps)
            await asyncio.sleep(_QUIET)

    def _on_event(self, frame: FrameType, event: str, arg: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(self._folder):
            self.steps.append(Step(_side.get(), frame.f_code))


async def _unary(recorder: _Recorder, stack: AsyncExitStack) -> list[Walk]:
    _side.set("server")
    server = Server("127.0.0.1:0")

    @server.register
    async def add(a: int, b: int) -> int:
        return a + b

    await stack.enter_async_context(server)
    _side.set("client")
    client = await stack.enter_async_context(Client(str(server.addresses[0])))
    stub = client.register()(add)
    walks = []
    for _ in range(_WARM + _ROUNDS):
        start = len(recorder.steps)
        await stub(1, 2)
        walks.append(recorder.steps[start:])
    return walks[_WARM:]


async def _channel(recorder: _Recorder, stack: AsyncExitStack) -> list[Walk]:
    asked, taken = asyncio.Semaphore(0), asyncio.Semaphore(0)
    rounds = _ROUNDS + 1  # the first one warms up
    _side.set("server")
    server = Server("127.0.0.1:0", stream_window=_WINDOW)

    @server.register
    async def take(channel: ServerChannel) -> None:
        for _ in range(2 * rounds):
            await asked.acquire()
            await channel.read_body()
            taken.release()

    await stack.enter_async_context(server)
    _side.set("client")
    client = await stack.enter_async_context(Client(str(server.addresses[0])))
    opened: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def hold(channel: Channel) -> None:
        opened.set_result(channel)
        await over.wait()

    stub: Any = client.register("take")(hold)
    holding = asyncio.create_task(stub())
    channel = await opened
    walks = []
    for _ in range(rounds):
        await channel.write(_BODY)
        await recorder.quiet()
        start = len(recorder.steps)
        writing = asyncio.create_task(channel.write(_BODY))
        await recorder.quiet()
        if writing.done():
            raise RuntimeError("a write beyond the credit did not wait")
        for _ in range(2):
            asked.release()
        for _ in range(2):
            await taken.acquire()
        await writing
        walks.append(recorder.steps[start:])
    over.set()
    await holding
    return walks[1:]


async def _newcomer(recorder: _Recorder, stack: AsyncExitStack) -> list[Walk]:
    rounds = _ROUNDS + 1  # likewise
    return [await _one_newcomer(recorder, number) for number in range(rounds)][1:]


async def _one_newcomer(recorder: _Recorder, number: int) -> Walk:
    registry = f"memory://structure-{number}"

    def make(name: str) -> Server:
        server = Server("127.0.0.1:0", service="structure", registry=registry, drain_delay=0)

        async def who() -> str:
            return name

        server.register(who)
        return server

    async with AsyncExitStack() as stack:
        _side.set("server")
        await stack.enter_async_context(make("first"))
        _side.set("client")
        client = Client(service="structure", registry=registry)
        await stack.enter_async_context(client)

        @client.register()
        async def who() -> str: ...  # type: ignore[empty-body]

        for _ in range(_WARM):
            await who()
        context = copy_context()
        context.run(_side.set, "server")
        second = context.run(make, "second")
        stack.push_async_callback(second.await_closed)
        await recorder.quiet()
        start = len(recorder.steps)
        await asyncio.create_task(second.create_server(), context=context)
        await recorder.quiet()
        walk = recorder.steps[start:]
        for _ in range(_MANY):
            start = len(recorder.steps)
            if await who() == "second":
                return walk + recorder.steps[start:]
    raise RuntimeError("the second server gets no calls")


_WALKS: dict[str, Callable[[_Recorder, AsyncExitStack], Awaitable[list[Walk]]]] = {
    "a unary call": _unary,
    "a channel message that has to wait": _channel,
    "a server comes": _newcomer,
}


def figures(walk: Walk) -> dict[str, int]:
    """Return the calls, files and moves of a walk."""
    files = [step.code.co_filename for step in walk]
    moves = sum(one != other for one, other in pairwise(files))
    return {"calls": len(files), "files": len(set(files)), "moves": moves}


def concepts(walk: Walk, package: Path) -> dict[str, list[str]]:
    """Return the classes and the functions outside of classes that a walk enters."""
    classes: set[str] = set()
    functions: set[str] = set()
    for _, code in walk:
        path = Path(code.co_filename).relative_to(package)
        outer = code.co_qualname.partition(".<locals>")[0]
        name, _, function = outer.rpartition(".")
        (classes if name else functions).add(f"{path}: {name or function}")
    return {"classes": sorted(classes), "functions": sorted(functions)}


def _medians(walks: Sequence[Walk]) -> dict[str, dict[str, int]]:
    found = {}
    for side in ("both", "client", "server"):
        rounds = [figures([step for step in walk if side in ("both", step.side)]) for walk in walks]
        found[side] = {key: median_low([each[key] for each in rounds]) for key in rounds[0]}
    return found


async def _all(package: Path) -> dict[str, list[Walk]]:
    found = {}
    for title, walk in _WALKS.items():
        async with AsyncExitStack() as stack:
            with _Recorder(package) as recorder:
                found[title] = await walk(recorder, stack)
    return found


def run(package: Path) -> dict[str, Any]:
    """Return everything that is counted while it runs.

    Args:
        package: Folder of the `rap` that is meant to run.

    Raises:
        RuntimeError: Another one was imported.
    """
    imported = Path(rap.__file__).resolve().parent
    if imported != package:
        raise RuntimeError(f"meant to measure {package}, but {imported} was imported")
    folder = Path(rap.__file__).parent  # as code objects have it
    logging.getLogger("rap").addHandler(logging.NullHandler())  # servers that leave are the point
    gc.disable()  # or finalizers take steps
    with asyncio.Runner() as runner:
        walks = runner.run(_all(folder))
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "walks": {title: _medians(those) for title, those in walks.items()},
        "rounds": {title: [figures(walk) for walk in those] for title, those in walks.items()},
        "concepts of a unary call": concepts(walks["a unary call"][-1], folder),
    }
