"""Calls that are started: their outcome, their server, and how they are cancelled."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rap.client import Client
from rap.errors import CallError, Code, DeadlineExceeded, InvalidArgument
from rap.server import Server, context
from tests.loopback import calling, eventually, serving, within


class Log:
    """Records what the handlers of a test did."""

    def __init__(self) -> None:
        self.waiting = 0
        self.cancelled = 0


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
async def server(log: Log) -> AsyncIterator[Server]:
    async def add(a: int, b: int) -> int:
        return a + b

    async def wait() -> None:
        log.waiting += 1
        try:
            await asyncio.Event().wait()
        finally:
            log.cancelled += 1

    async def fail() -> None:
        raise ValueError("enough")

    async def count(n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    async def session_id() -> str | None:
        return context.session.id if context.session else None

    async with serving(add, wait, fail, count, session_id) as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with calling(server) as client:
        yield client
        if client.connected is None:
            return
        loads = [node.stats for node in client.cluster.nodes.values()]
        assert [(s.in_flight, s.open_streams) for s in loads] == [(0, 0)] * len(loads)


def stub(client: Client, name: str, **options: Any) -> Any:
    async def add(a: int, b: int) -> int: ...  # type: ignore[empty-body]  # a declaration
    async def wait() -> None: ...
    async def fail() -> None: ...
    async def count(n: int) -> AsyncIterator[int]:
        yield n

    async def session_id() -> str | None: ...

    declared: dict[str, Any] = {f.__name__: f for f in (add, wait, fail, count, session_id)}
    return client.register(**options)(declared[name])


async def test_a_started_call_is_awaited_more_than_once(client: Client) -> None:
    call = stub(client, "add").start(1, b=2)
    assert "open" in repr(call)
    assert await within(call) == 3
    assert await call == 3
    assert call.done()
    assert not call.cancel()
    assert (call.header, call.trailer, call.attempts) == ({}, {}, 1)
    (node,) = client.cluster.nodes.values()
    assert str(call.peer.port) == str(node.endpoint.address).rpartition(":")[2]
    assert repr(call) == "<UnaryCall /default/add answered>"


async def test_calls_start_at_once_and_side_by_side(client: Client, log: Log) -> None:
    calls = [stub(client, "wait").start() for _ in range(3)]
    await eventually(lambda: log.waiting == 3)
    for call in calls:
        assert call.cancel()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in done] == [asyncio.CancelledError] * 3
    assert repr(calls[0]) == "<UnaryCall /default/wait cancelled>"
    await eventually(lambda: log.cancelled == 3)


async def test_a_call_that_is_cancelled_before_it_began_sends_nothing(
    client: Client, log: Log
) -> None:
    call = stub(client, "wait").start()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await client.raw_call("add", 1, 1) == 2
    assert log.waiting == 0
    assert call.peer is None


async def test_cancelling_who_awaits_the_call_cancels_it(client: Client, log: Log) -> None:
    call = stub(client, "wait").start()
    await eventually(lambda: log.waiting)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call, 0.01)
    await eventually(lambda: log.cancelled)
    assert call.done()


async def test_the_error_of_a_started_call_is_raised_each_time(client: Client) -> None:
    call = stub(client, "fail").start()
    for _ in range(2):
        with pytest.raises(ValueError, match="enough"):
            await within(call)
    assert "failed: enough" in repr(call)
    late = stub(client, "wait").start(timeout=0.02)
    with pytest.raises(DeadlineExceeded):
        await within(late)


async def test_arguments_are_checked_when_the_call_is_started(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="argument 'b'"):
        stub(client, "add").start(1, "2")
    with pytest.raises(ValueError, match="timeout"):
        stub(client, "add").start(1, 2, timeout=0)
    with pytest.raises(RuntimeError, match="not connected"):
        stub(Client(), "add").start(1, 2)


async def test_a_started_call_is_in_the_session_of_its_caller(client: Client) -> None:
    async with client.session as session:
        assert await stub(client, "session_id").start() == session.id
    async with client.session as session:
        pass
    call = stub(client, "session_id").start(session=session)
    with pytest.raises(CallError, match="left already"):
        await call


async def test_closing_the_client_ends_a_started_call(client: Client, log: Log) -> None:
    call = stub(client, "wait").start()
    await eventually(lambda: log.waiting)
    await client.close()
    with pytest.raises(CallError) as caught:
        await within(call)
    assert caught.value.code is Code.UNAVAILABLE


async def test_the_attempts_of_a_started_call_are_counted(server: Server) -> None:
    async with serving() as other, calling(server, other) as client:
        for each in (server, other):
            each.register(refusing, name="refused")

        @client.register("refused", idempotent=True)
        async def refused() -> None: ...

        call = refused.start()
        with pytest.raises(CallError):
            await within(call)
        assert call.attempts == 4


async def refusing() -> None:
    raise CallError("busy", code=Code.UNAVAILABLE)


async def test_a_generator_that_is_started_has_the_members_of_a_call(client: Client) -> None:
    items = stub(client, "count").start(3)
    assert (items.peer, items.done(), items.header) == (None, False, {})
    assert [item async for item in items] == [0, 1, 2]
    assert items.peer is not None
    assert (items.done(), items.attempts, items.header, items.trailer) == (True, 1, {}, {})
    assert not items.cancel()
    other = stub(client, "count").start(100_000)
    assert await anext(other) == 0
    assert other.cancel()
    assert [item async for item in other] == []


async def test_a_hedged_call_can_be_started(client: Client) -> None:
    call = stub(client, "add", idempotent=True, hedge=5).start(1, 2)
    assert await within(call) == 3
    assert call.peer is not None
