"""Exceptions of handlers that are no errors of rap: who is told of them, and what goes on."""

import asyncio
import logging
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rap.call import Call, Request
from rap.channel import Channel
from rap.client import Client
from rap.errors import CallError, HandlerError, NotFound
from rap.processor import BaseProcessor
from rap.server.middleware import AccessMsgMiddleware, BaseConnMiddleware, BaseMsgMiddleware
from rap.transport import Connection
from tests.loopback import calling, inside, serving, within

ROOT = Path(__file__).parents[2]
EXITS = [SystemExit, KeyboardInterrupt, GeneratorExit]


def leave(kind: str) -> int:
    if kind == "SystemExit":
        sys.exit("a bad argument")
    raise {each.__name__: each for each in EXITS}[kind]("a bad argument")


async def fine() -> int:
    return 1


async def leave_async(kind: str) -> int:
    await asyncio.sleep(0)
    return leave(kind)


async def leave_at_once(kind: str) -> int:
    return leave(kind)


async def leave_in_items(kind: str) -> AsyncIterator[int]:
    yield 1
    leave(kind)


def leave_in_plain_items(kind: str) -> Iterator[int]:
    yield 1
    leave(kind)


async def leave_in_channel(channel: Channel) -> None:
    leave(await channel.read_body())


async def leave_reading(rows: AsyncIterator[str]) -> int:
    async for row in rows:
        leave(row)
    return 0


def leave_reading_in_thread(rows: Iterator[str]) -> int:
    for row in rows:
        leave(row)
    return 0


async def leave_answering(rows: AsyncIterator[str]) -> AsyncIterator[int]:
    async for row in rows:
        leave(row)
        yield 1


async def send_rows(rows: AsyncIterator[str]) -> int:
    raise AssertionError("it runs on the server")


async def exchange(rows: AsyncIterator[str]) -> AsyncIterator[int]:
    raise AssertionError("it runs on the server")
    yield 1


async def called(client: Client, name: str, kind: str) -> None:
    if "channel" in name:

        @client.register(name)
        async def talk(channel: Channel) -> None:
            await channel.write(kind)
            await channel.read()

        await talk()
    elif "answering" in name:
        stub: Any = client.register(name)(exchange)
        _ = [item async for item in stub([kind])]
    elif "reading" in name:
        stub = client.register(name)(send_rows)
        await stub([kind])
    elif "items" in name:
        items = client.iterator_call(name, kind)
        if kind != "GeneratorExit":  # which also tells the generator that its items are not wanted
            assert await anext(items) == 1
        _ = [item async for item in items]
    else:
        await client.raw_call(name, kind)


@pytest.mark.parametrize("kind", [each.__name__ for each in EXITS])
@pytest.mark.parametrize(
    "name",
    [
        "leave",
        "inline",
        "leave_async",
        "leave_at_once",
        "leave_in_items",
        "leave_in_plain_items",
        "inline_items",
        "leave_in_channel",
        "leave_reading",
        "leave_reading_in_thread",
        "leave_answering",
    ],
)
async def test_a_handler_that_wants_to_end_the_process_ends_its_call_only(
    name: str, kind: str
) -> None:
    functions: list[Any] = [leave, leave_async, leave_at_once, leave_in_items, leave_in_plain_items]
    functions += [leave_in_channel, leave_reading, leave_reading_in_thread, leave_answering]
    async with serving(*functions, fine) as server:
        server.register(leave, "inline", inline=True)
        server.register(leave_in_plain_items, "inline_items", inline=True)
        async with calling(server) as client, calling(server) as other:
            with pytest.raises(HandlerError) as caught:
                await within(called(client, name, kind))
            assert str(caught.value) == f"{kind}: a bad argument"
            assert await client.raw_call("fine") == await other.raw_call("fine") == 1


class Leaving(BaseMsgMiddleware):
    """Wants to end the process in one of its hooks."""

    def __init__(self, hook: str) -> None:
        self.hook = hook

    async def dispatch(self, *arguments: Any) -> Any:
        if self.hook == "dispatch":
            sys.exit("a bad argument")
        return await self.call_next(*arguments)

    def answered(self, answer: Any) -> None:
        if self.hook == "answered":
            sys.exit("a bad argument")


class LeavingProcessor(BaseProcessor):
    """Does the same."""

    def __init__(self, hook: str) -> None:
        self.hook = hook

    async def process_request(self, request: Request) -> Request:
        if self.hook == "request":
            sys.exit("a bad argument")
        return request

    def process_error(self, call: Call, failure: Any) -> Any:
        if self.hook == "error":
            sys.exit("a bad argument")
        return failure


def forbid(call: Call) -> bool:
    sys.exit("a bad argument")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"middleware_list": [Leaving("dispatch")]}, "SystemExit: a bad argument"),
        ({"middleware_list": [Leaving("answered")]}, "HandlerError: no"),
        ({"processor_list": [LeavingProcessor("request")]}, "SystemExit: a bad argument"),
        ({"processor_list": [LeavingProcessor("error")]}, "a processor failed"),
        ({"allow": forbid}, "SystemExit: a bad argument"),
    ],
)
async def test_what_runs_around_a_handler_cannot_end_the_process(
    options: dict[str, Any], error: str
) -> None:
    async def fails() -> None:
        raise HandlerError("no", details={"type": "HandlerError"}) if "no" in error else Exception

    allow = options.pop("allow", None)
    async with serving(**options) as server:
        server.register(fails, allow=allow)
        async with calling(server) as client:
            for _ in range(2):
                with pytest.raises(CallError) as caught:
                    await within(client.raw_call("fails"))
                assert error.removeprefix("HandlerError: ") in str(caught.value)


