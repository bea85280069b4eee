"""Request streams of the client without asyncio: plain iterables, run in the calling thread."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from rap.client import SyncClient
from rap.client.sync.channel import SyncChannel
from rap.errors import CallError, DeadlineExceeded, InvalidArgument
from rap.server import Channel, Server, context
from tests.client.threaded import calling, serving


async def total(name: str, rows: AsyncIterator[int]) -> str:
    return f"{name}: {sum([row async for row in rows])}"


async def double(rows: AsyncIterator[int]) -> AsyncIterator[int]:
    context.set_header("color", "blue")
    async for row in rows:
        yield 2 * row


async def early(rows: AsyncIterator[Any]) -> str:
    return "enough"


async def two(rows: AsyncIterator[Any]) -> AsyncIterator[int]:
    yield 1
    yield 2


async def fail(rows: AsyncIterator[Any]) -> None:
    async for _ in rows:
        raise ValueError("a bad row")


async def wait(rows: AsyncIterator[Any]) -> None:
    await asyncio.Event().wait()


async def session_id(rows: AsyncIterator[Any]) -> str | None:
    return context.session.id if context.session else None


async def chat(channel: Channel, room: str) -> str:
    count = 0
    async for text in channel:
        count += 1
        await channel.write(f"{room}: {text}")
    context.set_trailer("count", count)
    return f"{count} in {room}"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(total, double, early, two, fail, wait, session_id, chat) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[SyncClient]:
    with calling(server) as client:
        yield client


class Source:
    """Numbers, and the thread that asked for them."""

    def __init__(self) -> None:
        self.threads: set[threading.Thread] = set()
        self.closed = False

    def numbers(self, n: int) -> Iterator[int]:
        try:
            for i in range(n):
                self.threads.add(threading.current_thread())
                yield i
        finally:
            self.closed = True
            self.threads.add(threading.current_thread())


@pytest.fixture
def source() -> Source:
    return Source()


def collecting(client: SyncClient, name: str) -> Any:
    def declared(rows: Iterator[Any]) -> Any: ...

    return client.register(name)(declared)


def answering(client: SyncClient, name: str) -> Any:
    def declared(rows: Iterator[Any]) -> Iterator[Any]:
        yield None

    return client.register(name)(declared)


@pytest.mark.parametrize("n", [0, 1, 64, 65, 3000])
def test_a_plain_iterable_runs_in_the_calling_thread(
    client: SyncClient, source: Source, n: int
) -> None:
    @client.register
    def total(name: str, rows: Iterator[int]) -> str:
        raise NotImplementedError

    assert total("x", source.numbers(n)) == f"x: {sum(range(n))}"
    assert total(rows=iter(range(n)), name="x") == f"x: {sum(range(n))}"
    assert source.threads <= {threading.current_thread()}
    assert source.closed
    assert client.call(total, "x", [1, 2]) == "x: 3"
    assert client.call(total, arg_param=["x"], kwarg_param={"rows": [1, 2]}) == "x: 3"
    with client.session as session:
        assert session.execute(total, ["x", [1]]) == "x: 1"


@pytest.mark.parametrize("n", [0, 1, 64, 500])
def test_items_go_both_ways(client: SyncClient, source: Source, n: int) -> None:
    responses = answering(client, "double")(source.numbers(n))
    assert list(responses) == [2 * i for i in range(n)]
    assert responses.header == {"color": "blue"}
    assert source.threads <= {threading.current_thread()}

    def double(rows: Iterator[int]) -> Iterator[int]:
        yield 0

    assert list(client.iterator_call(double, [1, 2])) == [2, 4]
    with client.session as session:
        assert list(session.execute(double, [[3]])) == [6]


def test_a_request_is_made_after_the_response_before(client: SyncClient) -> None:
    def powers() -> Iterator[int]:
        yield 1
        yield 2

    responses = answering(client, "double")(powers())
    assert next(responses) == 2
    assert next(responses) == 4
    with pytest.raises(StopIteration):
        next(responses)


@pytest.mark.parametrize("name", ["early", "two"])
def test_a_server_that_answers_early_closes_the_iterable(
    client: SyncClient, source: Source, name: str
) -> None:
    if name == "two":
        assert list(answering(client, "two")(source.numbers(10**9))) == [1, 2]
    else:
        assert collecting(client, "early")(source.numbers(10**9)) == "enough"
    assert source.closed
    assert source.threads == {threading.current_thread()}


def test_leaving_the_iteration_closes_the_iterable(client: SyncClient, source: Source) -> None:
    with answering(client, "double")(source.numbers(10**9)) as responses:
        assert next(responses) == 0
    assert source.closed


def test_errors_of_both_ends_are_raised(client: SyncClient, source: Source) -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise KeyError("mine")

    with pytest.raises(ValueError, match="a bad row"):
        collecting(client, "fail")(source.numbers(10**9))
    assert source.closed
    with pytest.raises(KeyError, match="mine"):
        collecting(client, "wait")(failing())
    with pytest.raises(KeyError, match="mine"):
        list(answering(client, "double")(failing()))
    with pytest.raises(InvalidArgument):
        list(answering(client, "double")(["x"]))
    with pytest.raises(InvalidArgument, match="must be an iterable"):
        collecting(client, "wait")(5)
    with pytest.raises(InvalidArgument, match="missing"):
        collecting(client, "wait")()
    with pytest.raises(CallError, match="nothing"):
        collecting(client, "nothing")(source.numbers(3))


def test_a_deadline_and_an_interrupt_end_the_call(client: SyncClient, source: Source) -> None:
    def interrupted() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(DeadlineExceeded):
        collecting(client, "wait")(iter([1]), timeout=0.05)
    with pytest.raises(KeyboardInterrupt):
        collecting(client, "wait")(interrupted())
    assert collecting(client, "early")(source.numbers(3)) == "enough"


def test_an_iterable_may_make_calls_itself(client: SyncClient) -> None:
    early = collecting(client, "early")

    def calling() -> Iterator[str]:
        yield early([])

    def rows() -> Iterator[int]:
        for _ in calling():
            yield 4

    assert list(answering(client, "double")(rows())) == [8]


def test_an_asynchronous_iterable_runs_in_the_clients_thread(client: SyncClient) -> None:
    async def rows() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(0)
        yield 2

    assert list(answering(client, "double")(rows())) == [2, 4]


def test_a_channel_takes_arguments_and_has_a_result(client: SyncClient) -> None:
    with client.channel("chat", room="tea") as channel:
        channel.write("hi")
        assert channel.read_body() == "tea: hi"
        channel.end()
        assert channel.result() == "1 in tea"
    assert channel.trailer == {"count": 1}

    @client.register("chat")
    def talk(channel: SyncChannel, room: str) -> None:
        channel.write("hi")
        channel.read()

    talking: Any = talk
    assert talking("tea") == "1 in tea"
    assert talking(room="tea") == "1 in tea"

    with client.channel(talk, "tea") as channel:
        channel.write("hi")
        assert channel.read_body() == "tea: hi"
    assert channel.result() == "1 in tea"
    with pytest.raises(InvalidArgument, match="room"):
        client.channel(talk)


def test_a_started_call_is_waited_for_later(client: SyncClient, source: Source) -> None:
    @client.register
    def total(name: str, rows: Iterator[int]) -> str:
        raise NotImplementedError

    call = total.start("x", source.numbers(3))
    assert not call.done()
    assert (call.result(), call.result()) == ("x: 3", "x: 3")
    assert call.done()
    assert not call.cancel()
    assert (call.header, call.trailer, call.attempts) == ({}, {}, 1)
    assert call.peer is not None
    assert source.threads == {threading.current_thread()}
    assert source.closed

    late = collecting(client, "wait").start(iter([1]))
    assert late.cancel()
    with pytest.raises(CallError):
        late.result()
    with pytest.raises(InvalidArgument, match="'name'"):
        total.start(1, iter([]))  # type: ignore[arg-type]  # the mistake

    responses = answering(client, "double").start(source.numbers(10**9))
    assert next(responses) == 0
    assert (responses.done(), responses.attempts) == (False, 1)
    assert responses.cancel()
    assert responses.done()
