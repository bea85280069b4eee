"""Client streaming and bidirectional calls: items, flow control, and every way of ending."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from rap.client import Client
from rap.errors import CallError, Code, DeadlineExceeded, InvalidArgument, RegistrationError
from rap.server import Server, context
from tests.fake_clock import FakeClock
from tests.loopback import calling, eventually, expired, serving, within

ON_BOTH_LOOPS = True
Items = AsyncIterable[Any] | Iterable[Any]


class Log:
    """Records what the handlers and the sources of a test did."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.calls = 0
        self.ended = asyncio.Event()
        self.error: BaseException | None = None
        self.made = 0
        self.closed = asyncio.Event()

    async def forever(self, first: Any = 0) -> AsyncIterator[Any]:
        """Yield one item, and wait."""
        try:
            self.made += 1
            yield first
            await asyncio.Event().wait()
        finally:
            self.closed.set()

    async def numbers(self, n: int) -> AsyncIterator[int]:
        try:
            for i in range(n):
                self.made += 1
                yield i
        finally:
            self.closed.set()

    def plain(self, n: int) -> Iterator[int]:
        try:
            for i in range(n):
                self.made += 1
                yield i
        finally:
            self.closed.set()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
async def server(log: Log) -> AsyncIterator[Server]:
    async def total(name: str, rows: AsyncIterator[int], times: int = 1) -> str:
        log.calls += 1
        found = 0
        try:
            async for row in rows:
                log.got.append(row)
                found += row
        except BaseException as exc:
            log.error = exc
            raise
        finally:
            log.ended.set()
        return f"{name}: {found * times}"

    async def first(rows: AsyncIterator[Any]) -> Any:
        async for row in rows:
            return row
        return None

    async def early(rows: AsyncIterator[Any]) -> str:
        return "enough"

    async def fail(rows: AsyncIterator[Any]) -> None:
        async for _ in rows:
            raise ValueError("a bad row")

    async def wait(rows: AsyncIterator[Any]) -> None:
        log.calls += 1
        try:
            await asyncio.Event().wait()
        except BaseException as exc:
            log.error = exc
            raise
        finally:
            log.ended.set()

    async def sizes(rows: AsyncIterator[bytes]) -> list[int]:
        return [len(row) async for row in rows]

    async def double(rows: AsyncIterator[int]) -> AsyncIterator[int]:
        try:
            async for row in rows:
                log.got.append(row)
                yield 2 * row
        finally:
            log.ended.set()

    async def two(rows: AsyncIterator[Any]) -> AsyncIterator[int]:
        yield 1
        yield 2

    async def break_off(rows: AsyncIterator[Any]) -> AsyncIterator[int]:
        async for row in rows:
            yield row
            raise ValueError("no more")

    async def session_id(rows: AsyncIterator[Any]) -> str | None:
        async for _ in rows:
            pass
        return context.session.id if context.session else None

    async def unary() -> int:
        return 1

    functions: list[Any] = [total, first, early, fail, wait, sizes, double, two, break_off]
    async with serving(*functions, session_id, unary) as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with calling(server) as client:
        yield client
        if client.connected is not None:
            loads = [node.stats for node in client.cluster.nodes.values()]
            assert [(s.in_flight, s.open_streams) for s in loads] == [(0, 0)] * len(loads)
            nodes = client.cluster.nodes.values()
            connections = [conn for node in nodes for conn in node.pool.connections]
            await eventually(lambda: not any(conn.streams for conn in connections))


def collecting(client: Client, name: str, **options: Any) -> Any:
    """Return the stub of a client-streaming function that takes any items."""

    async def declared(rows: Items) -> Any: ...

    return client.register(name, **options)(declared)


def answering(client: Client, name: str, **options: Any) -> Any:
    """Return the stub of a bidirectional function that takes any items."""

    async def declared(rows: Items) -> AsyncIterator[Any]:
        yield None

    return client.register(name, **options)(declared)


