"""Calls that are started: their outcome, their server, and how they are cancelled."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

import pytest

from rap import Channel, start_call, with_options
from rap.client import Client
from rap.errors import CallError, Code, DeadlineExceeded, InvalidArgument
from rap.server import Server, context
from tests.client import threaded
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
        stub(client, "add").start(1, 2, timeout="0")
    closed = Client()
    await closed.close()
    with pytest.raises(RuntimeError, match="was closed"):
        stub(closed, "add").start(1, 2)


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


async def marked(n: int) -> int:
    context.set_header("color", "blue")
    context.set_trailer("cost", n)
    if n == 0:
        raise CallError("none", code=Code.ABORTED, details={"own": True})
    return n


async def items(n: int) -> AsyncIterator[int]:
    context.set_header("color", "blue")
    for i in range(n):
        yield i
    context.set_trailer("cost", n)
    if n == 3:
        raise ValueError("three")


async def total(rows: AsyncIterator[int]) -> int:
    found = sum([row async for row in rows])
    return await marked(found)


async def echo(rows: AsyncIterator[int]) -> AsyncIterator[int]:
    context.set_header("color", "blue")
    async for row in rows:
        yield row
    context.set_trailer("cost", 2)


@pytest.mark.parametrize("hedge", [None, 5.0])
async def test_a_caller_reads_header_and_trailer_of_an_answer(
    server: Server, client: Client, hedge: float | None
) -> None:
    server.register(marked)

    async def declared(n: int) -> int: ...  # type: ignore[empty-body]  # a declaration

    options: dict[str, Any] = {"idempotent": True, "hedge": hedge} if hedge else {}
    stub = client.register("marked", **options)(declared)
    call = stub.start(5)
    assert (call.header, call.trailer) == ({}, {})
    assert await within(call) == 5
    assert (call.header, call.trailer) == ({"color": "blue"}, {"cost": 5})
    failed = stub.start(0)
    with pytest.raises(CallError, match="none") as caught:
        await within(failed)
    assert caught.value.details == {"own": True}
    assert (failed.header, failed.trailer) == ({"color": "blue"}, {"cost": 0})
    assert await within(stub(5)) == 5
    with pytest.raises(CallError) as caught:
        await within(stub(0))
    assert caught.value.details == {"own": True}


@pytest.mark.parametrize("n", [0, 1, 2, 3, 200])
async def test_a_response_stream_has_header_and_trailer(
    server: Server, client: Client, n: int
) -> None:
    server.register(items)

    @client.register("items")
    async def declared(n: int) -> AsyncIterator[int]:
        yield n

    responses = declared.start(n)
    got = []
    try:
        async for item in responses:
            assert responses.header == {"color": "blue"}
            got.append(item)
    except ValueError:
        assert n == 3
    assert got == [*range(n)]
    assert (responses.header, responses.trailer) == ({"color": "blue"}, {"cost": n})


async def test_calls_with_request_streams_have_header_and_trailer(
    server: Server, client: Client
) -> None:
    server.register(total)
    server.register(echo)

    async def requests() -> AsyncIterator[int]:
        yield 1

    @client.register("total")
    async def up(rows: AsyncIterator[int]) -> int: ...  # type: ignore[empty-body]  # a declaration

    @client.register("echo")
    async def both(rows: AsyncIterator[int]) -> AsyncIterator[int]:
        yield 0

    call = up.start(requests())
    assert await within(call) == 1
    assert (call.header, call.trailer) == ({"color": "blue"}, {"cost": 1})
    responses = both.start(requests())
    assert [item async for item in responses] == [1]
    assert (responses.header, responses.trailer) == ({"color": "blue"}, {"cost": 2})

    async def none() -> AsyncIterator[int]:
        return
        yield 0

    failed = up.start(none())
    with pytest.raises(CallError, match="none"):
        await within(failed)
    assert (failed.header, failed.trailer) == ({"color": "blue"}, {"cost": 0})


class Calc(Protocol):
    async def add(self, a: int, b: int) -> int: ...
    def count(self, n: int) -> AsyncIterator[int]: ...
    async def talk(self, channel: Channel[int, int]) -> None: ...


async def test_a_function_of_a_protocol_is_started(client: Client) -> None:
    calc = client.bind(Calc, group="default")
    call = start_call(calc.add, 1, b=2)
    assert await within(call) == 3
    assert (call.header, call.attempts, call.done()) == ({}, 1, True)
    assert call.peer is not None
    items = start_call(calc.count, 2)
    assert [item async for item in items] == [0, 1]
    assert items.attempts == 1


async def test_a_function_of_a_protocol_is_started_with_options(client: Client) -> None:
    late = with_options(client.bind(Calc, group="default").add, timeout=0)
    with pytest.raises(DeadlineExceeded):
        await within(start_call(late, 1, 2))


def test_a_function_of_a_protocol_is_started_without_asyncio() -> None:
    class Plain(Protocol):
        def add(self, a: int, b: int) -> int: ...
        def count(self, n: int) -> Iterator[int]: ...

    async def add(a: int, b: int) -> int:
        context.set_header("seen", 1)
        return a + b

    async def count(n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    with threaded.serving(add, count) as server, threaded.calling(server) as client:
        calc = client.bind(Plain, group="default")
        call = start_call(calc.add, 1, b=2)
        assert (call.result(), call.header, call.attempts) == (3, {"seen": 1}, 1)
        items = start_call(calc.count, 2)
        assert [*items] == [0, 1]
        assert items.peer is not None


async def test_what_cannot_be_started_is_refused_with_what_to_write(client: Client) -> None:
    calc: Any = client.bind(Calc, group="default")
    begin: Any = start_call
    for given, said in (
        (calc.add(1, 2), r"not its call: write start_call\(calc.add, 1, 2\)"),
        (print, "start_call takes a function of client.bind"),
        (calc.talk, r"without a Channel; .* client.channel\(talk, ...\) as channel"),
    ):
        with pytest.raises(TypeError, match=said):
            begin(given)
    with pytest.raises(InvalidArgument, match="argument 'b'"):
        start_call(calc.add, 1, "2")
