"""Combinations that a list of cases does not have: early answers, errors in the middle.

Each runs over TCP, TLS, and with compression and encryption, as the cases do.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext, suppress
from typing import Any

import pytest

from rap.channel import Channel
from rap.client import Client
from rap.errors import CallError, Code, DeadlineExceeded, InvalidArgument, ResourceExhausted
from rap.server import Server, context
from tests.interop.service import GROUP
from tests.loopback import eventually, serving, within

ON_BOTH_LOOPS = True


class Source:
    """A source that yields some numbers, and then waits."""

    def __init__(self, *numbers: int) -> None:
        self._numbers = numbers
        self.waits = asyncio.Event()
        self.closed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[int]:
        try:
            for number in self._numbers:
                yield number
            self.waits.set()
            await asyncio.Event().wait()
        finally:
            self.closed.set()


async def early(rows: AsyncIterator[int]) -> str:
    context.set_header("early", True)
    return "enough"


async def total(rows: AsyncIterator[int]) -> int:
    return sum([row async for row in rows])


async def sizes(rows: AsyncIterator[bytes]) -> list[int]:
    return [len(row) async for row in rows]


async def double(rows: AsyncIterator[int]) -> AsyncIterator[int]:
    async for row in rows:
        yield 2 * row


async def until_three(rows: AsyncIterator[int]) -> AsyncIterator[int]:
    context.set_trailer("cost", 3)
    async for row in rows:
        yield row
        if row == 3:
            raise KeyError("three")


async def late_header(rows: AsyncIterator[int]) -> AsyncIterator[str]:
    async for _ in rows:
        try:
            context.set_header("x", 1)
        except RuntimeError as exc:
            yield str(exc)
        else:
            yield "set"


async def fail_late(channel: Channel) -> None:
    context.set_trailer("cost", 1)
    async for _ in channel:
        pass
    raise ValueError("late")


async def sums(channel: Channel[int, int]) -> int:
    so_far = 0
    async for number in channel:
        so_far += number
        await channel.write(so_far)
    return so_far


async def close_own(rows: AsyncIterator[int]) -> str:
    reading = asyncio.create_task(anext(rows, None))  # of a default
    await asyncio.sleep(0)
    await rows.aclose()  # type: ignore[attr-defined]  # it is a RequestStream
    return repr(await reading)


async def silent(rows: AsyncIterator[int]) -> AsyncIterator[int]:
    async for row in rows:
        await asyncio.Event().wait()
        yield row


async def never() -> AsyncIterator[int]:
    await asyncio.Event().wait()
    yield 0


READERS: set[asyncio.Task[Any]] = set()


async def leave_behind(items: AsyncIterator[Any], fails: bool) -> None:
    """Read in a task, and end before it."""
    READERS.add(asyncio.create_task(collect(items)))
    await asyncio.sleep(0)
    if fails:
        raise ValueError("failed")


async def collect_behind(rows: AsyncIterator[int], fails: bool) -> None:
    await leave_behind(rows, fails)


async def yield_behind(rows: AsyncIterator[int], fails: bool) -> AsyncIterator[int]:
    await leave_behind(rows, fails)
    yield 1


async def talk_behind(channel: Channel, fails: bool) -> None:
    await leave_behind(channel.iter_body(), fails)


FUNCTIONS: list[Any] = [early, total, sizes, double, until_three, late_header, fail_late, sums]
FUNCTIONS += [close_own, silent, never, collect_behind, yield_behind, talk_behind]


@pytest.fixture(autouse=True)
def registered(server: Server) -> None:
    for function in FUNCTIONS:
        server.register(function)


def stub(client: Client, function: Any) -> Any:
    """Return the stub of one of the functions above, which takes any source."""
    return client.register(function)


async def collect(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


@pytest.mark.parametrize("n", [0, 1, 10_000, None])
async def test_an_early_answer_ends_a_request_stream_of_any_length(
    client: Client, n: int | None
) -> None:
    source = Source(1)
    call = stub(client, early).start(source if n is None else iter(range(n)))
    assert await within(call) == "enough"
    assert call.header == {"early": True}
    if n is None:
        await within(source.closed.wait())


async def test_a_server_that_raises_in_the_middle_ends_the_source(client: Client) -> None:
    source = Source(1, 2, 3, 4)
    responses = stub(client, until_three)(source)
    got = []
    for _ in range(3):
        got.append(await within(anext(responses)))  # noqa: PERF401  # one by one
    assert got == [1, 2, 3]
    with pytest.raises(KeyError):
        await within(anext(responses))
    assert responses.trailer == {"cost": 3}
    await within(source.closed.wait())


async def test_a_trailer_comes_with_the_error_of_a_channel(client: Client) -> None:
    with pytest.raises(ValueError, match="late"):
        async with client.channel("fail_late") as channel:
            await channel.write(1)
    assert channel.trailer == {"cost": 1}


async def test_a_header_is_refused_after_the_first_item(client: Client) -> None:
    first, second = await within(collect(stub(client, late_header)([1, 2])))
    assert first == "set"
    assert "the response has begun" in second


async def test_a_header_that_is_too_large_is_an_error_of_its_call_alone(client: Client) -> None:
    async def said() -> None:
        async with client.channel("sums", header=header) as channel:
            await channel.result()

    header = {"x": "y" * 2_000_000}
    calls: list[Callable[[], Any]] = [
        lambda: client.raw_call("empty", group=GROUP, header=header),
        lambda: stub(client, total)([1], header=header),
        lambda: collect(stub(client, double)([1], header=header)),
        said,
    ]
    for call in calls:
        with pytest.raises(ResourceExhausted, match="header"):
            await within(call())
    assert await within(stub(client, total)([1])) == 1


async def test_small_items_arrive_however_many_there_are(client: Client, way: Any) -> None:
    n = 2_000 if "processor_list" in way["client"] else 100_000
    assert await stub(client, total)(iter(range(n))) == sum(range(n))
    found = await collect(stub(client, double)(iter(range(n))))
    assert found == [2 * i for i in range(n)]


async def test_one_item_may_be_far_larger_than_the_windows(client: Client) -> None:
    items = [b"", bytes(10_000_000), b"x"]
    assert await within(stub(client, sizes)(items)) == [0, 10_000_000, 1]


async def test_the_end_and_the_result_of_a_channel_may_be_asked_for_again(client: Client) -> None:
    async with client.channel("sums") as channel:
        await channel.write(1)
        await channel.end()
        await channel.end()
        assert await within(collect(channel.iter_body())) == [1]
        assert await within(channel.result()) == 1
        await channel.close()
        await channel.end()
        assert await within(channel.result()) == 1
    assert await within(channel.result()) == 1


async def test_one_of_two_tasks_that_read_a_channel_is_told(client: Client) -> None:
    async with client.channel("sums") as channel:
        tasks = [asyncio.create_task(channel.read_body()) for _ in range(2)]
        await asyncio.sleep(0)
        await channel.write(5)
        first, second = await within(asyncio.gather(*tasks, return_exceptions=True))
        assert first == 5
        assert isinstance(second, RuntimeError)
        assert await within(channel.result()) == 5


@pytest.mark.parametrize("kind", ["generator", "bidirectional"])
@pytest.mark.parametrize("how", ["cancel", "aclose"])
async def test_a_task_that_waits_for_an_item_sees_the_end_if_another_ends_the_call(
    client: Client, kind: str, how: str
) -> None:
    source = Source(1)
    responses: Any = stub(client, never)() if kind == "generator" else stub(client, silent)(source)
    waiting = asyncio.create_task(collect(responses))
    if kind == "bidirectional":
        await within(source.waits.wait())
    else:
        await eventually(lambda: responses.peer is not None)
    if how == "cancel":
        assert responses.cancel()
    else:
        await within(responses.aclose())
    assert await within(waiting) == []


@pytest.mark.parametrize("kind", ["generator", "bidirectional"])
async def test_a_call_that_is_cancelled_while_it_waits_for_a_server_ends(
    client: Client, server: Server, way: dict[str, dict[str, Any]], kind: str
) -> None:
    functions: dict[str, Any] = {"generator": never, "bidirectional": silent}
    function = functions[kind]
    args = [Source(1)] if kind == "bidirectional" else []
    address = server.addresses[0]
    await server.close()
    await eventually(lambda: not client.cluster.ready)
    responses = stub(client, function)(*args)
    waiting = asyncio.create_task(collect(responses))
    await eventually(lambda: client.cluster.waiters)
    assert responses.cancel()
    async with serving(function, host=str(address), **way["server"]):
        assert await within(waiting) == []


async def test_a_handler_may_close_a_request_stream_that_its_own_task_reads(
    client: Client,
) -> None:
    assert await within(stub(client, close_own)(Source())) == "None"


@pytest.mark.parametrize("wrong", [0, 1, 70])
async def test_an_item_of_a_wrong_type_is_named_by_its_number(client: Client, wrong: int) -> None:
    items: list[Any] = [1] * 100
    items[wrong] = "x"
    what = f"item {wrong + 1} of 'rows'"
    with pytest.raises(InvalidArgument, match=what):
        await within(stub(client, total)(items))
    with pytest.raises(InvalidArgument, match=what):
        await within(collect(stub(client, double)(items)))


@pytest.mark.parametrize("error", [GeneratorExit, SystemExit, KeyboardInterrupt])
async def test_whatever_a_source_raises_ends_the_call(
    client: Client, error: type[BaseException]
) -> None:
    class Raising:
        def __init__(self) -> None:
            self._left = [1]

        def __aiter__(self) -> "Raising":
            return self

        async def __anext__(self) -> int:
            if not self._left:
                raise error("mine")
            return self._left.pop()

    with pytest.raises(error, match="mine"):
        await within(stub(client, total)(Raising()))
    with pytest.raises(error, match="mine"):
        await within(collect(stub(client, double)(Raising())))


async def test_a_source_may_be_a_response_stream(client: Client) -> None:
    doubling = stub(client, double)
    numbers: list[Any] = [*range(100)]
    found = await within(stub(client, total)(doubling(doubling(numbers))))
    assert found == 4 * sum(numbers)


async def test_a_deadline_passes_while_the_source_waits(client: Client) -> None:
    for function in (total, double):
        source = Source(1)
        call = stub(client, function)(source, timeout=0.05)
        with pytest.raises(DeadlineExceeded):
            await within(collect(call) if function is double else call)
        await within(source.closed.wait())


async def test_closing_the_client_ends_all_its_started_calls(
    client: Client, server: Server, way: dict[str, dict[str, Any]]
) -> None:
    async with Client(server.addresses, **way["client"]) as other:
        sources = [Source(1), Source(1)]
        call = stub(other, total).start(sources[0])
        responses: Any = stub(other, double)(sources[1])
        assert await within(anext(responses)) == 2
        await within(sources[0].waits.wait())
        waiting = asyncio.create_task(anext(responses))
        opening = other.channel("sums")
        channel = await opening.__aenter__()
        await other.close()
        for each in (call, waiting, channel.read_body(), opening.__aexit__(None, None, None)):
            with pytest.raises(CallError) as caught:
                await within(each)
            assert caught.value.code is Code.UNAVAILABLE
        for source in sources:
            await within(source.closed.wait())


async def test_calls_that_are_started_and_never_awaited_end_by_themselves(client: Client) -> None:
    calls: Any = [stub(client, total).start([1]) for _ in range(3)]
    await eventually(lambda: all(call.done() for call in calls))
    source = Source(1)
    stub(client, double).start(source)
    assert not source.closed.is_set()


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("kind", ["client streaming", "bidirectional", "channel"])
async def test_a_task_that_outlives_its_handler_sees_the_end_of_the_requests(
    client: Client, kind: str, fails: bool
) -> None:
    async def said() -> None:
        async with client.channel("talk_behind", fails) as channel:
            await channel.wait_close()

    calls: dict[str, Callable[[], Any]] = {
        "client streaming": lambda: stub(client, collect_behind)(Source(), fails),
        "bidirectional": lambda: collect(stub(client, yield_behind)(Source(), fails)),
        "channel": said,
    }
    with pytest.raises(ValueError, match="failed") if fails else nullcontext():
        await within(calls[kind]())
    assert await within(READERS.pop()) == []


@pytest.mark.parametrize("function", [total, double])
async def test_a_function_with_a_request_stream_is_no_channel(
    client: Client, function: Any
) -> None:
    async def said() -> None:
        async with client.channel(function.__name__) as channel:
            await channel.result()

    with pytest.raises(InvalidArgument, match=f"{function.__name__} is a "):
        await within(said())


async def test_a_bidirectional_function_is_not_called_for_one_response(client: Client) -> None:
    async def declared(rows: AsyncIterator[int]) -> Any: ...

    with pytest.raises(InvalidArgument, match="double answers with items"):
        await within(client.register("double")(declared)([1, 2]))  # type: ignore[arg-type]


@pytest.mark.parametrize("first", [False, True])
async def test_a_cancelled_call_is_cancelled_though_its_source_yields_another_item(
    client: Client, first: bool
) -> None:
    waits = asyncio.Event()

    async def stubborn() -> AsyncIterator[int]:
        if not first:
            yield 1
        while True:
            waits.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            yield 2

    call = stub(client, total).start(stubborn())
    await within(waits.wait())
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(call)
