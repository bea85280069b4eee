"""The errors that a caller sees: always a `CallError` with the code that was sent."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rap import context
from rap.client import Channel, Client
from rap.errors import (
    CallError,
    Cancelled,
    Code,
    HandlerError,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
)
from rap.server import Channel as ServerChannel
from rap.server import Server
from tests.loopback import calling, serving, within


class OddError(Exception):
    """A user's exception whose text cannot be made."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class AppError(Exception):
    """A user's exception."""


def named(name: str) -> Exception:
    """Return an exception of a class with any name."""
    kind: type[Exception] = type(name, (Exception,), {})
    return kind("boom")


RAISED: dict[str, BaseException] = {
    "value": ValueError("bad"),
    "key": KeyError("k"),
    "zero": ZeroDivisionError("by zero"),
    "app": AppError("app"),
    "eval": named("eval"),
    "system": named("os.system"),
    "unicode": UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
    "group": ExceptionGroup("many", [ValueError("one")]),
    "odd": OddError("a", "b"),
    "surrogate": ValueError(os.fsdecode(b"\xff")),
    "long": ValueError("\N{SNOWMAN}" * 100_000),
    "code": CallError("own", code=Code.ABORTED, details={"retry": 3}),
    "denied": PermissionDenied("no"),
    "object": CallError("with an object", code=Code.ABORTED, details={"x": object()}),
    "large": CallError("with much", code=Code.ABORTED, details={"x": "y" * 100_000}),
    "many": CallError("with many", code=Code.ABORTED, details={"x": [0] * 1000}),
    "keys": CallError("with a key", code=Code.ABORTED, details={"x": {1: 2}}),
    "cancelled": asyncio.CancelledError(),
}


async def fail(name: str) -> None:
    raise RAISED[name]


def fail_in_thread(name: str) -> None:
    raise RAISED[name]


def stop() -> int:
    raise StopIteration(3)


async def fine() -> int:
    return 1


async def unsendable() -> Any:
    return object()


async def lying() -> int:
    return "text"  # type: ignore[return-value]  # the mistake


async def size(data: bytes) -> int:
    return len(data)


async def blob(n: int) -> bytes:
    return bytes(n)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    functions: list[Any] = [fail, fail_in_thread, stop, fine, unsendable, lying, size, blob]
    async with serving(*functions, max_message=100_000) as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with calling(server) as client:
        yield client


async def failure_of(client: Client, name: str, function: str = "fail") -> CallError:
    with pytest.raises(CallError) as caught:
        await within(client.raw_call(function, name))
    assert await client.raw_call("fine") == 1
    return caught.value


@pytest.mark.parametrize("function", ["fail", "fail_in_thread"])
@pytest.mark.parametrize("name", ["value", "key", "zero"])
async def test_builtin_errors_arrive_as_their_type(
    client: Client, name: str, function: str
) -> None:
    error = await failure_of(client, name, function)
    assert isinstance(error, type(RAISED[name]))
    assert isinstance(error, HandlerError)
    assert error.code is Code.UNKNOWN
    assert error.remote
    assert error.message == RAISED[name].args[0]
    assert error.details == {"type": type(RAISED[name]).__name__}


@pytest.mark.parametrize("name", ["app", "eval", "system", "group"])
async def test_other_errors_arrive_as_handler_errors_with_the_name(
    client: Client, name: str
) -> None:
    error = await failure_of(client, name)
    assert type(error) is HandlerError
    assert error.details["type"] == type(RAISED[name]).__name__


class Quit(BaseException):
    """Not an `Exception`, but it ends a function, as in pytest and gevent."""


def quit_plain(kind: str) -> int:
    raise {"quit": Quit, "exit": GeneratorExit}[kind]("given up")


async def quit_async(kind: str) -> int:
    return quit_plain(kind)


async def quit_in_items(kind: str) -> AsyncIterator[int]:
    yield 1
    quit_plain(kind)


async def quit_in_channel(channel: ServerChannel) -> None:
    quit_plain(await channel.read_body())


@pytest.mark.parametrize("kind", ["quit", "exit"])
async def test_a_base_exception_fails_the_call_too(kind: str) -> None:
    async with serving(fine, quit_plain, quit_async, quit_in_items, quit_in_channel) as server:
        server.register(quit_plain, "inline", inline=True)
        async with calling(server, timeout=None) as client:

            @client.register("quit_in_channel")
            async def through_a_channel(channel: Channel) -> None:
                await channel.write(kind)
                await channel.read()

            async def items() -> None:
                async for _ in client.iterator_call("quit_in_items", kind):
                    pass

            for name in ("quit_plain", "quit_async", "inline"):
                error = await failure_of(client, kind, name)
                assert (type(error), error.message) == (HandlerError, "given up")
            for call in (items(), through_a_channel()):
                with pytest.raises(HandlerError, match="given up"):
                    await within(call)
            assert await client.raw_call("fine") == 1


async def test_own_errors_arrive_as_their_type_where_the_client_knows_them(client: Client) -> None:
    client.load_exception([AppError])
    error = await failure_of(client, "app")
    assert isinstance(error, AppError)
    assert isinstance(error, HandlerError)