async def collect(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


@pytest.fixture
def total(client: Client) -> Any:
    @client.register
    async def total(name: str, rows: AsyncIterable[int] | Iterable[int], times: int = 1) -> str:
        raise NotImplementedError

    return total


@pytest.mark.parametrize("n", [0, 1, 2, 63, 64, 65, 5000])
@pytest.mark.parametrize("kind", ["asynchronous", "plain", "list"])
async def test_all_items_arrive_in_order(total: Any, log: Log, n: int, kind: str) -> None:
    sources: dict[str, Callable[[], Items]] = {
        "asynchronous": lambda: log.numbers(n),
        "plain": lambda: log.plain(n),
        "list": lambda: [*range(n)],
    }
    assert await within(total("x", sources[kind]())) == f"x: {sum(range(n))}"
    assert log.got == [*range(n)]
    assert kind == "list" or n == 0 or log.closed.is_set()


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("x", [1, 2], 10), {}),
        (("x", [1, 2]), {"times": 10}),
        (("x",), {"rows": [1, 2], "times": 10}),
        ((), {"times": 10, "rows": [1, 2], "name": "x"}),
    ],
)
async def test_the_request_stream_is_given_by_position_or_by_name(
    total: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    assert await within(total(*args, **kwargs)) == "x: 30"


async def test_items_and_arguments_are_checked(total: Any, log: Log) -> None:
    with pytest.raises(InvalidArgument, match="argument 'name'"):
        await total(1, [1])
    with pytest.raises(InvalidArgument, match="'rows'"):
        await total("x")
    with pytest.raises(InvalidArgument, match="'rows' must be an iterable of items, got int"):
        await total("x", 5)
    with pytest.raises(InvalidArgument, match="'rows' must be an iterable of items, got str"):
        await total("x", "abc")
    assert log.calls == 0
    with pytest.raises(InvalidArgument, match="rows"):
        await within(total("x", [1, "two", 3]))
    with pytest.raises(InvalidArgument, match="rows"):
        await within(total("x", [object()]))


async def test_an_item_is_encoded_before_the_source_changes_it(client: Client, log: Log) -> None:
    async def changing() -> AsyncIterator[list[int]]:
        row = [0]
        for i in range(100):
            row[0] = i
            yield row

    @client.register
    async def total(name: str, rows: AsyncIterable[Any], times: int = 1) -> str:
        raise NotImplementedError

    with pytest.raises(InvalidArgument):
        await within(total("x", changing()))

    async def lists(rows: AsyncIterator[list[int]]) -> int:
        return sum([row[0] async for row in rows])

    async with serving(lists) as server, calling(server) as other:
        assert await within(collecting(other, "lists")(changing())) == sum(range(100))


@pytest.mark.parametrize("size", [0, 7_000, 9_000, 200_000, 5_000_000])
async def test_items_of_any_size_arrive(client: Client, size: int) -> None:
    items = [bytes(size)] * 3
    assert await within(collecting(client, "sizes")(items)) == [size] * 3


async def test_an_item_that_the_server_does_not_take_is_an_error(log: Log) -> None:
    async def sizes(rows: AsyncIterator[bytes]) -> list[int]:
        return [len(row) async for row in rows]

    async with serving(sizes, max_message=2048) as server, calling(server) as client:
        with pytest.raises(CallError, match="max_message") as caught:
            await within(collecting(client, "sizes")([b"", bytes(5000)]))
        assert caught.value.code is Code.RESOURCE_EXHAUSTED


async def test_a_server_that_does_not_read_stops_the_source(client: Client, log: Log) -> None:
    async def blobs() -> AsyncIterator[bytes]:
        try:
            while True:
                log.made += 1
                yield bytes(10_000)
        finally:
            log.closed.set()

    call = collecting(client, "wait").start(blobs())
    before = -1
    while before != log.made:
        before = log.made
        for _ in range(20):
            await client.raw_call("unary")
    assert 50 < log.made < 300
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await within(log.closed.wait())


@pytest.mark.parametrize("source", ["numbers", "plain"])
async def test_a_server_that_answers_early_ends_the_source(
    client: Client, log: Log, source: str
) -> None:
    assert await within(collecting(client, "early")(getattr(log, source)(10**9))) == "enough"
    assert log.closed.is_set()
    log.closed.clear()
    assert await within(collecting(client, "first")(log.forever(7))) == 7
    assert log.closed.is_set()


async def test_an_error_of_the_server_ends_the_source(client: Client, log: Log) -> None:
    with pytest.raises(ValueError, match="a bad row"):
        await within(collecting(client, "fail")(log.forever()))
    assert log.closed.is_set()


async def test_an_error_of_the_source_is_that_of_the_call(total: Any, log: Log) -> None:
    async def failing() -> AsyncIterator[int]:
        yield 1
        await eventually(lambda: log.got)
        raise KeyError("mine")

    def plain() -> Iterator[int]:
        yield 1
        raise KeyError("mine")

    for source in (failing(), plain()):
        with pytest.raises(KeyError, match="mine") as caught:
            await within(total("x", source))
        assert not isinstance(caught.value, CallError)
    await within(log.ended.wait())
    assert isinstance(log.error, asyncio.CancelledError)


async def test_a_source_that_raises_at_once_or_is_cancelled_itself(total: Any, log: Log) -> None:
    async def at_once() -> AsyncIterator[int]:
        raise CallError("mine", code=Code.ABORTED)
        yield 1

    async def cancelled() -> AsyncIterator[int]:
        yield 1
        raise asyncio.CancelledError

    class Refusing:
        def __aiter__(self) -> Any:
            raise KeyError("no iterator")

        async def __anext__(self) -> Any: ...

    with pytest.raises(CallError, match="mine") as caught:
        await within(total("x", at_once()))
    assert not caught.value.remote
    with pytest.raises(asyncio.CancelledError):
        await within(total("x", cancelled()))
    with pytest.raises(KeyError, match="no iterator"):
        await within(total("x", Refusing()))


@pytest.mark.parametrize("name", ["total", "wait"])
async def test_cancelling_the_caller_cancels_handler_and_source(
    client: Client, log: Log, name: str
) -> None:
    async def declared(name: str, rows: Items) -> Any: ...

    stub: Any = collecting(client, name)
    if name == "total":
        stub = client.register("total")(declared)
    task = asyncio.create_task(stub(*(["x"] if name == "total" else []), log.forever()))
    await eventually(lambda: log.calls)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log.closed.is_set()
    await within(log.ended.wait())
    assert isinstance(log.error, asyncio.CancelledError)


async def test_a_deadline_passes_while_the_source_waits(
    server: Server, log: Log, clock: FakeClock
) -> None:
    async with calling(server, clock=clock) as client:
        call = collecting(client, "wait")(log.forever(), timeout=5.0)
        await expired(call, clock, 5.0, once=lambda: log.calls)
        assert log.closed.is_set()
        await within(log.ended.wait())


async def test_a_deadline_passes_while_the_source_waits_for_credit(
    client: Client, log: Log
) -> None:
    def blobs() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(100_000)
        finally:
            log.closed.set()

    with pytest.raises(DeadlineExceeded):
        await within(collecting(client, "wait")(blobs(), timeout=0.05))
    assert log.closed.is_set()


async def test_an_unknown_function_ends_the_source(client: Client, log: Log) -> None:
    with pytest.raises(CallError, match="nothing"):
        await within(collecting(client, "nothing")(log.forever()))
    assert log.closed.is_set()


@pytest.mark.parametrize("name", ["unary", "double"])
async def test_a_function_of_another_shape_is_refused(client: Client, log: Log, name: str) -> None:
    with pytest.raises(InvalidArgument):
        await within(collecting(client, name)(log.forever()))
    assert log.closed.is_set() or not log.made


async def test_a_call_that_no_server_takes_ends_the_source(log: Log) -> None:
    async with serving() as server, calling(server) as client:
        await server.close()
        source = log.numbers(3)
        assert await anext(source) == 0
        with pytest.raises(CallError):
            await within(collecting(client, "first")(source, timeout=0.1))
        assert log.closed.is_set()


async def test_a_lost_connection_ends_the_call(client: Client, server: Server, log: Log) -> None:
    call = collecting(client, "wait").start(log.forever())
    await eventually(lambda: log.calls)
    await server.close()
    with pytest.raises(CallError) as caught:
        await within(call)
    assert caught.value.code is Code.UNAVAILABLE
    assert log.closed.is_set()


async def test_closing_the_client_ends_the_call(client: Client, log: Log) -> None:
    call = collecting(client, "wait").start(log.forever())
    await eventually(lambda: log.calls)
    await client.close()
    with pytest.raises(CallError):
        await within(call)
    assert log.closed.is_set()


async def test_calls_of_a_session_use_its_connection(client: Client, log: Log) -> None:
    stub = collecting(client, "session_id")
    async with client.session as session:
        assert await within(stub([1])) == session.id
        assert await within(session.execute(stub([1]))) == session.id
        assert await within(session.execute(stub, [[1, 2]])) == session.id
        for node in client.cluster.nodes.values():
            await node.pool.close()
        with pytest.raises(CallError, match=session.id):
            await within(stub(log.forever()))


async def test_a_declaration_is_enough(client: Client) -> None:
    async def total(name: str, rows: Items, times: int = 1) -> str:
        raise NotImplementedError

    async def double(rows: AsyncIterator[int]) -> AsyncIterator[int]:
        yield 0

    assert await within(client.call(total, "x", [1, 2], times=2)) == "x: 6"
    assert await within(client.call(total, arg_param=["x", [1]])) == "x: 1"
    assert await within(collect(client.iterator_call(double, [1, 2]))) == [2, 4]
    with pytest.raises(TypeError, match="call is for unary functions, double is a bidi"):
        await client.call(double, [1])
    with pytest.raises(TypeError, match="iterator_call is for generators, total is client_stream"):
        client.iterator_call(total, "x", [1])  # type: ignore[arg-type]  # that is the mistake
    with pytest.raises(RegistrationError, match="hedge"):
        collecting(client, "first", idempotent=True, hedge=True)


async def test_an_interface_has_stubs_with_request_streams(server: Server, client: Client) -> None:
    class Shop:
        async def sold(self, rows: AsyncIterator[int]) -> int:
            return sum([row async for row in rows])

        async def echo(self, rows: AsyncIterator[int], add: int) -> AsyncIterator[int]:
            async for row in rows:
                yield row + add

    server.register(Shop)
    shop: Any = client.bind(Shop)
    assert await within(shop.sold([1, 2])) == 3
    assert await within(collect(shop.echo([1, 2], add=1))) == [2, 3]


async def test_many_calls_share_a_connection(client: Client) -> None:
    stub = collecting(client, "sizes")
    results = await within(asyncio.gather(*(stub([b"x"] * n) for n in range(100))))
    assert [len(each) for each in results] == [*range(100)]


async def test_a_started_call_tells_its_server(client: Client, log: Log) -> None:
    call = collecting(client, "sizes").start([b"", b"x"])
    assert await within(call) == [0, 1]
    assert call.peer is not None
    assert (call.attempts, call.header, call.trailer) == (1, {}, {})


async def test_what_closing_the_source_raises_is_raised(client: Client, log: Log) -> None:
    async def failing() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
                await asyncio.sleep(0)
        finally:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await within(collecting(client, "early")(failing()))
    with pytest.raises(KeyError, match="mine"):
        await within(collect(answering(client, "two")(failing())))


async def test_a_source_that_ignores_its_cancellation_does_not_hold_the_call(
    client: Client, log: Log
) -> None:
    async def stubborn() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    log.made += 1
        finally:
            log.closed.set()

    assert await within(collecting(client, "first")(stubborn())) == 1
    assert log.made == 1
    assert log.closed.is_set()


async def test_the_source_runs_in_the_context_of_the_caller(client: Client) -> None:
    async def names() -> AsyncIterator[str]:
        yield variable.get()

    variable: ContextVar[str] = ContextVar("variable", default="none")
    variable.set("mine")
    assert await within(collecting(client, "first")(names())) == "mine"


# Bidirectional calls.


@pytest.mark.parametrize("n", [0, 1, 64, 65, 5000])
async def test_items_go_both_ways(client: Client, log: Log, n: int) -> None:
    assert await within(collect(answering(client, "double")(log.numbers(n)))) == [
        2 * i for i in range(n)
    ]
    assert n == 0 or log.closed.is_set()


async def test_a_request_may_depend_on_the_response_before(client: Client) -> None:
    answers: asyncio.Queue[int] = asyncio.Queue()

    async def powers() -> AsyncIterator[int]:
        yield 1
        for _ in range(9):
            yield await answers.get()

    found = []
    async for answer in answering(client, "double")(powers()):
        found.append(answer)
        answers.put_nowait(answer)
    assert found == [2**i for i in range(1, 11)]


async def test_nothing_is_sent_or_taken_before_the_first_item_is_asked_for(
    client: Client, log: Log
) -> None:
    responses = answering(client, "double")(log.numbers(3))
    await client.raw_call("unary")
    assert (log.made, log.got) == (0, [])
    assert await within(anext(responses)) == 0
    await responses.aclose()


@pytest.mark.parametrize("way", ["break", "aclose", "cancel"])
async def test_a_caller_that_leaves_ends_handler_and_source(
    client: Client, log: Log, way: str
) -> None:
    responses = answering(client, "double")(log.forever())
    assert await within(anext(responses)) == 0
    if way == "aclose":
        await within(responses.aclose())
        assert log.closed.is_set()
    elif way == "cancel":
        assert responses.cancel()
    del responses
    await within(log.closed.wait())
    await within(log.ended.wait())


async def test_a_server_that_ends_early_ends_the_source(client: Client, log: Log) -> None:
    assert await within(collect(answering(client, "two")(log.forever()))) == [1, 2]
    assert log.closed.is_set()


async def test_an_error_of_the_server_comes_after_its_items_and_ends_the_source(
    client: Client, log: Log
) -> None:
    responses = answering(client, "break_off")(log.forever(5))
    assert await within(anext(responses)) == 5
    with pytest.raises(ValueError, match="no more"):
        await within(anext(responses))
    assert log.closed.is_set()
    assert await collect(responses) == []


async def test_an_error_of_the_source_ends_the_iteration(client: Client, log: Log) -> None:
    async def failing() -> AsyncIterator[int]:
        yield 1
        await eventually(lambda: log.got)
        raise KeyError("mine")

    async def consume() -> None:
        async for _ in answering(client, "double")(failing()):
            pass

    with pytest.raises(KeyError, match="mine"):
        await within(consume())
    await within(log.ended.wait())


async def test_a_cancelled_consumer_ends_handler_and_source(client: Client, log: Log) -> None:
    task = asyncio.create_task(collect(answering(client, "double")(log.forever())))
    await eventually(lambda: log.got)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log.closed.is_set()
    await within(log.ended.wait())


async def test_a_deadline_ends_a_bidirectional_call(
    server: Server, log: Log, clock: FakeClock
) -> None:
    async with calling(server, clock=clock) as client:
        responses = answering(client, "double")(log.forever(), timeout=5.0)
        assert await within(anext(responses)) == 0
        clock.advance(5.0)
        with pytest.raises(DeadlineExceeded):
            await within(anext(responses))
        assert log.closed.is_set()


async def test_a_consumer_that_does_not_read_stops_the_source(client: Client, log: Log) -> None:
    responses = answering(client, "double")(log.numbers(10**9))
    assert await within(anext(responses)) == 0
    before = -1
    while before != log.made:
        before = log.made
        for _ in range(100):
            await client.raw_call("unary")
    await responses.aclose()
    assert log.closed.is_set()


# Retries.


class Rolling:
    """Two servers, of which one does not have the functions yet."""

    def __init__(self, new: Server, client: Client) -> None:
        self.new = new
        self.client = client


@pytest.fixture
async def rolling() -> AsyncIterator[Rolling]:
    async def echo(rows: AsyncIterator[Any]) -> list[Any]:
        return [row async for row in rows]

    async def repeat(rows: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for row in rows:
            yield row

    async with serving(echo, repeat) as new, serving() as old, calling(new, old) as client:
        await eventually(lambda: len(client.cluster.ready) == 2)
        yield Rolling(new, client)


class Slow:
    """A source that waits before each item, and counts."""

    def __init__(self, rolling: Rolling, n: int) -> None:
        self._connections = rolling.new.connection_manager.connections
        self._n = n

    async def __aiter__(self) -> AsyncIterator[int]:
        await eventually(lambda: any(conn.streams for conn in self._connections))
        for i in range(self._n):
            yield i


@pytest.mark.parametrize("n", [0, 1, 100])
async def test_a_call_goes_to_another_server_while_its_source_waits_for_the_first_item(
    rolling: Rolling, n: int
) -> None:
    upload = collecting(rolling.client, "echo")
    repeat = answering(rolling.client, "repeat")
    for _ in range(10):
        assert await within(upload(Slow(rolling, n))) == [*range(n)]
        assert await within(collect(repeat(Slow(rolling, n)))) == [*range(n)]


async def test_a_call_of_which_an_item_was_sent_is_not_attempted_again(rolling: Rolling) -> None:
    upload = collecting(rolling.client, "echo", idempotent=True)
    calls = [upload.start([1]) for _ in range(20)]
    done = await within(asyncio.gather(*calls, return_exceptions=True))
    assert {call.attempts for call in calls} == {1}
    assert all(each == [1] or isinstance(each, CallError) for each in done)
    assert [1] in done