class LeavingAtDoor(BaseConnMiddleware):
    """Wants to end the process for the first connection."""

    seen = 0

    async def dispatch(self, conn: Connection) -> None:
        self.seen += 1
        if self.seen == 1:
            sys.exit("a bad address")
        await self.call_next(conn)


async def test_connection_middleware_that_wants_to_end_the_process_ends_the_connection() -> None:
    async with inside(fine, middleware_list=[LeavingAtDoor()]) as client:
        assert await within(client.raw_call("fine")) == 1


PROGRAM = """
import asyncio, signal, sys, time
from rap.server import Server

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored

server = Server("127.0.0.1:0", close_timeout=0.1)

def block() -> None:
    print("began", flush=True)
    time.sleep(600)

server.register(block, inline=True)

@server.register
async def wait() -> None:
    print("began", flush=True)
    await asyncio.sleep(600)

@server.register
async def fail() -> None:
    raise LookupError("the reason")

@server.register
def leave() -> None:
    sys.exit(3)

async def main() -> None:
    async with server:
        print(server.addresses[0], flush=True)
        await (server.serve_forever() if "forever" in sys.argv else asyncio.sleep(600))

if "loop" in sys.argv:
    asyncio.new_event_loop().run_until_complete(main())
else:
    asyncio.run(main())
"""


class Program:
    """A server process."""

    def __init__(self, path: Path, *arguments: str) -> None:
        path.write_text(PROGRAM)
        self.process = subprocess.Popen(
            [sys.executable, str(path), *arguments],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.address = self.line()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> tuple[int, str]:
        """Return exit status and standard error."""
        _, err = self.process.communicate(timeout=20)
        return self.process.returncode, err


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    started: list[Program] = []

    def start(*arguments: str) -> Program:
        started.append(Program(tmp_path / "server.py", *arguments))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


async def test_a_server_shows_what_its_handlers_raise_without_any_set_up(
    program: Callable[..., Program],
) -> None:
    server = program("forever")
    async with Client(server.address) as client:
        with pytest.raises(LookupError):
            await within(client.raw_call("fail"))
        with pytest.raises(HandlerError, match="SystemExit: 3"):
            await within(client.raw_call("leave"))
    server.process.send_signal(signal.SIGTERM)
    status, err = await asyncio.to_thread(server.end)
    assert status == 0
    assert err.count('raise LookupError("the reason")') == 1
    assert err.count("/default/fail raised LookupError('the reason')") == 1
    assert "/default/leave raised SystemExit(3)" in err


@pytest.mark.parametrize(
    ("how", "function", "signals"),
    [
        ("run", "block", 2),
        ("run", "wait", 1),
        ("loop", "block", 1),
        ("loop", "wait", 1),
    ],
)
async def test_ctrl_c_ends_a_server_even_if_a_handler_runs(
    program: Callable[..., Program], how: str, function: str, signals: int
) -> None:
    server = program(how)
    async with Client(server.address) as client:
        call = asyncio.create_task(client.raw_call(function))
        assert await asyncio.to_thread(server.line) == "began"
        server.process.send_signal(signal.SIGINT)
        if signals == 2:
            with pytest.raises(CallError):
                await within(asyncio.shield(call))
            server.process.send_signal(signal.SIGINT)
        status, err = await asyncio.to_thread(server.end)
        with pytest.raises(CallError):
            await within(call)
    assert status == -signal.SIGINT
    assert "KeyboardInterrupt" in err


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [
        (each.levelname, each.getMessage())
        for each in caplog.records
        if each.name == "rap.server" and each.exc_info
    ]


async def fail(kind: str) -> None:
    if kind == "call":
        raise NotFound("no such thing")
    raise LookupError("no such thing")


async def fail_in_items(kind: str) -> AsyncIterator[int]:
    yield 1
    await fail(kind)


async def fail_in_channel(channel: Channel) -> None:
    await fail(await channel.read_body())


@pytest.mark.parametrize("name", ["fail", "fail_in_items", "fail_in_channel"])
async def test_an_exception_of_a_handler_is_logged_once_and_an_error_of_a_call_is_not(
    caplog: pytest.LogCaptureFixture, name: str
) -> None:
    async with inside(fail, fail_in_items, fail_in_channel) as client:
        for kind in ("call", "other"):
            with pytest.raises(CallError):
                await within(called(client, name, kind))
    text = f"/default/{name} raised LookupError('no such thing')"
    assert logged(caplog) == [("ERROR", text)]


@pytest.mark.parametrize(
    ("level", "expected"), [(logging.ERROR, "ERROR"), (logging.WARNING, "WARNING"), (None, None)]
)
async def test_an_option_of_the_access_log_sets_the_level_of_exceptions(
    caplog: pytest.LogCaptureFixture, level: int | None, expected: str | None
) -> None:
    access = AccessMsgMiddleware(exception_level=level)
    async with inside(fail, fail_in_items, middleware_list=[access]) as client:
        for name in ("fail", "fail_in_items"):
            with pytest.raises(LookupError):
                await within(called(client, name, "other"))
    assert [name for name, _ in logged(caplog)] == [expected] * 2 * (expected is not None)


async def test_a_debugging_server_shows_its_lines_below_those_of_the_client() -> None:
    async with inside(fail, debug=True) as client:
        with pytest.raises(LookupError) as caught:
            await client.raw_call("fail", "other")
    (note,) = caught.value.__notes__
    assert note.startswith("On the server:\n  Traceback (most recent call last):\n")
    assert 'raise LookupError("no such thing")' in note