@pytest.mark.parametrize("kind", [int, "AppError", KeyboardInterrupt])
def test_only_exceptions_can_be_loaded(kind: Any) -> None:
    with pytest.raises(TypeError, match="load_exception takes exception classes"):
        Client().load_exception([kind])


class Picky(Exception):
    """Cannot be made of one message."""

    def __new__(cls, code: int, reason: str) -> "Picky":
        return super().__new__(cls, code, reason)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Picky, r"Picky.* cannot be made of one message"),
        (ExceptionGroup, r"ExceptionGroup.* cannot be made of one message"),
        (HandlerError, r"HandlerError.* cannot be made of one message"),
        (StopIteration, r"StopIteration.* would end the caller's iteration"),
        (StopAsyncIteration, r"StopAsyncIteration.* would end the caller's iteration"),
    ],
)
def test_a_type_that_no_error_of_a_call_can_have_is_refused_when_it_is_loaded(
    kind: Any, why: str
) -> None:
    client = Client()
    with pytest.raises(TypeError, match=f"load_exception: .*{why}"):
        client.load_exception([AppError, kind])
    assert client._types.get("AppError") is HandlerError  # all or none


async def test_a_call_error_of_the_handler_keeps_code_and_details(client: Client) -> None:
    error = await failure_of(client, "code")
    assert (error.code, error.message, error.details) == (Code.ABORTED, "own", {"retry": 3})
    assert isinstance(await failure_of(client, "denied"), PermissionDenied)


@pytest.mark.parametrize("name", ["odd", "surrogate", "long"])
async def test_any_text_of_an_error_becomes_an_answer(client: Client, name: str) -> None:
    error = await failure_of(client, name)
    assert error.code is Code.UNKNOWN
    assert len(error.message.encode()) <= 4096


@pytest.mark.parametrize("name", ["object", "large", "many", "keys"])
async def test_details_that_cannot_be_sent_are_left_out(client: Client, name: str) -> None:
    error = await failure_of(client, name)
    assert error.code is Code.ABORTED
    assert error.details == {}
    assert "details that cannot be sent" in error.message


async def test_headers_and_trailers_with_many_values_hide_no_error() -> None:
    async def noted() -> None:
        context.set_header("h", [0] * 450)
        context.set_trailer("t", [0] * 450)
        raise CallError("denied", code=Code.ABORTED, details={"x": [0] * 500})

    async with serving(noted) as server, calling(server) as client:
        with pytest.raises(CallError) as caught:
            await within(client.raw_call("noted"))
    error = caught.value
    assert (error.code, error.message, error.details) == (
        Code.ABORTED,
        "denied",
        {"x": [0] * 500},
    )


async def test_a_handler_that_cancels_itself_fails_the_call(client: Client) -> None:
    assert isinstance(await failure_of(client, "cancelled"), Cancelled)


async def test_a_function_in_a_thread_that_raises_stop_iteration_fails_the_call(
    client: Client,
) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await within(client.raw_call("stop"))


async def test_tracebacks_are_sent_only_by_a_server_in_debug_mode(client: Client) -> None:
    assert "traceback" not in (await failure_of(client, "value")).details
    async with serving(fail, fine, debug=True) as server, calling(server) as other:
        error = await failure_of(other, "value")
        assert "in fail" in error.details["traceback"]
        error = await failure_of(other, "surrogate")
        assert "ValueError" in error.details["traceback"]


@pytest.mark.parametrize("function", ["unsendable", "lying"])
async def test_a_result_that_cannot_be_sent_leaves_the_connection_usable(
    client: Client, function: str
) -> None:
    with pytest.raises(CallError, match=r"return value") as caught:
        await client.raw_call(function)
    assert caught.value.code is Code.INTERNAL
    assert await client.raw_call("fine") == 1
    assert len(client.cluster.ready) == 1


async def test_arguments_that_cannot_be_sent_are_refused_here(client: Client) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await client.raw_call("size", object())
    assert not caught.value.remote


async def test_a_request_over_the_servers_limit_is_refused_before_it_is_sent(
    client: Client,
) -> None:
    with pytest.raises(ResourceExhausted, match=r"max_message is 100000") as caught:
        await client.raw_call("size", bytes(100_001))
    assert not caught.value.remote
    assert await client.raw_call("size", bytes(99_000)) == 99_000


async def test_an_answer_over_the_clients_limit_fails_its_call_only(server: Server) -> None:
    async with calling(server, max_message=2000) as client:
        with pytest.raises(ResourceExhausted, match=r"max_message is 2000") as caught:
            await client.raw_call("blob", 3000)
        assert caught.value.remote
        assert await client.raw_call("fine") == 1


async def test_own_limits_and_errors_of_users_harm_no_node(client: Client) -> None:
    for _ in range(10):
        await failure_of(client, "value")
        with pytest.raises(ResourceExhausted):
            await client.raw_call("size", bytes(100_001))
    node = client.cluster.ready[0]
    assert node.breaker.state.value == "closed"
    assert node.stats.ewma < 5.0
