"""The access log of a server: one line for each call of any stream type."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from rap.client import Client
from rap.errors import CallError, ConnectionClosed, PermissionDenied, Unimplemented
from rap.server import Channel, Server
from rap.server.access_log import AccessLog
from rap.server.middleware import AccessMsgMiddleware
from tests.loopback import calling, eventually, serving
from tests.server.middleware.test_access import Recording, lines

LOGGER = "rap.server.access"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def access(caplog: pytest.LogCaptureFixture) -> Iterator[list[Any]]:
    """The records of the access log, as they come."""
    handler = Recording()
    logger = logging.getLogger(LOGGER)
    caplog.set_level(logging.INFO, LOGGER)
    logger.addHandler(handler)
    yield handler.records
    logger.removeHandler(handler)


async def add(a: int, b: int = 1) -> int:
    return a + b


def lambda_inline(a: int) -> int:
    return a


def double(a: int) -> int:
    return 2 * a


async def fail(kind: str) -> None:
    raise {"own": LookupError("x"), "denied": PermissionDenied("no")}[kind]


async def count(n: int) -> AsyncIterator[int]:
    for number in range(n):
        yield number
    if n > 5:
        raise LookupError("too many")


async def total(rows: AsyncIterator[int]) -> int:
    return sum([row async for row in rows])


async def echo(channel: Channel) -> None:
    async for body in channel:
        await channel.write(body)


async def hang() -> None:
    await asyncio.Event().wait()


async def hang_in_items() -> AsyncIterator[int]:
    yield 1
    await asyncio.Event().wait()


FUNCTIONS = (add, double, fail, count, total, echo, hang, hang_in_items)


async def line_of(access: list[Any]) -> dict[str, Any]:
    await eventually(lambda: access)
    (found,) = lines(access)
    assert isinstance(found, dict)
    return found


async def call_add(client: Client) -> None:
    await client.raw_call("add", 1, header={"traceparent": f"00-{TRACE}-{'a' * 16}-01"})


async def call_double(client: Client) -> None:
    await client.raw_call("double", 1)


async def call_inline(client: Client) -> None:
    await client.raw_call("inline", 1)


async def call_count(client: Client) -> None:
    assert [each async for each in client.iterator_call("count", 3)] == [0, 1, 2]


async def call_total(client: Client) -> None:
    async def rows() -> AsyncIterator[int]:
        yield 1

    @client.register
    async def total(rows: AsyncIterator[int]) -> int:
        raise NotImplementedError

    assert await total(rows()) == 1


async def call_echo(client: Client) -> None:
    async with client.channel("echo") as channel:
        await channel.write("hello")
        assert await channel.read_body() == "hello"


@pytest.mark.parametrize(
    "call", [call_add, call_double, call_inline, call_count, call_total, call_echo]
)
async def test_a_call_of_any_stream_type_is_one_line(
    access: list[Any], call: Callable[[Client], Awaitable[None]]
) -> None:
    async with serving(*FUNCTIONS, access_log=True) as server:
        server.register(lambda_inline, "inline", inline=True)
        async with calling(server) as client:
            await call(client)
            fields = await line_of(access)
            peer = str(next(iter(server.connection_manager.connections)).peer)
    name = call.__name__.removeprefix("call_")
    assert 0 < fields.pop("duration_ms") < 10_000
    trace = {"trace_id": TRACE} if call is call_add else {}
    assert fields == {"method": f"/default/{name}", "peer": peer, "status": "OK", **trace}
    (record,) = access
    assert (record.name, record.levelno) == (LOGGER, logging.INFO)
    assert (record.method, record.code) == (f"/default/{name}", "OK")
    assert record.getMessage().startswith(f"method=/default/{name} peer={peer} status=OK ")


async def fail_own(client: Client) -> None:
    await client.raw_call("fail", "own")


async def fail_denied(client: Client) -> None:
    await client.raw_call("fail", "denied")


async def fail_items(client: Client) -> None:
    async for _ in client.iterator_call("count", 6):
        pass


async def fail_arguments(client: Client) -> None:
    await client.raw_call("add", "one")


async def fail_unknown(client: Client) -> None:
    await client.raw_call("nope")


async def fail_late(client: Client) -> None:
    await client.raw_call("hang", timeout=0.05)


async def fail_kind(client: Client) -> None:
    async with client.channel("add"):
        pass


@pytest.mark.parametrize(
    ("call", "method", "status", "error"),
    [
        (fail_own, "fail", "UNKNOWN", "LookupError"),
        (fail_denied, "fail", "PERMISSION_DENIED", None),
        (fail_items, "count", "UNKNOWN", "LookupError"),
        (fail_arguments, "add", "INVALID_ARGUMENT", None),
        (fail_unknown, "nope", "UNIMPLEMENTED", None),
        (fail_late, "hang", "DEADLINE_EXCEEDED", None),
        (fail_kind, "add", "INVALID_ARGUMENT", None),
    ],
)
async def test_a_call_that_fails_is_one_line_with_its_status(
    access: list[Any],
    call: Callable[[Client], Awaitable[None]],
    method: str,
    status: str,
    error: str | None,
) -> None:
    async with serving(*FUNCTIONS, access_log=True) as server, calling(server) as client:
        with pytest.raises((CallError, LookupError)):
            await call(client)
        await eventually(lambda: not server.connection_manager.open_calls)
        fields = await line_of(access)
    assert fields["method"] == f"/default/{method}"
    assert (fields["status"], fields.get("error")) == (status, error)


@pytest.mark.parametrize("name", ["hang", "hang_in_items"])
async def test_a_call_that_its_client_cancels_is_logged_as_cancelled(
    access: list[Any], name: str
) -> None:
    async with serving(*FUNCTIONS, access_log=True) as server, calling(server) as client:
        if name == "hang":
            task = asyncio.create_task(client.raw_call("hang"))
            await eventually(lambda: server.connection_manager.open_calls)
            task.cancel()
        else:
            items = client.iterator_call("hang_in_items")
            assert await anext(items) == 1
            await items.aclose()
        fields = await line_of(access)
    assert (fields["method"], fields["status"]) == (f"/default/{name}", "CANCELLED")


async def test_a_call_whose_connection_is_lost_is_logged(access: list[Any]) -> None:
    async with serving(*FUNCTIONS, access_log=True) as server, calling(server) as client:
        task = asyncio.create_task(client.raw_call("hang"))
        await eventually(lambda: server.connection_manager.open_calls)
        (conn,) = server.connection_manager.connections
        conn.abort(ConnectionClosed("test"))
        with pytest.raises(CallError):
            await task
        fields = await line_of(access)
    assert (fields["method"], fields["status"]) == ("/default/hang", "CANCELLED")


async def test_a_call_that_a_limit_refuses_is_logged(access: list[Any]) -> None:
    async with serving(*FUNCTIONS, access_log=True, max_elements=3) as server:
        async with calling(server) as client:
            with pytest.raises(CallError):
                await client.raw_call("add", [1, 2, 3, 4])
            fields = await line_of(access)
    assert (fields["method"], fields["status"]) == ("/default/add", "INVALID_ARGUMENT")


async def test_a_name_that_a_client_chooses_cannot_forge_a_line(access: list[Any]) -> None:
    forged = "x status=OK\nmethod=/default/add \x1b[31m" + "y" * 1000
    async with serving(*FUNCTIONS, access_log=True) as server, calling(server) as client:
        with pytest.raises(Unimplemented):
            await client.raw_call(forged)
        await line_of(access)
    (record,) = access
    text = record.getMessage()
    assert text.isprintable()
    assert len(text) < 400
    assert text.split(" ")[0].startswith("method=/default/x%20status=OK%20method=")
    assert [each.partition("=")[0] for each in text.split(" ")] == [
        "method",
        "peer",
        "status",
        "duration_ms",
    ]


async def test_calls_that_middleware_has_logged_are_not_logged_twice(access: list[Any]) -> None:
    middleware = AccessMsgMiddleware()
    async with serving(*FUNCTIONS, access_log=True, middleware_list=[middleware]) as server:
        async with calling(server) as client:
            await call_add(client)
            await call_count(client)
            with pytest.raises(Unimplemented):
                await client.raw_call("nope")
            await eventually(lambda: len(access) == 3)
    found = {each["method"]: each for each in lines(access)}
    assert found.keys() == {"/default/add", "/default/count", "/default/nope"}
    assert found["/default/add"]["request_bytes"] == 2


@pytest.mark.parametrize("options", [{}, {"access_log": False}])
async def test_it_is_off_unless_the_option_turns_it_on(
    access: list[Any], options: dict[str, Any]
) -> None:
    async with serving(*FUNCTIONS, **options) as server, calling(server) as client:
        await call_add(client)
    assert access == []


async def test_a_server_whose_lines_no_logger_keeps_wraps_no_call(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrapped(*_: object) -> Any:
        raise AssertionError("a call is wrapped")

    monkeypatch.setattr(AccessLog, "around", wrapped)
    monkeypatch.setattr(AccessLog, "subscribe", wrapped)
    caplog.set_level(logging.WARNING, LOGGER)
    async with serving(*FUNCTIONS, access_log=True) as server, calling(server) as client:
        await call_add(client)


def test_a_program_that_serves_turns_it_on_and_off() -> None:
    server = Server(access_log=False)
    server.enable_access_log()
    with pytest.raises(ValueError, match="enabled must be True or False"):
        server.enable_access_log("yes")  # type: ignore[arg-type]
